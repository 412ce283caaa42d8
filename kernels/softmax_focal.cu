// Focal loss on logits with a softmax, `src/loss/focal.rs`. With p = softmax(z) and t the target class:
//
//     l = -alpha_t (1 - p_t)^gamma ln p_t
//     dl/dz_k = alpha_t (gamma (1 - p_t)^(gamma - 1) p_t ln p_t - (1 - p_t)^gamma) ([k = t] - p_k)
#include "skeleton/softmax.cuh"

struct SoftmaxFocal {
    SoftmaxFocalParams p;

    template <class Row> FL float row(Row& row) const {
        const float alpha = row.class_weight(row.index), z_t = row.at_class(row.index);
        float max = -fl::infinity();
        fl::first(row, -fl::infinity(), [&](int, float z, float) { max = fl::larger(max, z); });
        max = fl::largest(row, max);
        fl::Exponentials exponentials;
        fl::again(row, -fl::infinity(), [&](int, float z, float) { exponentials.add(z - max); }, [&] { exponentials.flush(); });
        float sums[2] = {exponentials.ones, float(exponentials.rest.many)};
        fl::sum_up(row, sums);
        const fl::Softmax softmax = {max, sums[0], sums[1]};
        const float u_t = z_t - max, e_t = fl::exp_neg(u_t);
        // -ln p, 1 - p and p of the target; the first two without cancellation.
        const float nll = softmax.ln_sum() - u_t;
        const float miss = softmax.miss(e_t), p_t = fl::ratio(e_t, softmax.sum());
        const float power = p.gamma == 0.0f ? 1.0f : powf(miss, p.gamma);
        // -ln p / (1 - p), which tends to 1 where both vanish, and p ln p, which tends to 0.
        const float ratio = miss == 0.0f ? 1.0f : nll / miss;
        const float bend = p_t == 0.0f ? 0.0f : p.gamma * p_t * ratio;
        const float slope = alpha * power * (1.0f + bend) * row.scale;
        if (row.wants_grad()) {
            const float each = fl::ratio(slope, softmax.sum());
            fl::put(row, -fl::infinity(), [&](int, float z, float) { return fl::exp_neg_for<typename Row::Storage>(z - max) * each; }, row.index, [&] { return -slope * miss; });
        }
        return alpha * (power == 0.0f ? 0.0f : power * nll);
    }
};

FL_ROWWISE(softmax_focal, SoftmaxFocal, SoftmaxFocalParams)

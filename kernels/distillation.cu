// Distillation from two logit tensors, `src/loss/kl.rs`. With p = softmax(student / T), q = softmax(teacher / T):
//
//     l = factor sum_k q_k (ln q_k - ln p_k)
//     dl/ds_k = factor / T (p_k - q_k)        dl/dt_k = factor / T q_k (ln q_k - ln p_k - l / factor)
//
// Both rows are kept: two reads and one write.
#include "skeleton/softmax.cuh"

struct Distillation {
    DistillationParams p;

    template <class Row> FL float row(Row& row) const {
        const float inv_t = p.inv_temperature;
        float max_p = -fl::infinity(), max_q = -fl::infinity();
        fl::first<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
            s *= inv_t, t *= inv_t;
            max_p = fl::larger(max_p, s);
            max_q = fl::larger(max_q, t);
        });
        float maxima[2] = {max_p, max_q};
        row.reduce(maxima, fl::Larger());
        max_p = maxima[0], max_q = maxima[1];
        fl::Exponentials of_p, of_q;
        fl::Sum cross_sum;
        fl::again<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
            const float u = s * inv_t - max_p, v = t * inv_t - max_q;
            of_p.add(u);
            const float e = of_q.add(v);
            // A class without probability counts for nothing, whatever the student says.
            cross_sum.add(e == 0.0f ? 0.0f : e * (v - u));
        }, [&] { of_p.flush(), of_q.flush(), cross_sum.flush(); });
        float sums[4] = {of_p.ones, float(of_p.rest.many), of_q.ones, float(of_q.rest.many)};
        float cross[1] = {float(cross_sum.many)};
        fl::sum_up(row, sums);
        fl::sum_up(row, cross);
        const fl::Softmax student = {max_p, sums[0], sums[1]}, teacher = {max_q, sums[2], sums[3]};
        const float shift = student.ln_sum() - teacher.ln_sum();
        const float kl = fl::ratio(cross[0], teacher.sum()) + shift;

        const float scale = row.scale * p.factor * inv_t;
        const float inv_p = fl::ratio(1.0f, student.sum()), inv_q = fl::ratio(1.0f, teacher.sum());
        // Before the gradient of the student, which in place overwrites its logits.
        if (row.wants_grad_target()) {
            const float offset = shift - kl;
            fl::put_target(row, -fl::infinity(), [&](int, float s, float t) {
                const float u = s * inv_t - max_p, v = t * inv_t - max_q;
                const float e = fl::exp_neg(v);
                return e == 0.0f ? 0.0f : scale * e * inv_q * (v - u + offset);
            });
        }
        if (row.wants_grad()) {
            // p - q, where both are near 1, is what the one misses less what the other does.
            const float both_ones = teacher.miss(1.0f) - student.miss(1.0f);
            fl::put<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
                const float ep = fl::exp_neg_for<typename Row::Storage>(s * inv_t - max_p), eq = fl::exp_neg_for<typename Row::Storage>(t * inv_t - max_q);
                return scale * (ep == 1.0f && eq == 1.0f ? both_ones : ep * inv_p - eq * inv_q);
            });
        }
        return p.factor * kl;
    }
};

FL_ROWWISE(distillation, Distillation, DistillationParams)

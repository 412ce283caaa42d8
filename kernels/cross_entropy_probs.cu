// Categorical cross-entropy on probabilities, `src/loss/cross_entropy_probs.rs`. With q_k = clip(x_k / sum_j x_j, epsilon, 1 - epsilon) and the
// target weights a of cross-entropy:
//
//     l = -sum_k a_k ln q_k        dl/dx_k = (B - a_k / q_k [not clipped]) / sum_j x_j        dl/dt_k = -w_k (1 - s) ln q_k
//
// where B is the sum of a over the classes that were not clipped.
#include "skeleton/rowwise.cuh"

struct CrossEntropyProbs {
    static constexpr bool HEAVY = true;
    CrossEntropyProbsParams p;

    template <class Row> FL float weight(const Row& row, int k, float q, float on_target, float on_all) const {
        const float w = row.class_weight(k);
        if (row.is_dense()) return w * (on_target * q + on_all);
        return w * on_all + (k == row.index ? on_target : 0.0f);
    }

    // The clipped probability, and whether it is the probability itself.
    FL float clip(float x, float inv_sum, bool& inside) const {
        const float q = x * inv_sum;
        inside = !(q < p.epsilon || q > 1.0f - p.epsilon);
        const float low = q < p.epsilon ? p.epsilon : q;
        return low > 1.0f - p.epsilon ? 1.0f - p.epsilon : low;
    }

    template <class Row> FL float row(Row& row) const {
        const bool dense = row.is_dense();
        const float on_target = (1.0f - p.smoothing) * (dense ? 1.0f : row.class_weight(row.index));
        const float on_all = p.smoothing / float(row.classes);
        const bool every = dense || on_all != 0.0f;
        const float x_t = dense ? 0.0f : row.at_class(row.index);
        fl::Sum sum_x;
        fl::keep<fl::PERHAPS>(row, 0.0f);
        fl::again(row, 0.0f, [&](int, float x, float) { sum_x.add(x); }, [&] { sum_x.flush(); });
        float sum[1] = {float(sum_x.many)};
        fl::sum_up(row, sum);
        const float inv_sum = 1.0f / sum[0];
        bool inside;
        float value, free;
        if (every) {
            fl::Sum sum_value, sum_free;
            fl::again<fl::PERHAPS>(row, 0.0f, [&](int k, float x, float t) {
                bool free;
                const float q = clip(x, inv_sum, free), a = weight(row, k, t, on_target, on_all);
                const float term = a * fl::ln(q);
                sum_value.add(a == 0.0f && !fl::is_nan(q) ? 0.0f : -term);
                sum_free.add(free ? a : 0.0f);
            }, [&] { sum_value.flush(), sum_free.flush(); });
            float sums[2] = {float(sum_value.many), float(sum_free.many)};
            fl::sum_up(row, sums);
            value = sums[0], free = sums[1];
        } else {
            const float q = clip(x_t, inv_sum, inside);
            value = on_target == 0.0f && !fl::is_nan(q) ? 0.0f : -(on_target * fl::ln(q));
            free = inside ? on_target : 0.0f;
        }
        if (dense && row.wants_grad_target()) {
            fl::put_target(row, 0.0f, [&](int k, float x, float) {
                bool free;
                return -row.class_weight(k) * (1.0f - p.smoothing) * fl::ln(clip(x, inv_sum, free)) * row.scale;
            });
        }
        if (row.wants_grad()) {
            const float scale = inv_sum * row.scale;
            fl::put<fl::PERHAPS>(row, 0.0f, [&](int k, float x, float t) {
                bool inside;
                const float q = clip(x, inv_sum, inside), a = weight(row, k, t, on_target, on_all);
                return (free - (inside ? a / q : 0.0f)) * scale;
            });
        }
        // A sum that is not a number above zero is not a distribution, whatever class was asked for.
        return fl::is_nan(sum[0]) || sum[0] == 0.0f ? fl::nan() : value;
    }
};

// With six blocks of a thread a row, ptxas spills.
#define PROBS(dtype, T)                                                                               \
    FL_GROUP_TO(cross_entropy_probs, CrossEntropyProbs, CrossEntropyProbsParams, dtype, T, T, 2)      \
    FL_COLUMNS_TO(cross_entropy_probs, CrossEntropyProbs, CrossEntropyProbsParams, dtype, T, T, 5)
PROBS(f32, float)
PROBS(f16, fl::f16)
PROBS(bf16, fl::bf16)

// Cross-entropy of a class and distillation from a teacher of the same logits, `src/loss/combine/rows.rs`. With z the student's logits,
// y the teacher's (third tensor), a the target's weight on each class (smoothing included), p = softmax(z), lse its log-sum-exp,
// r = softmax(z / T), q = softmax(y / T):
//
//     l = w0 (sum_k a_k (lse - z_k) + z_loss lse^2) + w1 factor sum_k q_k (ln q_k - ln r_k)
//     dl/dz_k = w0 (p_k (1 + 2 z_loss lse) - a_k) + w1 factor / T (r_k - q_k)
//
// Both rows are kept: two reads and one write. With T = 1 r is p.
#include "skeleton/softmax.cuh"

struct CombinedRows {
    static constexpr bool THIRD = true;
    static constexpr int TERMS = 3;
    CombinedRowsParams p;

    template <class Row> FL float row(Row& row) const {
        const float inv_t = p.inv_temperature;
        const bool apart = inv_t != 1.0f, smooth = p.smoothing != 0.0f;
        const float on_target = 1.0f - p.smoothing, on_all = p.smoothing / float(row.classes), z_t = row.at_class(row.index);
        float maxima[2] = {-fl::infinity(), -fl::infinity()};
        fl::first_of_two(row, -fl::infinity(), [&](int, float z, float, float y) {
            maxima[0] = fl::larger(maxima[0], z);
            maxima[1] = fl::larger(maxima[1], y * inv_t);
        });
        row.reduce(maxima, fl::Larger());
        const float max_p = maxima[0], max_r = max_p * inv_t, max_q = maxima[1];
        fl::Exponentials of_p, of_r, of_q;
        fl::Sum cross_sum, cost_sum;
        fl::again_of_two(row, -fl::infinity(), [&](int k, float z, float, float y) {
            const float u = z - max_p, w = z * inv_t - max_r, v = y * inv_t - max_q;
            of_p.add(u);
            if (apart) of_r.add(w);
            const float e = of_q.add(v);
            // A class without probability counts for nothing, whatever the student says.
            cross_sum.add(e == 0.0f ? 0.0f : e * (v - w));
            if (smooth && unsigned(k) < unsigned(row.classes)) cost_sum.add(-u);
        }, [&] { of_p.flush(), of_r.flush(), of_q.flush(), cross_sum.flush(), cost_sum.flush(); });
        float sums[4] = {of_p.ones, float(of_p.rest.many), of_q.ones, float(of_q.rest.many)};
        float more[4] = {of_r.ones, float(of_r.rest.many), float(cross_sum.many), float(cost_sum.many)};
        fl::sum_up(row, sums);
        fl::sum_up(row, more);
        const fl::Softmax student = {max_p, sums[0], sums[1]}, teacher = {max_q, sums[2], sums[3]};
        const fl::Softmax softened = apart ? fl::Softmax{max_r, more[0], more[1]} : student;

        const float ln_sum = student.ln_sum(), lse = max_p + ln_sum;
        // Zero times infinity is a masked class that the target does not ask for.
        const float cost = (on_target == 0.0f ? 0.0f : on_target * (max_p - z_t)) + (smooth ? on_all * more[3] : 0.0f);
        const float kl = fl::ratio(more[2], teacher.sum()) + (softened.ln_sum() - teacher.ln_sum());
        row.terms[0] = ln_sum + cost;
        row.terms[1] = p.z_loss == 0.0f ? 0.0f : p.z_loss * lse * lse;
        row.terms[2] = p.factor * kl;

        if (row.wants_grad()) {
            const float of_target = row.scale * p.weights[0], of_teacher = row.scale * p.weights[1] * p.factor * inv_t;
            const float pull = p.z_loss == 0.0f ? 0.0f : 2.0f * p.z_loss * lse, miss = student.miss(1.0f);
            const float slope = (1.0f + pull) * fl::ratio(1.0f, student.sum());
            const float inv_r = fl::ratio(1.0f, softened.sum()), inv_q = fl::ratio(1.0f, teacher.sum());
            // Where probabilities are near 1, differences of what they miss: as in cross_entropy.cuh and distillation.cu.
            const float top = pull * (1.0f - miss) - miss, both_ones = teacher.miss(1.0f) - softened.miss(1.0f);
            const bool leads = student.one_class_leads();
            fl::put_of_two(row, -fl::infinity(), [&](int k, float z, float, float y) {
                typedef typename Row::Storage T;
                const float ep = fl::exp_neg_for<T>(z - max_p), er = apart ? fl::exp_neg_for<T>(z * inv_t - max_r) : ep;
                const float eq = fl::exp_neg_for<T>(y * inv_t - max_q), a = on_all + (k == row.index ? on_target : 0.0f);
                const float hard = ep == 1.0f && leads ? (1.0f - a) + top : ep * slope - a;
                const float soft = er == 1.0f && eq == 1.0f ? both_ones : er * inv_r - eq * inv_q;
                return of_target * hard + of_teacher * soft;
            });
        }
        return p.weights[0] * (row.terms[0] + row.terms[1]) + p.weights[1] * row.terms[2];
    }
};

FL_ROWWISE(combined_rows, CombinedRows, CombinedRowsParams)

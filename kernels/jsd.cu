// Generalised Jensen-Shannon divergence, `src/loss/jsd.rs`. With p = softmax(student / T), q = softmax(teacher / T), and the mixture
// m = beta q + (1 - beta) p:
//
//     l = beta KL(q || m) + (1 - beta) KL(p || m)        beta = 1: KL(p || q), with m = q
//     dl/ds_k = student / T p_k (ln(p_k / m_k) - KL(p || m))        dl/dt_k = teacher / T q_k (ln(q_k / m_k) - KL(q || m))
//
// where student and teacher are the factors of the two divergences. Both rows are kept: two reads and one write.
#include "skeleton/softmax.cuh"

struct Jsd {
    static constexpr bool HEAVY = true;
    JsdParams p;

    // ln(p / m) and ln(q / m).
    struct Logs {
        float of_p, of_q;
    };
    // From d = ln(q / p): the exponential is of minus its size, so that it does not overflow.
    FL Logs against_mixture(float d) const {
        if (p.beta == 1.0f) return {-d, 0.0f};
        const bool teacher = d > 0.0f;
        const float rest = fl::exp_neg(-fabsf(d)) - 1.0f;
        const float mixed = fl::ln_1p((teacher ? 1.0f - p.beta : p.beta) * rest);
        return {teacher ? -d - mixed : -mixed, teacher ? -mixed : d - mixed};
    }

    template <class Row> FL float row(Row& row) const {
        const float inv_t = p.inv_temperature;
        float max_p = -fl::infinity(), max_q = -fl::infinity();
        fl::first<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
            s *= inv_t, t *= inv_t;
            max_p = s > max_p ? s : max_p;
            max_q = t > max_q ? t : max_q;
        });
        float maxima[2] = {max_p, max_q};
        row.reduce(maxima, fl::Larger());
        max_p = maxima[0], max_q = maxima[1];
        fl::Exponentials of_p, of_q;
        fl::again<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
            of_p.add(s * inv_t - max_p);
            of_q.add(t * inv_t - max_q);
        }, [&] { of_p.flush(), of_q.flush(); });
        float sums[4] = {of_p.ones, float(of_p.rest.many), of_q.ones, float(of_q.rest.many)};
        fl::sum_up(row, sums);
        const fl::Softmax student = {max_p, sums[0], sums[1]}, teacher = {max_q, sums[2], sums[3]};
        const float shift = student.ln_sum() - teacher.ln_sum();
        fl::Sum from_p, from_q;
        fl::again<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
            const float u = s * inv_t - max_p, v = t * inv_t - max_q;
            const float ep = fl::exp_neg(u), eq = fl::exp_neg(v);
            const Logs logs = against_mixture((v - u) + shift);
            // What has no probability counts for nothing.
            from_p.add(ep == 0.0f ? 0.0f : ep * logs.of_p);
            from_q.add(eq == 0.0f ? 0.0f : eq * logs.of_q);
        }, [&] { from_p.flush(), from_q.flush(); });
        float kls[2] = {float(from_p.many), float(from_q.many)};
        fl::sum_up(row, kls);
        const float inv_p = fl::ratio(1.0f, student.sum()), inv_q = fl::ratio(1.0f, teacher.sum());
        const float kl_p = kls[0] * inv_p, kl_q = kls[1] * inv_q;

        const float scale = row.scale * inv_t;
        // Before the gradient of the student, which in place overwrites its logits.
        if (row.wants_grad_target()) {
            const float on_q = scale * p.teacher * inv_q;
            fl::put_target(row, -fl::infinity(), [&](int, float s, float t) {
                const float u = s * inv_t - max_p, v = t * inv_t - max_q;
                const float eq = fl::exp_neg(v);
                if (p.beta == 1.0f) return scale * (eq * inv_q - fl::exp_neg(u) * inv_p); // the teacher is the mixture
                return on_q * eq * ((eq == 0.0f ? 0.0f : against_mixture((v - u) + shift).of_q) - kl_q);
            });
        }
        if (row.wants_grad()) {
            const float on_p = scale * p.student * inv_p;
            fl::put<fl::ALL>(row, -fl::infinity(), [&](int, float s, float t) {
                const float u = s * inv_t - max_p, v = t * inv_t - max_q;
                const float ep = fl::exp_neg(u);
                return on_p * ep * ((ep == 0.0f ? 0.0f : against_mixture((v - u) + shift).of_p) - kl_p);
            });
        }
        return p.student * kl_p + p.teacher * kl_q;
    }
};

FL_ROWWISE(jsd, Jsd, JsdParams)

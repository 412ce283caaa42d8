// Categorical cross-entropy on logits, `src/loss/cross_entropy.rs`. With z the logits (soft-capped, if asked), p = softmax(z), and the
// target a weight a on every class (smoothing and class weights included):
//
//     l = sum_k a_k (lse - z_k) + z_loss lse^2
//     dl/dz_k = p_k (sum_j a_j + 2 z_loss lse) - a_k        dl/dq_k = w_k (1 - s) (lse - z_k)
//
// Where p is near 1 the gradient is (mass - a) - mass (1 - p) + pull p, which does not cancel.
#pragma once
#include "skeleton/softmax.cuh"

// The input itself.
struct Plain {
    static constexpr bool BENT = false, DENSE = true; // whether a tanh bends it, and whether its targets may be dense
    FL Plain(float, const LaunchArgs&) {}
    template <class Row> FL float at(const Row&, int, float x) const { return x; }
    template <class Row> FL float slope(const Row&, int, float) const { return 1.0f; }
};

// Logits bent to softcap tanh(z / softcap).
struct Capped {
    static constexpr bool BENT = true, DENSE = true;
    float softcap;
    FL Capped(float softcap, const LaunchArgs&) : softcap(softcap) {}
    // Past the last class minus infinity must stay what it is.
    template <class Row> FL float at(const Row& row, int k, float x) const {
        const float capped = softcap * fl::tanh(x / softcap);
        return unsigned(k) < unsigned(row.classes) ? capped : x;
    }
    template <class Row> FL float slope(const Row&, int, float x) const {
        const float bent = fl::tanh(x / softcap);
        return 1.0f - bent * bent;
    }
};

// Logits less their bias, of the head, which is added wherever they are looked at: once more through memory would cost as much as the loss.
template <class Logits, class B> struct Biased : Logits {
    static constexpr bool DENSE = false;
    const B* bias;
    FL Biased(float softcap, const LaunchArgs& a) : Logits(softcap, a), bias(fl::at<const B>(a.bias)) {}
    template <class Row> FL float whole(const Row& row, int k, float x) const {
        return bias && unsigned(k) < unsigned(row.classes) ? x + fl::to_f32(bias[k]) : x;
    }
    template <class Row> FL float at(const Row& row, int k, float x) const { return Logits::at(row, k, whole(row, k, x)); }
    template <class Row> FL float slope(const Row& row, int k, float x) const { return Logits::slope(row, k, whole(row, k, x)); }
};

// USUAL: a class index and no smoothing. By itself it needs far fewer registers, and so has more threads at work. REPORT: with what else
// the softmax of the row tells.
template <class Logits, bool USUAL, bool REPORT = false> struct CrossEntropy {
    static constexpr bool REPORTS = REPORT, HEAVY = Logits::BENT || REPORT;
    CrossEntropyParams p;

    // What the target puts on class k.
    template <class Row> FL float weight(const Row& row, int k, float q, float on_target, float on_all) const {
        const float w = row.class_weight(k);
        if (row.is_dense()) return w * (on_target * q + on_all);
        return w * on_all + (k == row.index ? on_target : 0.0f);
    }

    // With dense targets or smoothing every class has a weight, otherwise the target alone.
    template <class Row> FL float row(Row& row) const {
        const Logits logits(p.softcap, row.a);
        float max = -fl::infinity();
        fl::keep<USUAL || !Logits::DENSE ? fl::NONE : fl::PERHAPS>(row, -fl::infinity());
        fl::again(row, -fl::infinity(), [&](int k, float x, float) { max = fl::larger(max, logits.at(row, k, x)); }, [] {});
        // On its way while threads wait for one another.
        const float x_t = !USUAL && Logits::DENSE && row.is_dense() ? 0.0f : row.at_class(row.index);
        max = fl::largest(row, max);
        if constexpr (USUAL) {
            return run<false, fl::NONE>(row, logits, x_t, max);
        } else if constexpr (HEAVY) {
            const bool usual = p.smoothing == 0.0f && !row.is_dense();
            if (usual) return run<false, fl::NONE>(row, logits, x_t, max);
            return run<true, Logits::DENSE ? fl::PERHAPS : fl::NONE>(row, logits, x_t, max);
        } else if constexpr (Logits::DENSE) {
            return row.is_dense() ? run<true, fl::ALL>(row, logits, x_t, max) : run<true, fl::NONE>(row, logits, x_t, max);
        } else {
            return run<true, fl::NONE>(row, logits, x_t, max);
        }
    }

    template <bool EVERY, int DENSE, class Row> FL float run(Row& row, const Logits& logits, float x_t, float max) const {
        const bool dense = row.template has_dense<DENSE>();
        const float on_target = (1.0f - p.smoothing) * (dense ? 1.0f : row.class_weight(row.index));
        const float on_all = p.smoothing / float(row.classes);
        float mass = on_target, cost = on_target == 0.0f ? 0.0f : on_target * (max - logits.at(row, row.index, x_t));
        fl::Softmax softmax;
        // Where exponentials can be kept in place of logits that nobody asks for again, the gradient finds them there.
        const bool replaces = !EVERY && !REPORT && !Logits::BENT && row.can_replace();
        if (EVERY) {
            fl::Exponentials exponentials;
            fl::Sum sum_mass, sum_cost;
            fl::again<DENSE>(row, -fl::infinity(), [&](int k, float x, float q) {
                const float u = logits.at(row, k, x) - max;
                exponentials.add(u);
                const float a = inside(row, k) ? weight(row, k, q, on_target, on_all) : 0.0f;
                sum_mass.add(a);
                // Zero times minus infinity is a masked class that the target does not ask for.
                sum_cost.add(a == 0.0f ? 0.0f : -a * u);
            }, [&] { exponentials.flush(), sum_mass.flush(), sum_cost.flush(); });
            float sums[4] = {exponentials.ones, float(exponentials.rest.many), float(sum_mass.many), float(sum_cost.many)};
            fl::sum_up(row, sums);
            softmax = {max, sums[0], sums[1]};
            mass = sums[2], cost = sums[3];
        } else if (replaces) {
            fl::Exponentials exponentials;
            row.replace([&](int k, float x) { return exponentials.add(logits.at(row, k, x) - max); }, [&] { exponentials.flush(); });
            softmax = {max, exponentials.ones, float(exponentials.rest.many)};
        } else {
            // 16-bit logits are bound by arithmetic: most rows forgive rough exponentials, and the others are looked at once more.
            constexpr bool ROUGH = Row::SHARED && sizeof(typename Row::Storage) == 2 && !Logits::BENT;
            softmax = softmax_of<ROUGH>(row, logits, max);
            if (ROUGH && !softmax.forgives()) softmax = softmax_of<false>(row, logits, max);
        }
        // For most threads it would be in vain.
        const float ln_sum = EVERY || REPORT || row.leads() || p.z_loss != 0.0f ? softmax.ln_sum() : 0.0f, lse = max + ln_sum;
        if (REPORT) {
            // One more look, at what is kept on the chip: the loss has its own ways of summing exponentials.
            fl::Sum sum_spread;
            int largest = 0x7fffffff;
            fl::again(row, -fl::infinity(), [&](int k, float x, float) {
                const float u = logits.at(row, k, x) - max, e = fl::exp_neg(u);
                sum_spread.add(e == 0.0f ? 0.0f : e * u);
                if (u == 0.0f && k < largest) largest = k;
            }, [&] { sum_spread.flush(); });
            float spread[1] = {float(sum_spread.many)};
            int first[1] = {largest};
            fl::sum_up(row, spread);
            row.reduce(first, fl::Smaller());
            const bool sound = !fl::is_nan(ln_sum) && first[0] < row.classes;
            row.reported.log_prob = dense ? 0.0f : (logits.at(row, row.index, x_t) - max) - ln_sum;
            row.reported.entropy = ln_sum - fl::ratio(spread[0], softmax.sum());
            row.reported.lse = lse;
            row.reported.argmax = sound ? first[0] : -1;
        }
        float value = mass * ln_sum + cost;
        if (p.z_loss != 0.0f) value += p.z_loss * lse * lse;

        // Before the gradient of the input, which in place overwrites the logits.
        if (dense && row.wants_grad_target()) {
            fl::put_target(row, 0.0f, [&](int k, float x, float) {
                const float factor = row.class_weight(k) * (1.0f - p.smoothing) * row.scale;
                return factor == 0.0f ? 0.0f : factor * (ln_sum + (max - logits.at(row, k, x)));
            });
        }
        if (row.wants_grad()) {
            const float pull = p.z_loss == 0.0f ? 0.0f : 2.0f * p.z_loss * lse;
            const float slope = (mass + pull) * fl::ratio(1.0f, softmax.sum());
            const bool leads = softmax.one_class_leads();
            auto top = [&] {
                const float miss = softmax.miss(1.0f);
                return pull * (1.0f - miss) - mass * miss;
            };
            auto grad_of = [&](float e, float a, float top) {
                const float near_one = (mass - a) + top;
                const float usual = e * slope - a;
                return row.scale * (e == 1.0f && leads ? near_one : usual);
            };
            if (EVERY) {
                const float near_one = top();
                fl::put<DENSE>(row, -fl::infinity(), [&](int k, float x, float q) {
                    const float e = fl::exp_neg_for<typename Row::Storage>(logits.at(row, k, x) - max);
                    return grad_of(e, weight(row, k, q, on_target, on_all), near_one) * logits.slope(row, k, x);
                });
            } else {
                const float scaled = slope * row.scale;
                auto of_target = [&] {
                    const float e = fl::exp_neg(logits.at(row, row.index, x_t) - max);
                    return grad_of(e, on_target, top()) * logits.slope(row, row.index, x_t);
                };
                if (replaces) fl::put(row, 0.0f, [&](int, float e, float) { return e * scaled; }, row.index, of_target);
                else fl::put(row, -fl::infinity(), [&](int k, float x, float) {
                    return fl::exp_neg_for<typename Row::Storage>(logits.at(row, k, x) - max) * scaled * logits.slope(row, k, x);
                }, row.index, of_target);
            }
        }
        return value;
    }

    template <bool ROUGH, class Row> FL static fl::Softmax softmax_of(Row& row, const Logits& logits, float max) {
        fl::Exponentials exponentials;
        fl::again(row, -fl::infinity(), [&](int k, float x, float) {
            const float u = logits.at(row, k, x) - max;
            exponentials.put(ROUGH ? fl::exp_neg_rough(u) : fl::exp_neg(u));
        }, [&] { exponentials.flush(); });
        float sums[2] = {exponentials.ones, float(exponentials.rest.many)};
        fl::sum_up(row, sums);
        return {max, sums[0], sums[1]};
    }

    template <class Row> FL static bool inside(const Row& row, int k) { return unsigned(k) < unsigned(row.classes); }
};

// The same of the head's logits, which are f32 whatever the storage type and have a bias; with so many blocks an SM.
#define FL_HEAD_CROSS_ENTROPY(name, Logits, USUAL, blocks)              \
    FL_HEAD_CROSS_ENTROPY_OF(name, Logits, USUAL, blocks, f32, float)   \
    FL_HEAD_CROSS_ENTROPY_OF(name, Logits, USUAL, blocks, f16, fl::f16) \
    FL_HEAD_CROSS_ENTROPY_OF(name, Logits, USUAL, blocks, bf16, fl::bf16)
#define FL_HEAD_CROSS_ENTROPY_OF(name, Logits, USUAL, blocks, dtype, T)   \
    typedef CrossEntropy<Biased<Logits, T>, USUAL> Loss_##dtype;          \
    FL_ROWWISE_TO(name, Loss_##dtype, CrossEntropyParams, dtype, float, T, blocks)

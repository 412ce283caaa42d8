// Cross-entropy of rows whose classes ranks share, `src/parallel`. A rank looks at its classes twice. `fold` finds what they say of each
// row: the maximum m, and relative to it
//
//     ones, rest = sum_k exp(z_k - m)      mass = sum_k a_k      cost = sum_k a_k (m - z_k)      of_target = w_t, if t is here
//
// The ranks find the maximum of all, `move` makes each rank's numbers those of it, and the ranks add them up. `unfold` then has all that
// cross_entropy.cuh has of a row, and gives its value, the same on all ranks, and the gradient of the classes that are here.
#pragma once
#include "cross_entropy.cuh"

namespace fl {

// Where the class of a row is that is not here: nowhere, for the row is ignored; on another rank; no class at all.
static constexpr int NOWHERE = -1, ELSEWHERE = -2, STRAY = -3;

// What ranks tell one another of `losses` rows.
FL float* own_max(const LaunchArgs& a) { return at<float>(a.scratch); }
FL float* all_max(const LaunchArgs& a) { return own_max(a) + a.losses; }
FL float* vocab_sums(const LaunchArgs& a, uint64_t row) { return all_max(a) + a.losses + FL_VOCAB_SUMS * row; }

FL int place_of(const LaunchArgs& a, uint64_t row) { return at<const int32_t>(a.target)[row]; }
FL int place_of_class(const LaunchArgs& a, uint32_t first, int64_t index) {
    const uint64_t here = uint64_t(index) - first;
    return here < a.classes ? int(here) : ELSEWHERE;
}

FL void put_sums(const LaunchArgs& a, uint64_t row, float max, float ones, float rest, float mass, float cost, float of_target) {
    own_max(a)[row] = all_max(a)[row] = max;
    float* sums = vocab_sums(a, row);
    sums[0] = ones, sums[1] = rest, sums[2] = mass, sums[3] = cost, sums[4] = of_target;
}

// A thread a row: what is of the own maximum becomes that of the maximum of all.
FL void vocab_move(const LaunchArgs& a) {
    const uint64_t row = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    if (row >= a.losses) return;
    const float own = own_max(a)[row], max = all_max(a)[row];
    if (own == max) return;
    float* sums = vocab_sums(a, row);
    if (own == -infinity()) {
        // All are masked here, and some elsewhere are not. (But NaN stays.)
        sums[0] = 0.0f, sums[1] = is_nan(sums[1]) ? nan() : 0.0f;
        sums[3] = sums[2] == 0.0f ? 0.0f : sums[2] * infinity();
        return;
    }
    const double shift = double(max) - double(own);
    sums[1] = (sums[0] + sums[1]) * exp_neg(float(-shift)), sums[0] = 0.0f;
    sums[3] += sums[2] == 0.0f ? 0.0f : float(double(sums[2]) * shift);
}

} // namespace fl

template <class Logits> struct VocabFold {
    static constexpr bool HEAVY = true;
    VocabParams p;

    template <class Row> FL float row(Row& row) const {
        const int place = fl::place_of(row.a, row.number);
        if (place == fl::NOWHERE || place == fl::STRAY) {
            if (row.leads()) fl::put_sums(row.a, row.number, -fl::infinity(), 0.0f, 0.0f, 0.0f, 0.0f, 0.0f);
            return 0.0f;
        }
        const Logits logits(p.of.softcap, row.a);
        float max = -fl::infinity();
        fl::first(row, -fl::infinity(), [&](int k, float x, float) { max = fl::larger(max, logits.at(row, k, x)); });
        const float x_t = place >= 0 ? row.at_class(place) : 0.0f;
        max = fl::largest(row, max);
        return p.of.smoothing != 0.0f ? fold<true>(row, logits, place, x_t, max) : fold<false>(row, logits, place, x_t, max);
    }

    template <bool EVERY, class Row> FL float fold(Row& row, const Logits& logits, int place, float x_t, float max) const {
        const float of_target = place >= 0 ? row.class_weight(place) : 0.0f;
        const float on_target = (1.0f - p.of.smoothing) * of_target, on_all = p.of.smoothing / float(p.total);
        // Where all are masked it is NaN that must be found.
        const float from = max == -fl::infinity() ? 0.0f : max;
        fl::Exponentials exponentials;
        fl::Sum sum_mass, sum_cost;
        fl::again(row, -fl::infinity(), [&](int k, float x, float) {
            const float u = logits.at(row, k, x) - from;
            exponentials.add(u);
            if (EVERY) {
                const float a = row.class_weight(k) * on_all + (k == place ? on_target : 0.0f);
                sum_mass.add(a);
                sum_cost.add(a == 0.0f ? 0.0f : -a * u);
            }
        }, [&] { exponentials.flush(), sum_mass.flush(), sum_cost.flush(); });
        float sums[4] = {exponentials.ones, float(exponentials.rest.many), float(sum_mass.many), float(sum_cost.many)};
        fl::sum_up(row, sums);
        if (!EVERY) {
            sums[2] = on_target;
            sums[3] = on_target == 0.0f ? 0.0f : on_target * (from - logits.at(row, place, x_t));
        }
        if (row.leads()) fl::put_sums(row.a, row.number, max, sums[0], sums[1], sums[2], sums[3], of_target);
        return 0.0f;
    }
};

template <class Logits> struct VocabUnfold {
    static constexpr bool HEAVY = Logits::BENT;
    VocabParams p;

    template <class Row> FL float row(Row& row) const {
        const int place = fl::place_of(row.a, row.number);
        if (place == fl::NOWHERE || place == fl::STRAY) {
            if (row.wants_grad()) fl::put_blindly(row, [](int) { return 0.0f; });
            return place == fl::STRAY ? fl::nan() : 0.0f;
        }
        const float* sums = fl::vocab_sums(row.a, row.number);
        const fl::Softmax softmax = {fl::all_max(row.a)[row.number], sums[0], sums[1]};
        const float mass = sums[2], ln_sum = softmax.ln_sum(), lse = softmax.max + ln_sum, z_loss = p.of.z_loss;
        if (row.wants_grad()) {
            const Logits logits(p.of.softcap, row.a);
            const bool here = place >= 0;
            const float on_target = (1.0f - p.of.smoothing) * (here ? row.class_weight(place) : 0.0f);
            const float on_all = p.of.smoothing / float(p.total);
            const float pull = z_loss == 0.0f ? 0.0f : 2.0f * z_loss * lse, miss = softmax.miss(1.0f);
            const float slope = (mass + pull) * fl::ratio(1.0f, softmax.sum()), top = pull * (1.0f - miss) - mass * miss;
            const bool leads = softmax.one_class_leads();
            fl::put_of_memory(row, [&](int k, float x, float) {
                const float a = (on_all == 0.0f ? 0.0f : row.class_weight(k) * on_all) + (k == place ? on_target : 0.0f);
                const float e = fl::exp_neg(logits.at(row, k, x) - softmax.max);
                return row.scale * (e == 1.0f && leads ? (mass - a) + top : e * slope - a) * logits.slope(row, k, x);
            });
        }
        const float value = mass * ln_sum + sums[3];
        return z_loss != 0.0f ? value + z_loss * lse * lse : value;
    }
};

// Both looks at the head's logits, which are f32 whatever the storage type.
#define FL_HEAD_VOCAB(suffix, Logits)                   \
    FL_HEAD_VOCAB_OF(suffix, Logits, f32, float)        \
    FL_HEAD_VOCAB_OF(suffix, Logits, f16, fl::f16)      \
    FL_HEAD_VOCAB_OF(suffix, Logits, bf16, fl::bf16)
#define FL_HEAD_VOCAB_OF(suffix, Logits, dtype, T)                                                                     \
    typedef VocabFold<Biased<Logits, T>> Fold_##dtype;                                                                 \
    typedef VocabUnfold<Biased<Logits, T>> Unfold_##dtype;                                                             \
    FL_ROWWISE_TO(head_vocab_fold##suffix, Fold_##dtype, VocabParams, dtype, float, T, 2)                              \
    FL_ROWWISE_TO(head_vocab_unfold##suffix, Unfold_##dtype, VocabParams, dtype, float, T, 2)

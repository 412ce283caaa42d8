// Categorical hinge and multi-class margin, `src/loss/margin.rs`.
//
//     categorical hinge:  l = max(0, 1 + max_k((1 - y_k) x_k) - sum_k y_k x_k)
//                         where positive: dl/dx_k = (1 - y_k) [k is the maximum] - y_k; at a tie the lowest k
//     multi-class margin: l = w_t / C sum_{k != t} max(0, margin - x_t + x_k)^p
//                         dl/dx_k = w_t / C p max(0, ..)^(p - 1) for k != t; for the target minus the sum of these
#include "skeleton/rowwise.cuh"

struct CategoricalHinge {
    static constexpr bool HEAVY = true;
    NoParams p;

    template <class Row> FL float row(Row& row) const {
        const bool dense = row.is_dense();
        auto label = [&](int k, float q) { return dense ? q : (k == row.index ? 1.0f : 0.0f); };
        // The largest wrong score and where it is; the score of the target; NaN if there is any.
        float wrong = -fl::infinity();
        int where = 0;
        fl::Sum right, strays;
        fl::first<fl::PERHAPS>(row, 0.0f, [&](int k, float x, float q) {
            const float y = label(k, q);
            const float score = y == 1.0f ? 0.0f : (1.0f - y) * x;
            if (unsigned(k) < unsigned(row.classes) && (score > wrong || (score == wrong && k < where))) wrong = score, where = k;
            right.add(y == 0.0f ? 0.0f : y * x);
            strays.add(fl::is_nan(x) || fl::is_nan(y) ? 1.0f : 0.0f);
        }, [&] { right.flush(), strays.flush(); });
        const float top = fl::largest(row, wrong);
        // The lowest k with that score, in two halves that f32 can hold.
        const int mine = wrong == top ? where : 0x7fffffff;
        const float high = -fl::largest(row, -float(mine >> 16));
        const float low = -fl::largest(row, float(mine >> 16) == high ? -float(mine & 0xffff) : -65536.0f);
        const int at = (int(high) << 16) + int(low);
        float sums[2] = {float(right.many), float(strays.many)};
        fl::sum_up(row, sums);
        // In this order a small one is exact.
        const float gap = sums[1] == 0.0f ? (top - sums[0]) + 1.0f : fl::nan();
        if (row.wants_grad()) {
            const float active = fl::is_nan(gap) ? fl::nan() : (gap > 0.0f ? row.scale : 0.0f);
            fl::put<fl::PERHAPS>(row, 0.0f, [&](int k, float, float q) {
                const float y = label(k, q);
                return active * ((k == at ? 1.0f - y : 0.0f) - y);
            });
        }
        return gap <= 0.0f ? 0.0f : gap;
    }
};

struct MultiMargin {
    static constexpr bool HEAVY = true;
    MultiMarginParams p;

    template <class Row> FL float row(Row& row) const {
        const float x_t = row.at_class(row.index);
        const float weight = row.class_weight(row.index) / float(row.classes);
        auto gap_of = [&](int k, float x) {
            // In this order a small sum is exact, if the scores are close.
            const float gap = (x - x_t) + p.margin;
            return k == row.index || unsigned(k) >= unsigned(row.classes) || gap <= 0.0f ? 0.0f : gap;
        };
        // The derivative of gap^p; NaN stays NaN.
        auto slope_of = [&](float gap) {
            const float step = gap > 0.0f ? 1.0f : gap;
            return p.p == 1 ? step : 2.0f * gap;
        };
        fl::Sum value, slopes;
        fl::first(row, -fl::infinity(), [&](int k, float x, float) {
            const float gap = gap_of(k, x);
            value.add(p.p == 1 ? gap : gap * gap);
            slopes.add(slope_of(gap));
        }, [&] { value.flush(), slopes.flush(); });
        float sums[2] = {float(value.many), float(slopes.many)};
        fl::sum_up(row, sums);
        if (row.wants_grad()) {
            const float scale = weight * row.scale;
            fl::put(row, -fl::infinity(), [&](int k, float x, float) { return scale * slope_of(gap_of(k, x)); }, row.index, [&] { return -sums[1] * scale; });
        }
        return weight * sums[0];
    }
};

FL_ROWWISE(categorical_hinge, CategoricalHinge, NoParams)
FL_ROWWISE(multi_margin, MultiMargin, MultiMarginParams)

// Triplet margin, `src/loss/triplet.rs`. With u = a - p + eps, v = a - n + eps of a row each of anchors (input), positives (target) and
// negatives (third tensor), and with a swap, where it is nearer, w = p - n + eps in the place of v:
//
//     l = max(0, |u| - |v| + margin)
//     dl/da = u / |u| - v / |v|        dl/dp = -u / |u|        dl/dn = v / |v|        where l is positive
//
// All three rows are kept.
#include "skeleton/rowwise.cuh"

struct TripletMargin {
    static constexpr bool THIRD = true;
    TripletMarginParams p;

    template <class Row> FL float row(Row& row) const {
        const float eps = p.eps;
        fl::Sum of_u, of_v, of_w;
        fl::first_of_three(row, [&](int k, float a, float t, float n) {
            if (unsigned(k) >= unsigned(row.classes)) return; // eps is added to what is there
            const float u = (a - t) + eps, v = (a - n) + eps, w = (t - n) + eps;
            of_u.add(u * u);
            of_v.add(v * v);
            of_w.add(w * w);
        }, [&] { of_u.flush(), of_v.flush(), of_w.flush(); });
        float sums[3] = {float(of_u.many), float(of_v.many), float(of_w.many)};
        fl::sum_up(row, sums);
        const float near = sqrtf(sums[0]), from_anchor = sqrtf(sums[1]), from_positive = sqrtf(sums[2]);
        const bool swapped = p.swap != 0 && from_positive < from_anchor;
        const float far = swapped ? from_positive : from_anchor, shortage = (near - far) + p.margin;
        // Written so that NaN takes neither of the two numbers.
        const float value = shortage <= 0.0f ? 0.0f : shortage, slope = shortage > 0.0f ? 1.0f : value;
        if (row.wants_grad()) {
            const float scale = row.scale * slope;
            const float pull = near == 0.0f ? 0.0f : fl::ratio(scale, near), push = far == 0.0f ? 0.0f : fl::ratio(scale, far);
            // What pulls at the positive and what pushes the negative; exactly zero where the slope is, whatever the row holds.
            auto pulled = [=](float a, float t) { return slope == 0.0f ? 0.0f : pull * ((a - t) + eps); };
            auto pushed = [=](float a, float t, float n) { return slope == 0.0f ? 0.0f : push * (((swapped ? t : a) - n) + eps); };
            if (row.wants_grad_third()) {
                fl::put_of_three(row, row.grad_third(), [=](int, float a, float t, float n) { return pushed(a, t, n); });
            }
            if (row.wants_grad_target()) {
                fl::put_of_three(row, row.grad_target(), [=](int, float a, float t, float n) {
                    return swapped ? -pulled(a, t) - pushed(a, t, n) : -pulled(a, t);
                });
            }
            // Last, for in place it overwrites the anchors.
            fl::put_of_three(row, row.grad(), [=](int, float a, float t, float n) {
                return swapped ? pulled(a, t) : pulled(a, t) - pushed(a, t, n);
            });
        }
        return value;
    }
};

FL_ROWWISE(triplet_margin, TripletMargin, TripletMarginParams)

// Negative log-likelihood on log-probabilities, `src/loss/nll.rs`.
//
//     l = -w_t x_t        dl/dx_t = -w_t, 0 for every other class
//
// Reads one element a row, and writes the row.
#include "skeleton/rowwise.cuh"

struct Nll {
    static constexpr bool LOOKS = false;
    NoParams p;

    template <class Row> FL float row(Row& row) const {
        const float weight = row.class_weight(row.index);
        const float value = -weight * row.at_class(row.index);
        float seen[1] = {0.0f};
        fl::sum_up(row, seen); // all have read before one overwrites it, in place
        if (row.wants_grad()) fl::put_blindly(row, [](int) { return 0.0f; }, row.index, [&] { return -weight * row.scale; });
        return value;
    }
};

FL_ROWWISE(nll, Nll, NoParams)

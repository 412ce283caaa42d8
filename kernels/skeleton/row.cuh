// What the two kinds of rows of the row-wise skeleton have in common.
#pragma once
#include "call.cuh"
#include "math.cuh"

namespace fl {

// What else the softmax of a row tells.
struct Reported {
    float log_prob, entropy, lse;
    int argmax; // -1 if there is none
};

// Whether a functor fills it in, by a member that the others do not have.
template <class F> FL constexpr auto reports(int) -> decltype(F::REPORTS) { return F::REPORTS; }
template <class F> FL constexpr bool reports(long) { return false; }

// Whether the third tensor of a functor has a number for each element, said likewise.
template <class F> FL constexpr auto of_three(int) -> decltype(F::THIRD) { return F::THIRD; }
template <class F> FL constexpr bool of_three(long) { return false; }

// How many terms a functor has that is a sum of losses, likewise.
template <class F> FL constexpr auto terms_of(int) -> decltype(F::TERMS) { return F::TERMS; }
template <class F> FL constexpr int terms_of(long) { return 0; }

// Whether its arithmetic is so much that loops over it need no second pack at a time, likewise: such are compiled in a third of the time.
template <class F> FL constexpr auto heavy(int) -> decltype(F::HEAVY) { return F::HEAVY; }
template <class F> FL constexpr bool heavy(long) { return false; }

// Whether a look is at dense targets too; PERHAPS is for what is so rare that rows with and without them share one loop.
enum Dense : int { NONE = 0, ALL = 1, PERHAPS = 2 };

// Whether a functor looks at whole rows, said likewise: one that reads a number or two says no.
template <class F> FL constexpr auto looks(int) -> decltype(F::LOOKS) { return F::LOOKS; }
template <class F> FL constexpr bool looks(long) { return true; }

// Hands an element to a body, with that of the third tensor if it takes one.
template <bool THIRD, class Body> FL auto hand_element(Body& body, int k, float x, float q, float t) {
    if constexpr (THIRD) return body(k, x, q, t);
    else return body(k, x, q);
}

FL void put_report(const LaunchArgs& a, uint64_t row, const Reported& r, int index) {
    if (a.log_prob) at<float>(a.log_prob)[row] = r.log_prob;
    if (a.entropy) at<float>(a.entropy)[row] = r.entropy;
    if (a.lse) at<float>(a.lse)[row] = r.lse;
    if (a.hit) at<float>(a.hit)[row] = r.argmax >= 0 && r.argmax == index ? 1.0f : 0.0f;
    if (a.argmax) at<int64_t>(a.argmax)[row] = r.argmax;
}

// What both kinds of rows know.
template <class T> struct RowBase {
    typedef T Storage;
    const LaunchArgs& a;
    int classes; // 32 bits: within a row. Where a row begins is 64.
    int index;   // the target's class, -1 if it has none
    uint64_t number; // which row it is
    float scale;   // what every gradient is multiplied by
    Reported reported; // of a functor that reports
    float terms[3];    // of one that is a sum

    FL explicit RowBase(const LaunchArgs& a) : a(a), classes(int(a.classes)), index(-1), number(0), scale(0.0f) {}

    FL bool is_dense() const { return a.target_kind == FL_TARGET_DENSE; }
    template <int DENSE> FL bool has_dense() const { return DENSE == PERHAPS ? is_dense() : DENSE != NONE; }
    FL bool wants_grad() const { return a.grad_input != 0; }
    FL bool wants_grad_target() const { return a.grad_target != 0; }
    FL bool wants_grad_third() const { return a.grad_third != 0; }
    // What the third tensor has for the row, of a loss whose third has a number a row.
    FL float label() const { return to_f32(at<const T>(a.third)[number]); }
    // 1 without weights, 0 past the last class.
    FL float class_weight(int k) const {
        if (unsigned(k) >= unsigned(classes)) return 0.0f;
        return a.class_weight ? at<const float>(a.class_weight)[k] : 1.0f;
    }
};

FL float add_or_write(const LaunchArgs& a, float old, float grad) { return a.flags & FL_ACCUMULATE ? old + grad : grad; }

} // namespace fl

// Cross-entropy of logits whose classes ranks share: vocab.cuh, and what comes before and between.
#include "vocab.cuh"

namespace fl {

// Behind the sums: where the classes of the rows are, the weights of those that count, and what the value is divided by.
FL int32_t* places(const LaunchArgs& a) { return reinterpret_cast<int32_t*>(vocab_sums(a, a.losses)); }
FL float* weights(const LaunchArgs& a) { return reinterpret_cast<float*>(places(a) + a.losses); }
FL float* divisor(const LaunchArgs& a) { return weights(a) + a.losses; }

// A thread a row.
FL void vocab_places(const LaunchArgs& a, const VocabParams& p) {
    const uint64_t row = uint64_t(blockIdx.x) * FL_BLOCK + threadIdx.x;
    if (row >= a.losses) return;
    const int64_t index = index_of(a, row);
    const bool skip = ignored(a, index), bad = !skip && uint64_t(index) >= p.total;
    if (bad) report_row(a, row);
    places(a)[row] = skip ? NOWHERE : bad ? STRAY : place_of_class(a, p.first, index);
    weights(a)[row] = skip ? 0.0f : weight_of(a, row);
}

// What a mean is divided by: one block.
FL void vocab_divisor(const LaunchArgs& a, const VocabParams& p) {
    const double sum = block_sum(part_of(0, a.losses, [&](uint64_t row) {
        if (places(a)[row] == NOWHERE) return 0.0;
        const double of_class = p.weighs && a.divide_by != FL_BY_ROWS ? double(vocab_sums(a, row)[4]) : 1.0;
        return a.divide_by == FL_BY_WEIGHTS ? of_class * double(weights(a)[row]) : of_class;
    }));
    if (threadIdx.x == 0) *divisor(a) = float(sum);
}

} // namespace fl

#define VOCAB_KERNEL(name, call)                                                                                               \
    extern "C" __global__ void __launch_bounds__(FL_BLOCK) fl_vocab_##name##_f32(const LaunchArgs a, const VocabParams p) {    \
        using namespace fl;                                                                                                    \
        call;                                                                                                                  \
    }                                                                                                                          \
    KERNEL(fl_vocab_##name##_f32)
VOCAB_KERNEL(places, vocab_places(a, p))
VOCAB_KERNEL(move, vocab_move(a))
VOCAB_KERNEL(divisor, vocab_divisor(a, p))

FL_ROWWISE(vocab_fold, VocabFold<Plain>, VocabParams)
FL_ROWWISE(vocab_unfold, VocabUnfold<Plain>, VocabParams)

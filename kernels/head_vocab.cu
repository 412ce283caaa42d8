// The two looks at logits whose classes ranks share, of the language-model head: vocab.cuh, between the products of head.cu.
#include "vocab.cuh"

template <class B> using Fold = VocabFold<Biased<Plain, B>>;
template <class B> using Unfold = VocabUnfold<Biased<Plain, B>>;

#define HEAD_VOCAB(dtype, T)                                                                \
    FL_ROWWISE_TO(head_vocab_fold, Fold<T>, VocabParams, dtype, float, T, 2)        \
    FL_ROWWISE_TO(head_vocab_unfold, Unfold<T>, VocabParams, dtype, float, T, 2)
HEAD_VOCAB(f32, float)
HEAD_VOCAB(f16, fl::f16)
HEAD_VOCAB(bf16, fl::bf16)

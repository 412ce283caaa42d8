// The looks of `head_vocab.cu` at logits that are bent by a tanh.
#include "vocab.cuh"

template <class B> using Fold = VocabFold<Biased<Capped, B>>;
template <class B> using Unfold = VocabUnfold<Biased<Capped, B>>;

#define HEAD_VOCAB(dtype, T)                                                                \
    FL_ROWWISE_TO(head_vocab_fold_softcap, Fold<T>, VocabParams, dtype, float, T, 2)        \
    FL_ROWWISE_TO(head_vocab_unfold_softcap, Unfold<T>, VocabParams, dtype, float, T, 2)
HEAD_VOCAB(f32, float)
HEAD_VOCAB(f16, fl::f16)
HEAD_VOCAB(bf16, fl::bf16)

// The looks of `vocab.cu` at logits that are bent by a tanh.
#include "vocab.cuh"

FL_ROWWISE(vocab_fold_softcap, VocabFold<Capped>, VocabParams)
FL_ROWWISE(vocab_unfold_softcap, VocabUnfold<Capped>, VocabParams)

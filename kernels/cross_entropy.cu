// Categorical cross-entropy on logits, `src/loss/cross_entropy.rs`.
#include "cross_entropy.cuh"

FL_ROWWISE(cross_entropy, CrossEntropy<Plain>, CrossEntropyParams)
FL_ROWWISE(cross_entropy_softcap, CrossEntropy<Capped>, CrossEntropyParams)

// Categorical cross-entropy on logits that are bent by a tanh, `src/loss/cross_entropy.rs`.
#include "cross_entropy.cuh"

typedef CrossEntropy<Capped, false> Softcap;

FL_ROWWISE(cross_entropy_softcap, Softcap, CrossEntropyParams)

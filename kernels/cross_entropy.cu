// Categorical cross-entropy on logits, `src/loss/cross_entropy.rs`.
#include "cross_entropy.cuh"

typedef CrossEntropy<Plain, true> Usual;
typedef CrossEntropy<Plain, false> Every;
typedef CrossEntropy<Capped, false> Softcap;

FL_ROWWISE_LIGHT(cross_entropy, Usual, CrossEntropyParams)
FL_ROWWISE(cross_entropy_every, Every, CrossEntropyParams)
FL_ROWWISE(cross_entropy_softcap, Softcap, CrossEntropyParams)

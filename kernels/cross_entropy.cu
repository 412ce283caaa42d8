// Categorical cross-entropy on logits, `src/loss/cross_entropy.rs`: the usual one, of class indices without smoothing.
#include "cross_entropy.cuh"

typedef CrossEntropy<Plain, true> Usual;

FL_ROWWISE_LIGHT(cross_entropy, Usual, CrossEntropyParams)

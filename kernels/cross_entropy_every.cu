// Categorical cross-entropy on logits, `src/loss/cross_entropy.rs`, of dense targets and with smoothing.
#include "cross_entropy.cuh"

typedef CrossEntropy<Plain, false> Every;

FL_ROWWISE(cross_entropy_every, Every, CrossEntropyParams)

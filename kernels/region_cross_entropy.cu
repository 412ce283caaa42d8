// Region losses with a softmax, and cross-entropy beside them.
#include "dice.cuh"

REGION(cross_entropy, cross_entropy_sums, cross_entropy_grads, DiceCrossEntropyParams, 2, 2)

// Region losses of logits, with a sigmoid.
#include "region.cuh"

REGION(sigmoid, sigmoid_sums, sigmoid_grads, DiceParams, 3, 3)

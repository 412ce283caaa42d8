// Region losses of logits, with a sigmoid.
#include "dice.cuh"

REGION(sigmoid, sigmoid_sums, sigmoid_grads, DiceParams, 3, 3)

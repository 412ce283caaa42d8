// Region losses of probabilities.
#include "dice.cuh"

REGION(none, none_sums, none_grads, DiceParams, 3, 3)

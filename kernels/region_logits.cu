// Region losses with a sigmoid, and binary cross-entropy or its focal loss beside them.
#include "dice.cuh"

REGION(logits, logits_sums, logits_grads, DiceLogitsParams, 2, 2)

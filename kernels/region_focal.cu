// Region losses with a softmax, and its focal loss beside them.
#include "dice.cuh"

REGION(focal, focal_sums, focal_grads, DiceFocalParams, 2, 2)

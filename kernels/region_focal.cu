// Region losses with a softmax, and its focal loss beside them.
#include "region.cuh"

REGION(focal, focal_sums, focal_grads, DiceFocalParams, 2, 2)

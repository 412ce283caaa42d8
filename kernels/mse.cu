// The kernels of `mse.cuh`.
#include "mse.cuh"

FL_ELEMENTWISE(mse, Mse, MseParams)

// The kernels of `mae.cuh`.
#include "mae.cuh"

FL_ELEMENTWISE(mae, Mae, NoParams)

// The kernels of `log_cosh.cuh`.
#include "log_cosh.cuh"

FL_ELEMENTWISE(log_cosh, LogCosh, NoParams)

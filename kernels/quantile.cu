// The kernels of `quantile.cuh`.
#include "quantile.cuh"

FL_ELEMENTWISE(quantile, Quantile, QuantileParams)

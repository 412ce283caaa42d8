// The kernels of `soft_margin.cuh`.
#include "soft_margin.cuh"

FL_ELEMENTWISE(soft_margin, SoftMargin, NoParams)

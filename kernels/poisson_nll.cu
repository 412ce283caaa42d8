// The kernels of `poisson_nll.cuh`.
#include "poisson_nll.cuh"

FL_ELEMENTWISE(poisson_nll, LogRate, PoissonNllParams)
FL_ELEMENTWISE(poisson_nll_rate, Rate, PoissonNllParams)

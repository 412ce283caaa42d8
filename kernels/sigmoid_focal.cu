// The kernels of `sigmoid_focal.cuh`.
#include "sigmoid_focal.cuh"

FL_ELEMENTWISE(sigmoid_focal, SigmoidFocal, SigmoidFocalParams)
FL_ELEMENTWISE(sigmoid_focal_any, SigmoidFocalAny, SigmoidFocalParams)

// The kernels of `huber.cuh`.
#include "huber.cuh"

FL_ELEMENTWISE(huber, Huber, HuberParams)
FL_ELEMENTWISE(smooth_l1, SmoothL1, SmoothL1Params)

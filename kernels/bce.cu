// The kernels of `bce.cuh`.
#include "bce.cuh"

FL_ELEMENTWISE(bce, Bce, BceParams)
FL_ELEMENTWISE(bce_with_logits, BceWithLogits, BceWithLogitsParams)
FL_ELEMENTWISE_USUAL(bce_with_logits_plain, BceWithLogitsPlain, BceWithLogitsParams)

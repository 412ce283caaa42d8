// The kernels of `kl.cuh`.
#include "kl.cuh"

FL_ELEMENTWISE(kl_div, ProbTarget, NoParams)
FL_ELEMENTWISE(kl_div_log_target, LogTarget, NoParams)
FL_ELEMENTWISE(kl_div_probs, KlDivProbs, KlDivProbsParams)

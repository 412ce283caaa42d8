// Categorical cross-entropy on logits that tells what else the softmax of each row says, `src/loss/reporting.rs`: log-probability of the
// target, entropy, log-sum-exp, arg-max.
#include "cross_entropy.cuh"

typedef CrossEntropy<Plain, false, true> Report;

FL_ROWWISE(cross_entropy_report, Report, CrossEntropyParams)

// The same of logits that are bent by a tanh.
#include "cross_entropy.cuh"

typedef CrossEntropy<Capped, false, true> CappedReport;

FL_ROWWISE(cross_entropy_softcap_report, CappedReport, CrossEntropyParams)

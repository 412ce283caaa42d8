// Cross-entropy with smoothing, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

FL_HEAD_CROSS_ENTROPY(head_cross_entropy_every, Plain, false, 2)

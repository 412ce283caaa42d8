// Cross-entropy without smoothing, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

FL_HEAD_CROSS_ENTROPY(head_cross_entropy, Plain, true, 3)

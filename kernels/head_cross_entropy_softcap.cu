// Cross-entropy of logits that are bent by a tanh, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

FL_HEAD_CROSS_ENTROPY(head_cross_entropy_softcap, Capped, false, 2)

// The two looks at logits whose classes ranks share, of the language-model head: vocab.cuh, between the products of head.cu.
#include "vocab.cuh"

FL_HEAD_VOCAB(, Plain)

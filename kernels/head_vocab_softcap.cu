// The looks of `head_vocab.cu` at logits that are bent by a tanh.
#include "vocab.cuh"

FL_HEAD_VOCAB(_softcap, Capped)

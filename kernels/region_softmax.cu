// Region losses of logits, with a softmax over the channels.
#include "dice.cuh"

REGION(softmax, alone_sums, alone_grads, DiceParams, SOFTMAX_BLOCKS, SOFTMAX_BLOCKS)

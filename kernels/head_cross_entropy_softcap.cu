// Cross-entropy of logits that are bent by a tanh, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

template <class B> using Loss = CrossEntropy<Biased<Capped, B>, false>;

FL_ROWWISE_TO(head_cross_entropy_softcap, Loss<float>, CrossEntropyParams, f32, float, float, 2)
FL_ROWWISE_TO(head_cross_entropy_softcap, Loss<fl::f16>, CrossEntropyParams, f16, float, fl::f16, 2)
FL_ROWWISE_TO(head_cross_entropy_softcap, Loss<fl::bf16>, CrossEntropyParams, bf16, float, fl::bf16, 2)

// Cross-entropy with smoothing, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

template <class B> using Loss = CrossEntropy<Biased<Plain, B>, false>;

FL_ROWWISE_TO(head_cross_entropy_every, Loss<float>, CrossEntropyParams, f32, float, float, 2)
FL_ROWWISE_TO(head_cross_entropy_every, Loss<fl::f16>, CrossEntropyParams, f16, float, fl::f16, 2)
FL_ROWWISE_TO(head_cross_entropy_every, Loss<fl::bf16>, CrossEntropyParams, bf16, float, fl::bf16, 2)

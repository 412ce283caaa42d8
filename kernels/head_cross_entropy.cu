// Cross-entropy without smoothing, of the language-model head: between the products of `head.cu`.
#include "cross_entropy.cuh"

template <class B> using Loss = CrossEntropy<Biased<Plain, B>, true>;

FL_ROWWISE_TO(head_cross_entropy, Loss<float>, CrossEntropyParams, f32, float, float, 3)
FL_ROWWISE_TO(head_cross_entropy, Loss<fl::f16>, CrossEntropyParams, f16, float, fl::f16, 3)
FL_ROWWISE_TO(head_cross_entropy, Loss<fl::bf16>, CrossEntropyParams, bf16, float, fl::bf16, 3)

// Any sum of element-wise losses.
#include "combined.cuh"

COMBINED(combined_f32, float, false, AnyTerms, 2)
COMBINED(combined_f16, fl::f16, false, AnyTerms, 2)
COMBINED(combined_bf16, fl::bf16, false, AnyTerms, 2)
COMBINED(combined_general_f32, float, true, AnyTerms, 2)
COMBINED(combined_general_f16, fl::f16, true, AnyTerms, 2)
COMBINED(combined_general_bf16, fl::bf16, true, AnyTerms, 2)

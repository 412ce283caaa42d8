// Cosine embedding, `src/loss/cosine.rs`. With cos = sum x t / sqrt((sum x^2 + 1e-12) (sum t^2 + 1e-12)) of a row:
//
//     label 1:  l = 1 - cos        label -1: l = max(0, cos - margin)        any other: 0
//     dcos/dx_k = (t_k / |t| - cos x_k / |x|) / |x|, and the same with the two exchanged
#include "skeleton/rowwise.cuh"

struct CosineEmbedding {
    CosineEmbeddingParams p;

    // NaN if the sum of squares has overflowed: its length is not known.
    FL static float inverse_length(float squares) {
        return squares <= 3.4e38f ? fl::ratio(1.0f, sqrtf(squares + 1e-12f)) : fl::nan();
    }

    template <class Row> FL float row(Row& row) const {
        fl::Sum of_xt, of_xx, of_tt;
        fl::first<fl::ALL>(row, 0.0f, [&](int, float x, float t) {
            of_xt.add(x * t);
            of_xx.add(x * x);
            of_tt.add(t * t);
        }, [&] { of_xt.flush(), of_xx.flush(), of_tt.flush(); });
        float sums[3] = {float(of_xt.many), float(of_xx.many), float(of_tt.many)};
        fl::sum_up(row, sums);
        const float inv_x = inverse_length(sums[1]), inv_t = inverse_length(sums[2]);
        const float cos = sums[0] * inv_x * inv_t, excess = cos - p.margin, label = row.label();
        // The value, and its derivative for the cosine. Written so that NaN takes neither of the two numbers.
        float value = 0.0f, slope = 0.0f;
        if (label == 1.0f) {
            value = 1.0f - cos, slope = -1.0f;
        } else if (label == -1.0f && !(excess <= 0.0f)) {
            value = excess, slope = excess > 0.0f ? 1.0f : excess;
        }
        if (row.wants_grad()) {
            const float scale = row.scale * slope, across = scale * inv_x * inv_t;
            const float along_x = scale * cos * inv_x * inv_x, along_t = scale * cos * inv_t * inv_t;
            // Exactly zero where the slope is, whatever the row holds. Before the gradient of the input, which in place overwrites it.
            if (row.wants_grad_target()) {
                fl::put_target(row, 0.0f, [=](int, float x, float t) { return slope == 0.0f ? 0.0f : across * x - along_t * t; });
            }
            fl::put<fl::ALL>(row, 0.0f, [=](int, float x, float t) { return slope == 0.0f ? 0.0f : across * t - along_x * x; });
        }
        return value;
    }
};

FL_ROWWISE(cosine_embedding, CosineEmbedding, CosineEmbeddingParams)

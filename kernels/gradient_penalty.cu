// Gradient penalty of a GAN's discriminator, `src/loss/penalty.rs`, with g the input gradients of one sample:
//
//     WGAN-GP:  l = weight (norm(g) - 1)^2      dl/dg = 2 weight (1 - 1 / norm(g)) g, 0 at g = 0
//     R1:       l = weight / 2 norm(g)^2        dl/dg = weight g
#include "skeleton/rowwise.cuh"

// A sum of squares with the rounding of every product and sum kept beside it.
struct Squares {
    float sum = 0.0f, lost = 0.0f;
    double many = 0.0;

    FL void add(float x) {
        const float square = x * x, next = sum + square, back = next - sum;
        lost += fmaf(x, x, -square) + ((sum - (next - back)) + (square - back));
        sum = next;
    }
    FL void flush() {
        many += fabsf(sum) < fl::infinity() ? double(sum) + double(lost) : double(sum);
        sum = lost = 0.0f;
    }
};

struct GradientPenalty {
    GradientPenaltyParams p;

    template <class Row> FL float row(Row& row) const {
        // Where squares, or the sum of them, would leave the range of f32, they are of numbers moved well into it.
        float top = 0.0f;
        fl::first(row, 0.0f, [&](int, float g, float) { top = fabsf(g) > top ? fabsf(g) : top; });
        top = fl::largest(row, top);
        const float unit = top > 1e15f ? 0x1p-100f : (top < 1e-15f ? 0x1p100f : 1.0f);
        Squares squares;
        fl::again(row, 0.0f, [&](int, float g, float) { squares.add(g * unit); }, [&] { squares.flush(); });
        double sum[1] = {squares.many};
        fl::sum_up(row, sum);
        // norm - 1 may be all that is left of two equal numbers.
        const double norm = sqrt(sum[0]) / double(unit);
        // The slope of numbers that small may be none of f32; the product is.
        const float up = top < 1e-15f && p.centred ? unit : 1.0f;
        float value = float(0.5 * p.weight * norm * norm), slope = p.weight;
        if (p.centred) {
            value = float(p.weight * (norm - 1.0) * (norm - 1.0));
            slope = norm == 0.0 ? 0.0f : float(2.0 * p.weight * ((norm - 1.0) / norm) / double(up));
        }
        if (row.wants_grad()) {
            slope *= row.scale;
            fl::put(row, 0.0f, [&](int, float g, float) { return slope * (g * up); });
        }
        return value;
    }
};

FL_ROWWISE(gradient_penalty, GradientPenalty, GradientPenaltyParams)

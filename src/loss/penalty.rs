use crate::call::Call;
use crate::cpu::row::{Row, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::Machine;
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::rowwise_loss;
use crate::params::GradientPenaltyParams;
use crate::reduction::Reduction;
use crate::shape::Shape;
use crate::target::Target;

/// Gradient penalty of a GAN's discriminator: a loss of its **input gradients**.
///
/// With `g` the gradient of what the discriminator says of one sample, for all of that sample's inputs:
///
/// | | WGAN-GP | R1 |
/// |---|---|---|
/// | value | `l = lambda (norm(g) - 1)^2` | `l = gamma / 2 norm(g)^2` |
/// | gradient | `dl/dg = 2 lambda (1 - 1 / norm(g)) g` | `dl/dg = gamma g` |
/// | usual | `lambda = 10` | `gamma = 10` |
/// | source | Gulrajani et al. 2017 | Mescheder et al. 2018 |
///
/// Shapes: `(samples, inputs)`; the norm is over all inputs of a sample. The mean divides by the samples.
/// This gives the penalty and `dl/dg`; the second backward pass, through the discriminator's own
/// gradient, is the caller's.
///
/// Edge cases: at `g = 0` the gradient of WGAN-GP is 0, where a bare square root gives NaN.
///
/// ```
/// use fused_loss::{GradientPenalty, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 2];
/// let penalty = GradientPenalty::wgan_gp(10.0)?.forward_backward(&[3.0, 4.0], (1, 2), Reduction::Mean, &mut grad)?;
/// assert_eq!((penalty, grad), (160.0, [48.0, 64.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GradientPenalty(GradientPenaltyParams);

impl GradientPenalty {
    /// `lambda (norm(g) - 1)^2`.
    pub fn wgan_gp(lambda: f32) -> Result<Self> {
        Ok(GradientPenalty(GradientPenaltyParams { weight: check("lambda", lambda)?, centred: 1 }))
    }

    /// `gamma / 2 norm(g)^2`, on real samples.
    pub fn r1(gamma: f32) -> Result<Self> {
        Ok(GradientPenalty(GradientPenaltyParams { weight: check("gamma", gamma)?, centred: 0 }))
    }

    /// The penalty.
    pub fn forward<T: Element>(&self, input_grad: &[T], shape: impl Into<Shape>, reduction: Reduction) -> Result<f32> {
        self.call(input_grad, shape).forward(reduction)
    }

    /// The penalty, and its gradient for the input gradients.
    pub fn forward_backward<T: Element>(
        &self,
        input_grad: &[T],
        shape: impl Into<Shape>,
        reduction: Reduction,
        grad: &mut [T],
    ) -> Result<f32> {
        self.call(input_grad, shape).forward_backward(reduction, grad)
    }

    /// The penalty, and its gradient over the input gradients.
    pub fn forward_backward_in_place<T: Element>(
        &self,
        input_grad: &mut [T],
        shape: impl Into<Shape>,
        reduction: Reduction,
    ) -> Result<f32> {
        self.call_in_place(input_grad, shape).forward_backward(reduction)
    }

    /// The long form: weights of samples, upstream gradient, accumulation, unreduced values.
    pub fn call<'a, T: Element>(&self, input_grad: &'a [T], shape: impl Into<Shape>) -> Call<'a, Self, T> {
        Call::new(*self, input_grad, Target::Nothing, Some(shape.into()))
    }

    /// The long form with the gradient written over the input gradients.
    pub fn call_in_place<'a, T: Element>(
        &self,
        input_grad: &'a mut [T],
        shape: impl Into<Shape>,
    ) -> Call<'a, Self, T, &'a mut [T]> {
        Call::new(*self, input_grad, Target::Nothing, Some(shape.into()))
    }
}

fn check(name: &'static str, weight: f32) -> Result<f32> {
    check_option(name, "a finite number, zero or above", weight, weight.is_finite() && weight >= 0.0)
}

const TWO_TO_64: f64 = (1u128 << 64) as f64;

impl Rowwise for GradientPenalty {
    const NAME: &'static str = "gradient penalty";
    const INDEX: bool = false;
    const DENSE: bool = false;

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let weight = f64::from(self.0.weight);
        let mut squares = s.zero_wide();
        for_chunks!(row, |k, p| {
            let g = row.input(s, k, p, 0.0).widen();
            squares = squares + g * g;
        });
        let square = squares.sum();
        let norm = square.sqrt();
        let (value, slope) = match self.0.centred {
            0 => (0.5 * weight * square, weight),
            _ if norm == 0.0 => (weight, 0.0),
            _ => (weight * (norm - 1.0) * (norm - 1.0), 2.0 * weight * ((norm - 1.0) / norm)),
        };
        if row.wants_grad() {
            let slope = slope * f64::from(row.scale);
            if norm < 1e-15 {
                // A slope that f32 may not have, of numbers so small that the product is one of f32.
                let slope = (slope / TWO_TO_64) as f32;
                for_chunks!(row, |k, p| {
                    row.put(s, k, p, row.input(s, k, p, 0.0) * TWO_TO_64 as f32 * slope);
                });
            } else {
                let slope = slope as f32;
                for_chunks!(row, |k, p| {
                    row.put(s, k, p, row.input(s, k, p, 0.0) * slope);
                });
            }
        }
        value
    }
}

rowwise_loss!(GradientPenalty);

crate::cuda::kernel::kernel!(GradientPenalty, |l| Kernel::rows(l, "gradient_penalty", "gradient_penalty", l.0));

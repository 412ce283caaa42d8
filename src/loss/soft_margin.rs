use crate::call::elementwise_methods;
use crate::cpu::elementwise::{Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::loss::combine::term;
use crate::loss::elementwise_loss;

/// Soft margin: logistic regression with labels -1 and 1.
///
/// With `y` the label, `sp = softplus`:
///
/// | | |
/// |---|---|
/// | value | `l = ln(1 + exp(-y x)) = sp(-y x)` |
/// | gradient | `dl/dx = -y sigmoid(-y x)` |
/// | shapes | scores and labels of equal length |
/// | PyTorch | `F.soft_margin_loss` |
///
/// With labels 0 and 1 it is [`BceWithLogits`](crate::BceWithLogits). Edge cases: PyTorch's is infinite from a score of 89 on the wrong
/// side, whose exponential overflows; this is the score.
///
/// ```
/// use fused_loss::{Reduction, SoftMargin};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 2];
/// let loss = SoftMargin::new().forward_backward(&[0.0, -200.0], &[1.0, 1.0], Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad), (200.0 + 2.0f32.ln(), [-0.5, -1.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SoftMargin;

impl SoftMargin {
    /// The loss; it has no options.
    pub fn new() -> Self {
        SoftMargin
    }
}

impl Pointwise for SoftMargin {
    const NAME: &'static str = "soft margin";
    const LONG: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, y: F32s<S>, _: F32s<S>) -> Point<S> {
        let wrong = -y * x;
        Point { value: wrong.softplus(), grad: -y * wrong.sigmoid() }
    }
}

elementwise_loss!(SoftMargin);
elementwise_methods!(SoftMargin);

crate::cuda::kernel::kernel!(SoftMargin, |_l| Kernel::elements::<SoftMargin>("soft_margin", "soft_margin", NO_PARAMS));
term!(SoftMargin, |l| SoftMargin(l));

use crate::call::{AnyRequest, Loss, Run, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::error::{Result, check_option};
use crate::loss::logistic;
use crate::params::DpoParams;
use crate::third::elementwise_methods_of_three;

/// How [`Dpo`] punishes a policy that does not prefer the chosen answer enough.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum DpoVariant {
    /// By logistic regression, Rafailov et al. 2023. TRL's `loss_type="sigmoid"`.
    #[default]
    Sigmoid,
    /// With a margin, as SLiC does. TRL's `loss_type="hinge"`.
    Hinge,
    /// By the squared distance from `1 / (2 beta)`, Azar et al. 2023. TRL's `loss_type="ipo"`.
    Ipo,
}

/// Direct preference optimisation: of two answers to a prompt, the policy prefers the chosen one, more than a reference does.
///
/// The tensors hold one number a pair of answers: the policy's log-probabilities of the chosen (input) and of the rejected answer
/// (target), and the **reference's log-ratio**, `ln ref(chosen) - ln ref(rejected)`, a constant of the data that need be computed only
/// once. With `h = (chosen - rejected) - reference`, smoothing `s`, `sp = softplus`:
///
/// | | value | gradient for the chosen; for the rejected its negative |
/// |---|---|---|
/// | [`Sigmoid`](DpoVariant::Sigmoid) | `l = (1 - s) sp(-beta h) + s sp(beta h)` | `beta (s sigmoid(beta h) - (1 - s) sigmoid(-beta h))` |
/// | [`Hinge`](DpoVariant::Hinge) | `l = max(0, 1 - beta h)` | `-beta` where positive, else 0 |
/// | [`Ipo`](DpoVariant::Ipo) | `l = (h - 1 / (2 beta))^2` | `2 (h - 1 / (2 beta))` |
///
/// | | |
/// |---|---|
/// | shapes | all three of equal length |
/// | defaults | `beta = 0.1`, no smoothing, [`DpoVariant::Sigmoid`] |
/// | PyTorch | none; TRL's `DPOTrainer` |
///
/// For log-probabilities see [`CrossEntropy::log_probs`](crate::CrossEntropy::log_probs); sum them over the tokens of an answer (for IPO
/// TRL averages them). They are sums of hundreds of terms: keep them in f32. The way back is that of a cross-entropy whose rows have the
/// gradients of this loss, negated, as their `grad_output`: once for the chosen answers, and once more, accumulating, for the rejected
/// ones (`examples/more/preferences.rs`). Smoothing is cDPO's, for labels of which this share is wrong, and of the sigmoid variant alone.
///
/// ```
/// use fused_loss::{Dpo, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (chosen, rejected, reference) = ([-10.0f32], [-12.0], [2.0]);
/// let (mut grad_chosen, mut grad_rejected) = ([0.0], [0.0]);
/// let dpo = Dpo::new(0.5)?;
/// let loss = dpo.forward_backward(&chosen, &rejected, &reference, Reduction::Mean, &mut grad_chosen, &mut grad_rejected)?;
/// assert!((loss - 2.0f32.ln()).abs() < 1e-6);
/// assert_eq!((grad_chosen, grad_rejected), ([-0.25], [0.25]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dpo {
    beta: f32,
    smoothing: f32,
    variant: DpoVariant,
}

impl Dpo {
    /// `beta` must be a finite normal number above zero: the lower, the further the policy may go.
    pub fn new(beta: f32) -> Result<Self> {
        let ok = beta.is_normal() && beta > 0.0 && (0.5 / beta).is_finite();
        let beta = check_option("beta", "a finite normal number above zero", beta, ok)?;
        Ok(Dpo { beta, smoothing: 0.0, variant: DpoVariant::Sigmoid })
    }

    /// The share of labels that are wrong; below a half. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        let ok = (0.0..0.5).contains(&smoothing);
        self.smoothing = check_option("label_smoothing", "a number in [0, 0.5)", smoothing, ok)?;
        Ok(self)
    }

    /// Defaults to [`DpoVariant::Sigmoid`].
    pub fn variant(mut self, variant: DpoVariant) -> Self {
        self.variant = variant;
        self
    }

    fn params(&self) -> DpoParams {
        let Dpo { beta, smoothing, .. } = *self;
        DpoParams { beta, preferred: 1.0 - smoothing, flipped: smoothing, target: 0.5 / beta }
    }
}

impl Default for Dpo {
    fn default() -> Self {
        Dpo { beta: 0.1, smoothing: 0.0, variant: DpoVariant::Sigmoid }
    }
}

impl Loss for Dpo {
    const NAME: &'static str = "DPO";
}
impl Run for Dpo {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        let params = self.params();
        match self.variant {
            DpoVariant::Sigmoid => for_request!(request, |r| elementwise::run(Sigmoid(params), r)),
            DpoVariant::Hinge => for_request!(request, |r| elementwise::run(Hinge(params), r)),
            DpoVariant::Ipo => for_request!(request, |r| elementwise::run(Ipo(params), r)),
        }
    }
}
elementwise_methods_of_three!(Dpo, reference, grad_target(grad_target));

/// Declares the functor of a variant: the point of `h`, given the params.
macro_rules! variant {
    ($name:ident, |$p:ident, $h:ident| $eval:expr) => {
        #[derive(Clone, Copy)]
        struct $name(DpoParams);

        impl Pointwise for $name {
            const NAME: &'static str = Dpo::NAME;
            const GRAD_TARGET: bool = true;
            const THIRD: bool = true;

            #[cfg_attr(optimized, inline(always))]
            fn eval<S: Simd>(&self, chosen: F32s<S>, rejected: F32s<S>, reference: F32s<S>) -> Point<S> {
                let ($p, $h) = (self.0, (chosen - rejected) - reference);
                $eval
            }

            #[cfg_attr(optimized, inline(always))]
            fn grad_target<S: Simd>(&self, chosen: F32s<S>, rejected: F32s<S>, reference: F32s<S>) -> F32s<S> {
                -self.eval(chosen, rejected, reference).grad
            }
        }
    };
}

variant!(Sigmoid, |p, h| {
    let l = logistic(p.beta * h);
    // Without smoothing, a pair that is told apart for certain costs nothing.
    let value = l.cost_of_one(l.weight(p.flipped, p.preferred));
    Point { value, grad: p.beta * l.slope(p.flipped, p.preferred) }
});
variant!(Hinge, |p, h| {
    let short = 1.0 - p.beta * h;
    let inside = short.le(0.0).pick(0.0, short);
    Point { value: inside, grad: short.gt(0.0).pick(-p.beta, inside) }
});
variant!(Ipo, |p, h| {
    let e = h - p.target;
    Point { value: e * e, grad: 2.0 * e }
});

crate::cuda::kernel::kernel!(Dpo, |l| match l.variant {
    DpoVariant::Sigmoid => Kernel::elements::<Sigmoid>("ranking", "dpo_sigmoid", l.params()),
    DpoVariant::Hinge => Kernel::elements::<Hinge>("ranking", "dpo_hinge", l.params()),
    DpoVariant::Ipo => Kernel::elements::<Ipo>("ranking", "dpo_ipo", l.params()),
});

use crate::call::{AnyRequest, Call, Loss, Run, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::element::Element;
use crate::error::{Error, Result, check_option};
use crate::loss::{Bce, logistic};
use crate::params::GanTermParams;
use crate::reduction::Reduction;
use crate::target::Target;

/// What the two players of a GAN minimise. `R` and `F` are what the discriminator says of real and
/// fake samples, `sp` is softplus; each term is a mean (or whatever the [`Reduction`] says) of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum GanMode {
    /// `D: sp(-R) + sp(F)`, `G: sp(-F)`, on logits. Goodfellow et al. 2014 with the generator they
    /// recommend; StyleGAN's "softplus", CycleGAN's "vanilla" (which halves D).
    #[default]
    NonSaturating,
    /// `D: sp(-R) + sp(F)`, `G: -sp(F)`, on logits: the minimax game as it is written. Its generator
    /// learns nothing while it is bad: at `F = -10` the gradient is -4.5e-5, against -0.99995.
    Minimax,
    /// `D: (R - 1)^2 + F^2`, `G: (F - 1)^2`. LSGAN, Mao et al. 2017 (CycleGAN halves D, TF-GAN every term).
    LeastSquares,
    /// `D: F - R`, `G: -F`. Arjovsky et al. 2017; needs a [`GradientPenalty`](crate::GradientPenalty)
    /// or clipped weights.
    Wasserstein,
    /// `D: max(0, 1 - R) + max(0, 1 + F)`, `G: -F`. SAGAN, BigGAN (taming-transformers halves D).
    Hinge,
    /// Non-saturating with a discriminator that ends in a sigmoid: [`Bce`] on probabilities. Where the
    /// sigmoid saturates in f32 (from a logit of 17 up) the generator's gradient is lost; prefer `NonSaturating`.
    Probabilities,
}

/// Adversarial losses: real and fake batches in one call.
///
/// | | |
/// |---|---|
/// | value | see [`GanMode`] |
/// | gradient | of the discriminator's value for `real` and `fake`, of the generator's for `fake` |
/// | shapes | `real` and `fake` are any two slices; their lengths may differ |
/// | defaults | non-saturating, real label 1 |
/// | PyTorch | `BCEWithLogitsLoss()(real, ones) + BCEWithLogitsLoss()(fake, zeros)` and so on |
///
/// D's value is the sum of its two terms, each reduced over its own batch; some codes halve it. Weights,
/// in-place gradients and unreduced values are had term by term from
/// [`real_term`](Self::real_term), [`fake_term`](Self::fake_term) and [`generator_term`](Self::generator_term).
///
/// ```
/// use fused_loss::{GanLoss, GanMode, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let (real, fake) = ([1.2, -0.3, 0.8], [-0.5, 0.4, -1.1]);
/// let (mut grad_real, mut grad_fake) = ([0.0; 3], [0.0; 3]);
/// let gan = GanLoss::new(GanMode::NonSaturating);
/// let d = gan.discriminator(&real, &fake, Reduction::Mean, &mut grad_real, &mut grad_fake)?;
/// assert!((d - 1.054388646_f32).abs() < 1e-6);
/// let g = gan.generator(&fake, Reduction::Mean, &mut grad_fake)?;
/// assert!((g - 0.958142521_f32).abs() < 1e-6);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GanLoss {
    mode: GanMode,
    real_label: f32,
    grad_output: f32,
    accumulate: bool,
}

impl GanLoss {
    /// A mode, with real label 1.
    pub fn new(mode: GanMode) -> Self {
        GanLoss { mode, real_label: 1.0, grad_output: 1.0, accumulate: false }
    }

    /// One-sided label smoothing: what the discriminator is asked to say of real samples, such as 0.9.
    /// The generator still aims at 1. Wasserstein and hinge have no labels and refuse it. (TF-GAN's
    /// `label_smoothing = 0.25` is a real label of 0.875.)
    pub fn real_label(mut self, real_label: f32) -> Result<Self> {
        if matches!(self.mode, GanMode::Wasserstein | GanMode::Hinge) {
            return Err(Error::Unsupported { loss: "GAN loss", what: "a real label in a mode without labels" });
        }
        let expected = "a number in [0, 1]";
        self.real_label = check_option("real_label", expected, real_label, (0.0..=1.0).contains(&real_label))?;
        Ok(self)
    }

    /// The upstream gradient of all that follows; see [`Call::grad_output`].
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// A call of one term with the options that all terms share.
    fn term<'a, T: Element>(&self, term: GanTerm, input: &'a [T]) -> Call<'a, GanTerm, T> {
        let call = term.call(input).grad_output(self.grad_output);
        if self.accumulate { call.accumulate() } else { call }
    }

    /// The discriminator's value, and its gradients for what it said of both batches.
    pub fn discriminator<T: Element>(
        &self,
        real: &[T],
        fake: &[T],
        reduction: Reduction,
        grad_real: &mut [T],
        grad_fake: &mut [T],
    ) -> Result<f32> {
        crate::error::check_len("grad_real", real.len(), grad_real.len())?;
        crate::error::check_len("grad_fake", fake.len(), grad_fake.len())?;
        // The second batch must not be refused after the gradient of the first is written.
        reduction.check(real.len())?;
        reduction.check(fake.len())?;
        let (on_real, on_fake) = (self.term(self.real_term(), real), self.term(self.fake_term(), fake));
        Ok(on_real.forward_backward(reduction, grad_real)? + on_fake.forward_backward(reduction, grad_fake)?)
    }

    /// The discriminator's value alone.
    pub fn discriminator_forward<T: Element>(&self, real: &[T], fake: &[T], reduction: Reduction) -> Result<f32> {
        Ok(self.real_term().forward(real, reduction)? + self.fake_term().forward(fake, reduction)?)
    }

    /// The generator's value, and its gradient for what the discriminator said of its samples.
    pub fn generator<T: Element>(&self, fake: &[T], reduction: Reduction, grad_fake: &mut [T]) -> Result<f32> {
        self.term(self.generator_term(), fake).forward_backward(reduction, grad_fake)
    }

    /// The generator's value alone.
    pub fn generator_forward<T: Element>(&self, fake: &[T], reduction: Reduction) -> Result<f32> {
        self.generator_term().forward(fake, reduction)
    }

    /// The discriminator's loss of real samples.
    pub fn real_term(&self) -> GanTerm {
        let GanLoss { mode, real_label: label, .. } = *self;
        match mode {
            GanMode::NonSaturating | GanMode::Minimax => GanTerm::logistic(1.0, label),
            GanMode::LeastSquares => GanTerm::new(Form::Square, 1.0, label),
            GanMode::Wasserstein => GanTerm::new(Form::Linear, -1.0, 0.0),
            GanMode::Hinge => GanTerm::new(Form::Hinge, 1.0, 0.0),
            GanMode::Probabilities => GanTerm::new(Form::Probability, 1.0, label),
        }
    }

    /// The discriminator's loss of fake samples.
    pub fn fake_term(&self) -> GanTerm {
        match self.mode {
            GanMode::NonSaturating | GanMode::Minimax => GanTerm::logistic(1.0, 0.0),
            GanMode::LeastSquares => GanTerm::new(Form::Square, 1.0, 0.0),
            GanMode::Wasserstein => GanTerm::new(Form::Linear, 1.0, 0.0),
            GanMode::Hinge => GanTerm::new(Form::Hinge, -1.0, 0.0),
            GanMode::Probabilities => GanTerm::new(Form::Probability, 1.0, 0.0),
        }
    }

    /// The generator's loss.
    pub fn generator_term(&self) -> GanTerm {
        match self.mode {
            GanMode::NonSaturating => GanTerm::logistic(1.0, 1.0),
            GanMode::Minimax => GanTerm::logistic(-1.0, 0.0),
            GanMode::LeastSquares => GanTerm::new(Form::Square, 1.0, 1.0),
            GanMode::Wasserstein | GanMode::Hinge => GanTerm::new(Form::Linear, -1.0, 0.0),
            GanMode::Probabilities => GanTerm::new(Form::Probability, 1.0, 1.0),
        }
    }
}

impl Default for GanLoss {
    fn default() -> Self {
        GanLoss::new(GanMode::default())
    }
}

/// One term of a [`GanLoss`]: an element-wise loss without targets. Each element is read once and its
/// gradient written once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GanTerm {
    form: Form,
    params: GanTermParams,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    /// `sign * ((1 - label) sp(x) + label sp(-x))`
    Logistic,
    /// `(x - label)^2`
    Square,
    /// `sign * x`
    Linear,
    /// `max(0, 1 - sign * x)`
    Hinge,
    /// BCE of the probability x and the label.
    Probability,
}

impl GanTerm {
    fn new(form: Form, sign: f32, label: f32) -> Self {
        GanTerm { form, params: GanTermParams { sign, label } }
    }

    fn logistic(sign: f32, label: f32) -> Self {
        GanTerm::new(Form::Logistic, sign, label)
    }

    /// The value.
    pub fn forward<T: Element>(&self, input: &[T], reduction: Reduction) -> Result<f32> {
        self.call(input).forward(reduction)
    }

    /// The value, and its gradient into `grad_input`.
    pub fn forward_backward<T: Element>(&self, input: &[T], reduction: Reduction, grad_input: &mut [T]) -> Result<f32> {
        self.call(input).forward_backward(reduction, grad_input)
    }

    /// The value, and its gradient over the input.
    pub fn forward_backward_in_place<T: Element>(&self, input: &mut [T], reduction: Reduction) -> Result<f32> {
        self.call_in_place(input).forward_backward(reduction)
    }

    /// The long form: weights, upstream gradient, accumulation, unreduced values.
    pub fn call<'a, T: Element>(&self, input: &'a [T]) -> Call<'a, Self, T> {
        Call::new(*self, input, Target::Nothing, None)
    }

    /// The long form with the gradient written over the input.
    pub fn call_in_place<'a, T: Element>(&self, input: &'a mut [T]) -> Call<'a, Self, T, &'a mut [T]> {
        Call::new(*self, input, Target::Nothing, None)
    }
}

impl Loss for GanTerm {
    const NAME: &'static str = "GAN term";
}
impl Run for GanTerm {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        let params = self.params;
        match self.form {
            Form::Logistic => for_request!(request, |r| elementwise::run(Logistic(params), r)),
            Form::Square => for_request!(request, |r| elementwise::run(Square(params), r)),
            Form::Linear => for_request!(request, |r| elementwise::run(Linear(params), r)),
            Form::Hinge => for_request!(request, |r| elementwise::run(Hinge(params), r)),
            Form::Probability => for_request!(request, |r| elementwise::run(Probability(params), r)),
        }
    }
}

/// Declares the functor of a form: the point of `x`, given the params.
macro_rules! term {
    ($name:ident $(: $long:ident)?, |$p:ident, $x:ident| $eval:expr) => {
        #[derive(Clone, Copy)]
        struct $name(GanTermParams);

        impl Pointwise for $name {
            const NAME: &'static str = GanTerm::NAME;
            const TARGET: bool = false;
            $(const $long: bool = true;)?

            #[cfg_attr(optimized, inline(always))]
            fn eval<S: Simd>(&self, $x: F32s<S>, _: F32s<S>, _: F32s<S>) -> Point<S> {
                let $p = self.0;
                $eval
            }
        }
    };
}

term!(Logistic: LONG, |p, x| {
    let (neg, pos) = (p.sign * (1.0 - p.label), p.sign * p.label);
    let l = logistic(x);
    Point { value: l.cost(neg, pos), grad: l.slope(neg, pos) }
});
term!(Square, |p, x| {
    let e = x - p.label;
    Point { value: e * e, grad: 2.0 * e }
});
term!(Linear, |p, x| Point { value: p.sign * x, grad: x.simd().splat(p.sign) });
term!(Hinge, |p, x| {
    let short = 1.0 - p.sign * x;
    let inside = short.le(0.0).pick(0.0, short);
    Point { value: inside, grad: short.gt(0.0).pick(-p.sign, inside) }
});
term!(Probability, |p, x| Bce::new().eval(x, x.simd().splat(p.label), x));

crate::cuda::kernel::kernel!(GanTerm, |l| match l.form {
    Form::Logistic => Kernel::elements::<Logistic>("gan", "gan_logistic", l.params),
    Form::Square => Kernel::elements::<Square>("gan", "gan_square", l.params),
    Form::Linear => Kernel::elements::<Linear>("gan", "gan_linear", l.params),
    Form::Hinge => Kernel::elements::<Hinge>("gan", "gan_hinge", l.params),
    Form::Probability => Kernel::elements::<Probability>("gan", "gan_probability", l.params),
});

impl GanLoss {
    /// The upstream gradient.
    pub(crate) fn upstream(&self) -> f32 {
        self.grad_output
    }

    /// Whether gradients are added to what is there.
    pub(crate) fn accumulates(&self) -> bool {
        self.accumulate
    }
}

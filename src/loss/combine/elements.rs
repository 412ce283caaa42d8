use super::{Combination, IntoSum, Join, MOST, Refused, Scaled, operators};
use crate::call::{AnyRequest, Loss, Run, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Begun, BlockSums, Point, Points, Pointwise, Stage, Terms, UsualRun};
use crate::cpu::simd::{F32s, Machine, Simd};
use crate::cuda::kernel::{self, HasKernel, Kernel};
use crate::device::Buffer;
use crate::error::Result;
use crate::loss::{Logistic, bce, focal, hinge, kl, poisson_nll};
use crate::on::{Also, On};
use crate::params::{self, TermsParams};
use crate::reduction::Reduction;

/// Declares [`Element`]: the functor of a kind of term, and the number that the kernel knows it by.
macro_rules! elements {
    ($($kind:ident($functor:ty) = $number:ident,)*) => {
        /// An element-wise loss that can be a term of a sum.
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub(in crate::loss) enum Element {
            $($kind($functor),)*
        }

        impl Element {
            /// Its `TermsParams::kind`.
            fn kind(&self) -> u32 {
                match self { $(Element::$kind(_) => params::$number,)* }
            }

            fn is_logistic(&self) -> bool {
                match self { $(Element::$kind(_) => <$functor>::LOGISTIC,)* }
            }

            fn takes_class_weight(&self) -> bool {
                match self { $(Element::$kind(_) => <$functor>::CLASS_WEIGHT,)* }
            }

            fn has_grad_target(&self) -> bool {
                match self { $(Element::$kind(_) => <$functor>::GRAD_TARGET,)* }
            }

            /// Value and gradient, given the logistic function of the input if it is made of that, which it is not unless `LOGISTIC`.
            #[cfg_attr(optimized, inline(always))]
            fn eval<S: Simd, const LOGISTIC: bool>(&self, l: &Logistic<S>, x: F32s<S>, t: F32s<S>) -> Point<S> {
                match self {
                    $(
                        Element::$kind(f) if LOGISTIC || !<$functor as Pointwise>::LOGISTIC => {
                            f.eval_with(l, x, t, x.simd().splat(1.0))
                        }
                    )*
                    _ => unreachable!(),
                }
            }

            /// Adds the term to what is staged.
            fn apply<S: Machine>(&self, s: S, stage: &mut Stage, weight: f32, first: bool, sums: &mut BlockSums) {
                match self { $(Element::$kind(f) => stage.apply(s, *f, weight, first, sums),)* }
            }
        }
    };
}
elements! {
    Mse(crate::Mse) = TERM_MSE,
    Mae(crate::Mae) = TERM_MAE,
    Huber(crate::Huber) = TERM_HUBER,
    SmoothL1(crate::SmoothL1) = TERM_SMOOTH_L1,
    Bce(crate::Bce) = TERM_BCE,
    BceWithLogits(crate::BceWithLogits) = TERM_BCE_WITH_LOGITS,
    Hinge(hinge::Linear) = TERM_HINGE,
    SquaredHinge(hinge::Squared) = TERM_SQUARED_HINGE,
    KlDiv(kl::ProbTarget) = TERM_KL_DIV,
    KlDivLogTarget(kl::LogTarget) = TERM_KL_DIV_LOG_TARGET,
    KlDivProbs(crate::KlDivProbs) = TERM_KL_DIV_PROBS,
    SigmoidFocal(focal::Square) = TERM_SIGMOID_FOCAL,
    SigmoidFocalAny(focal::AnyGamma) = TERM_SIGMOID_FOCAL_ANY,
    LogCosh(crate::LogCosh) = TERM_LOG_COSH,
    Quantile(crate::Quantile) = TERM_QUANTILE,
    PoissonNll(poisson_nll::LogRate) = TERM_POISSON_NLL,
    PoissonNllRate(poisson_nll::Rate) = TERM_POISSON_NLL_RATE,
    SoftMargin(crate::SoftMargin) = TERM_SOFT_MARGIN,
}

/// Makes an element-wise loss a term: the [`Element`] of its options.
macro_rules! term {
    ($loss:ty, |$l:ident| $element:expr) => {
        impl $crate::loss::combine::IntoSum for $loss {
            type Sum = $crate::Combined;
            fn into_sum(self) -> $crate::Combined {
                #[allow(unused_imports)]
                use $crate::loss::combine::Element::*;
                let options = $crate::cuda::kernel::HasKernel::kernel(&self).as_term();
                let $l = self;
                $crate::Combined::of($element, options)
            }
        }
        $crate::loss::combine::operators!($loss);
    };
}
pub(crate) use term;

/// A weighted sum of element-wise losses of one input and one target, in one pass.
///
/// It is made by operators, and called like any other loss:
///
/// ```
/// use fused_loss::{Mae, Mse, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let loss = 0.7 * Mse::new() + 0.3 * Mae::new();
/// let (input, target) = ([0.5, 3.0, -4.0], [0.0; 3]);
/// let (mut grad, mut terms) = ([0.0; 3], [0.0; 2]);
/// let value = loss.call(&input, &target).terms(&mut terms).forward_backward(Reduction::Sum, &mut grad)?;
/// assert_eq!(terms, [25.25, 7.5]); // the squared and the absolute error
/// assert!((value - (0.7 * 25.25 + 0.3 * 7.5)).abs() < 1e-5);
/// assert!((grad[0] - (0.7 * 2.0 * 0.5 + 0.3)).abs() < 1e-6);
/// # Ok(()) }
/// ```
///
/// With `l_j` the terms and `w_j` their weights (1 where none is written):
///
/// | | |
/// |---|---|
/// | value | `sum_j w_j l_j` |
/// | gradient | `sum_j w_j dl_j/dx`; `sum_j w_j dl_j/dt` where every term has a gradient for the target |
/// | [`Call::terms`](crate::Call::terms) | the values `l_j`, each reduced as the sum is, without `w_j` |
/// | terms | at most 4, each of `Mse`, `Mae`, `Huber`, `SmoothL1`, `LogCosh`, `Quantile`, `Bce`, `BceWithLogits`, `SigmoidFocal`, `Hinge`, `SquaredHinge`, `SoftMargin`, `KlDiv`, `KlDivProbs`, `PoissonNll` |
/// | weights | any finite number, zero and below too |
/// | shapes | input and target of equal length; [`Call::class_weight`](crate::Call::class_weight) where a term takes it, for those terms alone |
/// | PyTorch | `0.7 * F.mse_loss(x, t) + 0.3 * F.l1_loss(x, t)`: one more pass over input, target and gradient for every term, and one to add the gradients |
///
/// One launch on a GPU, whatever the terms. Binary cross-entropy with logits and sigmoid focal share their exponential. Where there is NVRTC
/// (see [`Custom`](crate::Custom)), a sum has a kernel of its own, compiled when it is first called, in about a second, and kept on the disk;
/// elsewhere, with `FUSED_LOSS_NVRTC=0`, and where a graph is captured before that, a kernel of all sums, which takes longer and gives the same
/// bits.
///
/// No terms, and refused when it is compiled: losses of three tensors, those of a [`GanLoss`](crate::GanLoss), which have no target, and
/// [`Custom`](crate::Custom), whose function may be of the whole sum.
///
/// Errors: operators cannot fail, so that what they cannot do is an error of the calls: more than four terms, a weight that is not
/// finite, and labels by [`HingeLabels::Keras`](crate::HingeLabels::Keras), which take a pass of their own.
/// A term that is infinite or NaN makes the sum so, even if its weight is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Combined {
    /// The first is the rest's too, where there are fewer.
    terms: [Term; MOST],
    count: usize,
    /// One of them is made of the logistic function of the input.
    logistic: bool,
    refused: Option<Refused>,
}

/// A term of a [`Combined`].
#[derive(Clone, Copy, Debug, PartialEq)]
struct Term {
    element: Element,
    weight: f32,
    /// The options, as the kernel has them.
    options: [f32; 3],
}

impl Combined {
    /// One term; `options` as the kernel has them, if it can.
    pub(in crate::loss) fn of(element: Element, options: Option<[f32; 3]>) -> Self {
        let refused = if options.is_none() { Some(Refused::Unsupported("Keras's rule for labels")) } else { None };
        let term = Term { element, weight: 1.0, options: options.unwrap_or_default() };
        Combined { terms: [term; MOST], count: 1, logistic: element.is_logistic(), refused }
    }

    #[cfg_attr(optimized, inline(always))]
    fn each(&self) -> &[Term] {
        &self.terms[..self.count.min(MOST)]
    }

    /// The term with its weight and its options as a kernel has them, if it is the only one.
    pub(super) fn only(&self) -> Result<(Element, f32, [f32; 3]), Refused> {
        match (self.refused(), self.each()) {
            (None, &[Term { element, weight, options }]) => Ok((element, weight, options)),
            (Some(refused), _) => Err(refused),
            _ => Err(Refused::Unsupported("more than one element-wise loss beside a region loss")),
        }
    }

    /// Why it cannot be computed.
    fn refused(&self) -> Option<Refused> {
        let weight = self.each().iter().map(|term| term.weight).find(|w| !w.is_finite());
        let many = (self.count > MOST).then_some(Refused::Terms(self.count));
        self.refused.or(many).or(weight.map(Refused::Weight))
    }
}

impl Scaled for Combined {
    fn scaled(mut self, by: f32) -> Self {
        self.terms.iter_mut().for_each(|term| term.weight *= by);
        self
    }
}

impl IntoSum for Combined {
    type Sum = Combined;
    fn into_sum(self) -> Combined {
        self
    }
}

impl Join<Combined> for Combined {
    type Sum = Combined;
    fn join(mut self, other: Combined) -> Combined {
        let room = self.terms.iter_mut().skip(self.count);
        room.zip(other.each()).for_each(|(to, term)| *to = *term);
        self.count += other.count;
        self.logistic |= other.logistic;
        self.refused = self.refused.or(other.refused);
        self
    }
}

operators!(Combined);
elementwise_methods!(Combined);

impl On<'_, Combined> {
    /// The value, and its gradient for the input into `grad_input`, and the values of the terms into `terms`; see
    /// [`Call::terms`](crate::Call::terms).
    pub fn forward_backward_terms<T: crate::Element>(
        &self,
        input: &Buffer<T>,
        target: &Buffer<T>,
        reduction: Reduction,
        grad_input: &mut Buffer<T>,
        terms: &mut Buffer<f32>,
    ) -> Result<f32> {
        self.run(input, (target.into(), None), None, reduction, [Some(grad_input), None, None], Also::Terms(terms))
    }
}

impl Combination for Combined {}
impl Loss for Combined {
    const NAME: &'static str = "combined loss";
}
impl Run for Combined {
    fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
        if let Some(refused) = self.refused() {
            return Err(refused.error(<Self as Loss>::NAME));
        }
        for_request!(request, |r| elementwise::run(*self, r))
    }
}

impl Terms<MOST> for Combined {
    const NAME: &'static str = <Combined as Loss>::NAME;
    const TARGET: bool = true;

    fn faint(&self) -> bool {
        self.logistic
    }

    fn terms(&self) -> usize {
        self.count
    }

    fn takes_class_weight(&self) -> bool {
        self.each().iter().any(|term| term.element.takes_class_weight())
    }

    fn has_grad_target(&self) -> bool {
        self.each().iter().all(|term| term.element.has_grad_target())
    }

    #[cfg_attr(optimized, inline(always))]
    fn usual<T: crate::Element, S: Machine>(&self, s: S, run: UsualRun<'_, '_, T>) -> Begun<MOST> {
        // The usual sums are compiled as such.
        if self.count == 2 {
            let (first, second) = (self.terms[0], self.terms[1]);
            let weights = [first.weight, second.weight];
            match (first.element, second.element) {
                (Element::Mse(a), Element::Mae(b)) => return run.of(s, Two { a, b, weights }),
                (Element::Mae(a), Element::Mse(b)) => return run.of(s, Two { a, b, weights }),
                (Element::BceWithLogits(a), Element::SigmoidFocal(b)) if a.is_plain() => {
                    return run.of(s, Two { a: bce::Plain, b, weights });
                }
                (Element::SigmoidFocal(a), Element::BceWithLogits(b)) if b.is_plain() => {
                    return run.of(s, Two { a, b: bce::Plain, weights });
                }
                (Element::BceWithLogits(a), Element::SigmoidFocal(b)) => {
                    return run.of(s, Two { a, b, weights });
                }
                (Element::SigmoidFocal(a), Element::BceWithLogits(b)) => {
                    return run.of(s, Two { a, b, weights });
                }
                _ => {}
            }
        }
        if self.logistic { run.of(s, Pairs::<true>(*self)) } else { run.of(s, Pairs::<false>(*self)) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn apply<S: Machine>(&self, s: S, stage: &mut Stage, sums: &mut [BlockSums; MOST]) {
        if self.logistic {
            stage.logistic(s);
        }
        for (j, (sums, term)) in sums.iter_mut().zip(self.each()).enumerate() {
            term.element.apply(s, stage, term.weight, j == 0, sums);
        }
    }

    fn whole_of_sums(&self, sums: [f64; MOST]) -> f64 {
        sums.iter().zip(self.each()).map(|(sum, term)| f64::from(term.weight) * sum).sum()
    }
}

/// Two terms, of pairs of vectors: 0.6 to 0.9 of the time that [`Pairs`] takes for them, which asks which they are.
#[derive(Clone, Copy)]
struct Two<A, B> {
    a: A,
    b: B,
    weights: [f32; 2],
}

impl<A: Pointwise, B: Pointwise> Points<MOST> for Two<A, B> {
    const TARGET: bool = true;
    const FAINT: bool = A::LOGISTIC || B::LOGISTIC;
    const LONG: bool = A::LONG || B::LONG;

    #[cfg_attr(optimized, inline(always))]
    fn terms(&self) -> usize {
        2
    }

    #[cfg_attr(optimized, inline(always))]
    fn points<V: Simd>(&self, x: F32s<V>, t: F32s<V>) -> (F32s<V>, [F32s<V>; MOST]) {
        let one = x.simd().splat(1.0);
        let (tail, soft) = if Self::FAINT { x.logistic_tail() } else { (one, one) };
        let l = Logistic::new(x, tail, soft);
        let (a, b) = (self.a.eval_with(&l, x, t, one), self.b.eval_with(&l, x, t, one));
        let mut values = [one; MOST];
        (values[0], values[1]) = (a.value, b.value);
        (b.grad.mul_add(self.weights[1], a.grad * self.weights[0]), values)
    }
}

/// The sum, of pairs of vectors; whether a term is made of the logistic function is known when it is compiled.
#[derive(Clone, Copy)]
struct Pairs<const LOGISTIC: bool>(Combined);

impl<const LOGISTIC: bool> Points<MOST> for Pairs<LOGISTIC> {
    const TARGET: bool = true;
    const FAINT: bool = LOGISTIC;
    const LONG: bool = LOGISTIC;

    #[cfg_attr(optimized, inline(always))]
    fn terms(&self) -> usize {
        self.0.count
    }

    #[cfg_attr(optimized, inline(always))]
    fn points<V: Simd>(&self, x: F32s<V>, t: F32s<V>) -> (F32s<V>, [F32s<V>; MOST]) {
        let mut grad = x.simd().zero();
        let mut values = [grad; MOST];
        let (tail, soft) = if LOGISTIC { x.logistic_tail() } else { (grad, grad) };
        for (j, (value, term)) in values.iter_mut().zip(self.0.each()).enumerate() {
            // Else what any of the losses may ask of them is computed, and kept in memory, before it is known which it is.
            let (x, t) = (x.opaque(), t.opaque());
            let (tail, soft) = if LOGISTIC { (tail.opaque(), soft.opaque()) } else { (tail, soft) };
            let l = Logistic::new(x, tail, soft);
            let point = term.element.eval::<V, LOGISTIC>(&l, x, t);
            grad = if j == 0 { point.grad * term.weight } else { point.grad.mul_add(term.weight, grad) };
            *value = point.value;
        }
        (grad, values)
    }
}

impl HasKernel for Combined {
    fn kernel(&self) -> Kernel {
        let of = |f: fn(&Term) -> f32| std::array::from_fn(|j| self.each().get(j).map_or(0.0, f));
        let params = TermsParams {
            kind: std::array::from_fn(|j| match self.each().get(j).map(|term| term.element) {
                Some(Element::BceWithLogits(loss)) if loss.is_plain() => params::TERM_BCE_PLAIN,
                Some(element) => element.kind(),
                None => 0,
            }),
            weight: of(|term| term.weight),
            a: of(|term| term.options[0]),
            b: of(|term| term.options[1]),
            c: of(|term| term.options[2]),
            terms: self.each().len() as u32,
            logistic: self.logistic.into(),
        };
        let terms = kernel::Terms { count: self.count, refused: self.refused() };
        Kernel::combined(<Self as Loss>::NAME, params, terms, self.takes_class_weight(), self.has_grad_target())
    }
}

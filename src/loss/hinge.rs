use crate::call::{AnyRequest, Loss, Run, elementwise_methods, for_request};
use crate::cpu::elementwise::{self, Point, Pointwise};
use crate::cpu::simd::{F32s, Simd};
use crate::element::Element;
use crate::error::Result;
use crate::loss::combine::term;
use crate::params::HingeParams;
use crate::target::Target;

/// What the labels of a hinge loss look like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HingeLabels {
    /// -1 and 1, used as they are.
    #[default]
    Signed,
    /// 0 and 1, mapped to -1 and 1.
    ZeroOne,
    /// Keras's rule: 0 and 1 if no label of the whole batch is anything else, as they are otherwise.
    /// Mind that one stray label changes what all others mean. It costs one more pass over the labels.
    Keras,
}

impl HingeLabels {
    fn params<T: Element>(self, target: Target<'_, T>) -> HingeParams {
        let zero_one = match (self, target) {
            (HingeLabels::ZeroOne, _) => true,
            (HingeLabels::Keras, Target::Dense(t)) => t.iter().all(|t| t.to_f32() == 0.0 || t.to_f32() == 1.0),
            _ => false,
        };
        if zero_one {
            HingeParams { label_scale: 2.0, label_offset: -1.0 }
        } else {
            HingeParams { label_scale: 1.0, label_offset: 0.0 }
        }
    }
}

/// Declares a hinge loss over its functor.
macro_rules! hinge {
    ($(#[$doc:meta])* $loss:ident, $functor:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $loss {
            labels: HingeLabels,
        }

        impl $loss {
            /// Labels -1 and 1.
            pub fn new() -> Self {
                Self::default()
            }

            /// What the labels look like. Defaults to [`HingeLabels::Signed`].
            pub fn labels(mut self, labels: HingeLabels) -> Self {
                self.labels = labels;
                self
            }
        }

        impl Loss for $loss {
            const NAME: &'static str = $name;
        }
        impl Run for $loss {
            fn run(&self, request: AnyRequest<'_>) -> Result<f32> {
                for_request!(request, |r| elementwise::run($functor(self.labels.params(r.extras.target)), r))
            }
        }
        elementwise_methods!($loss);
    };
}

hinge! {
    /// Binary hinge, the loss of support vector machines: `max(0, 1 - y x)`.
    ///
    /// With `y` the label as -1 or 1:
    ///
    /// | | |
    /// |---|---|
    /// | value | `l = max(0, 1 - y x)` |
    /// | gradient | `dl/dx = -y` where `y x < 1`, else 0 |
    /// | shapes | scores and labels of equal length |
    /// | default | labels -1 and 1; [`HingeLabels`] has the others |
    /// | Keras | `Hinge`: [`HingeLabels::Keras`]; its `mean` over equal rows is [`Reduction::Mean`](crate::Reduction::Mean) |
    /// | PyTorch | none (`HingeEmbeddingLoss` is a loss of distances, not this) |
    ///
    /// Edge cases: the gradient at `y x = 1` is the subgradient 0 (TensorFlow: `-y`, JAX: half). NaN
    /// stays NaN in value and gradient.
    ///
    /// ```
    /// use fused_loss::{Hinge, HingeLabels, Reduction};
    /// # fn main() -> fused_loss::Result<()> {
    /// let mut grad = [0.0; 3];
    /// let hinge = Hinge::new().labels(HingeLabels::ZeroOne);
    /// let loss = hinge.forward_backward(&[0.5, -2.0, 0.5], &[1.0, 0.0, 0.0], Reduction::Sum, &mut grad)?;
    /// assert_eq!((loss, grad), (2.0, [-1.0, 0.0, 1.0]));
    /// # Ok(()) }
    /// ```
    Hinge, Linear, "hinge"
}

hinge! {
    /// Squared binary hinge: `max(0, 1 - y x)^2`.
    ///
    /// With `y` the label as -1 or 1:
    ///
    /// | | |
    /// |---|---|
    /// | value | `l = max(0, 1 - y x)^2` |
    /// | gradient | `dl/dx = -2 y max(0, 1 - y x)` |
    /// | shapes | scores and labels of equal length |
    /// | default | labels -1 and 1; [`HingeLabels`] has the others |
    /// | Keras | `SquaredHinge`: [`HingeLabels::Keras`] |
    /// | PyTorch | none |
    ///
    /// Edge cases: smooth at the margin. NaN stays NaN in value and gradient.
    ///
    /// ```
    /// use fused_loss::{Reduction, SquaredHinge};
    /// # fn main() -> fused_loss::Result<()> {
    /// let mut grad = [0.0; 2];
    /// let loss = SquaredHinge::new().forward_backward(&[0.5, 2.0], &[-1.0, 1.0], Reduction::Sum, &mut grad)?;
    /// assert_eq!((loss, grad), (2.25, [3.0, 0.0]));
    /// # Ok(()) }
    /// ```
    SquaredHinge, Squared, "squared hinge"
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Linear(HingeParams);

impl Pointwise for Linear {
    const NAME: &'static str = "hinge";

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let y = t * self.0.label_scale + self.0.label_offset;
        let short = 1.0 - y * x;
        // Written so that NaN takes neither of the two numbers.
        let inside = short.le(0.0).pick(0.0, short);
        Point { value: inside, grad: short.gt(0.0).pick(-y, inside) }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Squared(HingeParams);

impl Pointwise for Squared {
    const NAME: &'static str = "squared hinge";

    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, _: F32s<S>) -> Point<S> {
        let y = t * self.0.label_scale + self.0.label_offset;
        let short = 1.0 - y * x;
        let inside = short.le(0.0).pick(0.0, short);
        Point { value: inside * inside, grad: -2.0 * y * inside }
    }
}

crate::cuda::kernel::kernel!(Hinge, |l| Kernel::elements::<Linear>(
    "hinge",
    "hinge",
    l.labels.params::<f32>(Target::Nothing)
)
.keras_labels(l.labels == HingeLabels::Keras));
crate::cuda::kernel::kernel!(SquaredHinge, |l| Kernel::elements::<Squared>(
    "hinge",
    "squared_hinge",
    l.labels.params::<f32>(Target::Nothing)
)
.keras_labels(l.labels == HingeLabels::Keras));
term!(Hinge, |l| Hinge(Linear(l.labels.params::<f32>(Target::Nothing))));
term!(SquaredHinge, |l| SquaredHinge(Squared(l.labels.params::<f32>(Target::Nothing))));

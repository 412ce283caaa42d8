//! Any loss of the crate, and any call of it, as plain values.

use fused_loss::*;

/// One call: whatever may be asked of a loss, on any element type.
pub struct Job<'a, T> {
    /// Not looked at in place, where the buffer of the verb holds it.
    pub input: &'a [T],
    pub target: Target<'a, T>,
    /// For losses with a class axis.
    pub shape: Option<Shape>,
    pub weight: Weight<'a>,
    pub class_weight: Option<&'a [f32]>,
    pub grad_output: f32,
    pub accumulate: bool,
    pub grad_target: Option<&'a mut [T]>,
    /// For losses of three tensors.
    pub third: Option<&'a [T]>,
    pub grad_third: Option<&'a mut [T]>,
    pub verb: Verb<'a, T>,
}

/// Weights of the losses.
#[derive(Clone, Copy)]
pub enum Weight<'a> {
    None,
    PerElement(&'a [f32]),
    PerSample(&'a [f32]),
}

/// What is computed, and where it is written.
pub enum Verb<'a, T> {
    Forward(Reduction),
    ForwardBackward(Reduction, &'a mut [T]),
    Backward(Reduction, &'a mut [T]),
    ForwardUnreduced {
        losses: &'a mut [f32],
    },
    ForwardBackwardUnreduced {
        grad_output: &'a [f32],
        losses: &'a mut [f32],
        grad: &'a mut [T],
    },
    BackwardUnreduced {
        grad_output: &'a [f32],
        grad: &'a mut [T],
    },
    /// The buffer is the input and becomes the gradient.
    InPlace(Reduction, &'a mut [T]),
    InPlaceUnreduced {
        grad_output: &'a [f32],
        losses: &'a mut [f32],
        buffer: &'a mut [T],
    },
}

impl<'a, T: Element> Job<'a, T> {
    /// Runs the verb; `call` makes a call of an input, `in_place` one of a buffer. The number is 0 where
    /// the verb gives none.
    fn run<L: Loss>(
        self,
        call: impl FnOnce(&'a [T], Target<'a, T>, Option<Shape>) -> Call<'a, L, T>,
        in_place: impl FnOnce(&'a mut [T], Target<'a, T>, Option<Shape>) -> Call<'a, L, T, &'a mut [T]>,
    ) -> Result<f32> {
        let Job { input, target, shape, weight, class_weight, grad_output, accumulate, grad_target, .. } = self;
        let Job { third, grad_third, verb, .. } = self;
        macro_rules! with_extras {
            ($call:expr) => {{
                let mut call = $call.grad_output(grad_output);
                match weight {
                    Weight::None => {}
                    Weight::PerElement(w) => call = call.weight(w),
                    Weight::PerSample(w) => call = call.sample_weight(w),
                }
                if let Some(w) = class_weight {
                    call = call.class_weight(w);
                }
                if accumulate {
                    call = call.accumulate();
                }
                if let Some(grad) = grad_target {
                    call = call.grad_target(grad);
                }
                if let Some(third) = third {
                    call = call.third(third);
                }
                if let Some(grad) = grad_third {
                    call = call.grad_third(grad);
                }
                call
            }};
        }
        match verb {
            Verb::InPlace(reduction, buffer) => {
                with_extras!(in_place(buffer, target, shape)).forward_backward(reduction)
            }
            Verb::InPlaceUnreduced { grad_output, losses, buffer } => {
                let call = with_extras!(in_place(buffer, target, shape));
                call.forward_backward_unreduced(grad_output, losses).map(|()| 0.0)
            }
            verb => {
                let call = with_extras!(call(input, target, shape));
                match verb {
                    Verb::Forward(reduction) => call.forward(reduction),
                    Verb::ForwardBackward(reduction, grad) => call.forward_backward(reduction, grad),
                    Verb::Backward(reduction, grad) => call.backward(reduction, grad).map(|()| 0.0),
                    Verb::ForwardUnreduced { losses } => call.forward_unreduced(losses).map(|()| 0.0),
                    Verb::ForwardBackwardUnreduced { grad_output, losses, grad } => {
                        call.forward_backward_unreduced(grad_output, losses, grad).map(|()| 0.0)
                    }
                    Verb::BackwardUnreduced { grad_output, grad } => {
                        call.backward_unreduced(grad_output, grad).map(|()| 0.0)
                    }
                    Verb::InPlace(..) | Verb::InPlaceUnreduced { .. } => unreachable!("they have been run"),
                }
            }
        }
    }
}

fn dense<'a, T>(target: Target<'a, T>) -> &'a [T] {
    let Target::Dense(target) = target else { panic!("an element-wise loss has dense targets") };
    target
}

fn shaped(shape: Option<Shape>) -> Shape {
    shape.expect("a loss with a class axis has a shape")
}

/// What can be done with any loss.
pub trait Apply {
    fn to<L: Loss>(self, loss: L) -> Result<f32>;
}

/// Declares [`AnyLoss`].
macro_rules! any_loss {
    (elementwise: $($e:ident)*; of_three: $($e3:ident)*; classes: $($c:ident)*; rows_of_three: $($c3:ident)*; classes_and_third: $($ct:ident)*;) => {
        /// A loss of the crate with its options.
        #[derive(Clone, Copy, Debug)]
        pub enum AnyLoss {
            $($e($e),)*
            $($e3($e3),)*
            $($c($c),)*
            $($c3($c3),)*
            $($ct($ct),)*
            GanTerm(GanTerm),
            GradientPenalty(GradientPenalty),
        }

        impl AnyLoss {
            /// Runs a call of this loss.
            pub fn run<T: Element>(self, job: Job<'_, T>) -> Result<f32> {
                match self {
                    $(AnyLoss::$e(l) => job.run(
                        |x, t, _| l.call(x, dense(t)),
                        |x, t, _| l.call_in_place(x, dense(t)),
                    ),)*
                    // The third tensor is among what is added to any call.
                    $(AnyLoss::$e3(l) => job.run(
                        |x, t, _| l.call(x, dense(t), &[]),
                        |x, t, _| l.call_in_place(x, dense(t), &[]),
                    ),)*
                    $(AnyLoss::$c(l) => job.run(
                        |x, t, s| l.call(x, t, shaped(s)),
                        |x, t, s| l.call_in_place(x, t, shaped(s)),
                    ),)*
                    $(AnyLoss::$c3(l) => job.run(
                        |x, t, s| l.call(x, dense(t), &[], shaped(s)),
                        |x, t, s| l.call_in_place(x, dense(t), &[], shaped(s)),
                    ),)*
                    $(AnyLoss::$ct(l) => job.run(
                        |x, t, s| l.call(x, t, &[], shaped(s)),
                        |x, t, s| l.call_in_place(x, t, &[], shaped(s)),
                    ),)*
                    AnyLoss::GanTerm(l) => job.run(|x, _, _| l.call(x), |x, _, _| l.call_in_place(x)),
                    AnyLoss::GradientPenalty(l) => {
                        job.run(|x, _, s| l.call(x, shaped(s)), |x, _, s| l.call_in_place(x, shaped(s)))
                    }
                }
            }
        }

        any_loss!(from: $($e)* $($e3)* $($c)* $($c3)* $($ct)* GanTerm GradientPenalty);
    };
    (from: $($l:ident)*) => {
        impl AnyLoss {
            /// Does something with the loss itself.
            pub fn apply(self, something: impl Apply) -> Result<f32> {
                match self {
                    $(AnyLoss::$l(l) => something.to(l),)*
                }
            }
        }

        $(impl From<$l> for AnyLoss {
            fn from(l: $l) -> Self { AnyLoss::$l(l) }
        })*
    };
}
any_loss! {
    elementwise: Mse Mae Huber SmoothL1 Bce BceWithLogits Hinge SquaredHinge KlDiv KlDivProbs SigmoidFocal
        RelativisticPair Combined Custom LogCosh Quantile PoissonNll SoftMargin;
    of_three: GaussianNll MarginRanking Dpo;
    classes: CrossEntropy CrossEntropyProbs Nll SoftmaxFocal CategoricalHinge MultiMargin Distillation DiceLoss
        TverskyLoss GeneralizedDiceLoss CombinedRegions Jsd BoxIou LovaszHinge LovaszSoftmax;
    rows_of_three: CosineEmbedding TripletMargin;
    classes_and_third: CombinedRows;
}

//! Every loss behind one signature.

use super::*;

/// What has a value of its own.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Form {
    Element,
    Row,
    /// A channel of a sample.
    Region,
    /// A channel of the batch.
    BatchRegion,
    /// A sample with all its channels.
    Sample,
}

/// A loss whose type is hidden.
pub struct AnyLoss<T: 'static> {
    pub name: &'static str,
    pub form: Form,
    pub input: Domain,
    pub target: Domain,
    pub class_weight: bool,
    pub grad_target: bool,
    pub run: fn(Job<'_, T>) -> Result<f32>,
}

impl<T: Element> AnyLoss<T> {
    /// The number of values of the unreduced form.
    pub fn losses(&self, [outer, classes, inner]: [usize; 3]) -> usize {
        match self.form {
            Form::Element => outer * classes * inner,
            Form::Row => outer * inner,
            Form::Region => outer * classes,
            Form::BatchRegion => classes,
            Form::Sample => outer,
        }
    }

    /// These, or with as many classes as there must be.
    pub fn fit(&self, [outer, classes, inner]: [usize; 3]) -> [usize; 3] {
        [outer, if self.input == Domain::Corner { 4 } else { classes }, inner]
    }

    pub fn data(&self, random: &mut Random, dims: [usize; 3]) -> Data<T> {
        let dims = self.fit(dims);
        let [outer, classes, inner] = dims;
        let mut draw = |domain: Domain| {
            let draw = |i: usize| match domain {
                Domain::Corner if i / inner % classes < 2 => random.between(-4.0, -0.5),
                Domain::Corner => random.between(0.5, 4.0),
                _ => domain.draw(random),
            };
            (0..outer * classes * inner).map(draw).map(T::from_f32).collect()
        };
        let input = draw(self.input);
        let target = match self.target {
            Domain::Nothing => Labels::Nothing,
            Domain::Index => Labels::Index((0..outer * inner).map(|_| random.below(classes) as i64).collect()),
            domain => Labels::Dense(draw(domain)),
        };
        Data { dims, input, target }
    }

    /// The value, and the gradient into a new buffer.
    pub fn gradient(&self, data: &Data<T>, reduction: Reduction) -> (f32, Vec<T>) {
        let mut grad = vec![T::default(); data.input.len()];
        let value = (self.run)(data.job(Verb::ForwardBackward(reduction, &mut grad)));
        (value.unwrap_or_else(|e| panic!("{}: {e}", self.name)), grad)
    }
}

/// Every loss, with options where they lead to other code.
pub fn losses<T: Element>() -> Vec<AnyLoss<T>> {
    use Domain::*;
    macro_rules! element {
        ($name:literal, $input:ident, $target:ident, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Element,
                input: $input,
                target: $target,
                class_weight: $name.contains("with logits"),
                grad_target: !["hinge", "focal", "soft margin", "Poisson"].iter().any(|name| $name.contains(name)),
                run: |job| job.run(|j| $loss.call(j.input, j.dense()), |j, x| $loss.call_in_place(x, j.dense())),
            }
        };
    }
    /// Of three tensors, the third of them constant.
    macro_rules! element_of_three {
        ($name:literal, $input:ident, $target:ident, $third:literal, $grad_target:literal, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Element,
                input: $input,
                target: $target,
                class_weight: false,
                grad_target: $grad_target,
                run: |job| {
                    let third = vec![T::from_f32($third); job.input.len()];
                    job.run(
                        |j| $loss.call(j.input, j.dense(), &third),
                        |j, x| $loss.call_in_place(x, j.dense(), &third),
                    )
                },
            }
        };
    }
    /// The same of rows, with a number for each row or element.
    macro_rules! row_of_three {
        ($name:literal, $third:literal, $each:ident, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Row,
                input: Real,
                target: Real,
                class_weight: false,
                grad_target: true,
                run: |job| {
                    // A shape that is wrong may have more rows than there is memory.
                    let third = vec![T::from_f32($third); job.shape.$each().min(1 << 18)];
                    job.run(
                        |j| $loss.call(j.input, j.dense(), &third, j.shape),
                        |j, x| $loss.call_in_place(x, j.dense(), &third, j.shape),
                    )
                },
            }
        };
    }
    /// Cross-entropy and distillation; the teacher is constant.
    macro_rules! row_with_teacher {
        ($name:literal, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Row,
                input: Real,
                target: Index,
                class_weight: false,
                grad_target: false,
                run: |job| {
                    let teacher = vec![T::from_f32(0.5); job.shape.elements().min(1 << 19)];
                    job.run(
                        |j| $loss.call(j.input, j.target, &teacher, j.shape),
                        |j, x| $loss.call_in_place(x, j.target, &teacher, j.shape),
                    )
                },
            }
        };
    }
    macro_rules! term {
        ($name:literal, $input:ident, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Element,
                input: $input,
                target: Nothing,
                class_weight: false,
                grad_target: false,
                run: |job| job.run(|j| $loss.call(j.input), |_, x| $loss.call_in_place(x)),
            }
        };
    }
    macro_rules! row {
        ($name:literal, $input:ident, $target:ident, $loss:expr) => {
            row!($name, $input, $target, $loss, false, false)
        };
        ($name:literal, $input:ident, $target:ident, $loss:expr, $class_weight:literal, $grad_target:literal) => {
            row!($name, Form::Row, $input, $target, $loss, $class_weight, $grad_target)
        };
        ($name:literal, $form:expr, $input:ident, $target:ident, $loss:expr, $class_weight:literal, $grad_target:literal) => {
            AnyLoss {
                name: $name,
                form: $form,
                input: $input,
                target: $target,
                class_weight: $class_weight,
                grad_target: $grad_target,
                run: |job| {
                    job.run(
                        |j| $loss.call(j.input, j.target, j.shape),
                        |j, x| $loss.call_in_place(x, j.target, j.shape),
                    )
                },
            }
        };
    }
    macro_rules! penalty {
        ($name:literal, $loss:expr) => {
            AnyLoss {
                name: $name,
                form: Form::Row,
                input: Real,
                target: Nothing,
                class_weight: false,
                grad_target: false,
                run: |job| job.run(|j| $loss.call(j.input, j.shape), |j, x| $loss.call_in_place(x, j.shape)),
            }
        };
    }
    macro_rules! region {
        ($name:literal, $form:ident, $input:ident, $target:ident, $loss:expr) => {
            row!($name, Form::$form, $input, $target, $loss, true, false)
        };
    }
    vec![
        element!("MSE", Real, Real, Mse::new()),
        element!("MAE", Real, Real, Mae),
        element!("Huber", Real, Real, Huber::new(0.7).unwrap()),
        element!("SmoothL1", Real, Real, SmoothL1::new(0.7).unwrap()),
        element!("BCE", Probability, Probability, Bce::new()),
        element!("BCE, clipped", Probability, Probability, Bce::new().epsilon(0.1).unwrap()),
        element!("BCE with logits", Real, Probability, BceWithLogits::new().pos_weight(3.0).unwrap()),
        element!("hinge", Real, Signed, Hinge::new()),
        element!("hinge, Keras labels", Real, Binary, Hinge::new().labels(HingeLabels::Keras)),
        element!("squared hinge", Real, Signed, SquaredHinge::new()),
        element!("KL", LogProbability, Probability, KlDiv::new()),
        element!("KL, log targets", LogProbability, LogProbability, KlDiv::new().log_target(true)),
        element!("KL on probabilities", Probability, Probability, KlDivProbs::new()),
        element!("sigmoid focal", Real, Binary, SigmoidFocal::new()),
        element!("sigmoid focal, any gamma", Real, Probability, SigmoidFocal::new().gamma(0.5).unwrap()),
        element!("MSE and sigmoid focal", Real, Binary, 0.75 * Mse::new() + 2.0 * SigmoidFocal::new()),
        element!("relativistic pair", Real, Real, RelativisticPair),
        term!("GAN, logistic", Real, GanLoss::new(GanMode::NonSaturating).generator_term()),
        term!("GAN, minimax", Real, GanLoss::new(GanMode::Minimax).generator_term()),
        term!("GAN, least squares", Real, GanLoss::new(GanMode::LeastSquares).real_term()),
        term!("GAN, Wasserstein", Real, GanLoss::new(GanMode::Wasserstein).fake_term()),
        term!("GAN, margin", Real, GanLoss::new(GanMode::Hinge).real_term()),
        term!("GAN, probabilities", Probability, GanLoss::new(GanMode::Probabilities).fake_term()),
        row!("cross-entropy", Real, Index, CrossEntropy::new(), true, false),
        row!("cross-entropy, dense", Real, Probability, CrossEntropy::new(), true, true),
        row!(
            "cross-entropy, every option",
            Real,
            Index,
            CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(1e-2).unwrap().softcap(5.0).unwrap(),
            true,
            false
        ),
        row!("cross-entropy on probabilities", Probability, Index, CrossEntropyProbs::new(), true, false),
        row!("cross-entropy on probabilities, dense", Probability, Probability, CrossEntropyProbs::new(), true, true),
        row!("NLL", LogProbability, Index, Nll::new(), true, false),
        row!("softmax focal", Real, Index, SoftmaxFocal::new(), true, false),
        row!("categorical hinge", Real, Index, CategoricalHinge),
        row!("categorical hinge, dense", Real, Probability, CategoricalHinge),
        row!("multi-margin", Real, Index, MultiMargin::new(), true, false),
        row!("multi-margin, squared", Real, Index, MultiMargin::new().p(2).unwrap(), true, false),
        row!("distillation", Real, Real, Distillation::new().temperature(2.0).unwrap(), false, true),
        penalty!("gradient penalty", GradientPenalty::wgan_gp(10.0).unwrap()),
        penalty!("gradient penalty, R1", GradientPenalty::r1(10.0).unwrap()),
        region!("Dice", Region, Probability, Binary, DiceLoss::new()),
        region!("Dice, sigmoid", Region, Real, Probability, DiceLoss::new().sigmoid().squared_pred(true)),
        region!("Dice, softmax", Region, Real, Index, DiceLoss::new().softmax()),
        region!("Dice, batch", BatchRegion, Real, Binary, DiceLoss::new().sigmoid().batch(true).jaccard(true)),
        region!("Dice, softmax, batch", BatchRegion, Real, Index, DiceLoss::new().softmax().batch(true)),
        region!("Tversky", Region, Real, Index, TverskyLoss::new(0.3, 0.7).unwrap().sigmoid()),
        row!(
            "generalised Dice",
            Form::Sample,
            Probability,
            Binary,
            GeneralizedDiceLoss::new().smooth(1.0).unwrap(),
            false,
            false
        ),
        row!(
            "generalised Dice, softmax",
            Form::Sample,
            Real,
            Index,
            GeneralizedDiceLoss::new().softmax().weight(DiceWeight::Simple),
            false,
            false
        ),
        element!("log-cosh", Real, Real, LogCosh::new()),
        element!("quantile", Real, Real, Quantile::new(0.9).unwrap()),
        element!("soft margin", Real, Signed, SoftMargin::new()),
        element!("Poisson NLL", Real, Binary, PoissonNll::new().full(true)),
        element!("Poisson NLL of rates", Probability, Binary, PoissonNll::new().log_input(false)),
        element_of_three!("Gaussian NLL", Real, Real, 1.5, true, GaussianNll::new()),
        element_of_three!("margin ranking", Real, Real, 1.0, true, MarginRanking::new(0.5).unwrap()),
        element_of_three!("DPO", Real, Real, 0.5, true, Dpo::new(0.5).unwrap().label_smoothing(0.1).unwrap()),
        element_of_three!("DPO, margin", Real, Real, 0.5, true, Dpo::default().variant(DpoVariant::Hinge)),
        element_of_three!("DPO, squared", Real, Real, 0.5, true, Dpo::default().variant(DpoVariant::Ipo)),
        row!("JSD", Real, Real, Jsd::new().beta(0.3).unwrap(), false, true),
        row!("JSD, reverse", Real, Real, Jsd::new().beta(1.0).unwrap(), false, true),
        row_with_teacher!("cross-entropy and distillation", CrossEntropy::new() + 0.5 * Distillation::new()),
        row_with_teacher!(
            "cross-entropy and distillation, every option",
            0.5 * CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(1e-2).unwrap()
                + 2.0 * Distillation::new().temperature(2.0).unwrap().scale_by_t2(false)
        ),
        row!("IoU", Corner, Corner, BoxIou::iou(), false, true),
        row!("GIoU", Corner, Corner, BoxIou::giou(), false, true),
        row!("DIoU", Corner, Corner, BoxIou::diou(), false, true),
        row!("CIoU", Corner, Corner, BoxIou::ciou(), false, true),
        row_of_three!("cosine embedding", 1.0, rows, CosineEmbedding::default()),
        row_of_three!("cosine embedding, apart", -1.0, rows, CosineEmbedding::new(-1.0).unwrap()),
        row_of_three!("triplet margin", 0.5, elements, TripletMargin::new().margin(4.0).unwrap()),
        row_of_three!("triplet margin, swapped", 0.5, elements, TripletMargin::new().swap(true)),
    ]
}

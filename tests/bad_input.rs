//! Whatever a safe call is given, it refuses with an error that says what was expected and what came,
//! before it writes anything, and never panics.

#[macro_use]
#[path = "edge_cases/support.rs"]
mod support;

#[path = "bad_input/fuzz.rs"]
mod fuzz;
#[path = "bad_input/options.rs"]
mod options;
#[path = "bad_input/shapes.rs"]
mod shapes;
#[path = "bad_input/three.rs"]
mod three;

use fused_loss::Reduction::{BatchMean, Mean, Sum, SumOver, WeightedMean};
use fused_loss::*;
use support::*;

const DIMS: [usize; 3] = [4, 5, 7];

/// The lengths of all buffers of a call; `None` where it has none.
#[derive(Clone, Copy, Debug)]
pub struct Lengths {
    pub target: usize,
    pub grad: usize,
    pub losses: usize,
    pub grad_output: usize,
    pub weight: Option<usize>,
    pub sample_weight: Option<usize>,
    pub class_weight: Option<usize>,
    pub grad_target: Option<usize>,
}

impl Lengths {
    fn right<T: Element>(loss: &AnyLoss<T>, data: &Data<T>) -> Self {
        let target = match &data.target {
            Labels::Nothing => 0,
            Labels::Dense(t) => t.len(),
            Labels::Index(t) => t.len(),
        };
        let (n, losses) = (data.input.len(), loss.losses(data.dims));
        let (weight, sample_weight, class_weight, grad_target) = (None, None, None, None);
        Lengths { target, grad: n, losses, grad_output: losses, weight, sample_weight, class_weight, grad_target }
    }
}

/// What a verb is, without its buffers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Do {
    Forward(Reduction),
    ForwardBackward(Reduction),
    InPlace(Reduction),
    Unreduced,
    UnreducedBackward,
    UnreducedInPlace,
}

/// Runs a call with buffers of these lengths, and sees to it that an error has written nothing.
pub fn attempt<T: Element>(loss: &AnyLoss<T>, data: &Data<T>, shape: Shape, lengths: Lengths, verb: Do) -> Result<f32> {
    // Numbers that no call would write.
    let canaries = |n: usize| -> Vec<T> { (0..n).map(|i| T::from_f32(100.0 + (i % 50) as f32)).collect() };
    let cycle = |n: usize| (0..n).map(|i| 0.5 + (i % 7) as f32 / 8.0).collect::<Vec<f32>>();
    let target = match &data.target {
        Labels::Nothing => Labels::Nothing,
        Labels::Dense(t) => {
            Labels::Dense(t.iter().copied().cycle().take(lengths.target * usize::from(!t.is_empty())).collect())
        }
        Labels::Index(t) => Labels::Index(t.iter().copied().chain(std::iter::repeat(0)).take(lengths.target).collect()),
    };
    let (mut grad, mut grad_target) = (canaries(lengths.grad), canaries(lengths.grad_target.unwrap_or(0)));
    let (mut losses, mut buffer) = (from(&canaries(lengths.losses)), data.input.clone());
    let before = (grad.clone(), grad_target.clone(), losses.clone());
    let [weight, sample_weight, class_weight] =
        [lengths.weight, lengths.sample_weight, lengths.class_weight].map(|n| n.map(cycle));
    let grad_output = cycle(lengths.grad_output);
    let verb = match verb {
        Do::Forward(reduction) => Verb::Forward(reduction),
        Do::ForwardBackward(reduction) => Verb::ForwardBackward(reduction, &mut grad),
        Do::InPlace(reduction) => Verb::InPlace(reduction, &mut buffer),
        Do::Unreduced => Verb::Unreduced(&mut losses),
        Do::UnreducedBackward => Verb::UnreducedBackward(&grad_output, &mut losses, &mut grad),
        Do::UnreducedInPlace => Verb::UnreducedInPlace(&grad_output, &mut losses, &mut buffer),
    };
    let mut job = Job::new(&data.input, target.view(), shape, verb);
    job.weight = weight.as_deref();
    job.sample_weight = sample_weight.as_deref();
    job.class_weight = class_weight.as_deref();
    job.grad_target = lengths.grad_target.map(|_| &mut grad_target[..]);
    let got = (loss.run)(job);
    if got.is_err() {
        assert_eq!(bits(&grad), bits(&before.0), "{}: wrote the gradient, then {got:?}", loss.name);
        assert_eq!(bits(&grad_target), bits(&before.1), "{}: wrote the targets' gradient, then {got:?}", loss.name);
        assert_eq!(bits(&losses), bits(&before.2), "{}: wrote the losses, then {got:?}", loss.name);
        assert_eq!(bits(&buffer), bits(&data.input), "{}: wrote the input, then {got:?}", loss.name);
    }
    got
}

/// Every loss with sound data, its shape, and the lengths that fit.
fn each<T: Element>(check: impl Fn(&AnyLoss<T>, &Data<T>, Lengths)) {
    let mut random = Random(1);
    // But for boxes, whose shape is theirs.
    for loss in losses::<T>().into_iter().filter(|loss| loss.fit(DIMS) == DIMS) {
        let data = loss.data(&mut random, DIMS);
        check(&loss, &data, Lengths::right(&loss, &data));
    }
}

#[test]
fn a_buffer_of_the_wrong_length_is_named_with_both_lengths() {
    type Field = fn(&mut Lengths) -> &mut usize;
    let fields: [(&str, Field, &[Do]); 4] = [
        (
            "target",
            |l| &mut l.target,
            &[Do::Forward(Mean), Do::ForwardBackward(Sum), Do::InPlace(Sum), Do::UnreducedInPlace],
        ),
        ("grad_input", |l| &mut l.grad, &[Do::ForwardBackward(Mean), Do::UnreducedBackward]),
        ("losses", |l| &mut l.losses, &[Do::Unreduced, Do::UnreducedBackward, Do::UnreducedInPlace]),
        ("grad_output", |l| &mut l.grad_output, &[Do::UnreducedBackward, Do::UnreducedInPlace]),
    ];
    type Maybe = fn(&mut Lengths) -> &mut Option<usize>;
    let extras: [(&str, Maybe); 3] = [
        ("weight", |l| &mut l.weight),
        ("class_weight", |l| &mut l.class_weight),
        ("grad_target", |l| &mut l.grad_target),
    ];
    let check = |loss: &AnyLoss<_>, data: &Data<_>, right: Lengths| {
        let refused = |what, expected: usize, got, lengths, verb| {
            let result = attempt(loss, data, DIMS.into(), lengths, verb);
            assert_eq!(result, Err(Error::Length { what, expected, got }), "{} {verb:?}", loss.name);
            let message = result.unwrap_err().to_string();
            assert_eq!(message, format!("{what}: expected {expected} elements, got {got}"));
        };
        for (what, field, verbs) in fields {
            let expected = *field(&mut right.clone());
            for wrong in [0, 1, expected.wrapping_sub(1), expected + 1, 2 * expected] {
                for &verb in verbs {
                    let mut lengths = right;
                    *field(&mut lengths) = wrong;
                    if wrong != expected && !(what == "target" && loss.target == Domain::Nothing) {
                        refused(what, expected, wrong, lengths, verb);
                    }
                }
            }
        }
        for (what, field) in extras {
            let expected = match what {
                "weight" => right.losses,
                "class_weight" if loss.class_weight && loss.form != Form::Element => DIMS[1],
                "grad_target" if loss.grad_target => right.grad,
                _ => continue,
            };
            for wrong in [0, expected - 1, expected + 1, 2 * expected] {
                for verb in [Do::ForwardBackward(Mean), Do::InPlace(WeightedMean), Do::UnreducedBackward] {
                    let mut lengths = right;
                    *field(&mut lengths) = Some(wrong);
                    refused(what, expected, wrong, lengths, verb);
                }
            }
        }
    };
    each::<f32>(check);
    each::<half::f16>(|loss, data, right| {
        // The checks are the same code; one of each kind will do.
        let lengths = Lengths { grad: 3, ..right };
        let want = Error::Length { what: "grad_input", expected: right.grad, got: 3 };
        assert_eq!(attempt(loss, data, DIMS.into(), lengths, Do::ForwardBackward(Mean)), Err(want));
    });
}

#[test]
fn samples_that_do_not_divide_the_losses_are_refused() {
    each::<f32>(|loss, data, right| {
        let n = right.losses;
        for samples in [0, 3, 11, n + 1, 2 * n] {
            let want = |what| Err(Error::Samples { what, samples, elements: n });
            for verb in [Do::ForwardBackward(Mean), Do::InPlace(Sum), Do::UnreducedBackward, Do::UnreducedInPlace] {
                let lengths = Lengths { sample_weight: Some(samples), ..right };
                assert_eq!(attempt(loss, data, DIMS.into(), lengths, verb), want("sample_weight"), "{}", loss.name);
            }
            for verb in [
                Do::Forward(BatchMean(samples)),
                Do::ForwardBackward(BatchMean(samples)),
                Do::InPlace(BatchMean(samples)),
            ] {
                assert_eq!(attempt(loss, data, DIMS.into(), right, verb), want("BatchMean"), "{}", loss.name);
            }
        }
        if loss.form == Form::Element && loss.class_weight {
            let lengths = Lengths { class_weight: Some(3), ..right };
            let want = Error::Samples { what: "class_weight", samples: 3, elements: n };
            assert_eq!(attempt(loss, data, DIMS.into(), lengths, Do::ForwardBackward(Mean)), Err(want));
        }
    });
    let message = Error::Samples { what: "BatchMean", samples: 3, elements: 140 }.to_string();
    assert_eq!(message, "BatchMean: 3 samples do not divide 140 elements into equal parts");
}

#[test]
fn a_denominator_is_a_finite_number_above_zero() {
    each::<f32>(|loss, data, right| {
        for bad in [0.0, -0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for verb in [Do::Forward(SumOver(bad)), Do::ForwardBackward(SumOver(bad)), Do::InPlace(SumOver(bad))] {
                let error = attempt(loss, data, DIMS.into(), right, verb).unwrap_err();
                let Error::Option { name: "SumOver", got, .. } = error else { panic!("{}: {error}", loss.name) };
                assert_eq!(got.to_bits(), bad.to_bits());
                assert_eq!(error.to_string(), format!("SumOver: expected a finite number above zero, got {bad}"));
            }
        }
    });
}

#[test]
fn what_a_loss_does_not_do_it_says_it_does_not_do() {
    fn check<T: Element>() {
        each::<T>(|loss, data, right| {
            let unsupported = |lengths, verb| match attempt(loss, data, DIMS.into(), lengths, verb) {
                Err(error @ Error::Unsupported { .. }) => {
                    assert!(error.to_string().ends_with(" is not supported"), "{error}")
                }
                other => panic!("{} {verb:?}: {other:?}", loss.name),
            };
            let with_target = Lengths { grad_target: Some(right.grad), ..right };
            unsupported(with_target, Do::Forward(Mean));
            unsupported(with_target, Do::Unreduced);
            if !loss.grad_target {
                unsupported(with_target, Do::ForwardBackward(Mean));
                unsupported(with_target, Do::InPlace(Mean));
                unsupported(with_target, Do::UnreducedBackward);
            }
            if !loss.class_weight {
                unsupported(Lengths { class_weight: Some(DIMS[1]), ..right }, Do::ForwardBackward(Mean));
                unsupported(Lengths { class_weight: Some(DIMS[1]), ..right }, Do::UnreducedInPlace);
            }
        });
    }
    every_dtype!(check);
}

#[test]
fn targets_of_the_wrong_kind_and_accumulation_in_place_are_refused() {
    let (x, index, nothing) = ([0.5f32; 6], [1i64, 0], Target::Nothing);
    let (dense, indices) = (Target::Dense(&x), Target::I64(&index));
    let kind = "a target of this kind";
    let (mut grad, mut buffer) = ([100.0; 6], [0.5f32; 6]);
    macro_rules! refused {
        ($loss:expr, $target:expr, $what:expr) => {{
            let error = $loss.call(&x, $target, (2, 3)).forward_backward(Mean, &mut grad).unwrap_err();
            assert!(matches!(error, Error::Unsupported { what, .. } if what == $what), "{error}");
            assert_eq!((grad, $loss.call_in_place(&mut buffer, $target, (2, 3)).forward_backward(Mean)), ([100.0; 6], Err(error)));
            assert_eq!(buffer, [0.5; 6]);
        }};
    }
    refused!(CrossEntropy::new(), nothing, kind);
    refused!(CrossEntropyProbs::new(), nothing, kind);
    refused!(CategoricalHinge, nothing, kind);
    refused!(Nll::new(), dense, kind);
    refused!(Nll::new(), nothing, kind);
    refused!(SoftmaxFocal::new(), dense, kind);
    refused!(MultiMargin::new(), dense, kind);
    refused!(Distillation::new(), indices, kind);
    refused!(Distillation::new(), nothing, kind);
    refused!(DiceLoss::new(), nothing, "a call without targets");
    refused!(CrossEntropy::new().ignore_index(2), dense, "an ignored class with dense targets");
    refused!(CrossEntropyProbs::new().ignore_index(0), dense, "an ignored class with dense targets");
    let one_channel = DiceLoss::new().include_background(false).forward(&x, &x, (6, 1), Mean);
    assert!(matches!(one_channel, Err(Error::Unsupported { loss: "DiceLoss", .. })), "{one_channel:?}");
    // A gradient for indices.
    let mut grad_target = [100.0; 6];
    let call = CrossEntropy::new().call(&x, indices, (2, 3)).grad_target(&mut grad_target);
    assert!(matches!(call.forward_backward(Mean, &mut grad), Err(Error::Unsupported { .. })));
    assert_eq!((grad, grad_target), ([100.0; 6], [100.0; 6]));

    let error = Mse::new().call_in_place(&mut buffer, &x).accumulate().forward_backward(Mean).unwrap_err();
    assert_eq!(error.to_string(), "MSE: accumulate in place, over the input, is not supported");
    let call = CrossEntropy::new().call_in_place(&mut buffer, indices, (2, 3)).accumulate();
    assert!(call.forward_backward_unreduced(&[1.0; 2], &mut [0.0; 2]).is_err());
    assert_eq!(buffer, [0.5; 6]);
}

/// The first bad row is named, also where several threads look for one.
#[test]
fn an_index_that_is_no_class_is_refused_in_any_integer_type() {
    let mut grad = vec![100.0f32; 6];
    let (few, many) = (2, 100_000);
    let (input, wide) = ([0.5f32; 6], vec![0.5f32; 3 * many]);
    let losses: Vec<AnyLoss<f32>> = losses().into_iter().filter(|loss| loss.target == Domain::Index).collect();
    assert!(losses.len() > 9);
    for loss in losses {
        let region = !matches!(loss.form, Form::Element | Form::Row);
        let mut refused = |row: usize, index: i64, rows: usize, target: Target<'_, f32>| {
            let shape: Shape = if region { [1, 3, rows].into() } else { (rows, 3).into() };
            let want = Error::ClassIndex { row, index, classes: 3 };
            let message = format!("target: expected a class in 0..3 or the ignored index, got {index} in row {row}");
            assert_eq!(want.to_string(), message);
            let (input, verb) = match rows {
                2 => (&input[..], Verb::ForwardBackward(Mean, &mut grad)),
                _ => (&wide[..], Verb::Forward(Mean)),
            };
            assert_eq!((loss.run)(Job::new(input, target, shape, verb)), Err(want), "{}", loss.name);
            assert_eq!(grad, [100.0; 6]);
        };
        let mut check = |rows: usize, bad_rows: &[usize]| {
            macro_rules! index_type {
                ($variant:ident, $t:ty, $bad:expr) => {
                    for bad in $bad {
                        let mut target = vec![0 as $t; rows];
                        bad_rows.iter().for_each(|&row| target[row] = bad);
                        refused(*bad_rows.iter().min().unwrap(), bad.into(), rows, Target::$variant(&target));
                    }
                };
            }
            index_type!(I64, i64, [-1, 3, i64::MIN, i64::MAX]);
            index_type!(I32, i32, [-1, 3, i32::MIN, i32::MAX]);
            index_type!(U32, u32, [3, u32::MAX]);
            index_type!(U8, u8, [3, u8::MAX]);
        };
        check(few, &[0, 1]);
        check(few, &[1]);
        check(many, &[99_999]);
        check(many, &[98_765, 70_001, 87_654]);
    }
}

#[test]
fn two_batches_are_both_checked_before_either_gradient_is_written() {
    let (real, fake) = ([1.0f32; 6], [0.5f32; 4]);
    let (mut on_real, mut on_fake, mut short) = ([100.0; 6], [100.0; 4], [100.0; 3]);
    let gan = GanLoss::default();
    let length = |what, expected| Err(Error::Length { what, expected, got: 3 });
    assert_eq!(gan.discriminator(&real, &fake, Mean, &mut short, &mut on_fake), length("grad_real", 6));
    assert_eq!(gan.discriminator(&real, &fake, Mean, &mut on_real, &mut short), length("grad_fake", 4));
    assert_eq!(gan.generator(&fake, Mean, &mut short), length("grad_input", 4));
    let samples = Err(Error::Samples { what: "BatchMean", samples: 3, elements: 4 });
    assert_eq!(gan.discriminator(&real, &fake, BatchMean(3), &mut on_real, &mut on_fake), samples);
    assert_eq!(gan.discriminator_forward(&real, &fake, BatchMean(3)), samples);
    assert!(gan.discriminator(&real, &fake, SumOver(0.0), &mut on_real, &mut on_fake).is_err());
    let ragan = RelativisticAverage::new();
    assert_eq!(ragan.discriminator(&real, &fake, &mut short, &mut on_fake), length("grad_real", 6));
    assert_eq!(ragan.generator(&real, &fake, &mut on_real, &mut short), length("grad_fake", 4));
    let mut on_target = [100.0; 3];
    let pair = RelativisticPair.call(&real, &real).grad_target(&mut on_target);
    assert_eq!(pair.forward_backward(Mean, &mut on_real), length("grad_target", 6));
    assert_eq!((on_real, on_fake, short, on_target), ([100.0; 6], [100.0; 4], [100.0; 3], [100.0; 3]));
}

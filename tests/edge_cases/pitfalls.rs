//! Mistakes of textbooks and tutorials, each with what this crate computes in its place.

use super::support::*;
use fused_loss::Reduction::{BatchMean, Mean, Sum};
use fused_loss::*;
use half::f16;

/// `-alpha (1 - p)^gamma y ln p` covers positives only: with it, saying yes to everything is optimal.
#[test]
fn focal_makes_false_positives_pay() {
    let mut grad = [0.0];
    let value = SigmoidFocal::new().forward_backward(&[2.2f32], &[0.0], Sum, &mut grad).unwrap();
    let p = 1.0 / (1.0 + (-2.2f64).exp());
    close("y = 0, p = 0.9", value, -0.75 * p * p * (1.0 - p).ln(), 1e-6);
    assert!(value > 1.0 && grad[0] > 0.0);
    // Among softmax classes the one-sided form is whole: the others pay through the normalisation.
    let mut grad = [0.0; 3];
    SoftmaxFocal::new().forward_backward(&[0.0f32, 1.0, 0.0], &[0u8], (1, 3), Sum, &mut grad).unwrap();
    assert!(grad[0] < 0.0 && grad[1] > 0.0 && grad[2] > 0.0);
}

/// A clip at 1e-7 has no gradient outside, and in f16 1 - 1e-7 is 1.
#[test]
fn a_certain_mistake_still_has_a_gradient() {
    fn check<T: Element>() {
        for (logit, label) in [(20.0, 0.0), (-20.0, 1.0), (100.0, 0.0)] {
            let mut grad = [T::default()];
            let value =
                BceWithLogits::new().forward_backward(&to(&[logit]), &to::<T>(&[label]), Sum, &mut grad).unwrap();
            assert_eq!((value, grad[0].to_f32()), (logit.abs(), logit.signum()), "{}", T::NAME);
        }
    }
    every_dtype!(check);
    let mut grad = [7.0];
    let clipped = Bce::new().epsilon(1e-7).unwrap();
    clipped.forward_backward(&[0.0f32], &[1.0], Sum, &mut grad).unwrap();
    assert_eq!(grad, [0.0], "which is why the clip is not the default");
    let value = clipped.forward(&to::<f16>(&[1.0, 0.0]), &to(&[0.0, 1.0]), Mean).unwrap();
    assert!(value.is_finite() && value > 15.0, "{value}");
}

/// Written as a sum it is that of one sample; the frameworks average the batch.
#[test]
fn categorical_cross_entropy_averages_the_batch_and_wants_logits() {
    let one = CrossEntropy::new().forward(&[1.0f32, 2.0, 3.0], &[0u8], (1, 3), Mean).unwrap();
    let two = CrossEntropy::new().forward(&[1.0f32, 2.0, 3.0, 1.0, 2.0, 3.0], &[0u8, 0], (2, 3), Mean).unwrap();
    assert_eq!(one, two);
    // A softmax before it: the perfect answer still costs ln(e + 2) - 1.
    let perfect = [1.0f32, 0.0, 0.0];
    close("twice", CrossEntropy::new().forward(&perfect, &[0u8], (1, 3), Mean).unwrap(), 0.5514, 1e-4);
    assert!(CrossEntropyProbs::new().forward(&perfect, &[0u8], (1, 3), Mean).unwrap() < 1e-6);
}

#[test]
fn huber_and_smooth_l1_differ_by_a_factor_of_delta() {
    let value = |e: f32| {
        (Huber::new(2.0).unwrap().forward(&[e], &[0.0], Sum), SmoothL1::new(2.0).unwrap().forward(&[e], &[0.0], Sum))
    };
    assert_eq!(value(1.0), (Ok(0.5), Ok(0.25)));
    assert_eq!(value(2.0), (Ok(2.0), Ok(1.0)), "where the pieces meet");
    assert_eq!(value(5.0), (Ok(8.0), Ok(4.0)));
}

/// PyTorch takes log-probabilities and then the target; Keras probabilities, the target first.
#[test]
fn the_divergence_is_that_of_the_target_from_the_input() {
    let (input, target) = ([0.9f32, 0.1], [0.5, 0.5]);
    let want = 0.5 * (0.5f64 / 0.9).ln() + 0.5 * (0.5f64 / 0.1).ln();
    let log = input.map(f32::ln);
    close("of log-probabilities", KlDiv::new().forward(&log, &target, BatchMean(1)).unwrap(), want, 1e-6);
    close("of probabilities", KlDivProbs::new().forward(&input, &target, BatchMean(1)).unwrap(), want, 1e-6);
    close("its mean is something else", KlDiv::new().forward(&log, &target, Mean).unwrap(), want / 2.0, 1e-6);
    // The other direction is another number.
    assert!((want - (0.9 * (0.9f64 / 0.5).ln() + 0.1 * (0.1f64 / 0.5).ln())).abs() > 0.1);
}

/// `.sum(dim=2).sum(dim=2)` of `(n, c, d, h, w)` leaves `w` unsummed and averages ratios.
#[test]
fn dice_sums_every_axis_of_a_volume() {
    let mut random = Random(6);
    let (p, t) = (random.floats(2 * 3 * 60, 0.0, 1.0), random.floats(2 * 3 * 60, 0.0, 1.0));
    let value = |shape: Shape| DiceLoss::new().forward(&p, &t, shape, Mean).unwrap();
    let flat = value([2, 3, 60].into());
    assert_eq!(value([2, 3, 3, 4, 5].into()), flat);
    assert_eq!(value([2, 3, 12, 5].into()), flat);
    let sum =
        |f: &dyn Fn(usize) -> f32, region: usize| (region * 60..region * 60 + 60).map(|i| f64::from(f(i))).sum::<f64>();
    let region = |r| 1.0 - (2.0 * sum(&|i| p[i] * t[i], r) + 1.0) / (sum(&|i| p[i] + t[i], r) + 1.0);
    close("by hand", flat, (0..6).map(region).sum::<f64>() / 6.0, 1e-6);
}

/// Their sum, 90000, is infinite in f16.
#[test]
fn dice_of_90000_ones_in_f16_is_zero() {
    let ones = vec![f16::ONE; 300 * 300];
    let mut grad = vec![f16::ZERO; ones.len()];
    let value = DiceLoss::new().call(&ones, Target::Dense(&ones), [1, 1, 300, 300]).grad_output(65536.0);
    assert_eq!(value.forward_backward(Mean, &mut grad), Ok(0.0));
    // (s - 2 t) / D is -1 / 180001.
    assert!(grad.iter().all(|g| (g.to_f32() / -0.36409 - 1.0).abs() < 1e-3));
}

/// sigmoid(20) is 1 in f32: on probabilities the loss is capped at 100 and says nothing of the logit.
#[test]
fn a_confident_discriminator_is_scored_on_its_logits() {
    let mut grad = [0.0];
    let on_logits = GanLoss::new(GanMode::NonSaturating).fake_term();
    assert_eq!((on_logits.forward_backward(&[20.0f32], Sum, &mut grad), grad), (Ok(20.0), [1.0]));
    assert_eq!((on_logits.forward_backward(&[500.0f32], Sum, &mut grad), grad), (Ok(500.0), [1.0]));
    let on_probabilities = GanLoss::new(GanMode::Probabilities).fake_term();
    assert_eq!(on_probabilities.forward(&[1.0f32], Sum), Ok(100.0));
    assert!(on_probabilities.forward(&[f16::ONE], Sum) == Ok(100.0), "and not NaN");
}

/// Training the generator against label 1 is the non-saturating game, whatever formula stands above it.
#[test]
fn the_minimax_generator_learns_nothing_while_it_is_bad() {
    let slope = |mode| {
        let mut grad = [0.0];
        GanLoss::new(mode).generator(&[-10.0f32], Mean, &mut grad).unwrap();
        f64::from(grad[0])
    };
    let sigmoid = 1.0 / (1.0 + 10f64.exp());
    assert!((slope(GanMode::Minimax) / -sigmoid - 1.0).abs() < 1e-6, "-4.5e-5");
    assert!((slope(GanMode::NonSaturating) + 1.0 - sigmoid).abs() < 1e-7, "-0.99995");
}

/// The discriminator's value is the sum of two means; CycleGAN and others halve it.
#[test]
fn the_discriminator_is_not_halved() {
    let (real, fake) = ([0.0f32; 3], [0.0f32; 5]);
    let value = GanLoss::default().discriminator_forward(&real, &fake, Mean).unwrap();
    close("both undecided", value, 2.0 * 2f64.ln(), 1e-6);
}

/// PyTorch's HingeEmbeddingLoss is a loss of distances: it would make a right score of 2 cost 2.
#[test]
fn hinge_is_that_of_scores() {
    let value = |x: f32, y: f32| Hinge::new().forward(&[x], &[y], Sum);
    assert_eq!((value(2.0, 1.0), value(-2.0, -1.0)), (Ok(0.0), Ok(0.0)));
    assert_eq!((value(-2.0, 1.0), value(2.0, -1.0)), (Ok(3.0), Ok(3.0)));
}

//! 18 to 23, 40, 42 to 44, 48, 50 and 51: losses of single elements.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;

/// Value and gradient of one element.
fn one<L: Loss, T: Element>(x: f32, t: f32, call: impl for<'a> Fn(&'a [T], &'a [T]) -> Call<'a, L, T>) -> (f32, f32) {
    let mut grad = [T::from_f32(7.0)];
    let value = call(&[T::from_f32(x)], &[T::from_f32(t)]).forward_backward(Sum, &mut grad).unwrap();
    (value, grad[0].to_f32())
}

/// 18
#[test]
fn the_gradient_of_the_absolute_error_is_zero_at_zero() {
    for (x, t) in [(0.0, 0.0), (0.0, -0.0), (-0.0, 0.0), (2.5, 2.5), (-1e30, -1e30)] {
        assert_eq!(one(x, t, |x: &[f32], t| Mae.call(x, t)), (0.0, 0.0), "{x} {t}");
        assert_eq!(one(x, t, |x: &[f32], t| SmoothL1::new(0.0).unwrap().call(x, t)), (0.0, 0.0), "{x} {t}");
    }
}

/// 19
#[test]
fn the_two_pieces_of_huber_meet_at_delta() {
    for delta in [0.25f32, 1.0, 3.0] {
        for sign in [1.0, -1.0] {
            let e = sign * delta;
            let huber = one(e, 0.0, |x: &[f32], t| Huber::new(delta).unwrap().call(x, t));
            assert_eq!(huber, (0.5 * delta * delta, e));
            let smooth = one(e, 0.0, |x: &[f32], t| SmoothL1::new(delta).unwrap().call(x, t));
            assert_eq!(smooth, (0.5 * delta, sign));
        }
    }
}

#[test]
fn huber_of_an_infinite_error_has_the_gradient_of_its_line() {
    let huber = |delta: f32, e: f32| one(e, 0.0, |x: &[f32], t| Huber::new(delta).unwrap().call(x, t));
    assert_eq!(huber(2.0, f32::INFINITY), (f32::INFINITY, 2.0));
    assert_eq!(huber(2.0, f32::NEG_INFINITY), (f32::INFINITY, -2.0));
    assert_eq!(huber(f32::INFINITY, 3.0), (4.5, 3.0));
}

/// 20
#[test]
fn hinge_costs_nothing_from_the_margin_on() {
    for (score, label) in [(1.0, 1.0), (-1.0, -1.0), (1.5, 1.0), (f32::INFINITY, 1.0), (f32::NEG_INFINITY, -1.0)] {
        assert_eq!(one(score, label, |x: &[f32], t| Hinge::new().call(x, t)), (0.0, 0.0), "{score}");
        let (value, grad) = one(score, label, |x: &[f32], t| SquaredHinge::new().call(x, t));
        assert_eq!((value, grad.abs()), (0.0, 0.0), "{score}");
    }
    assert_eq!(one(f32::NEG_INFINITY, 1.0, |x: &[f32], t| Hinge::new().call(x, t)), (f32::INFINITY, -1.0));
}

/// 21
#[test]
fn far_logits_cost_nothing_or_themselves() {
    fn check<T: Element>(x: f32) {
        let loss = |x, t| one(x, t, |x: &[T], t| BceWithLogits::new().call(x, t));
        let x = T::from_f32(x).to_f32();
        for (logit, label, want) in
            [(x, 1.0, (0.0, 0.0)), (x, 0.0, (x, 1.0)), (-x, 0.0, (0.0, 0.0)), (-x, 1.0, (x, -1.0))]
        {
            let (value, grad) = loss(logit, label);
            assert_eq!((value.abs(), grad), want, "{logit} {label} {}", T::NAME);
        }
        assert_eq!(loss(x, 0.5), (0.5 * x, 0.5));
    }
    check::<f32>(1e4);
    check::<half::bf16>(1e4);
    check::<half::f16>(1e4);
    check::<half::f16>(6e4);
    check::<f32>(3e38);
}

#[test]
fn the_gradient_of_an_infinite_logit_is_finite() {
    for (x, t, want) in [(f32::INFINITY, 0.0, 1.0), (f32::INFINITY, 1.0, 0.0), (f32::NEG_INFINITY, 1.0, -1.0)] {
        assert_eq!(one(x, t, |x: &[f32], t| BceWithLogits::new().call(x, t)).1, want);
    }
    assert_eq!(one(f32::INFINITY, 0.0, |x: &[f32], t| BceWithLogits::new().call(x, t)).0, f32::INFINITY);
}

/// Without smoothing, a pair that is told apart for certain costs nothing, not zero times infinity.
#[test]
fn a_certain_preference_costs_nothing_or_infinity() {
    let of = |smoothing: f32, chosen: f32, rejected: f32| {
        let (mut grad, mut grad_target) = ([7.0], [7.0]);
        let loss = Dpo::new(0.5).unwrap().label_smoothing(smoothing).unwrap();
        let value = loss.forward_backward(&[chosen], &[rejected], &[0.0], Sum, &mut grad, &mut grad_target).unwrap();
        (value, grad[0], grad_target[0])
    };
    let inf = f32::INFINITY;
    assert_eq!(of(0.0, -10.0, -inf), (0.0, 0.0, 0.0));
    assert_eq!(of(0.0, -inf, -10.0), (inf, -0.5, 0.5));
    assert_eq!(of(0.25, -10.0, -inf), (inf, 0.125, -0.125));
}

/// What is no label: `1 - p` of it is below zero, and has no power that is not whole.
#[test]
fn focal_of_a_target_above_one_is_no_number() {
    let loss = SigmoidFocal::new().gamma(3.5).unwrap();
    assert!(one(10.0, 1.5, |x: &[f32], t| loss.call(x, t)).0.is_nan());
}

/// 22: where `max(x, 0) - x t + ln(exp(..) + exp(..))` in f32 is 7% off.
#[test]
fn small_losses_of_logits_are_right_to_two_ulp() {
    for x in [-5.0f32, -12.0, -20.0, -80.0] {
        let want = f64::from(x).exp().ln_1p();
        let (value, _) = one(x, 0.0, |x: &[f32], t| BceWithLogits::new().call(x, t));
        let ulp = f64::from(value.next_up()) - f64::from(value);
        assert!((f64::from(value) - want).abs() <= 2.0 * ulp, "{x}: expected {want:e}, got {value:e}");
    }
}

/// What a small smoothing puts on the other answer is most of the loss of a sure prediction; `1 - t` in f32 would have lost half its
/// digits.
#[test]
fn a_small_smoothing_costs_what_it_should() {
    for smoothing in [1e-5f32, 1e-3, 0.017149238] {
        let s = f64::from(smoothing);
        let smoothed = BceWithLogits::new().label_smoothing(smoothing).unwrap();
        let of_probabilities = Bce::new().label_smoothing(smoothing).unwrap();
        for x in [4.0f32, 12.0, -12.0] {
            let (t, z) = (f32::from(x > 0.0), f64::from(x.abs()));
            let soft = (-z).exp().ln_1p();
            let want = (1.0 - 0.5 * s) * soft + 0.5 * s * (soft + z);
            let value = smoothed.forward(&[x], &[t], Reduction::Sum).unwrap();
            close(&format!("{smoothing} {x}"), (f64::from(value) / want) as f32, 1.0, 1e-6);
        }
        for x in [0.999f32, 0.9, 0.001] {
            let (t, p) = (f32::from(x > 0.5), f64::from(x));
            let (right, wrong) = if x > 0.5 { (p.ln(), (-p).ln_1p()) } else { ((-p).ln_1p(), p.ln()) };
            let want = -(1.0 - 0.5 * s) * right - 0.5 * s * wrong;
            let value = of_probabilities.forward(&[x], &[t], Reduction::Sum).unwrap();
            close(&format!("{smoothing} {x}"), (f64::from(value) / want) as f32, 1.0, 1e-6);
        }
    }
}

/// 23: the gradient of 1e12 fits f16 only if something scales it down, but is no NaN either way.
#[test]
fn certain_probabilities_cost_0_or_100() {
    fn check<T: Element>() {
        for (p, label, value, grad) in
            [(0.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 100.0, -1e12), (1.0, 0.0, 100.0, 1e12)]
        {
            let got = one(p, label, |x: &[T], t| Bce::new().call(x, t));
            let stored = T::from_f32(grad).to_f32();
            assert_eq!((got.0.abs(), got.1), (value, stored), "{p} {label} {}", T::NAME);
            let scaled = one(p, label, |x: &[T], t| Bce::new().call(x, t).grad_output(1e-10));
            let want = T::from_f32(grad * 1e-10).to_f32();
            assert!((scaled.1 - want).abs() <= 0.01 * want.abs(), "{p} {label} {}", T::NAME);
        }
    }
    every_dtype!(check);
}

#[test]
fn what_is_no_probability_is_no_number() {
    for p in [-0.1, 1.1, f32::NAN, f32::INFINITY] {
        let (value, grad) = one(p, 1.0, |x: &[f32], t| Bce::new().call(x, t));
        assert!(value.is_nan() && grad.is_nan(), "{p}: {value} {grad}");
    }
}

/// 40
#[test]
fn the_square_of_an_f16_difference_does_not_overflow() {
    assert_eq!(one(300.0, 0.0, |x: &[half::f16], t| Mse::new().call(x, t)), (9e4, 600.0));
}

/// 42: in PyTorch the second and third are NaN.
#[test]
fn a_target_without_probability_costs_nothing() {
    for x in [-1.0, 0.0, f32::NEG_INFINITY] {
        assert_eq!(one(x, 0.0, |x: &[f32], t| KlDiv::new().call(x, t)), (0.0, 0.0), "{x}");
        let log_target = one(x, f32::NEG_INFINITY, |x: &[f32], t| KlDiv::new().log_target(true).call(x, t));
        assert_eq!(log_target, (0.0, 0.0), "{x}");
    }
    let (mut grad, mut grad_target) = ([7.0], [7.0]);
    let call = KlDiv::new().call(&[-1.0f32], &[0.0]).grad_target(&mut grad_target);
    call.forward_backward(Sum, &mut grad).unwrap();
    assert_eq!(grad_target, [0.0]);
    assert!(one(-1.0, -0.5, |x: &[f32], t| KlDiv::new().call(x, t)).0.is_nan(), "a negative probability");
}

/// 43
#[test]
fn a_distribution_does_not_diverge_from_itself() {
    let mut random = Random(43);
    let p: Vec<f32> = {
        let p = random.floats(1000, 0.0, 1.0);
        let sum: f32 = p.iter().sum();
        p.iter().map(|p| p / sum).collect()
    };
    let log: Vec<f32> = p.iter().map(|p| p.ln()).collect();
    let divergences = [
        KlDiv::new().forward(&log, &p, Sum),
        KlDiv::new().log_target(true).forward(&log, &log, Sum),
        KlDivProbs::new().forward(&p, &p, Sum),
        Distillation::new().forward(&log, &log, (10, 100), Sum),
    ];
    for (i, got) in divergences.into_iter().enumerate() {
        assert!(got.clone().unwrap().abs() < 1e-6, "{i}: {got:?}");
    }
}

/// 44 and 48
#[test]
fn focal_with_gamma_zero_is_weighted_cross_entropy_to_the_bit() {
    let mut random = Random(44);
    let x: Vec<f32> = [random.floats(500, -30.0, 30.0), vec![0.0, 1e4, -1e4, 3e38]].concat();
    for (alpha, label) in [(0.25f32, 1.0f32), (0.25, 0.0), (0.75, 1.0)] {
        for &x in &x {
            let focal =
                one(x, label, |x: &[f32], t| SigmoidFocal::new().alpha(alpha).unwrap().gamma(0.0).unwrap().call(x, t));
            let bce = one(x, label, |x: &[f32], t| BceWithLogits::new().call(x, t));
            let alpha = if label == 1.0 { alpha } else { 1.0 - alpha };
            assert_eq!(focal, (alpha * bce.0, alpha * bce.1), "{x} {label}");
        }
    }
}

/// 44: `gamma m^(gamma - 1)` is infinite at m = 0, and torchvision's, smp's and Keras's gradients NaN.
#[test]
fn focal_is_finite_where_a_prediction_saturates() {
    for gamma in [0.5, 1.0, 2.0, 5.0] {
        for x in [20.0, 100.0, 1e4] {
            for (x, label) in [(x, 1.0), (x, 0.0), (-x, 1.0), (-x, 0.0), (x, 0.5)] {
                let (value, grad) = one(x, label, |x: &[f32], t| SigmoidFocal::new().gamma(gamma).unwrap().call(x, t));
                assert!(value.is_finite() && grad.is_finite(), "{gamma} {x} {label}: {value} {grad}");
            }
        }
    }
    let (value, grad) =
        one(20.0, 1.0, |x: &[f32], t| SigmoidFocal::new().alpha(None).unwrap().gamma(0.5).unwrap().call(x, t));
    assert!((value / 9.3576e-14 - 1.0).abs() < 1e-4, "{value:e}");
    assert!((grad / -1.4036e-13 - 1.0).abs() < 1e-4, "{grad:e}");
}

/// 48
#[test]
fn losses_that_are_one_another_in_disguise_agree() {
    let mut random = Random(48);
    let (x, t) = (random.floats(500, -5.0, 5.0), random.floats(500, -5.0, 5.0));
    let same = |what: &str, (a, a_grad): (f32, Vec<f32>), (b, b_grad): (f32, Vec<f32>), factor: f32| {
        close(what, a, f64::from(factor * b), 1e-6);
        a_grad.iter().zip(b_grad).for_each(|(&a, b)| close(what, a, f64::from(factor * b), 1e-6));
    };
    fn run<L: Loss>(call: Call<'_, L, f32>) -> (f32, Vec<f32>) {
        let mut grad = vec![0.0; 500];
        (call.forward_backward(Mean, &mut grad).unwrap(), grad)
    }
    for d in [0.1, 1.0, 2.5] {
        let (huber, smooth) = (Huber::new(d).unwrap().call(&x, &t), SmoothL1::new(d).unwrap().call(&x, &t));
        same("Huber(d) = d SmoothL1(d)", run(huber), run(smooth), d);
    }
    let real = run(GanLoss::default().real_term().call(&x));
    assert_eq!(real, run(BceWithLogits::new().call(&x, &[1.0; 500])), "sp(-R) = BCE with logits(R, 1)");
    let pair = run(RelativisticPair.call(&x, &[0.0; 500]));
    same("sp(F - R) at R = 0", pair, run(BceWithLogits::new().call(&x, &[0.0; 500])), 1.0);

    let logits: Vec<f32> = x.iter().zip(&t).flat_map(|(&x, &t)| [x, t]).collect();
    let gap: Vec<f32> = x.iter().zip(&t).map(|(x, t)| x - t).collect();
    let mut grad = vec![0.0; 1000];
    let value = CrossEntropy::new().forward_backward(&logits, &[0u8; 500], (500, 2), Mean, &mut grad).unwrap();
    let of_first = grad.iter().copied().step_by(2).collect();
    same("two classes are one logit", (value, of_first), run(BceWithLogits::new().call(&gap, &[1.0; 500])), 1.0);
}

/// 50
#[test]
fn keras_labels_are_zero_and_one_only_if_all_of_them_are() {
    let value = |labels, t: [f32; 2]| Hinge::new().labels(labels).forward(&[0.5, 0.25], &t, Sum).unwrap();
    assert_eq!(value(HingeLabels::Keras, [0.0, 1.0]), 1.5 + 0.75);
    assert_eq!(value(HingeLabels::Keras, [0.0, 1.0]), value(HingeLabels::Signed, [-1.0, 1.0]));
    // One -1 leaves the 0 as it is: it costs 1 and has no gradient.
    assert_eq!(value(HingeLabels::Keras, [0.0, -1.0]), 1.0 + 1.25);
    assert_eq!(value(HingeLabels::ZeroOne, [0.0, 1.0]), 1.5 + 0.75);
}

/// 51
#[test]
fn focal_takes_soft_targets() {
    let (value, _) = one(0.3, 0.5, |x: &[f32], t| SigmoidFocal::new().alpha(None).unwrap().call(x, t));
    close("focal at x = 0.3, t = 0.5", value, 0.17608881, 1e-7);
}

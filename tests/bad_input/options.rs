//! Every setter, with what it takes and what it does not.

use fused_loss::*;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;
/// The smallest number above zero, and the largest finite one.
const TINY: f32 = 1e-45;
const HUGE: f32 = f32::MAX;

/// A setter: its option, good values, bad values.
type Setter = (&'static str, fn(f32) -> Result<()>, &'static [f32], &'static [f32]);

const SETTERS: &[Setter] = &[
    ("delta", |x| Huber::new(x).map(drop), &[TINY, HUGE, INF], &[0.0, -0.0, -TINY, -1.0, -INF, NAN]),
    (
        "beta",
        |x| SmoothL1::new(x).map(drop),
        &[0.0, -0.0, f32::MIN_POSITIVE, HUGE],
        &[TINY, -TINY, -1.0, INF, -INF, NAN],
    ),
    ("epsilon", |x| Bce::new().epsilon(x).map(drop), &[0.0, TINY, 0.499], &[0.5, 1.0, -TINY, INF, -INF, NAN]),
    ("label_smoothing", |x| Bce::new().label_smoothing(x).map(drop), &[0.0, 1.0], &[-TINY, 1.0001, INF, -INF, NAN]),
    ("pos_weight", |x| BceWithLogits::new().pos_weight(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    (
        "label_smoothing",
        |x| BceWithLogits::new().label_smoothing(x).map(drop),
        &[0.0, 1.0],
        &[-TINY, 1.0001, INF, -INF, NAN],
    ),
    ("epsilon", |x| KlDivProbs::new().epsilon(x).map(drop), &[TINY, 0.999], &[0.0, 1.0, -1.0, INF, -INF, NAN]),
    ("alpha", |x| SigmoidFocal::new().alpha(x).map(drop), &[0.0, 1.0], &[-TINY, 1.0001, INF, -INF, NAN]),
    ("gamma", |x| SigmoidFocal::new().gamma(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("gamma", |x| SoftmaxFocal::new().gamma(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    (
        "label_smoothing",
        |x| CrossEntropy::new().label_smoothing(x).map(drop),
        &[0.0, 1.0],
        &[-TINY, 1.0001, INF, -INF, NAN],
    ),
    ("z_loss", |x| CrossEntropy::new().z_loss(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("softcap", |x| CrossEntropy::new().softcap(x).map(drop), &[1e-30, HUGE], &[0.0, -0.0, -TINY, INF, -INF, NAN]),
    ("epsilon", |x| CrossEntropyProbs::new().epsilon(x).map(drop), &[TINY, 0.499], &[0.0, 0.5, -1.0, INF, -INF, NAN]),
    (
        "label_smoothing",
        |x| CrossEntropyProbs::new().label_smoothing(x).map(drop),
        &[0.0, 1.0],
        &[-TINY, 1.0001, INF, NAN],
    ),
    (
        "temperature",
        |x| Distillation::new().temperature(x).map(drop),
        &[1e-30, 1e18],
        &[0.0, -0.0, -1.0, TINY, 1e20, INF, -INF, NAN],
    ),
    ("margin", |x| MultiMargin::new().margin(x).map(drop), &[0.0, -1.0, HUGE], &[INF, -INF, NAN]),
    ("lambda", |x| GradientPenalty::wgan_gp(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("gamma", |x| GradientPenalty::r1(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("smooth_nr", |x| DiceLoss::new().smooth_nr(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("smooth_dr", |x| DiceLoss::new().smooth_dr(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("smooth_nr", |x| TverskyLoss::default().smooth(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("alpha", |x| TverskyLoss::new(x, 0.5).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("beta", |x| TverskyLoss::new(0.5, x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("quantile", |x| Quantile::new(x).map(drop), &[TINY, 0.999], &[0.0, 1.0, -TINY, INF, -INF, NAN]),
    ("eps", |x| PoissonNll::new().eps(x).map(drop), &[0.0, TINY, HUGE], &[-TINY, INF, -INF, NAN]),
    ("eps", |x| GaussianNll::new().eps(x).map(drop), &[f32::MIN_POSITIVE, HUGE], &[0.0, TINY, -1.0, INF, -INF, NAN]),
    ("margin", |x| MarginRanking::new(x).map(drop), &[0.0, -1.0, HUGE], &[INF, -INF, NAN]),
    ("beta", |x| Dpo::new(x).map(drop), &[1e-37, HUGE], &[0.0, TINY, -1.0, INF, -INF, NAN]),
    ("label_smoothing", |x| Dpo::default().label_smoothing(x).map(drop), &[0.0, 0.499], &[0.5, -TINY, INF, NAN]),
    ("margin", |x| CosineEmbedding::new(x).map(drop), &[-1.0, 0.0, 1.0], &[-1.0001, 1.0001, INF, -INF, NAN]),
    ("margin", |x| TripletMargin::new().margin(x).map(drop), &[TINY, HUGE], &[0.0, -1.0, INF, -INF, NAN]),
    ("eps", |x| TripletMargin::new().eps(x).map(drop), &[0.0, HUGE], &[-TINY, INF, -INF, NAN]),
    ("beta", |x| Jsd::new().beta(x).map(drop), &[TINY, 1.0], &[0.0, -TINY, 1.0001, INF, -INF, NAN]),
    ("temperature", |x| Jsd::new().temperature(x).map(drop), &[1e-30, 1e18], &[0.0, -1.0, TINY, INF, -INF, NAN]),
    ("gamma", |x| TverskyLoss::default().focal(x).map(drop), &[TINY, HUGE], &[0.0, -0.0, -1.0, INF, -INF, NAN]),
    ("eps", |x| BoxIou::iou().eps(x).map(drop), &[f32::MIN_POSITIVE, HUGE], &[0.0, TINY, -1.0, INF, -INF, NAN]),
    ("real_label", |x| GanLoss::default().real_label(x).map(drop), &[0.0, 1.0], &[-TINY, 1.0001, INF, -INF, NAN]),
];

#[test]
fn an_impossible_option_is_refused_when_it_is_set() {
    for (option, set, good, bad) in SETTERS {
        for &value in *good {
            assert_eq!(set(value), Ok(()), "{option}");
        }
        for &value in *bad {
            let error = set(value).expect_err(option);
            let Error::Option { name, expected, got } = error else { panic!("{option}: {error}") };
            assert_eq!((name, got.to_bits()), (*option, f64::from(value).to_bits()));
            assert_eq!(error.to_string(), format!("{option}: expected {expected}, got {}", f64::from(value)));
        }
    }
    for p in [0, 3, u32::MAX] {
        assert_eq!(MultiMargin::new().p(p), Err(Error::Option { name: "p", expected: "1 or 2", got: p.into() }));
    }
}

#[test]
fn options_that_are_off_are_not_numbers() {
    assert_eq!(CrossEntropy::new().softcap(30.0).unwrap().softcap(None), Ok(CrossEntropy::new()));
    assert!(SigmoidFocal::new().alpha(None).is_ok());
    for mode in [GanMode::Wasserstein, GanMode::Hinge] {
        let error = GanLoss::new(mode).real_label(0.9).unwrap_err();
        assert_eq!(error.to_string(), "GAN loss: a real label in a mode without labels is not supported");
    }
}

/// Names that would not be names in C, or of something else.
#[test]
fn a_custom_loss_is_refused_when_it_is_defined_badly() {
    let formula = |x: f32, _: f32, [_]: [f32; 1]| (x, 1.0);
    for bad in ["", "x", "t", "value", "grad", "2nd", "a b", "a-b", "\u{3b1}", "a;", "a\n"] {
        let Err(Error::Custom { loss: "mine", problem }) = Custom::new("mine", [(bad, 1.0)], formula) else {
            panic!("{bad:?}")
        };
        assert!(problem.contains(bad), "{problem}");
    }
    for bad in ["", "a\"b", "a\\b", "a\nb", "a\0b"] {
        assert!(matches!(Custom::new(bad, [("a", 1.0)], formula), Err(Error::Custom { .. })), "{bad:?}");
    }
    let twice = Custom::new("mine", [("a", 1.0), ("a", 2.0)], |x, _, [_, _]| (x, 1.0));
    assert!(matches!(twice, Err(Error::Custom { .. })));
    let loss = Custom::new("mine", [("a", 1.0), ("_b2", 2.0)], |x, t, [a, b]| (a * x - b * t, a)).unwrap();
    for unknown in ["", "c", "A"] {
        let refused = loss.option(unknown, 1.0).unwrap_err();
        assert_eq!(refused.to_string(), format!("custom loss `mine`: it has no option `{unknown}`"));
    }
    // Any value is one, and goes to its place.
    let set = loss.option("_b2", NAN).unwrap().option("a", INF).unwrap().option("_b2", 3.0).unwrap();
    assert_eq!(set.option("a", 4.0).unwrap().forward(&[1.0f32], &[1.0], Reduction::Sum), Ok(1.0));
    assert_eq!(format!("{set:?}"), "Custom(mine, a = inf, _b2 = 3)");
    // What it does not do.
    let mut grad = [0.0f32];
    let refused = loss.call(&[1.0f32], &[1.0]).grad_target(&mut grad).forward_backward(Reduction::Sum, &mut [0.0]);
    assert!(matches!(refused, Err(Error::Unsupported { loss: "custom loss", .. })));
    let refused = loss.call(&[1.0f32], &[1.0]).class_weight(&[1.0]).forward(Reduction::Sum);
    assert!(matches!(refused, Err(Error::Unsupported { loss: "custom loss", .. })));
}

//! Sums of losses by `fl_sum`, against the sums of the crate.

use super::*;
use crate::losses::sums::*;

/// Options of this type with some of their fields set.
macro_rules! options {
    ($options:ident { $($field:ident: $value:expr),* }) => {{
        let mut options = <$options as crate::structs::Versioned>::defaults();
        $(options.$field = $value;)*
        options
    }};
}

fn term<O>(loss: fl_term_loss, weight: f32, options: &O) -> fl_term {
    let none = size_of::<O>() == 0;
    fl_term {
        loss: loss as i32,
        weight,
        options: if none { std::ptr::null() } else { std::ptr::from_ref(options).cast() },
    }
}

#[test]
fn every_sum_is_the_one_it_says() {
    use fl_term_loss::*;
    let (x, t) = (numbers(N, 1), numbers(N, 2));
    let p: Vec<f32> = x.iter().map(|x| 1.0 / (1.0 + x.exp())).collect();
    let hard: Vec<f32> = t.iter().map(|&t| f32::from(t > 0.0)).collect();
    let (real, masks) = (Given::Dense(&t), Given::Dense(&hard));
    macro_rules! sum {
        ($terms:expr, $loss:expr, $given:expr, $shape:expr, $losses:expr) => {{
            let terms = $terms;
            let run = |h, c| unsafe { fl_sum(h, terms.as_ptr(), terms.len(), c) };
            check!(@ stringify!($loss), $loss, run, $given, $shape, $losses);
        }};
    }
    let huber = options!(fl_huber_options { delta: 0.5 });
    let of_two = [term(FL_TERM_MSE, 0.75, &()), term(FL_TERM_HUBER, -0.25, &huber)];
    sum!(of_two, 0.75 * Mse::new() - 0.25 * Huber::new(0.5).unwrap(), (&x, real), None, N);
    let smooth = options!(fl_smooth_l1_options { beta: 2.0 });
    let of_three = [term(FL_TERM_MAE, 1.0, &()), term(FL_TERM_SMOOTH_L1, 2.0, &smooth), term(FL_TERM_MSE, 1.0, &())];
    sum!(of_three, Mae::new() + 2.0 * SmoothL1::new(2.0).unwrap() + Mse::new(), (&x, real), None, N);
    let (hinge, squared) = (options!(fl_hinge_options { labels: 1 }), options!(fl_squared_hinge_options { labels: 1 }));
    let of_labels = [
        term(FL_TERM_HINGE, 1.0, &hinge),
        term(FL_TERM_SQUARED_HINGE, 0.5, &squared),
        term(FL_TERM_BCE_WITH_LOGITS, 0.5, &()),
        term(FL_TERM_SIGMOID_FOCAL, 3.0, &options!(fl_sigmoid_focal_options { gamma: 1.5 })),
    ];
    let labels = HingeLabels::ZeroOne;
    let own = Hinge::new().labels(labels)
        + 0.5 * SquaredHinge::new().labels(labels)
        + 0.5 * BceWithLogits::new()
        + 3.0 * SigmoidFocal::new().gamma(1.5).unwrap();
    sum!(of_labels, own, (&x, masks), None, N);
    let of_probabilities =
        [term(FL_TERM_BCE, 1.0, &()), term(FL_TERM_KL_DIV, 0.5, &()), term(FL_TERM_KL_DIV_PROBS, 0.25, &())];
    let own = Bce::new() + 0.5 * KlDiv::new() + 0.25 * KlDivProbs::new();
    sum!(of_probabilities, own, (&p, masks), None, N);
    let of_counts = [
        term(FL_TERM_POISSON_NLL, 1.0, &options!(fl_poisson_nll_options { full: 1 })),
        term(FL_TERM_LOG_COSH, 0.5, &()),
        term(FL_TERM_QUANTILE, 0.25, &options!(fl_quantile_options { quantile: 0.9 })),
        term(FL_TERM_SOFT_MARGIN, -0.125, &()),
    ];
    let own = PoissonNll::new().full(true) + 0.5 * LogCosh::new() + 0.25 * Quantile::new(0.9).unwrap();
    sum!(of_counts, own - 0.125 * SoftMargin::new(), (&x, real), None, N);
    let of_rates = [
        term(FL_TERM_POISSON_NLL, 1.0, &options!(fl_poisson_nll_options { log_input: 0, eps: 0.125 })),
        term(FL_TERM_MSE, 0.5, &()),
    ];
    let own = PoissonNll::new().log_input(false).eps(0.125).unwrap() + 0.5 * Mse::new();
    sum!(of_rates, own, (&p, masks), None, N);
}

#[test]
fn every_sum_of_regions_is_the_one_it_says_with_its_terms() {
    use fl_term_loss::*;
    let (cpu, x) = (Cpu::new(), numbers(N, 1));
    let hard: Vec<f32> = numbers(N, 2).iter().map(|&t| f32::from(t > 0.0)).collect();
    let index: Vec<i64> = (0..10).map(|i| i % 3).collect();
    let same = |terms: [fl_term; 2], own: CombinedRegions, index: Option<&[i64]>| {
        let (mut value, mut grad, mut parts) = ([f32::NAN], vec![f32::NAN; N], [f32::NAN; 2]);
        let mut call = new_call();
        (call.input, call.target) = (read(&x), index.map_or(read(&hard), read));
        (call.outer, call.classes, call.inner) = REGIONS.into();
        if index.is_some() {
            call.target_kind = fl_target::FL_TARGET_I64 as i32;
        }
        (call.value, call.grad_input, call.terms) = (write(&mut value), write(&mut grad), write(&mut parts));
        let done = unsafe { fl_sum(cpu.0, terms.as_ptr(), terms.len(), &raw const call) };
        assert_eq!(done, FL_OK, "{own:?}: {}", message());
        let (mut slopes, mut of_own) = (vec![f32::NAN; N], [f32::NAN; 2]);
        let target = index.map_or(Target::Dense(&hard), Target::I64);
        let whole = own.call(&x, target, REGIONS).terms(&mut of_own).forward_backward(Reduction::Mean, &mut slopes);
        assert_eq!((value[0], grad, parts), (whole.unwrap(), slopes, of_own), "{own:?}");
    };
    let softmax = options!(fl_dice_options { activation: 2 });
    let smoothed = options!(fl_cross_entropy_options { label_smoothing: 0.1 });
    let dice = DiceLoss::new().softmax();
    let of_two = [term(FL_TERM_CROSS_ENTROPY, 0.5, &smoothed), term(FL_TERM_DICE, 0.75, &softmax)];
    same(of_two, 0.75 * dice + 0.5 * CrossEntropy::new().label_smoothing(0.1).unwrap(), Some(&index));
    let gamma = options!(fl_softmax_focal_options { gamma: 3.0 });
    let of_two = [term(FL_TERM_DICE, 0.75, &softmax), term(FL_TERM_SOFTMAX_FOCAL, 0.5, &gamma)];
    same(of_two, 0.75 * dice + 0.5 * SoftmaxFocal::new().gamma(3.0).unwrap(), Some(&index));
    let sharp = options!(fl_tversky_options { activation: 2, alpha: 0.3, focal: 0.75 });
    let tversky = TverskyLoss::new(0.3, 0.5).unwrap().focal(0.75).unwrap();
    let of_two = [term(FL_TERM_TVERSKY, 1.0, &sharp), term(FL_TERM_CROSS_ENTROPY, 2.0, &())];
    same(of_two, tversky.softmax() + 2.0 * CrossEntropy::new(), None);
    let of_two = [term(FL_TERM_SOFTMAX_FOCAL, 2.0, &()), term(FL_TERM_TVERSKY, 1.0, &sharp)];
    same(of_two, tversky.softmax() + 2.0 * SoftmaxFocal::new(), Some(&index));
    let sigmoid = options!(fl_dice_options { activation: 1, jaccard: 1 });
    let of_two = [term(FL_TERM_DICE, 1.0, &sigmoid), term(FL_TERM_SIGMOID_FOCAL, 0.5, &())];
    same(of_two, DiceLoss::new().jaccard(true).sigmoid() + 0.5 * SigmoidFocal::new(), None);
    let sigmoid = options!(fl_tversky_options { activation: 1, alpha: 0.3, focal: 0.75 });
    let positive = options!(fl_bce_with_logits_options { pos_weight: 2.0 });
    let of_two = [term(FL_TERM_BCE_WITH_LOGITS, 0.5, &positive), term(FL_TERM_TVERSKY, 2.0, &sigmoid)];
    same(of_two, 2.0 * tversky.sigmoid() + 0.5 * BceWithLogits::new().pos_weight(2.0).unwrap(), None);
}

#[test]
fn a_sum_of_cross_entropy_and_distillation_has_three_terms() {
    use fl_term_loss::*;
    let (cpu, x, t) = (Cpu::new(), numbers(N, 1), numbers(N, 2));
    let known = [0i64, 4, 2, -100, 1, 3];
    let hard = options!(fl_cross_entropy_options { label_smoothing: 0.1, z_loss: 0.01 });
    let soft = options!(fl_distillation_options { temperature: 2.0, scale_by_t2: 0 });
    let terms = [term(FL_TERM_CROSS_ENTROPY, 0.25, &hard), term(FL_TERM_DISTILLATION, 0.75, &soft)];
    let own = 0.25 * CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(0.01).unwrap()
        + 0.75 * Distillation::new().temperature(2.0).unwrap().scale_by_t2(false);
    let (run, given) =
        (|h, c| unsafe { fl_sum(h, terms.as_ptr(), terms.len(), c) }, (&x, Given::Index(&known), &t[..]));
    check!(@ "cross-entropy and distillation", own, run, given, Some(Shape::from((ROWS, CLASSES))), ROWS);

    let (mut value, mut parts) = ([f32::NAN], [f32::NAN; 3]);
    let mut call = new_call();
    (call.input, call.target, call.third) = (read(&x), read(&known), read(&t));
    call.target_kind = fl_target::FL_TARGET_I64 as i32;
    (call.outer, call.classes) = (ROWS, CLASSES);
    (call.value, call.terms) = (write(&mut value), write(&mut parts));
    assert_eq!(run(cpu.0, &raw const call), FL_OK, "{}", message());
    let mut of_own = [f32::NAN; 3];
    let whole = own.call(&x, &known, &t, (ROWS, CLASSES)).terms(&mut of_own).forward(Reduction::Mean);
    assert_eq!((value[0], parts), (whole.unwrap(), of_own));
    call.terms.len = 2;
    assert_eq!(run(cpu.0, &raw const call), FL_ERROR_LENGTH);
    assert_eq!(message(), "terms: expected 3 elements, got 2");
}

#[test]
fn sums_that_are_refused() {
    use fl_term_loss::*;
    let (cpu, x) = (Cpu::new(), numbers(N, 1));
    let (mut value, mse) = ([7.0], term(FL_TERM_MSE, 1.0, &()));
    let mut call = new_call();
    (call.input, call.target, call.value) = (read(&x), read(&x), write(&mut value));
    let sum = |terms: &[fl_term], count: usize| unsafe { fl_sum(cpu.0, terms.as_ptr(), count, &raw const call) };
    assert_eq!(sum(&[mse], 0), FL_ERROR_OPTION);
    assert_eq!(message(), "count: expected 1 to 4 terms, got 0");
    assert_eq!(sum(&[mse; 5], 5), FL_ERROR_OPTION);
    assert_eq!(sum(&[fl_term { loss: 99, ..mse }], 1), FL_ERROR_OPTION);
    assert_eq!(message(), "loss: 99 is no fl_term_loss");
    assert_eq!(sum(&[fl_term { weight: f32::NAN, ..mse }], 1), FL_ERROR_OPTION);
    let huber = options!(fl_huber_options { delta: -1.0 });
    assert_eq!(sum(&[mse, term(FL_TERM_HUBER, 1.0, &huber)], 2), FL_ERROR_OPTION);
    let (dice, distillation) = (term(FL_TERM_DICE, 1.0, &()), term(FL_TERM_DISTILLATION, 1.0, &()));
    for terms in [&[dice][..], &[dice, dice], &[mse, distillation], &[dice, distillation], &[distillation]] {
        assert_eq!(sum(terms, terms.len()), FL_ERROR_UNSUPPORTED, "{}", message());
    }
    assert_eq!(message(), "a sum of these losses is not supported");
    assert_eq!(unsafe { fl_sum(cpu.0, std::ptr::null(), 1, &raw const call) }, FL_ERROR_NULL);
    assert_eq!(value, [7.0]);
}

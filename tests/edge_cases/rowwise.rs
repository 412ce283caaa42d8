//! 24 to 31: losses with classes.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum, WeightedMean};
use fused_loss::*;

const INF: f32 = f32::INFINITY;

/// Runs a call of every loss that ignores rows.
fn ignoring<T: Element>(input: &[T], classes: &[i64], shape: Shape, check: impl Fn(&str, Reduction, f32, Vec<T>)) {
    fn run<L: Loss, T: Element>(call: Call<'_, L, T>, reduction: Reduction, n: usize) -> (f32, Vec<T>) {
        let mut grad = vec![T::from_f32(7.0); n];
        (call.forward_backward(reduction, &mut grad).unwrap(), grad)
    }
    let (n, target) = (input.len(), Target::I64(classes));
    let smoothed = CrossEntropy::new().label_smoothing(0.1).unwrap().z_loss(0.1).unwrap().softcap(30.0).unwrap();
    for reduction in [Mean, Sum, WeightedMean] {
        let all = [
            ("cross-entropy", run(CrossEntropy::new().call(input, target, shape), reduction, n)),
            ("its options", run(smoothed.call(input, target, shape), reduction, n)),
            ("on probabilities", run(CrossEntropyProbs::new().call(input, target, shape), reduction, n)),
            ("NLL", run(Nll::new().call(input, target, shape), reduction, n)),
            ("softmax focal", run(SoftmaxFocal::new().call(input, target, shape), reduction, n)),
        ];
        all.into_iter().for_each(|(name, (value, grad))| check(name, reduction, value, grad));
    }
}

/// 24
#[test]
fn a_mean_of_ignored_rows_is_nan_and_their_gradient_zero() {
    fn check<T: Element>() {
        let input = to::<T>(&[0.5; 12]);
        ignoring(&input, &[-100; 4], (4, 3).into(), |name, reduction, value, grad| {
            assert!(if reduction == Sum { value == 0.0 } else { value.is_nan() }, "{name} {reduction:?}: {value}");
            assert_eq!(from(&grad), [0.0; 12], "{name} {reduction:?}");
        });
    }
    every_dtype!(check);
}

/// 25: in PyTorch the gradient of such a row is NaN. With 9000 classes a row does not fit the buffer.
#[test]
fn what_an_ignored_row_holds_does_not_matter() {
    fn check<T: Element>() {
        for (classes, inner) in [(3, 1), (3, 5), (40, 1), (9000, 1)] {
            let (outer, rows, mut random) = (4, 4 * inner, Random(25));
            let clean = to::<T>(&random.floats(rows * classes, 0.1, 0.9));
            let target: Vec<i64> = (0..rows).map(|r| if r % 2 == 0 { -100 } else { r as i64 % 3 }).collect();
            let mut dirty = clean.clone();
            for (i, x) in dirty.iter_mut().enumerate() {
                let row = i / (classes * inner) * inner + i % inner;
                if target[row] == -100 {
                    *x = T::from_f32(random.pick(&[f32::NAN, INF, -INF]));
                }
            }
            let (expected, shape) = (std::cell::RefCell::new(vec![]), Shape::from([outer, classes, inner]));
            ignoring(&clean, &target, shape, |_, _, value, grad| {
                expected.borrow_mut().push((value.to_bits(), bits(&grad)))
            });
            ignoring(&dirty, &target, shape, |name, reduction, value, grad| {
                assert_eq!(
                    (value.to_bits(), bits(&grad)),
                    expected.borrow_mut().remove(0),
                    "{name} {reduction:?} {classes}"
                );
            });
        }
    }
    every_dtype!(check);
}

#[test]
fn an_ignored_row_in_place_becomes_zero_and_accumulated_stays() {
    let mut buffer = [f32::NAN, INF, 1.0, 2.0];
    CrossEntropy::new().forward_backward_in_place(&mut buffer, &[-100i64, 0], (2, 2), Sum).unwrap();
    assert_eq!(buffer[..2], [0.0; 2]);
    let mut grad = [5.0, 6.0, 0.0, 0.0];
    CrossEntropy::new()
        .call(&[f32::NAN, INF, 1.0, 2.0], &[-100i64, 0], (2, 2))
        .accumulate()
        .forward_backward(Sum, &mut grad)
        .unwrap();
    assert_eq!(grad[..2], [5.0, 6.0]);
}

/// Value and gradient of one row.
fn row(loss: CrossEntropy, logits: &[f32], target: Target<'_, f32>) -> (f32, Vec<f32>) {
    let mut grad = vec![7.0; logits.len()];
    let mut in_place = logits.to_vec();
    let value = loss.call(logits, target, (1, logits.len())).forward_backward(Sum, &mut grad).unwrap();
    loss.call_in_place(&mut in_place, target, (1, logits.len())).forward_backward(Sum).unwrap();
    assert_eq!(bits(&in_place), bits(&grad), "in place");
    (value, grad)
}

/// 26
#[test]
fn a_masked_class_is_free_unless_the_target_asks_for_it() {
    let (plain, smoothed) = (CrossEntropy::new(), CrossEntropy::new().label_smoothing(0.1).unwrap());
    let logits = [1.0, -INF, 2.0];
    let (value, grad) = row(plain, &logits, Target::U8(&[2]));
    close("value", value, (-1f64).exp().ln_1p(), 1e-6);
    assert_eq!(grad[1], 0.0);
    let (value, grad) = row(smoothed, &logits, Target::U8(&[2]));
    assert_eq!(value, INF, "smoothing asks for every class");
    assert!(grad.iter().all(|g| g.is_finite()));
    let (value, grad) = row(plain, &logits, Target::U8(&[1]));
    assert_eq!((value, grad[1]), (INF, -1.0));
    for broken in [[-INF; 3], [INF, 0.0, 1.0], [INF, INF, -INF], [f32::NAN, 0.0, 1.0], [-INF, f32::NAN, -INF]] {
        for target in [Target::U8(&[2]), Target::Dense(&[0.2, 0.3, 0.5])] {
            let (value, grad) = row(plain, &broken, target);
            assert!(value.is_nan() && grad.iter().all(|g| g.is_nan()), "{broken:?}: {value} {grad:?}");
        }
    }
}

/// 26: an online softmax meets `exp(-inf + inf)` there.
#[test]
fn a_row_may_begin_with_any_number_of_masked_classes() {
    for (classes, masked) in [(20, 16), (40, 32), (300, 256), (9000, 8192), (20_000, 16_384), (20_000, 19_999)] {
        let mut logits = vec![-INF; classes];
        logits[masked..].fill(0.5);
        let (value, grad) = row(CrossEntropy::new(), &logits, Target::I64(&[classes as i64 - 1]));
        close(&format!("{classes} {masked}"), value, ((classes - masked) as f64).ln(), 1e-6);
        let p = 1.0 / (classes - masked) as f64;
        assert!(grad[..masked].iter().all(|&g| g == 0.0));
        close("target", grad[classes - 1], p - 1.0, 1e-6);
    }
}

/// 27: zero times infinity is NaN in PyTorch.
#[test]
fn a_masked_class_with_a_dense_target_of_zero_costs_nothing() {
    let (value, grad) = row(CrossEntropy::new(), &[1.0, -INF, 2.0], Target::Dense(&[0.25, 0.0, 0.75]));
    let (want, want_grad) = row(CrossEntropy::new(), &[1.0, 2.0], Target::Dense(&[0.25, 0.75]));
    assert_eq!((value, grad[0], grad[1], grad[2]), (want, want_grad[0], 0.0, want_grad[1]));
    let (mut grad, mut grad_target) = ([0.0; 3], [7.0; 3]);
    let call = Distillation::new().call(&[1.0, -INF, 2.0], &[0.5, -INF, 1.0], (1, 3)).grad_target(&mut grad_target);
    assert!(call.forward_backward(Sum, &mut grad).unwrap().is_finite());
    assert!(grad.iter().chain(&grad_target).all(|g| g.is_finite()) && grad[1] == 0.0 && grad_target[1] == 0.0);
}

/// 28: the logits are eighths, so that 1000 is added without rounding.
#[test]
fn a_shift_of_all_logits_changes_nothing_and_gradients_of_a_row_sum_to_zero() {
    let mut random = Random(28);
    for classes in [2, 16, 17, 1000, 9000] {
        let logits: Vec<f32> = (0..classes).map(|_| random.below(80) as f32 / 8.0).collect();
        let shifted: Vec<f32> = logits.iter().map(|z| z + 1000.0).collect();
        let dense = random.floats(classes, 0.0, 1.0);
        let smoothed = CrossEntropy::new().label_smoothing(0.2).unwrap();
        for target in [Target::U8(&[1]), Target::Dense(&dense)] {
            for loss in [CrossEntropy::new(), smoothed] {
                let (value, grad) = row(loss, &logits, target);
                let moved = row(loss, &shifted, target);
                // The part of the value that is `mass * max - sum a z` cancels exactly.
                close("value", moved.0, value.into(), 1e-6);
                assert_eq!(bits(&moved.1), bits(&grad), "{classes}");
                let (sum, size) = grad.iter().fold((0.0, 0.0), |(s, a), &g| (s + f64::from(g), a + f64::from(g.abs())));
                assert!(f64::abs(sum) <= 1e-6 * size, "{classes}: {sum} of {size}");
            }
        }
    }
}

/// One row, `copies` times side by side with the classes on axis 1: value and gradient of the last.
fn strided(loss: CrossEntropy, logits: &[f32], dense: &[f32], copies: usize) -> (f32, Vec<f32>) {
    let spread = |x: &[f32]| x.iter().flat_map(|&x| std::iter::repeat_n(x, copies)).collect::<Vec<f32>>();
    let (logits, dense) = (spread(logits), spread(dense));
    let (mut losses, mut grad, n) = (vec![0.0; copies], vec![0.0; logits.len()], logits.len() / copies);
    let call = loss.call(&logits, &dense, [1, n, copies]);
    call.forward_backward_unreduced(&vec![1.0; copies], &mut losses, &mut grad).unwrap();
    (losses[copies - 1], grad.chunks(copies).map(|c| c[copies - 1]).collect())
}

/// Value and gradient in f64, without smoothing.
fn exact(logits: &[f32], dense: &[f32]) -> (f64, Vec<f64>) {
    let max = logits.iter().fold(f32::MIN, |a, &z| a.max(z));
    let e: Vec<f64> = logits.iter().map(|&z| (f64::from(z) - f64::from(max)).exp()).collect();
    let (sum, mass): (f64, f64) = (e.iter().sum(), dense.iter().map(|&q| f64::from(q)).sum());
    let cost = |(&q, &z): (&f32, &f32)| f64::from(q) * (sum.ln() + f64::from(max) - f64::from(z));
    let grad = e.iter().zip(dense).map(|(e, &q)| mass * e / sum - f64::from(q)).collect();
    (dense.iter().zip(logits).map(cost).sum(), grad)
}

/// Logits of zero are how a classifier begins: every class is the maximum, and none is near 1. And
/// sums of equal numbers are where roundings of f32 do not cancel.
#[test]
fn equal_logits_have_a_loss_and_a_gradient_as_exact_as_any() {
    let mut wrong = vec![];
    for classes in [2, 10, 60, 250, 1000, 9000] {
        let dense = Random(280).floats(classes, 0.0, 2.0 / classes as f32);
        let tied = vec![0.25; classes];
        let one_above: Vec<f32> = (0..classes).map(|k| if k == 1 { 0.0 } else { -0.7 }).collect();
        for logits in [tied, one_above] {
            let (value, want) = exact(&logits, &dense);
            let largest = want.iter().fold(0f64, |m, w| m.max(w.abs()));
            let in_rows = row(CrossEntropy::new(), &logits, Target::Dense(&dense));
            for (layout, (got, grad)) in
                [("rows", in_rows), ("axis 1", strided(CrossEntropy::new(), &logits, &dense, 3))]
            {
                let errors = grad.into_iter().zip(&want).map(|(got, want)| (f64::from(got) - want).abs());
                let errors = [(f64::from(got) / value - 1.0).abs(), errors.fold(0.0, f64::max) / largest];
                if errors.iter().any(|&e| e.is_nan() || e > 1e-6) {
                    wrong.push(format!(
                        "{classes} classes on {layout}, the first {}: {:.1e} {:.1e}",
                        logits[0], errors[0], errors[1]
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "relative errors of value and gradient:\n{}", wrong.join("\n"));
}

/// 29: index targets divide by the weights of the targets, dense ones by the rows.
#[test]
fn a_one_hot_target_is_its_index_but_for_the_mean_under_weights() {
    let mut random = Random(29);
    let (rows, classes) = (20, 19);
    let logits = random.floats(rows * classes, -3.0, 3.0);
    let index: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
    let mut one_hot = vec![0.0f32; rows * classes];
    index.iter().enumerate().for_each(|(r, &t)| one_hot[r * classes + t as usize] = 1.0);
    let weight = random.floats(classes, 0.5, 2.0);
    let of_targets: f64 = index.iter().map(|&t| f64::from(weight[t as usize])).sum();
    for smoothing in [0.0, 0.1] {
        let loss = CrossEntropy::new().label_smoothing(smoothing).unwrap();
        let run = |target: Target<'_, f32>, weight: Option<&[f32]>, reduction| {
            let mut grad = vec![0.0; rows * classes];
            let call = loss.call(&logits, target, (rows, classes));
            let call = match weight {
                Some(w) => call.class_weight(w),
                None => call,
            };
            (call.forward_backward(reduction, &mut grad).unwrap(), grad)
        };
        for (weight, reduction, ratio) in [
            (None, Mean, 1.0),
            (None, Sum, 1.0),
            (Some(&weight[..]), Sum, 1.0),
            (Some(&weight[..]), Mean, rows as f64 / of_targets),
        ] {
            let (a, a_grad) = run(Target::I64(&index), weight, reduction);
            let (b, b_grad) = run(Target::Dense(&one_hot), weight, reduction);
            close("value", a, ratio * f64::from(b), 1e-6);
            a_grad.iter().zip(b_grad).for_each(|(&a, b)| close("gradient", a, ratio * f64::from(b), 1e-6));
        }
    }
}

/// The margin is taken from a difference of scores, not from a score, which would round it away.
#[test]
fn margins_of_large_scores_are_as_exact_as_any() {
    let mut random = Random(11);
    let (rows, classes) = (20, 19);
    let scores = random.floats(rows * classes, 1000.0, 1001.0);
    let target: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
    let short = |r: usize, k: usize| {
        1.0 + f64::from(scores[r * classes + k]) - f64::from(scores[r * classes + target[r] as usize])
    };
    let others = |r: usize| {
        let t = target[r] as usize;
        (0..classes).filter(move |&k| k != t)
    };
    let of_row = |r: usize| others(r).map(|k| short(r, k).max(0.0)).sum::<f64>() / classes as f64;
    let want = (0..rows).map(of_row).sum::<f64>() / rows as f64;
    close("multi-margin", MultiMargin::new().forward(&scores, &target, (rows, classes), Mean).unwrap(), want, 1e-6);
    let mut unreduced = vec![0.0; rows];
    MultiMargin::new().call(&scores, &target, (rows, classes)).forward_unreduced(&mut unreduced).unwrap();
    unreduced.iter().enumerate().for_each(|(r, &l)| close("its rows", l, of_row(r), 1e-6));
    // Zero takes part: with scores like these it never wins.
    let of_row = |r: usize| others(r).map(|k| short(r, k)).fold(0.0, f64::max);
    CategoricalHinge.call(&scores, &target, (rows, classes)).forward_unreduced(&mut unreduced).unwrap();
    unreduced.iter().enumerate().for_each(|(r, &l)| close("categorical hinge", l, of_row(r), 1e-6));
}

/// 30
#[test]
fn one_class_leaves_nothing_to_say() {
    for logit in [0.0, 5.0, -3e38, 3e38] {
        let (value, grad) = row(CrossEntropy::new(), &[logit], Target::U8(&[0]));
        assert_eq!((value, grad[0].abs()), (0.0, 0.0), "{logit}");
        let mut grad = [7.0f32];
        let value = SoftmaxFocal::new().forward_backward(&[logit], &[0u8], (1, 1), Mean, &mut grad).unwrap();
        assert_eq!((value, grad[0].abs()), (0.0, 0.0), "focal {logit}");
        let value = Distillation::new().forward_backward(&[logit], &[1.0f32], (1, 1), Mean, &mut grad).unwrap();
        assert_eq!((value.abs(), grad[0].abs()), (0.0, 0.0), "distillation {logit}");
    }
}

/// 31: what is no class is refused, and leaves no trace; the ignored index may be a class.
#[test]
fn an_index_is_a_class_or_ignored_or_refused() {
    let logits = [1.0f32, 2.0, 3.0, 0.0, 0.0, 5.0];
    for index in [-1, 3, i64::MIN, i64::MAX] {
        let mut grad = [7.0; 6];
        let got = CrossEntropy::new().forward_backward(&logits, &[0, index], (2, 3), Mean, &mut grad);
        assert_eq!(got, Err(Error::ClassIndex { row: 1, index, classes: 3 }));
        if BY_KERNELS {
            // A GPU finds it on the way: the row has a gradient of zero, and its neighbour is as it should be.
            assert_eq!(grad[3..], [0.0; 3]);
            let mut alone = [7.0; 3];
            CrossEntropy::new()
                .forward_backward(&logits[..3], &[0i64], (1, 3), Reduction::SumOver(2.0), &mut alone)
                .unwrap();
            same("its neighbour", &grad[..3], &alone, 1.0);
        } else {
            assert_eq!(grad, [7.0; 6]);
        }
    }
    let mut grad = [7.0; 6];
    let ignoring = CrossEntropy::new().ignore_index(2).forward_backward(&logits, &[2i64, 1], (2, 3), Mean, &mut grad);
    assert_eq!(ignoring, CrossEntropy::new().forward(&logits[3..], &[1i64], (1, 3), Mean));
    assert_eq!(grad[..3], [0.0; 3]);
    assert!(CrossEntropy::new().ignore_index(None).forward(&logits, &[-100i64, 1], (2, 3), Mean).is_err());
}

/// An infinite score is a score: the slope of a hinge is that of the line it is on.
#[test]
fn infinite_scores_have_the_gradient_of_their_piece_of_the_categorical_hinge() {
    for (x, want) in [
        ([0.0, INF, 1.0], (INF, [-1.0, 1.0, 0.0])),
        ([-INF, 0.0, 1.0], (INF, [-1.0, 0.0, 1.0])),
        ([0.0, -INF, -INF], (1.0, [-1.0, 0.0, 0.0])),
        ([INF, 0.0, 1.0], (0.0, [0.0; 3])),
    ] {
        let mut grad = [7.0; 3];
        let value = CategoricalHinge.forward_backward(&x, &[0u8], (1, 3), Sum, &mut grad).unwrap();
        assert_eq!((value, grad), want, "{x:?}");
    }
}

#[test]
fn infinite_scores_have_the_gradient_of_their_piece_of_the_margin() {
    let third = 1.0 / 3.0f32;
    for (x, want) in [
        ([INF, 0.0, 1.0], (0.0, [0.0; 3])),
        ([0.0, -INF, 1.0], (2.0 * third, [-third, 0.0, third])),
        ([0.0, INF, -5.0], (INF, [-third, third, 0.0])),
        ([-INF, 0.0, 1.0], (INF, [-2.0 * third, third, third])),
    ] {
        let mut grad = [7.0; 3];
        let value = MultiMargin::new().forward_backward(&x, &[0u8], (1, 3), Sum, &mut grad).unwrap();
        assert_eq!((value, grad), want, "{x:?}");
    }
}

/// The sum of a flat teacher's exponentials is thousands of times that of a student who is sure: `ln(1 + y)` of a `y` near -1 made a
/// hundred times as much of its rounding.
#[test]
fn a_sure_student_of_a_flat_teacher_has_its_divergence() {
    for (classes, lead) in [(255, 8.0f32), (255, 11.8125), (250, 10.0), (10, 12.0)] {
        for dims in [[1, classes, 20], [20, classes, 1]] {
            let positions = dims[2];
            let student: Vec<f32> =
                (0..20 * classes).map(|i| if i / positions % classes == 3 { lead } else { 0.0 }).collect();
            let teacher = vec![0.0f32; student.len()];
            let (c, lead) = (classes as f64, f64::from(lead));
            let ln_sum = (c - 1.0 + lead.exp()).ln();
            // The student's surprise at what the teacher draws, less the teacher's own; and with the two exchanged.
            let (flat, sure) = (ln_sum - lead / c - c.ln(), c.ln() - ln_sum + lead * (lead - ln_sum).exp());
            let what = format!("{dims:?}, {lead}");
            close(&what, Distillation::new().forward(&student, &teacher, dims, Mean).unwrap(), flat, 6e-7);
            close(&what, Distillation::new().forward(&teacher, &student, dims, Mean).unwrap(), sure, 6e-7);
            let reverse = Jsd::new().beta(1.0).unwrap();
            close(&what, reverse.forward(&teacher, &student, dims, Mean).unwrap(), flat, 6e-7);
            close(&what, reverse.forward(&student, &teacher, dims, Mean).unwrap(), sure, 6e-7);
        }
    }
}

/// The length of such a row is no number in f32, which is what GPUs sum squares in: they give NaN then, and not an angle that looks
/// like one.
#[test]
fn the_angle_of_a_row_too_long_for_f32_is_right_or_no_number() {
    for (label, want) in [(1.0f32, 0.0), (-1.0, 1.0)] {
        let (mut grad, mut grad_target) = ([7.0; 2], [7.0; 2]);
        let loss = CosineEmbedding::new(0.0).unwrap();
        let value = loss
            .forward_backward(&[1e20f32, 0.0], &[1.0, 0.0], &[label], (1, 2), Sum, &mut grad, &mut grad_target)
            .unwrap();
        assert!(if BY_KERNELS { value.is_nan() } else { (value - want).abs() < 1e-6 }, "{label}: {value}");
    }
}

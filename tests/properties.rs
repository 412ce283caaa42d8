//! What holds of every loss whatever its options, its shape and its numbers. proptest draws them, makes what fails small, and keeps
//! it in `properties.regressions`, which is tried first from then on. `PROPTEST_CASES` says how many are drawn.
//!
//! `tests/battery.rs` has every option once and sizes that reach every loop; this has what nobody thought of.

mod cases;

use std::sync::OnceLock;

use cases::draw::{Dims, Labels, Problem, Rng};
use cases::drawn::drawn;
use cases::guarded::bits;
use cases::job::{Job, Verb, Weight};
use cases::oracle::Oracle;
use cases::tolerance;
use cases::trial::{Trial, settings};
use cases::{Case, Family, Targets, table};
use fused_loss::*;
use half::{bf16, f16};
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases),
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    }
}

fn all() -> &'static [Case] {
    static TABLE: OnceLock<Vec<Case>> = OnceLock::new();
    TABLE.get_or_init(table)
}

/// Which loss: of the table by its place there, or with options drawn from a seed.
#[derive(Clone, Copy, Debug)]
enum Which {
    Listed(usize),
    Drawn(u64),
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![(0..all().len()).prop_map(Which::Listed), any::<u64>().prop_map(Which::Drawn)]
}

impl Which {
    /// Does something with the case.
    fn with<R>(self, task: impl FnOnce(&Case) -> R) -> R {
        match self {
            Which::Listed(place) => task(&all()[place]),
            Which::Drawn(seed) => task(&drawn(&mut Rng::new(seed))),
        }
    }
}

/// Outer, classes, inner; a loss takes of them what it has. Around the sixteen lanes and small.
fn dims() -> impl Strategy<Value = (usize, usize, usize)> {
    (0usize..7, prop_oneof![1usize..6, 13usize..40], prop_oneof![Just(1usize), 2usize..20])
}

fn fit(case: &Case, (outer, classes, inner): (usize, usize, usize)) -> Dims {
    match &case.family {
        Family::Elements { .. } => Dims::new(outer * inner, classes, 1),
        Family::Rows { .. } => case.fit(Dims::new(outer, classes, inner)),
        // A softmax of one channel, and a background that is all there is, have nothing to say.
        Family::Regions { .. } => Dims::new(outer.min(3), classes.clamp(2, 6), inner),
    }
}

/// A call: the reduction or none, the upstream gradient of all losses and of each, weights of the losses.
#[derive(Clone, Default)]
struct Asked<'a> {
    reduction: Option<Reduction>,
    above: f32,
    each: Option<&'a [f32]>,
    weight: Option<&'a [f32]>,
}

/// What a call gave.
#[derive(Clone, PartialEq, Debug)]
struct Given<T> {
    value: f32,
    losses: Vec<f32>,
    /// For the input, the target and the third tensor, as far as the loss has them.
    grads: [Vec<T>; 3],
}

fn losses_of(case: &Case, dims: Dims) -> usize {
    match &case.family {
        Family::Elements { .. } => dims.elements(),
        Family::Rows { .. } => dims.rows(),
        Family::Regions { options, .. } => {
            // Generalised Dice has one loss of all channels.
            let channels = dims.classes - usize::from(!options.include_background);
            let each = if options.weight.is_some() { 1 } else { channels };
            if options.batch { each } else { dims.outer * each }
        }
    }
}

fn run<T: Element>(case: &Case, problem: &Problem<T>, asked: &Asked<'_>) -> Given<T> {
    let (n, count) = (problem.input.len(), losses_of(case, problem.dims));
    let new = |there: bool| vec![T::from_f32(f32::NAN); if there { n } else { 0 }];
    let with_third = case.has_third_gradient();
    let mut grads = [new(true), new(case.target_step.is_some()), new(with_third)];
    let mut losses = vec![0.0; if asked.reduction.is_none() { count } else { 0 }];
    let ones = vec![1.0; count];
    let [grad, grad_target, grad_third] = &mut grads;
    let verb = match asked.reduction {
        Some(reduction) => Verb::ForwardBackward(reduction, grad),
        None => Verb::ForwardBackwardUnreduced { grad_output: asked.each.unwrap_or(&ones), losses: &mut losses, grad },
    };
    let job = Job {
        input: &problem.input,
        target: problem.labels.target(),
        shape: problem.shape(case),
        weight: asked.weight.map_or(Weight::None, Weight::PerElement),
        class_weight: problem.class_weight.as_deref(),
        grad_output: asked.above,
        accumulate: false,
        grad_target: case.target_step.is_some().then_some(&mut grad_target[..]),
        third: problem.third.as_deref(),
        grad_third: with_third.then_some(&mut grad_third[..]),
        verb,
    };
    let value = case.loss.run(job).unwrap_or_else(|error| panic!("{}: {error}", case.name));
    Given { value, losses, grads }
}

/// The largest magnitude.
fn largest<T: Element>(x: &[T]) -> f64 {
    x.iter().fold(0.0, |most, x| most.max(f64::from(x.to_f32()).abs()))
}

/// What errors of these gradients are measured against: the largest of them, or what is left of larger numbers.
fn measure(case: &Case, grads: &[f32], losses: usize) -> f64 {
    let (_, floor) = tolerance::floors(&case.name);
    let floor = match case.family {
        Family::Regions { .. } => floor * losses as f64 / grads.len().max(1) as f64,
        _ => floor,
    };
    largest(grads).max(floor)
}

/// Values, gradients against central differences, all ways of calling, accumulation and canaries, as the battery checks them.
fn definition<T: Element>(which: Which, size: (usize, usize, usize), seed: u64, turn: usize) {
    which.with(|case| {
        let problem = Problem::<T>::draw(case, fit(case, size), seed);
        let oracle = Oracle::new(case, &problem, 250, seed);
        let settings = settings(oracle.losses.len(), turn);
        let worst = Trial::new(case, &problem, &oracle, settings[turn % settings.len()]).check();
        assert!(worst.share <= 1.0, "{:.1} times the error allowed: {}", worst.share, worst.what);
    });
}

/// A call of a storage type is the f32 call of the same numbers, each gradient rounded once.
fn rounded_once<T: Element>(which: Which, size: (usize, usize, usize), seed: u64, reduced: bool) {
    which.with(|case| {
        let narrow = Problem::<T>::draw(case, fit(case, size), seed);
        let widen = |x: &[T]| x.iter().map(|x| x.to_f32()).collect::<Vec<f32>>();
        let labels = match &narrow.labels {
            Labels::Nothing => Labels::Nothing,
            Labels::Dense(t) => Labels::Dense(widen(t)),
            Labels::I64(t) => Labels::I64(t.clone()),
            Labels::I32(t) => Labels::I32(t.clone()),
            Labels::U32(t) => Labels::U32(t.clone()),
            Labels::U8(t) => Labels::U8(t.clone()),
        };
        let wide = Problem {
            dims: narrow.dims,
            input: widen(&narrow.input),
            labels,
            third: narrow.third.as_deref().map(widen),
            class_weight: narrow.class_weight.clone(),
        };
        let asked = Asked { reduction: reduced.then_some(Reduction::Mean), above: 1024.0, ..Asked::default() };
        let (narrow, wide) = (run(case, &narrow, &asked), run(case, &wide, &asked));
        assert_eq!(narrow.value.to_bits(), wide.value.to_bits(), "{}", case.name);
        assert_eq!(bits(&narrow.losses), bits(&wide.losses), "{}", case.name);
        for (narrow, wide) in narrow.grads.iter().zip(&wide.grads) {
            let once: Vec<T> = wide.iter().map(|&g| T::from_f32(g)).collect();
            assert_eq!(bits(narrow), bits(&once), "{} of {}: not {wide:?} rounded once", case.name, T::NAME);
        }
    });
}

/// The order of rows, elements or samples, after which `x` is.
fn moved<X: Copy>(x: &[X], order: &[usize]) -> Vec<X> {
    let each = x.len() / order.len().max(1);
    order.iter().flat_map(|&k| x[k * each..(k + 1) * each].to_vec()).collect()
}

fn permuted<T: Element>(problem: &Problem<T>, order: &[usize]) -> Problem<T> {
    let labels = match &problem.labels {
        Labels::Nothing => Labels::Nothing,
        Labels::Dense(t) => Labels::Dense(moved(t, order)),
        Labels::I64(t) => Labels::I64(moved(t, order)),
        Labels::I32(t) => Labels::I32(moved(t, order)),
        Labels::U32(t) => Labels::U32(moved(t, order)),
        Labels::U8(t) => Labels::U8(moved(t, order)),
    };
    Problem {
        dims: problem.dims,
        input: moved(&problem.input, order),
        labels,
        third: problem.third.as_deref().map(|x| moved(x, order)),
        class_weight: problem.class_weight.clone(),
    }
}

/// Losses whose rows go through a softmax, and whose gradient for it sums to zero: not with a `z_loss`, which pulls all logits, nor
/// with a `softcap`, which bends each by itself.
fn of_softmax(case: &Case) -> bool {
    let named = |name: &str| case.name.starts_with(name);
    let shifted = named("cross_entropy") && !named("cross_entropy_probs") && !case.name.contains("cap");
    matches!(case.family, Family::Rows { .. })
        && (shifted && !case.name.contains("z_loss") || named("softmax_focal") || named("distillation") || named("jsd"))
}

/// A division by any other temperature rounds, and rounds differently after a shift.
fn of_exact_temperature(case: &Case) -> bool {
    let temperature = case.name.split_once("T=").map_or("1", |(_, t)| t.split(['+', ']']).next().unwrap_or(t));
    temperature.parse::<f32>().is_ok_and(|t| t.log2().fract() == 0.0)
}

proptest! {
    #![proptest_config(config(if cfg!(debug_assertions) { 250 } else { 2_000 }))]

    #[test]
    fn the_definition_holds_in_f32(which in which(), size in dims(), seed: u64, turn in 0usize..1000) {
        definition::<f32>(which, size, seed, turn);
    }

    #[test]
    fn the_definition_holds_in_halves(which in which(), size in dims(), seed: u64, turn in 0usize..1000, brain: bool) {
        if brain { definition::<bf16>(which, size, seed, turn) } else { definition::<f16>(which, size, seed, turn) }
    }

    #[test]
    fn a_half_is_f32_rounded_once(which in which(), size in dims(), seed: u64, reduced: bool, brain: bool) {
        if brain { rounded_once::<bf16>(which, size, seed, reduced) } else { rounded_once::<f16>(which, size, seed, reduced) }
    }

    /// Every reduction is the sum of the losses over its denominator, and its gradient that of the unreduced losses.
    #[test]
    fn reductions_agree(which in which(), size in dims(), seed: u64, weighted: bool, over in 0.01f64..100.0) {
        which.with(|case| {
            let problem = Problem::<f32>::draw(case, fit(case, size), seed);
            let count = losses_of(case, problem.dims);
            let mut rng = Rng::new(seed);
            let weight: Vec<f32> = (0..count).map(|_| rng.uniform(0.25, 2.0) as f32).collect();
            let asked = |reduction| Asked { reduction, above: 1.0, each: None, weight: weighted.then_some(&weight) };
            let each = run(case, &problem, &asked(None));
            let sum: f64 = each.losses.iter().map(|&l| f64::from(l)).sum();
            let size: f64 = each.losses.iter().map(|&l| f64::from(l).abs()).sum();
            let check = |reduction, denominator: f64| {
                let all = run(case, &problem, &asked(Some(reduction)));
                let error = (f64::from(all.value) * denominator - sum).abs();
                assert!(error <= 1e-6 * size || count == 0, "{} {reduction:?}: {} and {sum}", case.name, all.value);
                for (all, each) in all.grads.iter().zip(&each.grads) {
                    let most = measure(case, each, count);
                    for (all, each) in all.iter().zip(each) {
                        let error = (f64::from(*all) * denominator - f64::from(*each)).abs();
                        assert!(error <= 1e-6 * most + 1e-37 * denominator, "{} {reduction:?}: {all}, {each}", case.name);
                    }
                }
            };
            check(Reduction::Sum, 1.0);
            check(Reduction::SumOver(over), over);
            check(Reduction::BatchMean(1), 1.0);
            // What the mean divides by is the oracle's to say.
            let counts: f64 = Oracle::new(case, &problem, 0, 0).counts.iter().sum();
            if count != 0 && counts != 0.0 {
                check(Reduction::Mean, counts);
            }
        });
    }

    /// Twice the gradient from above is twice the gradient, to the bit where that is a power of two, and two of them add up.
    #[test]
    fn gradients_are_linear_in_what_comes_from_above(
        which in which(), size in dims(), seed: u64, power in -20i32..20, any in -1e3f32..1e3,
    ) {
        which.with(|case| {
            let problem = Problem::<f32>::draw(case, fit(case, size), seed);
            let count = losses_of(case, problem.dims);
            let with = |above| run(case, &problem, &Asked { reduction: Some(Reduction::Sum), above, ..Asked::default() });
            let (one, scaled, by_any) = (with(1.0), with(2f32.powi(power)), with(any));
            assert_eq!((scaled.value.to_bits(), by_any.value.to_bits()), (one.value.to_bits(), one.value.to_bits()));
            let pairs = |a: &Given<f32>, b: &Given<f32>| {
                let pairs = a.grads.iter().zip(&b.grads).flat_map(|(a, b)| a.iter().copied().zip(b.iter().copied()));
                pairs.collect::<Vec<_>>()
            };
            // Where neither is so small that it is rounded, or flushed to zero.
            let normal = |x: f32| x.abs() > 1e-30;
            for (one, scaled) in pairs(&one, &scaled) {
                assert!(!normal(one) || one * 2f32.powi(power) == scaled, "{}: {one} {scaled}", case.name);
            }
            let most = one.grads.each_ref().map(|grads| f64::from(any).abs() * measure(case, grads, count));
            let most = most.iter().zip(&one.grads).flat_map(|(&most, grads)| std::iter::repeat_n(most, grads.len()));
            for ((one, by_any), most) in pairs(&one, &by_any).into_iter().zip(most) {
                let want = f64::from(one) * f64::from(any);
                let error = (want - f64::from(by_any)).abs();
                // What is faint is zero, before or after the factor.
                let faint = f64::from(f32::MIN_POSITIVE) * f64::from(any).abs().max(1.0);
                assert!(error <= 1e-6 * most + faint, "{}: {want} {by_any}", case.name);
            }
            // One number from above for each loss.
            let mut rng = Rng::new(seed);
            let mut numbers = || (0..count).map(|_| rng.uniform(-4.0, 4.0) as f32).collect::<Vec<f32>>();
            let (a, b) = (numbers(), numbers());
            let both: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a + b).collect();
            let [a, b, both] = [a, b, both].map(|each| {
                run(case, &problem, &Asked { reduction: None, above: 1.0, each: Some(&each), weight: None })
            });
            for k in 0..3 {
                // Where gradients of several losses add up, or two numbers from above cancel, what is left is as exact as they were.
                let most = 4.0 * measure(case, &a.grads[k], count).max(largest(&b.grads[k]));
                for ((a, b), both) in a.grads[k].iter().zip(&b.grads[k]).zip(&both.grads[k]) {
                    let error = (f64::from(*a) + f64::from(*b) - f64::from(*both)).abs();
                    assert!(error <= 1e-6 * most + 1e-37, "{}: {a} + {b}, {both}", case.name);
                }
            }
        });
    }

    /// Of elements, rows or samples: gradients go with them, to the bit.
    #[test]
    fn an_order_is_as_good_as_another(which in which(), size in dims(), seed: u64) {
        which.with(|case| {
            let dims = fit(case, size);
            let problem = Problem::<f32>::draw(case, dims, seed);
            let mut rng = Rng::new(seed);
            let parts = match &case.family {
                // A class weight goes by the place on the last axis.
                Family::Elements { .. } if case.class_weight => dims.outer,
                // Keras's rule for labels looks at all of them, but in no order.
                Family::Elements { .. } => dims.elements(),
                _ => dims.outer,
            };
            let mut order: Vec<usize> = (0..parts).collect();
            (1..parts).rev().for_each(|i| order.swap(i, rng.below(i + 1)));
            let asked = Asked { reduction: Some(Reduction::Sum), above: 1.0, ..Asked::default() };
            let (a, b) = (run(case, &problem, &asked), run(case, &permuted(&problem, &order), &asked));
            let size: f64 = Oracle::new(case, &problem, 0, 0).losses.iter().map(|l| l.abs()).sum();
            let (floor, _) = tolerance::floors(&case.name);
            assert!(f64::from(a.value - b.value).abs() <= 1e-6 * (size + floor), "{}: {} {}", case.name, a.value, b.value);
            let spans_the_batch = matches!(&case.family, Family::Regions { options, .. } if options.batch);
            for (a, b) in a.grads.iter().zip(&b.grads) {
                let want = moved(a, if a.is_empty() { &[] } else { &order });
                if spans_the_batch {
                    // Its sums are added in another order.
                    let close = want.iter().zip(b).all(|(a, b)| f64::from(a - b).abs() <= 1e-6 * largest(&want));
                    assert!(close, "{}: {want:?} {b:?}", case.name);
                } else {
                    assert_eq!(bits(&want), bits(b), "{}", case.name);
                }
            }
        });
    }

    /// A softmax does not see what all its logits have in common, so that its gradient sums to zero.
    #[test]
    fn a_softmax_sees_differences_alone(which in which(), size in dims(), seed: u64, shift in -64i32..64) {
        which.with(|case| {
            if !of_softmax(case) {
                return;
            }
            let dims = fit(case, size);
            let mut problem = Problem::<f32>::draw(case, dims, seed);
            // Eighths, to which a whole number is added without rounding.
            problem.input.iter_mut().for_each(|x| *x = (*x * 8.0).round() / 8.0);
            let asked = Asked { reduction: None, above: 1.0, ..Asked::default() };
            let before = run(case, &problem, &asked);
            for r in 0..dims.rows() {
                let row: Vec<f64> = (0..dims.classes).map(|k| before.grads[0][dims.at(r, k)].into()).collect();
                let (_, floor) = tolerance::floors(&case.name);
                let most = row.iter().fold(floor.max(1.0), |most, g| most.max(g.abs()));
                let sum = row.iter().sum::<f64>();
                assert!(sum.abs() <= 1e-6 * most, "{}: row {r} sums to {sum}: {row:?}", case.name);
            }
            if !of_exact_temperature(case) {
                return;
            }
            problem.input.iter_mut().for_each(|x| *x += shift as f32);
            let after = run(case, &problem, &asked);
            assert_eq!(bits(&before.losses), bits(&after.losses), "{} by {shift}", case.name);
            assert_eq!(bits(&before.grads[0]), bits(&after.grads[0]), "{} by {shift}", case.name);
        });
    }

    /// 47: the index of Tversky is Dice's, Jaccard's, and dearer in false positives alone as alpha grows.
    #[test]
    fn tversky_is_what_it_generalises(
        size in (1usize..4, 2usize..5, 1usize..40), seed: u64, sigmoid: bool, batch: bool, smooth in 0.01f32..2.0,
    ) {
        let (outer, classes, inner) = size;
        let mut rng = Rng::new(seed);
        let n = outer * classes * inner;
        let mut floats = |low: f64, high: f64| (0..n).map(|_| rng.uniform(low, high) as f32).collect::<Vec<f32>>();
        let x = if sigmoid { floats(-4.0, 4.0) } else { floats(0.05, 0.95) };
        let t: Vec<f32> = floats(0.0, 1.0).iter().map(|t| t.round()).collect();
        let tversky = |alpha, beta, smooth| {
            let loss = TverskyLoss::new(alpha, beta).unwrap().smooth(smooth).unwrap().batch(batch);
            let mut grad = vec![0.0; n];
            let value = match sigmoid {
                true => loss.sigmoid().forward_backward(&x, &t, [outer, classes, inner], Reduction::Sum, &mut grad),
                false => loss.forward_backward(&x, &t, [outer, classes, inner], Reduction::Sum, &mut grad),
            };
            (value.unwrap(), grad)
        };
        let dice = |jaccard, smooth| {
            let loss = DiceLoss::new().smooth(smooth).unwrap().batch(batch).jaccard(jaccard);
            let mut grad = vec![0.0; n];
            let value = match sigmoid {
                true => loss.sigmoid().forward_backward(&x, &t, [outer, classes, inner], Reduction::Sum, &mut grad),
                false => loss.forward_backward(&x, &t, [outer, classes, inner], Reduction::Sum, &mut grad),
            };
            (value.unwrap(), grad)
        };
        let regions = if batch { classes } else { outer * classes } as f64;
        // Dice counts the intersection twice, above and below; so does MONAI's Jaccard.
        for (alpha, jaccard) in [(0.5, false), (1.0, true)] {
            let (one, other) = (tversky(alpha, alpha, smooth), dice(jaccard, 2.0 * smooth));
            assert!(f64::from(one.0 - other.0).abs() <= 2e-6 * regions, "{} {}", one.0, other.0);
            let most = largest(&other.1);
            let close = one.1.iter().zip(&other.1).all(|(a, b)| f64::from(a - b).abs() <= 2e-6 * most.max(1.0 / inner as f64));
            assert!(close, "{:?} {:?}", one.1, other.1);
        }
        let (cheap, dear) = (tversky(0.3, 0.7, smooth).0, tversky(0.9, 0.7, smooth).0);
        assert!(dear >= cheap - 1e-6 * regions as f32, "{dear} {cheap}");
        // Without false positives it does not matter what they cost.
        let inside: Vec<f32> = t.iter().map(|t| 0.5 * t).collect();
        let of = |alpha| TverskyLoss::new(alpha, 0.7).unwrap().forward(&inside, &t, [outer, classes, inner], Reduction::Sum);
        assert_eq!(of(0.3), of(0.9));
    }

    /// 48: losses that are one another in disguise.
    #[test]
    fn disguises_do_not_matter(
        pairs in prop::collection::vec((-20f32..20.0, 0f32..=1.0), 1..40), d in 0.1f32..10.0, alpha in 0f32..=1.0,
    ) {
        let (x, t): (Vec<f32>, Vec<f32>) = pairs.into_iter().unzip();
        let hard: Vec<f32> = t.iter().map(|t| t.round()).collect();
        let n = x.len();
        let (mut a, mut b) = (vec![0.0; n], vec![0.0; n]);
        let same = |what: &str, a: (f32, &[f32]), b: (f32, Vec<f32>)| {
            assert!(f64::from(a.0 - b.0).abs() <= 2e-6 * f64::from(b.0.abs()), "{what}: {} {}", a.0, b.0);
            let most = largest(&b.1).max(1e-3);
            let close = a.1.iter().zip(&b.1).all(|(a, b)| f64::from(a - b).abs() <= 2e-6 * most);
            assert!(close, "{what}: {:?} {:?}", a.1, b.1);
        };
        let huber = Huber::new(d).unwrap().forward_backward(&x, &t, Reduction::Sum, &mut a).unwrap();
        let smooth = SmoothL1::new(d).unwrap().call(&x, &t).grad_output(d).forward_backward(Reduction::Sum, &mut b).unwrap();
        same("Huber(d) is d SmoothL1(d)", (huber, &a), (d * smooth, b.clone()));

        let focal = SigmoidFocal::new().alpha(alpha).unwrap().gamma(0.0).unwrap();
        let focal = focal.forward_backward(&x, &hard, Reduction::Sum, &mut a).unwrap();
        let weight: Vec<f32> = hard.iter().map(|&t| if t == 1.0 { alpha } else { 1.0 - alpha }).collect();
        let bce = BceWithLogits::new().call(&x, &hard).weight(&weight).forward_backward(Reduction::Sum, &mut b).unwrap();
        same("focal of gamma 0 is weighted cross-entropy", (focal, &a), (bce, b.clone()));

        let real = GanLoss::default().real_term().call(&x).forward_backward(Reduction::Sum, &mut a).unwrap();
        let bce = BceWithLogits::new().forward_backward(&x, &vec![1.0; n], Reduction::Sum, &mut b).unwrap();
        same("a real logit is a positive", (real, &a), (bce, b.clone()));

        // Two logits whose difference f32 has.
        let two: Vec<f32> = x.iter().flat_map(|&x| [x, 0.0]).collect();
        let (classes, mut both) = (hard.iter().map(|&t| 1 - t as i64).collect::<Vec<i64>>(), vec![0.0; 2 * n]);
        let ce = CrossEntropy::new().forward_backward(&two, &classes, (n, 2), Reduction::Sum, &mut both).unwrap();
        let first: Vec<f32> = both.iter().copied().step_by(2).collect();
        let bce = BceWithLogits::new().forward_backward(&x, &hard, Reduction::Sum, &mut b).unwrap();
        same("two classes are one logit", (ce, &first), (bce, b.clone()));
    }

    /// 49: to shift both batches changes nothing, and the gradients of both sum to zero.
    #[test]
    fn the_relativistic_average_sees_differences_alone(
        real in prop::collection::vec(-64i32..64, 1..60), fake in prop::collection::vec(-64i32..64, 1..60),
        shift in -1000i32..1000, generator: bool,
    ) {
        let run = |shift: i32| {
            // Eighths, to which a whole number is added without rounding.
            let of = |x: &[i32]| x.iter().map(|&x| x as f32 / 8.0 + shift as f32).collect::<Vec<f32>>();
            let (real, fake) = (of(&real), of(&fake));
            let (mut a, mut b) = (vec![0.0; real.len()], vec![0.0; fake.len()]);
            let loss = RelativisticAverage::new();
            let value = match generator {
                true => loss.generator(&real, &fake, &mut a, &mut b),
                false => loss.discriminator(&real, &fake, &mut a, &mut b),
            };
            (value.unwrap(), [a, b].concat())
        };
        let (before, after) = (run(0), run(shift));
        assert!((before.0 - after.0).abs() <= 2e-6 * before.0, "{} {}", before.0, after.0);
        let most = largest(&before.1);
        assert!(before.1.iter().zip(&after.1).all(|(a, b)| f64::from(a - b).abs() <= 2e-6 * most));
        let sum: f64 = before.1.iter().map(|&g| f64::from(g)).sum();
        assert!(sum.abs() <= 1e-6, "{sum}");
    }
}

/// The seeds above lead to losses of every kind.
#[test]
fn options_are_drawn_for_every_kind_of_loss() {
    let mut kinds = std::collections::BTreeSet::new();
    for seed in 0..400 {
        let case = drawn(&mut Rng::new(seed));
        kinds.insert(case.name.split('[').next().unwrap().to_string());
        assert!(case.targets != Targets::Nothing || case.target_step.is_none());
    }
    assert!(kinds.len() >= 19, "{kinds:?}");
}

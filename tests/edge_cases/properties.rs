//! 32, 34, 35, 37 and 54: what holds of every loss, on seeded random data.

use super::support::*;
use fused_loss::*;

const DIMS: [usize; 3] = [4, 5, 7];

/// 32
#[test]
fn nothing_has_the_mean_nan_and_the_sum_zero() {
    fn check<T: Element>() {
        for loss in losses::<T>() {
            for dims in [[0, 3, 5], [2, 3, 0], [0, 1, 0]] {
                let data = loss.data(&mut Random(32), dims);
                let n = loss.losses(dims);
                if n != 0 {
                    // There are regions, each of them empty.
                    assert!(matches!(loss.form, Form::Region | Form::BatchRegion | Form::Sample), "{}", loss.name);
                    assert_eq!(loss.gradient(&data, Reduction::Mean).0, 0.0, "{}", loss.name);
                    continue;
                }
                let wants = [
                    (Reduction::Mean, f32::NAN),
                    (Reduction::WeightedMean, f32::NAN),
                    (Reduction::Sum, 0.0),
                    (Reduction::SumOver(3.0), 0.0),
                    (Reduction::BatchMean(4), 0.0),
                ];
                for (reduction, want) in wants {
                    let forward = (loss.run)(data.job(Verb::Forward(reduction))).unwrap();
                    let in_place = (loss.run)(data.job(Verb::InPlace(reduction, &mut []))).unwrap();
                    for got in [forward, in_place, loss.gradient(&data, reduction).0] {
                        assert!(got == want || got.is_nan() && want.is_nan(), "{} {reduction:?}: {got}", loss.name);
                    }
                }
                assert_eq!((loss.run)(data.job(Verb::Unreduced(&mut []))), Ok(0.0));
                assert_eq!((loss.run)(data.job(Verb::UnreducedBackward(&[], &mut [], &mut []))), Ok(0.0));
            }
        }
    }
    every_dtype!(check);
}

/// 34: of samples; the gradients of regions that span the batch depend on the order of a sum.
#[test]
fn a_permutation_of_samples_permutes_gradients_to_the_bit() {
    fn check<T: Element>() {
        let mut random = Random(34);
        for loss in losses::<T>() {
            let data = loss.data(&mut random, DIMS);
            let order = random.order(DIMS[0]);
            fn moved<X: Copy>(x: &[X], order: &[usize]) -> Vec<X> {
                let each = x.len() / order.len();
                order.iter().flat_map(|&k| x[k * each..(k + 1) * each].to_vec()).collect()
            }
            let target = match &data.target {
                Labels::Nothing => Labels::Nothing,
                Labels::Dense(t) => Labels::Dense(moved(t, &order)),
                Labels::Index(t) => Labels::Index(moved(t, &order)),
            };
            let permuted = Data { dims: data.dims, input: moved(&data.input, &order), target };
            let (value, grad) = loss.gradient(&data, Reduction::Mean);
            let (other, other_grad) = loss.gradient(&permuted, Reduction::Mean);
            close(loss.name, other, value.into(), 1e-6);
            if loss.form == Form::BatchRegion {
                same(loss.name, &other_grad, &moved(&grad, &order), 1.0);
            } else {
                same_bits(loss.name, &other_grad, &moved(&grad, &order));
            }
        }
    }
    every_dtype!(check);
}

/// 35: under weights too.
#[test]
fn every_reduction_is_the_sum_of_the_unreduced_over_its_denominator() {
    fn check<T: Element>() {
        let mut random = Random(35);
        for loss in losses::<T>() {
            let data = loss.data(&mut random, DIMS);
            let n = loss.losses(DIMS);
            let (weight, classes) = (random.floats(n, 0.5, 2.0), random.floats(DIMS[1], 0.5, 2.0));
            for (weight, classes) in [
                (None, None),
                (Some(&weight[..]), None),
                (None, Some(&classes[..])),
                (Some(&weight[..]), Some(&classes[..])),
            ] {
                if classes.is_some() && !loss.class_weight || classes.is_some() && loss.form == Form::Element {
                    continue;
                }
                let run = |verb: Verb<'_, T>| {
                    let job = Job { weight, class_weight: classes, ..data.job(verb) };
                    (loss.run)(job).unwrap_or_else(|e| panic!("{}: {e}", loss.name))
                };
                let (ones, mut unreduced, mut each) =
                    (vec![1.0; n], vec![0.0; n], vec![T::default(); data.input.len()]);
                run(Verb::UnreducedBackward(&ones, &mut unreduced, &mut each));
                let mut forward = vec![0.0; n];
                run(Verb::Unreduced(&mut forward));
                assert_eq!(bits(&forward), bits(&unreduced), "{}", loss.name);
                let sum: f64 = unreduced.iter().map(|&l| f64::from(l)).sum();

                // What the weights of a loss are.
                let class_of = |r: usize| match (&data.target, loss.form) {
                    (_, Form::Region | Form::BatchRegion) => Some(r % DIMS[1]),
                    (Labels::Index(t), _) => Some(t[r] as usize),
                    _ => None,
                };
                let by_class = |r: usize| match (classes, class_of(r)) {
                    (Some(w), Some(class)) => f64::from(w[class]),
                    _ => 1.0,
                };
                let weighted: f64 = (0..n).map(|r| weight.map_or(1.0, |w| f64::from(w[r])) * by_class(r)).sum();
                let pytorch = ["cross-entropy", "NLL"].iter().any(|name| loss.name.starts_with(name));
                let mean = if pytorch { (0..n).map(by_class).sum() } else { n as f64 };
                let denominators = [
                    (Reduction::Sum, 1.0),
                    (Reduction::Mean, mean),
                    (Reduction::WeightedMean, weighted),
                    (Reduction::SumOver(12.5), 12.5),
                    (Reduction::BatchMean(1), 1.0),
                ];
                for (reduction, denominator) in denominators {
                    let what = format!("{} {reduction:?} {:?} {:?}", loss.name, weight.is_some(), classes.is_some());
                    let mut grad = vec![T::default(); data.input.len()];
                    let value = run(Verb::ForwardBackward(reduction, &mut grad));
                    close(&what, value, sum / denominator, 1e-6);
                    assert_eq!(value.to_bits(), run(Verb::Forward(reduction)).to_bits(), "{what}: forward alone");
                    same(&what, &grad, &each, 1.0 / denominator);
                    let mut in_place = data.input.clone();
                    assert_eq!(
                        value.to_bits(),
                        run(Verb::InPlace(reduction, &mut in_place)).to_bits(),
                        "{what}: in place"
                    );
                    assert_eq!(bits(&in_place), bits(&grad), "{what}: in place");
                }
            }
        }
    }
    every_dtype!(check);
}

#[test]
fn a_weight_of_samples_is_that_weight_of_each_of_their_losses() {
    let mut random = Random(350);
    for loss in losses::<f32>() {
        let data = loss.data(&mut random, DIMS);
        let n = loss.losses(DIMS);
        for samples in (1..=n).filter(|&samples| n.is_multiple_of(samples)) {
            let few = random.floats(samples, 0.5, 2.0);
            let many: Vec<f32> = few.iter().flat_map(|&w| std::iter::repeat_n(w, n / samples)).collect();
            for reduction in [Reduction::Sum, Reduction::WeightedMean] {
                let (mut a, mut b) = (vec![0.0; data.input.len()], vec![0.0; data.input.len()]);
                let job = data.job(Verb::ForwardBackward(reduction, &mut a));
                let by_sample = (loss.run)(Job { sample_weight: Some(&few), ..job }).unwrap();
                let job = data.job(Verb::ForwardBackward(reduction, &mut b));
                let by_loss = (loss.run)(Job { weight: Some(&many), ..job }).unwrap();
                close(loss.name, by_sample, by_loss.into(), 1e-6);
                same(loss.name, &a, &b, 1.0);
            }
        }
    }
}

/// 37: a power of two multiplies without rounding, unless what it multiplies is subnormal.
#[test]
fn gradients_are_linear_in_what_comes_from_above() {
    let mut random = Random(37);
    for loss in losses::<f32>() {
        let (data, n) = (loss.data(&mut random, DIMS), loss.losses(DIMS));
        let elements = data.input.len();
        let run = |grad_output: f32, accumulate: bool, fill: f32| {
            let (mut grad, mut grad_target) = (vec![fill; elements], vec![fill; elements]);
            let mut job = data.job(Verb::ForwardBackward(Reduction::Mean, &mut grad));
            (job.grad_output, job.accumulate) = (grad_output, accumulate);
            if loss.grad_target {
                job.grad_target = Some(&mut grad_target);
            }
            let value = (loss.run)(job).unwrap();
            (value, [grad, grad_target].concat())
        };
        let (value, grad) = run(1.0, false, 0.0);
        assert!(grad[..elements].iter().any(|&g| g != 0.0), "{}", loss.name);
        for factor in [65536.0, -0.25, 0.0] {
            let want: Vec<f32> = grad.iter().map(|g| factor * g).collect();
            assert_eq!(run(factor, false, 0.0), (value, want), "{} {factor}", loss.name);
        }
        let (with_nan, nan_grad) = run(f32::NAN, false, 0.0);
        assert_eq!(with_nan, value, "{}: the value does not depend on it", loss.name);
        assert!(nan_grad.iter().any(|g| g.is_nan()), "{}", loss.name);
        let sum: Vec<f32> = grad.iter().map(|g| 3.5 + g).collect();
        let wanted = if loss.grad_target { &sum[..] } else { &sum[..elements] };
        assert_eq!(run(1.0, true, 3.5).1[..wanted.len()], *wanted, "{}: accumulated", loss.name);
        assert_eq!(run(1.0, false, f32::NAN).1[..wanted.len()], grad[..wanted.len()], "{}: overwritten", loss.name);

        // One number from above for each loss.
        let upstream: Vec<f32> = (0..n).map(|_| random.pick(&[0.0, 1.0, 65536.0, -0.5])).collect();
        let (mut values, mut each) = (vec![0.0; n], vec![0.0; elements]);
        (loss.run)(data.job(Verb::UnreducedBackward(&upstream, &mut values, &mut each))).unwrap();
        let (ones, mut weighted) = (vec![1.0; n], vec![0.0; elements]);
        let job = data.job(Verb::UnreducedBackward(&ones, &mut values, &mut weighted));
        (loss.run)(Job { weight: Some(&upstream), ..job }).unwrap();
        assert_eq!(each, weighted, "{}: it is the weight of the gradient alone", loss.name);
    }
}

#[test]
fn backward_alone_writes_what_forward_backward_writes() {
    let mut random = Random(370);
    let (x, t, upstream) =
        (random.floats(100, -2.0, 2.0), random.floats(100, -2.0, 2.0), random.floats(100, -2.0, 2.0));
    let (mut a, mut b, mut values) = ([7.0; 100], [8.0; 100], [0.0; 100]);
    Mse::new().forward_backward(&x, &t, Reduction::Mean, &mut a).unwrap();
    Mse::new().call(&x, &t).backward(Reduction::Mean, &mut b).unwrap();
    assert_eq!(a, b);
    Mse::new().call(&x, &t).forward_backward_unreduced(&upstream, &mut values, &mut a).unwrap();
    Mse::new().call(&x, &t).backward_unreduced(&upstream, &mut b).unwrap();
    assert_eq!(a, b);
}

/// 54: in input, target or weight, in any lane; a maximum of numbers would pass it over.
#[test]
fn one_nan_makes_the_value_nan() {
    fn check<T: Element>() {
        let mut random = Random(54);
        for loss in losses::<T>() {
            let clean = loss.data(&mut random, [3, 21, 5]);
            let n = loss.losses(clean.dims);
            for _ in 0..times(40) {
                let mut data = clean.clone();
                let at = random.below(data.input.len());
                match &mut data.target {
                    Labels::Dense(t) if random.below(2) == 0 => t[at] = T::from_f32(f32::NAN),
                    _ => data.input[at] = T::from_f32(f32::NAN),
                }
                if let (Labels::Index(t), "NLL") = (&mut data.target, loss.name) {
                    // It looks at the target's class alone.
                    t[at / 105 * 5 + at % 5] = at as i64 / 5 % 21;
                }
                for reduction in [Reduction::Mean, Reduction::Sum] {
                    let value = (loss.run)(data.job(Verb::Forward(reduction))).unwrap();
                    assert!(value.is_nan(), "{} {reduction:?} with NaN at {at}: {value}", loss.name);
                }
                let mut values = vec![0.0; n];
                (loss.run)(data.job(Verb::Unreduced(&mut values))).unwrap();
                let nans = values.iter().filter(|v| v.is_nan()).count();
                let wanted = if loss.name.starts_with("Dice, softmax") { 21 } else { 1 };
                assert_eq!(nans, wanted, "{} with NaN at {at}", loss.name);
            }
            let mut weight = vec![1.0; n];
            weight[random.below(n)] = f32::NAN;
            let value = (loss.run)(Job { weight: Some(&weight), ..clean.job(Verb::Forward(Reduction::Mean)) });
            assert!(value.unwrap().is_nan(), "{}", loss.name);
        }
    }
    every_dtype!(check);
}

#[test]
fn a_weight_of_zero_does_not_hide_a_nan() {
    let zero = [0.0f32; 3];
    let logits = [f32::NAN, 0.0, 1.0];
    let ce = |target| CrossEntropy::new().call(&logits, target, (1, 3));
    let values = [
        ("a dense target of zeros", ce(Target::Dense(&zero)).forward(Reduction::Sum)),
        ("a class weight", ce(Target::U8(&[1])).class_weight(&zero).forward(Reduction::Sum)),
        ("a row weight", ce(Target::U8(&[1])).weight(&[0.0]).forward(Reduction::Sum)),
        ("that of MSE", Mse::new().call(&logits, &zero).weight(&zero).forward(Reduction::Sum)),
        (
            "alpha of focal",
            SoftmaxFocal::new().call(&logits, &[1u8], (1, 3)).class_weight(&zero).forward(Reduction::Sum),
        ),
        (
            "that of a margin",
            MultiMargin::new().call(&logits, &[1u8], (1, 3)).class_weight(&zero).forward(Reduction::Sum),
        ),
    ];
    let hidden: Vec<_> = values.iter().filter(|(_, value)| !value.clone().unwrap().is_nan()).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

/// Logits at the edges of a storage type, its subnormals among them: a loss may be infinite, as `x - t` is where both are as far out as
/// can be, but what goes in is a number, and nothing that comes out is none.
#[test]
fn finite_numbers_at_the_edges_of_a_dtype_give_no_nan() {
    fn check<T: Element>() {
        let (most, least) = match T::NAME {
            "float16" => (65504.0, 5.9604645e-8),
            "bfloat16" => (3.3895314e38, 9.183_55e-41),
            _ => (f32::MAX, 1e-45),
        };
        let edges = [most, -most, 0.5 * most, least, -least, 0.0, -0.0, 1.0, -1.0, 100.0, -88.8];
        let mut random = Random(4);
        // Squares of lengths are summed in f32 on a GPU: beyond 1e19 they are infinite there, as the pages of these two say.
        let of_lengths = |name: &str| BY_KERNELS && (name.starts_with("cosine") || name.starts_with("triplet"));
        let all = losses::<T>();
        for loss in all.iter().filter(|loss| loss.input == Domain::Real && !of_lengths(loss.name)) {
            for dims in [[1, 1, 1], [4, 3, 1], [2, 20, 3]] {
                for _ in 0..times(20) {
                    let mut data = loss.data(&mut random, dims);
                    data.input.iter_mut().for_each(|x| *x = T::from_f32(random.pick(&edges)));
                    if let (Labels::Dense(t), Domain::Real) = (&mut data.target, loss.target) {
                        t.iter_mut().for_each(|t| *t = T::from_f32(random.pick(&edges)));
                    }
                    let n = loss.losses(dims);
                    let (ones, mut values, mut grad) =
                        (vec![1.0; n], vec![0.0; n], vec![T::default(); data.input.len()]);
                    let verb = Verb::UnreducedBackward(&ones, &mut values, &mut grad);
                    (loss.run)(data.job(verb)).unwrap();
                    let nan = |x: &[f32]| x.iter().any(|x| x.is_nan());
                    let (grad, input) = (from(&grad), from(&data.input));
                    assert!(!nan(&values), "{} of {}: {values:?} of {input:?}, {:?}", loss.name, T::NAME, data.target);
                    // The gradient of a divergence is what probabilities lack of its value, where that is a number.
                    if loss.form == Form::Row && loss.target == Domain::Real && values.iter().any(|v| v.is_infinite()) {
                        continue;
                    }
                    assert!(!nan(&grad), "{} of {}: {grad:?} of {input:?}, {:?}", loss.name, T::NAME, data.target);
                }
            }
        }
    }
    every_dtype!(check);
}

/// As many classes as the largest vocabularies have, several times over: all alike, and one.
#[test]
fn a_million_classes_and_one() {
    let classes = if BY_KERNELS { 1 << 14 } else { 1 << 20 };
    let (logits, mut grad) = (vec![0.25f32; classes], vec![f32::NAN; classes]);
    let last = [classes as i64 - 1];
    let value = CrossEntropy::new().forward_backward(&logits, &last, (1, classes), Reduction::Mean, &mut grad).unwrap();
    close("equal logits", value, (classes as f64).ln(), 1e-6);
    assert!(grad[..classes - 1].iter().all(|&g| g == 1.0 / classes as f32));
    assert_eq!(grad[classes - 1], 1.0 / classes as f32 - 1.0);
    let value =
        Distillation::new().forward_backward(&logits, &logits, (1, classes), Reduction::Mean, &mut grad).unwrap();
    assert!(value.abs() < 1e-6 && grad.iter().all(|g| g.abs() < 1e-6), "{value}");
}

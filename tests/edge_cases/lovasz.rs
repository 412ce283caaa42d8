//! Lovász's hinge and Lovász-Softmax, against Berman's algorithm in f64.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum, SumOver, WeightedMean};
use fused_loss::*;

/// Value and derivatives for the errors of a region: `lovasz_grad` of the paper, as differences of Jaccard indices.
fn region(errors: &[f64], foreground: &[bool]) -> (f64, Vec<f64>) {
    let mut order: Vec<usize> = (0..errors.len()).collect();
    order.sort_by(|&a, &b| errors[b].total_cmp(&errors[a]));
    let all = foreground.iter().filter(|&&f| f).count() as f64;
    let (mut found, mut others, mut before, mut value) = (0.0, 0.0, 0.0, 0.0);
    let mut slopes = vec![0.0; errors.len()];
    for i in order {
        if foreground[i] {
            found += 1.0
        } else {
            others += 1.0
        }
        let jaccard = 1.0 - (all - found) / (all + others);
        value += errors[i].max(0.0) * (jaccard - before);
        slopes[i] = if errors[i] > 0.0 { jaccard - before } else { 0.0 };
        before = jaccard;
    }
    (value, slopes)
}

/// A problem of `[samples, channels, inner]`, and what comes of it: the losses of its regions, whether they count, and of each element the
/// derivative of the loss of its region (or for a softmax, of each class).
struct Problem<T> {
    shape: [usize; 3],
    logits: Vec<T>,
    masks: Vec<T>,
    classes: Vec<i64>,
}

struct Want {
    losses: Vec<f64>,
    present: Vec<bool>,
    /// For each region the gradient of its loss, by element.
    grads: Vec<Vec<(usize, f64)>>,
}

impl<T: Element> Problem<T> {
    fn new(shape: [usize; 3], seed: u64) -> Self {
        let mut random = Random(seed);
        let [samples, channels, inner] = shape;
        let n = samples * channels * inner;
        let masks = (0..n).map(|_| T::from_f32(random.pick(&[0.0, 0.0, 1.0]))).collect();
        // Not every class occurs, and some positions are ignored.
        let some = channels.div_ceil(2).max(1) as i64;
        let classes = (0..samples * inner).map(|i| if i % 7 == 3 { 255 } else { (i as i64 * 5 + 1) % some }).collect();
        Problem { shape, logits: to::<T>(&random.floats(n, -3.0, 3.0)), masks, classes }
    }

    /// The elements of each region, by groups of as many regions as there are channels.
    fn regions(&self, batch: bool) -> Vec<Vec<usize>> {
        let [samples, channels, inner] = self.shape;
        let at = |n: usize, c: usize| (0..inner).map(move |i| (n * channels + c) * inner + i);
        if batch {
            (0..channels).map(|c| (0..samples).flat_map(|n| at(n, c)).collect()).collect()
        } else {
            (0..samples * channels).map(|r| at(r / channels, r % channels).collect()).collect()
        }
    }

    fn hinge(&self, batch: bool) -> Want {
        let mut want = Want { losses: Vec::new(), present: Vec::new(), grads: Vec::new() };
        for elements in self.regions(batch) {
            let y = |&k: &usize| 2.0 * f64::from(self.masks[k].to_f32()) - 1.0;
            let errors: Vec<f64> = elements.iter().map(|k| 1.0 - f64::from(self.logits[*k].to_f32()) * y(k)).collect();
            let (value, slopes) = region(&errors, &elements.iter().map(|k| y(k) > 0.0).collect::<Vec<_>>());
            want.losses.push(value);
            want.present.push(true);
            want.grads.push(elements.iter().zip(slopes).map(|(k, s)| (*k, -y(k) * s)).collect());
        }
        want
    }

    fn softmax(&self, batch: bool, all: bool) -> Want {
        let [_, channels, inner] = self.shape;
        let x = |k: usize| f64::from(self.logits[k].to_f32());
        let first = |k: usize| k / (channels * inner) * channels * inner + k % inner;
        let p = |k: usize| {
            let sum: f64 = (0..channels).map(|c| x(first(k) + c * inner).exp()).sum();
            x(k).exp() / sum
        };
        let mut want = Want { losses: Vec::new(), present: Vec::new(), grads: Vec::new() };
        for elements in self.regions(batch) {
            let channel = |k: usize| (k / inner % channels) as i64;
            let class = |k: usize| self.classes[k / (channels * inner) * inner + k % inner];
            let counted: Vec<usize> = elements.into_iter().filter(|&k| class(k) != 255).collect();
            let of: Vec<bool> = counted.iter().map(|&k| class(k) == channel(k)).collect();
            let errors: Vec<f64> =
                counted.iter().zip(&of).map(|(&k, &of)| if of { 1.0 - p(k) } else { p(k) }).collect();
            let (value, slopes) = region(&errors, &of);
            let present = all || of.contains(&true);
            want.present.push(present);
            want.losses.push(if present { value } else { 0.0 });
            let mut grads = Vec::new();
            for ((&k, of), s) in counted.iter().zip(of).zip(slopes).filter(|_| present) {
                let of_p = if of { -s } else { s };
                for c in 0..channels {
                    let j = first(k) + c * inner;
                    grads.push((j, of_p * p(k) * (f64::from(u8::from(j == k)) - p(j))));
                }
            }
            want.grads.push(grads);
        }
        want
    }
}

impl Want {
    /// What each region's loss is multiplied by in a mean.
    fn shares(&self, channels: usize) -> Vec<f64> {
        let groups = self.losses.len() / channels;
        let present = |r: usize| self.present[r / channels * channels..][..channels].iter().filter(|&&p| p).count();
        (0..self.losses.len()).map(|r| if self.present[r] { 1.0 / (present(r) * groups) as f64 } else { 0.0 }).collect()
    }

    fn value(&self, shares: &[f64]) -> f64 {
        self.losses.iter().zip(shares).map(|(l, s)| l * s).sum()
    }

    fn grad(&self, shares: &[f64], n: usize) -> Vec<f64> {
        let mut grad = vec![0.0; n];
        for (grads, share) in self.grads.iter().zip(shares) {
            grads.iter().for_each(|(k, g)| grad[*k] += g * share);
        }
        grad
    }
}

fn near<T: Element>(what: &str, got: &[T], want: &[f64]) {
    let largest = want.iter().fold(1e-30f64, |a, g| a.max(g.abs()));
    // Errors that differ by their rounding alone may change places, which changes what they weigh by a share of the number of pixels.
    let places = largest / want.len() as f64;
    let rounding = if T::NAME == "float32" { 0.0 } else { f64::from(T::from_f32(1.0).to_f32()) / 256.0 };
    let subnormal = if T::NAME == "float16" { 4e-8 } else { 1e-9 };
    for (k, (got, want)) in got.iter().zip(want).enumerate() {
        let got = f64::from(got.to_f32());
        let allowed = 3e-6 * largest + places + rounding * want.abs() + subnormal;
        assert!((got - want).abs() <= allowed, "{what} {}: element {k}: {got} for {want}", T::NAME);
    }
}

/// All that is asked of a loss with these answers: reductions, forms, in place, added, unreduced.
fn check<T: Element>(what: &str, data: &Data<T>, want: &Want, run: impl Fn(Job<'_, T>) -> Result<f32>) {
    let (n, channels, regions) = (data.input.len(), data.dims[1], want.losses.len());
    let same = |value: f32, want: f64| {
        assert!((f64::from(value) - want).abs() <= 2e-6 * want.abs() + 1e-7, "{what} {}: {value} for {want}", T::NAME);
    };
    let go = |grad_output: f32, accumulate: bool, verb: Verb<'_, T>| {
        let mut job = data.job(verb);
        (job.grad_output, job.accumulate) = (grad_output, accumulate);
        run(job).unwrap()
    };
    let times = |shares: &[f64], by: f64| shares.iter().map(|s| s * by).collect::<Vec<f64>>();
    let one = vec![1.0; regions];
    for (reduction, shares) in [
        (Mean, want.shares(channels)),
        (WeightedMean, want.shares(channels)),
        (Sum, one.clone()),
        (SumOver(2.5), times(&one, 0.4)),
    ] {
        let mut grad = vec![T::from_f32(0.5); n];
        same(go(2.0, false, Verb::ForwardBackward(reduction, &mut grad)), want.value(&shares));
        near(what, &grad, &want.grad(&times(&shares, 2.0), n));
        same(go(1.0, false, Verb::Forward(reduction)), want.value(&shares));
        let mut in_place = data.input.clone();
        same(go(2.0, false, Verb::InPlace(reduction, &mut in_place)), want.value(&shares));
        assert!(bits(&in_place) == bits(&grad), "{what}: in place");
        let mut added = vec![T::from_f32(0.5); n];
        go(2.0, true, Verb::ForwardBackward(reduction, &mut added));
        let sums: Vec<f64> = want.grad(&times(&shares, 2.0), n).iter().map(|g| g + 0.5).collect();
        near(what, &added, &sums);
    }
    let upstream: Vec<f32> = (0..regions).map(|r| (r % 3) as f32 - 0.5).collect();
    let (mut losses, mut grad) = (vec![f32::NAN; regions], vec![T::from_f32(0.5); n]);
    go(1.0, false, Verb::UnreducedBackward(&upstream, &mut losses, &mut grad));
    near(what, &grad, &want.grad(&upstream.iter().map(|&g| g.into()).collect::<Vec<f64>>(), n));
    losses.iter().zip(&want.losses).for_each(|(&got, &want)| same(got, want));
}

#[test]
fn both_are_the_algorithm_of_the_paper() {
    fn all<T: Element>() {
        let shapes = [[1, 1, 1], [2, 3, 5], [3, 1, 17], [1, 4, 300], [2, 2, 2100], [1, 1, 5000]];
        // Kernels that are executed on the host take their time: several tiles of one type.
        let few = if BY_KERNELS && T::NAME != "float32" { 4 } else { 6 };
        for (s, shape) in shapes.into_iter().enumerate().take(few) {
            let problem = Problem::<T>::new(shape, s as u64);
            let data = |target| Data { dims: shape, input: problem.logits.clone(), target };
            for batch in [false, true] {
                let what = format!("{shape:?}, batch {batch}");
                let (hinge, masks) = (LovaszHinge::new().batch(batch), data(Labels::Dense(problem.masks.clone())));
                check(&format!("hinge {what}"), &masks, &problem.hinge(batch), |job| {
                    job.run(
                        |j| hinge.call(j.input, j.dense(), j.shape),
                        |j, x| hinge.call_in_place(x, j.dense(), j.shape),
                    )
                });
                for every in [false, true] {
                    let loss = LovaszSoftmax::new().batch(batch).all_classes(every).ignore_index(255);
                    let classes = data(Labels::Index(problem.classes.clone()));
                    check(&format!("softmax {what}, all {every}"), &classes, &problem.softmax(batch, every), |job| {
                        job.run(
                            |j| loss.call(j.input, j.target, j.shape),
                            |j, x| loss.call_in_place(x, j.target, j.shape),
                        )
                    });
                }
            }
        }
    }
    every_dtype!(all);
}

#[test]
fn equal_errors_are_taken_in_the_order_of_their_pixels() {
    // The second pixel is of the mask; all errors are 1.
    let mut grad = [9.0; 3];
    let value = LovaszHinge::new().forward_backward(&[0.0; 3], &[0.0, 1.0, 0.0], [1, 1, 3], Sum, &mut grad);
    assert_eq!((value, grad), (Ok(1.0), [0.5, -0.5, 0.0]));
}

#[test]
fn where_there_is_no_mask_the_largest_error_counts_alone() {
    let mut grad = [9.0; 4];
    let value = LovaszHinge::new().forward_backward(&[-3.0, 2.0, 1.0, -1.0], &[0.0; 4], [1, 1, 4], Mean, &mut grad);
    assert_eq!((value, grad), (Ok(3.0), [0.0, 1.0, 0.0, 0.0]));
    // All is right, by more than the margin.
    let value = LovaszHinge::new().forward_backward(&[-3.0, 2.0], &[0.0, 1.0], [1, 2, 1], Mean, &mut grad[..2]);
    assert_eq!((value, &grad[..2]), (Ok(0.0), &[0.0, 0.0][..]));
}

#[test]
fn nothing_has_the_value_that_it_has_elsewhere() {
    let (hinge, softmax) = (LovaszHinge::new(), LovaszSoftmax::new().ignore_index(255));
    let none: [f32; 0] = [];
    assert!(hinge.forward(&none, &none, [0, 2, 3], Mean).unwrap().is_nan());
    assert_eq!(hinge.forward(&none, &none, [0, 2, 3], Sum), Ok(0.0));
    assert_eq!(hinge.forward(&none, &none, [3, 2, 0], Mean), Ok(0.0));
    let mut losses = [9.0; 6];
    hinge.call(&none, &none, [3, 2, 0]).forward_unreduced(&mut losses).unwrap();
    assert_eq!(losses, [0.0; 6]);
    // More regions without elements than there is time to look at.
    if !BY_KERNELS {
        assert_eq!(hinge.forward(&none, &none, [1 << 60, 2, 0], Mean), Ok(0.0));
        assert_eq!(softmax.batch(false).forward(&none, &[0u8; 0], [1 << 60, 2, 0], Sum), Ok(0.0));
    }
    // Nothing but ignored positions, of whatever.
    let mut grad = [9.0; 4];
    let value =
        softmax.forward_backward(&[f32::NAN, 1.0, 2.0, f32::INFINITY], &[255u8, 255], [1, 2, 2], Mean, &mut grad);
    assert_eq!((value, grad), (Ok(0.0), [0.0; 4]));
}

#[test]
fn what_is_not_a_number_is_in_the_value_and_its_own_gradient() {
    let mut grad = [9.0; 4];
    let logits = [f32::NAN, 0.5, 2.0, 0.25];
    let value =
        LovaszHinge::new().forward_backward(&logits, &[1.0, 0.0, 0.0, 1.0], [2, 1, 2], Mean, &mut grad).unwrap();
    assert!(value.is_nan() && grad[0].is_nan() && grad[1..].iter().all(|g| g.is_finite()), "{value} {grad:?}");
    let value = LovaszSoftmax::new().forward_backward(&logits, &[0u8, 1], [1, 2, 2], Mean, &mut grad).unwrap();
    assert!(value.is_nan() && grad[0].is_nan() && grad[2].is_nan(), "{value} {grad:?}");
    assert!(grad[1].is_finite() && grad[3].is_finite(), "{grad:?}");
}

#[test]
fn what_they_do_not_do_is_refused() {
    let (x, t) = ([0.5f32; 4], [1.0f32, 0.0, 1.0, 0.0]);
    let (hinge, softmax) = (LovaszHinge::new(), LovaszSoftmax::new());
    let refused = |result: Result<f32>| assert!(matches!(result, Err(Error::Unsupported { .. })), "{result:?}");
    refused(hinge.forward(&x, &[0u8, 1], [1, 2, 2], Mean));
    refused(softmax.forward(&x, &t, [1, 2, 2], Mean));
    refused(hinge.call(&x, &t, [1, 2, 2]).weight(&[1.0; 2]).forward(Mean));
    refused(hinge.call(&x, &t, [1, 2, 2]).class_weight(&[1.0; 2]).forward(Mean));
    refused(softmax.call(&x, &[0u8, 1], [1, 2, 2]).grad_target(&mut [0.0; 4]).forward_backward(Mean, &mut [0.0; 4]));
    let short = hinge.forward(&x, &t[..3], [1, 2, 2], Mean);
    assert_eq!(short, Err(Error::Length { what: "target", expected: 4, got: 3 }));
    let mut grad = [9.0; 4];
    let stray = softmax.forward_backward(&x, &[0u8, 7], [1, 2, 2], Mean, &mut grad);
    assert_eq!(stray, Err(Error::ClassIndex { row: 1, index: 7, classes: 2 }));
    assert!(BY_KERNELS || grad == [9.0; 4]);
}

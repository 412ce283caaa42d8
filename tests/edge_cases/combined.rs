//! Sums of losses: their terms, their reductions, what they share and what they refuse.

use fused_loss::*;

use super::support::Random;

/// What each of these says of its own is what the sum says of it, and the sum is theirs.
fn check<T: Element>(n: usize, reduction: Reduction) {
    let mut random = Random(n as u64);
    let narrow = |x: Vec<f32>| x.into_iter().map(T::from_f32).collect::<Vec<T>>();
    let x = narrow(random.floats(n, -20.0, 20.0));
    let t = narrow((0..n).map(|_| random.below(2) as f32).collect());
    let (bce, focal, mse) = (BceWithLogits::new().pos_weight(2.0).unwrap(), SigmoidFocal::new(), Mse::new());
    let sum = 0.5 * bce + 2.0 * focal - 0.0 * mse;
    let (mut terms, mut grad) = ([f32::NAN; 3], vec![T::default(); n]);
    let value = sum.call(&x, &t).terms(&mut terms).forward_backward(reduction, &mut grad).unwrap();
    let own = [bce.forward(&x, &t, reduction), focal.forward(&x, &t, reduction), mse.forward(&x, &t, reduction)];
    for (term, own) in terms.iter().zip(own) {
        let own = own.unwrap();
        assert!(
            (term - own).abs() <= 1e-6 * own.abs() || term.is_nan() && own.is_nan(),
            "{n} {reduction:?}: {terms:?}, {own}"
        );
    }
    let want = 0.5 * terms[0] + 2.0 * terms[1];
    assert!((value - want).abs() <= 1e-6 * want.abs() || value.is_nan() && want.is_nan(), "{n}: {value} {want}");
    // With and without terms and gradient, the same bits; and the terms without a gradient too.
    let mut alone = [f32::NAN; 3];
    let forward = sum.call(&x, &t).terms(&mut alone).forward(reduction).unwrap();
    assert_eq!((forward.to_bits(), alone.map(f32::to_bits)), (value.to_bits(), terms.map(f32::to_bits)));
    assert_eq!(sum.forward(&x, &t, reduction).unwrap().to_bits(), value.to_bits());
}

#[test]
fn the_terms_of_a_sum_are_those_losses_of_their_own() {
    for n in [0, 1, 5, 4096, 8_193] {
        check::<f32>(n, Reduction::Mean);
        check::<half::f16>(n, Reduction::Sum);
        check::<half::bf16>(n, Reduction::SumOver(3.5));
    }
}

#[test]
fn weights_of_elements_weigh_every_term() {
    let (x, t, w) = ([0.5f32, -2.0, 3.0, 1.0], [0.0, 1.0, 1.0, 0.5], [1.0, 0.0, 2.0, 0.25]);
    let sum = Mse::new() + 2.0 * Mae::new();
    for reduction in [Reduction::Mean, Reduction::WeightedMean] {
        let mut terms = [0.0; 2];
        let value = sum.call(&x, &t).weight(&w).terms(&mut terms).forward(reduction).unwrap();
        let own = [
            Mse::new().call(&x, &t).weight(&w).forward(reduction),
            Mae::new().call(&x, &t).weight(&w).forward(reduction),
        ];
        for (term, own) in terms.iter().zip(own) {
            assert!((term - own.unwrap()).abs() < 1e-6);
        }
        assert!((value - (terms[0] + 2.0 * terms[1])).abs() < 1e-6);
    }
}

#[test]
fn sums_and_products_are_those_of_numbers() {
    let (x, t) = ([0.5f32, -2.0, 3.0], [0.0f32, 1.0, 1.0]);
    let value = |loss: Combined| loss.forward(&x, &t, Reduction::Mean).unwrap();
    let (mse, mae) = (Mse::new(), Mae::new());
    assert_eq!(value(0.5 * (mse + mae * 2.0)), value(0.5 * mse + 1.0 * mae));
    assert_eq!(value(mse + (mae + Huber::default())), value((mse + mae) + Huber::default()));
    assert_eq!(value(1.0 * mse), mse.forward(&x, &t, Reduction::Mean).unwrap());
    assert_eq!(value(mse - mae), value(mse + -1.0 * mae));
    assert_eq!(0.5 * mse + mae, 0.5 * mse + 1.0 * mae);
}

#[test]
fn a_nan_of_one_term_is_the_sums() {
    // The squared hinge knows nothing of log-probabilities, the divergence nothing of this.
    let sum = KlDiv::new() + 0.0 * Mse::new();
    let mut grad = [0.0f32; 2];
    let value = sum.forward_backward(&[0.5, f32::NAN], &[0.0, 0.5], Reduction::Sum, &mut grad).unwrap();
    assert!(value.is_nan() && grad[0] == 0.0 && grad[1].is_nan(), "{value} {grad:?}");
}

#[test]
fn what_a_sum_cannot_do_is_an_error_and_writes_nothing() {
    let (x, t) = ([0.5f32; 4], [1.0f32; 4]);
    let (mse, mae) = (Mse::new(), Mae::new());
    let refused = |sum: Combined| {
        let mut grad = [7.0f32; 4];
        let error = sum.forward_backward(&x, &t, Reduction::Mean, &mut grad).unwrap_err();
        assert_eq!(grad, [7.0; 4]);
        error.to_string()
    };
    assert_eq!(refused(mse + mae + mse + mae + mse), "terms: expected at most 4 of them, got 5");
    assert_eq!(refused(f32::INFINITY * mse), "weight of a term: expected a finite number, got inf");
    let keras = Hinge::new().labels(HingeLabels::Keras);
    assert_eq!(refused(mse + keras), "combined loss: Keras's rule for labels is not supported");

    let mut grad = [7.0f32; 4];
    let mut call = |sum: Combined, terms: &mut [f32]| {
        let error = sum.call(&x, &t).terms(terms).forward_backward(Reduction::Mean, &mut grad).unwrap_err();
        assert_eq!(grad, [7.0; 4]);
        assert!(terms.iter().all(|&term| term == 7.0));
        error
    };
    assert_eq!(call(mse + mae, &mut [7.0; 3]), Error::Length { what: "terms", expected: 2, got: 3 });
    assert_eq!(call(mse + mae, &mut [7.0]), Error::Length { what: "terms", expected: 2, got: 1 });
    let error = (mse + mae).call(&x, &t).terms(&mut [0.0; 2]).forward_unreduced(&mut [0.0; 4]).unwrap_err();
    assert_eq!(error.to_string(), "combined loss: asking for terms without a reduction is not supported");
    let mut grad_target = [0.0; 4];
    let no_target = (mse + SigmoidFocal::new()).call(&x, &t).grad_target(&mut grad_target);
    assert!(matches!(no_target.backward(Reduction::Mean, &mut grad), Err(Error::Unsupported { .. })));
    let classes = (mse + mae).call(&x, &t).class_weight(&[1.0]).forward(Reduction::Mean);
    assert!(matches!(classes, Err(Error::Unsupported { .. })));
}

/// What a sum of Dice and cross-entropy is asked.
#[derive(Clone, Copy, Debug)]
struct Ask {
    dims: [usize; 3],
    index: bool,
    class_weight: bool,
    batch: bool,
    background: bool,
    squared: bool,
    smoothing: f32,
    z_loss: f32,
    reduction: Reduction,
}

const WEIGHTS: [f64; 2] = [0.5, 2.0];

impl Ask {
    fn loss(&self) -> CombinedRegions {
        let dice = DiceLoss::new().softmax().batch(self.batch).include_background(self.background);
        let cross_entropy = CrossEntropy::new().label_smoothing(self.smoothing).unwrap().z_loss(self.z_loss).unwrap();
        0.5 * dice.squared_pred(self.squared) + 2.0 * cross_entropy
    }

    /// Both terms, by their definitions; and what errors of Dice, which is a difference from 1, are measured against at least.
    fn definition(&self, x: &[f64], t: &[f64], w: &[f64]) -> [f64; 3] {
        let [n, c, inner] = self.dims;
        let at = |s: usize, k: usize, i: usize| (s * c + k) * inner + i;
        let (mut p, mut cost, mut share) = (vec![0.0; x.len()], 0.0, 0.0);
        for (s, i) in (0..n).flat_map(|s| (0..inner).map(move |i| (s, i))) {
            let max = (0..c).map(|k| x[at(s, k, i)]).fold(f64::NEG_INFINITY, f64::max);
            let lse = max + (0..c).map(|k| (x[at(s, k, i)] - max).exp()).sum::<f64>().ln();
            for k in 0..c {
                p[at(s, k, i)] = (x[at(s, k, i)] - lse).exp();
                let q = (1.0 - f64::from(self.smoothing)) * t[at(s, k, i)] + f64::from(self.smoothing) / c as f64;
                cost += w[k] * q * (lse - x[at(s, k, i)]);
                share += if self.index { w[k] * t[at(s, k, i)] } else { 1.0 / c as f64 };
            }
            cost += f64::from(self.z_loss) * lse * lse;
        }
        let power = if self.squared { 2 } else { 1 };
        let (mut dice, mut weights, mut regions) = (0.0, 0.0, 0.0);
        let batches: Vec<_> =
            if self.batch { std::iter::once(0..n).collect() } else { (0..n).map(|s| s..s + 1).collect() };
        for samples in batches {
            for k in usize::from(!self.background)..c {
                let sum = |f: &dyn Fn(usize) -> f64| -> f64 {
                    samples.clone().flat_map(|s| (0..inner).map(move |i| at(s, k, i))).map(f).sum()
                };
                let (shared, sizes) = (sum(&|i| p[i] * t[i]), sum(&|i| p[i].powi(power) + t[i].powi(power)));
                dice += w[k] * (1.0 - (2.0 * shared + 1.0) / (sizes + 1.0));
                (weights, regions) = (weights + w[k], regions + 1.0);
            }
        }
        let denominators = match self.reduction {
            Reduction::Mean => [regions, share],
            Reduction::WeightedMean => [weights, share],
            Reduction::BatchMean(batch) => [batch as f64; 2],
            Reduction::SumOver(d) => [d; 2],
            _ => [1.0; 2],
        };
        [dice / denominators[0], cost / denominators[1], 0.25 * weights / denominators[0]]
    }

    fn check<T: Element + PartialEq>(&self, half_ulp: f64) {
        let [n, c, inner] = self.dims;
        let mut random = Random((n * c * inner) as u64);
        let x: Vec<T> = random.floats(n * c * inner, -6.0, 6.0).into_iter().map(T::from_f32).collect();
        let index: Vec<u8> = (0..n * inner).map(|_| random.below(c) as u8).collect();
        let dense: Vec<T> = random.floats(n * c * inner, 0.0, 1.0).into_iter().map(T::from_f32).collect();
        let w = if self.class_weight { random.floats(c, 0.25, 2.0) } else { vec![1.0; c] };
        let loss = self.loss();
        let target: Target<T> = if self.index { (&index).into() } else { (&dense).into() };
        let call = || {
            let call = loss.call(&x, target, self.dims).grad_output(64.0);
            if self.class_weight { call.class_weight(&w) } else { call }
        };
        let (mut terms, mut grad) = ([f32::NAN; 2], vec![T::from_f32(f32::NAN); x.len()]);
        let value = call().terms(&mut terms).forward_backward(self.reduction, &mut grad).unwrap();
        assert_eq!(call().forward(self.reduction).unwrap().to_bits(), value.to_bits(), "{self:?}");

        let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
        let (mut x64, w64) = (wide(&x), w.iter().map(|&w| w.into()).collect::<Vec<f64>>());
        let hard = |i: usize| f64::from(u8::from(index[i / (c * inner) * inner + i % inner] as usize == i / inner % c));
        let t64 = if self.index { (0..x.len()).map(hard).collect() } else { wide(&dense) };
        let book = |x: &[f64]| self.definition(x, &t64, &w64);
        let whole = |[dice, cost, _]: [f64; 3]| WEIGHTS[0] * dice + WEIGHTS[1] * cost;
        let want = book(&x64);
        let least = want[2];
        let values = [(terms[0], want[0], least), (terms[1], want[1], 0.0), (value, whole(want), WEIGHTS[0] * least)];
        for (got, want, least) in values {
            assert!((f64::from(got) - want).abs() <= 1e-6 * want.max(least), "{self:?} {}: {got} {want}", T::NAME);
        }
        let mut slopes = Vec::new();
        for k in 0..12 {
            let i = k * (x.len() - 1) / 11;
            let (here, h) = (x64[i], 1e-3);
            let [a, b, c, d] = [-2.0, -1.0, 1.0, 2.0].map(|step| {
                x64[i] = here + step * h;
                whole(book(&x64))
            });
            x64[i] = here;
            slopes.push((i, 64.0 * (8.0 * (c - b) - (d - a)) / (12.0 * h)));
        }
        let largest = slopes.iter().fold(0f64, |a, (_, slope)| a.max(slope.abs()));
        for (i, slope) in slopes {
            let got = f64::from(grad[i].to_f32());
            let allowed = 3e-6 * largest + half_ulp * slope.abs();
            assert!((got - slope).abs() <= allowed, "{self:?} {} [{i}]: {got} {slope} of {largest}", T::NAME);
        }

        // Over the input, and added to what is there.
        let mut in_place = x.clone();
        let over = loss.call_in_place(&mut in_place, target, self.dims).grad_output(64.0);
        let over = if self.class_weight { over.class_weight(&w) } else { over };
        assert_eq!(over.forward_backward(self.reduction).unwrap().to_bits(), value.to_bits());
        assert_eq!(in_place, grad, "{self:?}");
        let mut sum = vec![T::from_f32(0.5); x.len()];
        call().accumulate().backward(self.reduction, &mut sum).unwrap();
        let near = |(sum, grad): (&T, &T)| {
            let want = 0.5 + f64::from(grad.to_f32());
            (f64::from(sum.to_f32()) - want).abs() <= 2.0 * half_ulp * (want.abs() + 0.5 + (want - 0.5).abs())
        };
        assert!(sum.iter().zip(&grad).all(near), "{self:?}");
    }
}

#[test]
fn dice_and_cross_entropy_are_their_definitions() {
    let reductions =
        [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::BatchMean(1), Reduction::SumOver(2.5)];
    for (i, dims) in [[1, 2, 1], [2, 3, 17], [1, 4, 1030], [3, 2, 129], [1, 20, 64]].into_iter().enumerate() {
        for (j, reduction) in reductions.into_iter().enumerate() {
            let bit = |k: usize| (i + j) >> k & 1 == 1 || (i * 5 + j) % (k + 2) == 0;
            let ask = Ask {
                dims,
                index: bit(0),
                class_weight: bit(1),
                batch: bit(2),
                background: !bit(3),
                squared: (i + j) % 3 == 0,
                smoothing: if j % 2 == 0 { 0.0 } else { 0.125 },
                z_loss: if i % 2 == 0 { 0.0 } else { 0.0625 },
                reduction,
            };
            ask.check::<f32>(6e-8);
            ask.check::<half::f16>(2f64.powi(-11));
            ask.check::<half::bf16>(2f64.powi(-8));
        }
    }
}

#[test]
fn what_regions_and_logits_cannot_do_together_is_an_error() {
    let (x, t) = ([0.5f32; 8], [0.0f32; 8]);
    let dice = DiceLoss::new().sigmoid();
    let bce = BceWithLogits::new();
    let refused = |sum: CombinedRegions| {
        let mut grad = [7.0; 8];
        let error = sum.forward_backward(&x, &t, [1, 4, 2], Reduction::Mean, &mut grad).unwrap_err();
        assert_eq!(grad, [7.0; 8]);
        error.to_string()
    };
    assert!(refused(DiceLoss::new().softmax() + bce).contains("without a sigmoid"));
    assert!(refused(DiceLoss::new() + SigmoidFocal::new()).contains("without a sigmoid"));
    assert!(refused(dice + Mse::new()).contains("this element-wise loss"));
    assert!(refused(dice + (bce + SigmoidFocal::new())).contains("more than one"));
    assert!(refused(dice + f32::INFINITY * bce).contains("weight of a term"));
    assert!(refused(f32::NAN * (dice + bce)).contains("weight of a term"));
    let sum = TverskyLoss::new(0.3, 0.7).unwrap().sigmoid() - 0.25 * bce;
    assert!(sum.forward(&x, &t, [1, 4, 2], Reduction::Mean).unwrap().is_finite());
    let classes = sum.call(&x, &t, [1, 4, 2]).class_weight(&[1.0; 4]).forward(Reduction::Mean).unwrap_err();
    assert_eq!(classes.to_string(), "combined region loss: a class weight is not supported");
}

#[test]
fn what_regions_and_rows_cannot_do_together_is_an_error() {
    let (x, t) = ([0.5f32; 8], [1u8, 0]);
    let dice = DiceLoss::new().softmax();
    let refused = |sum: CombinedRegions| {
        let mut grad = [7.0; 8];
        let error = sum.forward_backward(&x, &t, [1, 4, 2], Reduction::Mean, &mut grad).unwrap_err();
        assert_eq!(grad, [7.0; 8]);
        error.to_string()
    };
    let cross_entropy = CrossEntropy::new();
    let focal = SoftmaxFocal::new();
    for sum in [DiceLoss::new().sigmoid() + cross_entropy, DiceLoss::new() + focal] {
        let said = refused(sum);
        assert!(said.contains("a loss of a softmax beside a region loss without one is not supported"), "{said}");
    }
    assert!(refused(dice + focal.ignore_index(0)).contains("an ignored class"));
    let dense = (dice + focal).forward(&x, &x, [1, 4, 2], Reduction::Mean).unwrap_err();
    assert_eq!(dense.to_string(), "combined region loss: a target of this kind is not supported");
    let tversky = 2.0 * focal - TverskyLoss::new(0.3, 0.7).unwrap().softmax() * 0.5;
    assert!(tversky.forward(&x, &t, [1, 4, 2], Reduction::Mean).unwrap().is_finite());
    assert!(refused(dice + cross_entropy.softcap(30.0).unwrap()).contains("soft-cap"));
    assert!(refused(dice + cross_entropy.ignore_index(1)).contains("an ignored class"));
    assert!(refused(f32::NAN * dice + cross_entropy).contains("weight of a term"));
    let sum = cross_entropy + 0.5 * TverskyLoss::new(0.3, 0.7).unwrap().softmax();
    assert!(sum.forward(&x, &t, [1, 4, 2], Reduction::Mean).unwrap().is_finite());
    let call = || sum.call(&x, &t, [1, 4, 2]);
    let is = |result: Result<f32>, what: &str| {
        let said = result.unwrap_err().to_string();
        assert!(said.contains(what), "{said}");
    };
    is(call().weight(&[1.0]).forward(Reduction::Mean), "a weight");
    is(call().class_weight(&[1.0]).forward(Reduction::Mean), "class_weight: expected 4");
    is(call().terms(&mut [0.0]).forward(Reduction::Mean), "terms: expected 2");
    is(call().forward_unreduced(&mut [0.0; 4]).map(|()| 0.0), "without a reduction");
    is(call().forward(Reduction::BatchMean(4)), "BatchMean");
    is(sum.forward(&x, &[1i64, -100], [1, 4, 2], Reduction::Mean), "got -100 in row 1");
}

#[test]
fn the_terms_of_rows_are_those_losses_of_their_own() {
    fn check<T: Element>(shape: impl Into<Shape>, temperature: f32, smoothing: f32, reduction: Reduction) {
        let shape = shape.into();
        let (n, rows, classes) = (shape.elements(), shape.rows(), shape.classes());
        let mut random = Random(n as u64);
        let mut logits = || random.floats(n, -20.0, 20.0).into_iter().map(T::from_f32).collect::<Vec<T>>();
        let (x, y) = (logits(), logits());
        let t: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
        let cross_entropy = CrossEntropy::new().label_smoothing(smoothing).unwrap();
        let distillation = Distillation::new().temperature(temperature).unwrap();
        let sum = 0.5 * distillation + 2.0 * cross_entropy.z_loss(1e-2).unwrap();
        let (mut terms, mut grad) = ([f32::NAN; 3], vec![T::default(); n]);
        let value = sum.call(&x, &t, &y, shape).terms(&mut terms).forward_backward(reduction, &mut grad).unwrap();
        let hard = cross_entropy.forward(&x, &t, shape, reduction).unwrap();
        let with_z = cross_entropy.z_loss(1e-2).unwrap().forward(&x, &t, shape, reduction).unwrap();
        let own = [hard, with_z - hard, distillation.forward(&x, &y, shape, reduction).unwrap()];
        for (term, own) in terms.iter().zip(own) {
            let near = (term - own).abs() <= 1e-5 * with_z.abs().max(own.abs());
            assert!(near || term.is_nan() && own.is_nan(), "{shape:?} {reduction:?}: {terms:?}, {own:?}");
        }
        let want = 2.0 * (terms[0] + terms[1]) + 0.5 * terms[2];
        assert!((value - want).abs() <= 1e-6 * want.abs() || value.is_nan() && want.is_nan(), "{value} {want}");
        // With and without terms and gradient, the same bits; in place too.
        let forward = sum.forward(&x, &t, &y, shape, reduction).unwrap();
        assert_eq!(forward.to_bits(), value.to_bits());
        let mut buffer = x.clone();
        let in_place = sum.call_in_place(&mut buffer, &t, &y, shape).forward_backward(reduction).unwrap();
        let bits = |x: &[T]| x.iter().map(|x| x.to_f32().to_bits()).collect::<Vec<u32>>();
        assert_eq!((in_place.to_bits(), bits(&buffer)), (value.to_bits(), bits(&grad)));
    }
    for (temperature, smoothing) in [(1.0, 0.0), (1.0, 0.1), (3.0, 0.0), (0.5, 0.3)] {
        for shape in [[0, 3, 1], [1, 1, 1], [5, 7, 1], [2, 33, 3], [40, 1000, 1], [2, 9001, 1]] {
            check::<f32>(shape, temperature, smoothing, Reduction::Mean);
            check::<half::f16>(shape, temperature, smoothing, Reduction::Sum);
            check::<half::bf16>(shape, temperature, smoothing, Reduction::SumOver(3.5));
        }
    }
}

#[test]
fn an_ignored_row_is_left_out_of_both_terms() {
    let nan = f32::NAN;
    let (x, y) = ([1.0f32, 2.0, -1.0, nan, 0.5, nan], [0.5f32, 1.0, 0.0, 0.0, nan, 1.0]);
    let (loss, t) = (CrossEntropy::new() + Distillation::new(), [1i64, -100]);
    let (mut grad, mut terms) = ([7.0; 6], [7.0; 3]);
    let call = loss.call(&x, &t, &y, (2, 3)).terms(&mut terms);
    let value = call.forward_backward(Reduction::Mean, &mut grad).unwrap();
    let alone = loss.forward(&x[..3], &t[..1], &y[..3], (1, 3), Reduction::Mean).unwrap();
    assert_eq!((value, &grad[3..]), (alone, &[0.0; 3][..]));
    assert_eq!((terms[1], terms[0] + terms[2]), (0.0, value));
    // Values of their own, and each with its own gradient from above.
    let (mut losses, mut grad) = ([7.0; 2], [7.0; 6]);
    let call = loss.call(&x, &t, &y, (2, 3));
    call.forward_backward_unreduced(&[2.0, 3.0], &mut losses, &mut grad).unwrap();
    assert_eq!((losses, &grad[3..]), ([alone, 0.0], &[0.0; 3][..]));
    let bad = loss.forward(&x, &[1i64, 3], &y, (2, 3), Reduction::Mean);
    assert_eq!(bad, Err(Error::ClassIndex { row: 1, index: 3, classes: 3 }));
}

#[test]
fn a_device_gives_the_terms_too() {
    let device = Device::auto();
    let (x, t) = ([0.5f32, -2.0, 3.0, 1.0, 0.25, -1.0], [0.0f32, 1.0, 1.0, 0.0, 1.0, 0.5]);
    let (input, target) = (device.buffer(&x).unwrap(), device.buffer(&t).unwrap());
    let (mut grad, mut terms) = (device.zeros(6).unwrap(), device.zeros(2).unwrap());
    let near = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);

    let sum = 0.5 * BceWithLogits::new() + SigmoidFocal::new();
    let value =
        sum.on(&device).forward_backward_terms(&input, &target, Reduction::Mean, &mut grad, &mut terms).unwrap();
    let (mut want, mut of_terms) = ([0.0; 6], [0.0; 2]);
    let whole = sum.call(&x, &t).terms(&mut of_terms).forward_backward(Reduction::Mean, &mut want).unwrap();
    assert!(
        near(&[value], &[whole]) && near(&terms.to_vec().unwrap(), &of_terms) && near(&grad.to_vec().unwrap(), &want)
    );

    let sum = CrossEntropy::new() + 2.0 * DiceLoss::new().softmax();
    let (on, shape) = (sum.on(&device), [1, 3, 2]);
    let value = on.forward_backward_terms(&input, &target, shape, Reduction::Sum, &mut grad, &mut terms).unwrap();
    let whole = sum.call(&x, &t, shape).terms(&mut of_terms).forward_backward(Reduction::Sum, &mut want).unwrap();
    assert!(
        near(&[value], &[whole]) && near(&terms.to_vec().unwrap(), &of_terms) && near(&grad.to_vec().unwrap(), &want)
    );
    let sum = CrossEntropy::new() + 2.0 * Distillation::new();
    let index = [1i64, 0];
    let (classes, mut three) = (device.buffer(&index).unwrap(), device.zeros(3).unwrap());
    let call = sum.on(&device);
    let value =
        call.forward_backward_terms(&input, &classes, &target, (2, 3), Reduction::Mean, &mut grad, &mut three).unwrap();
    let mut of_rows = [0.0; 3];
    let host = sum.call(&x, &index, &t, (2, 3)).terms(&mut of_rows);
    let whole = host.forward_backward(Reduction::Mean, &mut want).unwrap();
    assert!(
        near(&[value], &[whole]) && near(&three.to_vec().unwrap(), &of_rows) && near(&grad.to_vec().unwrap(), &want)
    );
    let mut short = device.zeros(1).unwrap();
    let refused = on.forward_backward_terms(&input, &target, shape, Reduction::Sum, &mut grad, &mut short);
    assert_eq!(refused, Err(Error::Length { what: "terms", expected: 2, got: 1 }));
}

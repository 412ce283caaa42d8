//! What a call of cross-entropy reports of its rows, against its definition.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;

const NAN: f32 = f32::NAN;
const INF: f32 = f32::INFINITY;

/// What a call writes.
#[derive(Clone, Debug, PartialEq)]
struct Written {
    log_prob: Vec<f32>,
    entropy: Vec<f32>,
    lse: Vec<f32>,
    hit: Vec<f32>,
    argmax: Vec<i64>,
}

impl Written {
    fn new(rows: usize) -> Self {
        let floats = || vec![77.0; rows];
        Written { log_prob: floats(), entropy: floats(), lse: floats(), hit: floats(), argmax: vec![77; rows] }
    }

    fn ask<'a, T: Element, I>(&'a mut self, call: Call<'a, CrossEntropy, T, I>) -> Call<'a, CrossEntropy, T, I> {
        let call = call.log_prob(&mut self.log_prob).entropy(&mut self.entropy).lse(&mut self.lse);
        call.hit(&mut self.hit).argmax(&mut self.argmax)
    }
}

/// Of a row of logits, in f64: log-probability of class `t`, entropy, log-sum-exp, the class of the largest.
fn of_row(z: &[f64], t: usize) -> (f64, f64, f64, usize) {
    let top = (0..z.len()).fold(0, |top, k| if z[k] > z[top] { k } else { top });
    let others: f64 = (0..z.len()).filter(|&k| k != top).map(|k| (z[k] - z[top]).exp()).sum();
    let nll: Vec<f64> = z.iter().map(|z_k| others.ln_1p() + (z[top] - z_k)).collect();
    let entropy = nll.iter().filter(|nll| nll.is_finite()).map(|nll| (-nll).exp() * nll).sum();
    (-nll[t], entropy, z[top] + others.ln_1p(), top)
}

/// Few and many classes, side by side and not; longer than what is kept between two looks.
const SHAPES: [[usize; 3]; 8] =
    [[1, 1, 1], [7, 3, 1], [5, 17, 1], [3, 200, 1], [2, 9001, 1], [2, 3, 5], [1, 40, 7], [2, 300, 3]];

fn random<T: Element>(cap: Option<f32>, smoothing: f32) {
    let mut random = Random(4);
    for [outer, classes, inner] in SHAPES {
        let (rows, n) = (outer * inner, outer * classes * inner);
        let logits = to::<T>(&random.floats(n, -6.0, 6.0));
        let targets: Vec<i64> =
            (0..rows).map(|r| if r % 3 == 1 { -100 } else { random.below(classes) as i64 }).collect();
        let loss = CrossEntropy::new().softcap(cap).unwrap().label_smoothing(smoothing).unwrap();
        let shape: Shape = if inner == 1 { (outer, classes).into() } else { [outer, classes, inner].into() };
        let (mut got, mut grad) = (Written::new(rows), vec![T::default(); n]);
        let value = got.ask(loss.call(&logits, &targets, shape)).forward_backward(Sum, &mut grad).unwrap();

        // The rest of the call is what it was.
        let mut plain = vec![T::default(); n];
        let want = loss.call(&logits, &targets, shape).forward_backward(Sum, &mut plain).unwrap();
        close("value", value, want.into(), 1e-6);
        same("gradient", &grad, &plain, 1.0);

        for r in 0..rows {
            let at = |k: usize| (r / inner * classes + k) * inner + r % inner;
            let bend = |z: f32| cap.map_or(z.into(), |cap| f64::from(cap) * (f64::from(z) / f64::from(cap)).tanh());
            let z: Vec<f64> = (0..classes).map(|k| bend(logits[at(k)].to_f32())).collect();
            let Ok(t) = usize::try_from(targets[r]) else {
                let row = (got.log_prob[r], got.entropy[r], got.lse[r], got.hit[r], got.argmax[r]);
                assert_eq!(row, (0.0, 0.0, 0.0, 0.0, -1));
                continue;
            };
            let (log_prob, entropy, lse, top) = of_row(&z, t);
            // A bent logit is rounded, by 3e-7 where it is 5.
            let tolerance = if cap.is_some() { 4e-6 } else { 1e-6 };
            close("log_prob", got.log_prob[r], log_prob, tolerance);
            close("entropy", got.entropy[r], entropy, tolerance);
            close("lse", got.lse[r], lse, tolerance);
            // Bent logits that differ may round to the same number.
            assert!(got.argmax[r] as usize == top || z[top] - z[got.argmax[r] as usize] < 1e-6);
            assert_eq!(got.hit[r], if got.argmax[r] == t as i64 { 1.0 } else { 0.0 });
        }

        // Whatever else is done.
        let mut other = Written::new(rows);
        assert_eq!(other.ask(loss.call(&logits, &targets, shape)).forward(Sum).unwrap().to_bits(), value.to_bits());
        assert_eq!(got, other);
        let (mut other, mut buffer) = (Written::new(rows), logits.clone());
        other.ask(loss.call_in_place(&mut buffer, &targets, shape)).forward_backward(Sum).unwrap();
        assert_eq!((got.clone(), bits(&buffer)), (other, bits(&grad)));
        let mut alone = vec![77.0; rows];
        loss.log_probs(&logits, &targets, shape, &mut alone).unwrap();
        assert_eq!(alone, got.log_prob);
    }
}

#[test]
fn a_report_is_its_definition() {
    fn check<T: Element>() {
        random::<T>(None, 0.0);
        random::<T>(Some(5.0), 0.1);
    }
    every_dtype!(check);
}

#[test]
fn rows_that_are_sure_masked_or_broken() {
    let row = |z: [f32; 3], t: i64| {
        let mut r = Written::new(1);
        r.ask(CrossEntropy::new().call(&z, &[t], (1, 3))).forward(Mean).unwrap();
        (r.log_prob[0], r.entropy[0], r.lse[0], r.hit[0], r.argmax[0])
    };
    // Sure to nine digits, of which log-probability and entropy keep seven.
    let (log_prob, entropy, ..) = row([20.0, 0.0, -INF], 0);
    let rest = (-20f64).exp();
    assert!((f64::from(log_prob) / -rest.ln_1p() - 1.0).abs() < 1e-6);
    assert!((f64::from(entropy) / (21.0 * rest) - 1.0).abs() < 1e-6, "{entropy}");
    // The first of several.
    assert_eq!(row([1.0, 3.0, 3.0], 2).3, 0.0);
    assert_eq!(row([1.0, 3.0, 3.0], 1).4, 1);
    let (log_prob, entropy, lse, hit, argmax) = row([-INF, 1.0, -INF], 0);
    assert_eq!((log_prob, entropy, lse, hit, argmax), (-INF, 0.0, 1.0, 0.0, 1));
    for z in [[NAN, 1.0, 2.0], [-INF; 3], [INF, 0.0, 0.0]] {
        let (log_prob, entropy, lse, hit, argmax) = row(z, 0);
        assert!(log_prob.is_nan() && entropy.is_nan() && lse.is_nan(), "{z:?}");
        assert_eq!((hit, argmax), (0.0, -1));
    }
}

#[test]
fn dense_targets_have_an_entropy_and_no_class() {
    let (z, q) = ([0.0f32, 0.0, 1.0, 0.0], [0.5f32, 0.5, 1.0, 0.0]);
    let (mut entropy, mut argmax) = ([0.0; 2], [0; 2]);
    let call = CrossEntropy::new().call(&z, &q, (2, 2)).entropy(&mut entropy).argmax(&mut argmax);
    call.forward(Mean).unwrap();
    close("entropy", entropy[0], 2f64.ln(), 1e-6);
    assert_eq!(argmax, [0, 0]);
    let mut out = [77.0; 2];
    for hit in [false, true] {
        let call = CrossEntropy::new().call(&z, &q, (2, 2));
        let call = if hit { call.hit(&mut out) } else { call.log_prob(&mut out) };
        assert!(matches!(call.forward(Mean), Err(Error::Unsupported { .. })));
    }
    assert_eq!(out, [77.0; 2]);
}

#[test]
fn a_report_of_the_wrong_length_is_refused() {
    let z = [0.0f32; 4];
    let (mut floats, mut indices, mut grad) = ([77.0; 3], [77; 3], [77.0; 4]);
    let call = || CrossEntropy::new().call(&z, &[0i64, 1], (2, 2));
    let length = |what| Err(Error::Length { what, expected: 2, got: 3 });
    assert_eq!(call().log_prob(&mut floats).forward_backward(Mean, &mut grad), length("log_prob"));
    assert_eq!(call().entropy(&mut floats).forward_backward(Mean, &mut grad), length("entropy"));
    assert_eq!(call().lse(&mut floats).forward_backward(Mean, &mut grad), length("lse"));
    assert_eq!(call().hit(&mut floats).forward_backward(Mean, &mut grad), length("hit"));
    assert_eq!(call().argmax(&mut indices).forward_backward(Mean, &mut grad), length("argmax"));
    assert_eq!((floats, indices, grad), ([77.0; 3], [77; 3], [77.0; 4]));
}

#[test]
fn a_device_gives_losses_and_log_probabilities_of_rows() {
    let device = Device::auto();
    let (z, classes, weight, shape) = ([0.5f32, -2.0, 3.0, 1.0, 0.25, -1.0], [2i64, -100], [1.0f32, 2.0, 0.5], (2, 3));
    let (input, target) = (device.buffer(&z).unwrap(), device.buffer(&classes).unwrap());
    let (up, of_classes) = (device.buffer(&[3.0f32, 7.0]).unwrap(), device.buffer(&weight).unwrap());
    let (mut losses, mut grad) = (device.zeros(2).unwrap(), device.zeros(6).unwrap());
    let on = CrossEntropy::new().on(&device).class_weight(&of_classes).grad_output(2.0);
    on.forward_backward_unreduced(&input, &target, shape, &up, &mut losses, &mut grad).unwrap();
    let (mut want, mut want_grad, mut log_prob) = ([0.0; 2], [0.0; 6], [0.0; 2]);
    let call = CrossEntropy::new().call(&z, &classes, shape).class_weight(&weight).grad_output(2.0);
    call.forward_backward_unreduced(&[3.0, 7.0], &mut want, &mut want_grad).unwrap();
    let near = |got: &Buffer<f32>, want: &[f32]| {
        let got = got.to_vec().unwrap();
        got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6)
    };
    assert!(near(&losses, &want) && near(&grad, &want_grad), "{losses:?} {grad:?}");

    // The value of each element, and the log-probabilities alone, which know of no weights.
    let mut of_elements = device.zeros(6).unwrap();
    Mse::new().on(&device).forward_unreduced(&input, &input.try_clone().unwrap(), &mut of_elements).unwrap();
    assert!(near(&of_elements, &[0.0; 6]));
    on.log_probs(&input, &target, shape, &mut losses).unwrap();
    CrossEntropy::new().log_probs(&z, &classes, shape, &mut log_prob).unwrap();
    assert!(near(&losses, &log_prob) && log_prob[1] == 0.0, "{losses:?}");
}

#[test]
fn a_device_reports_what_a_call_does() {
    let device = Device::auto();
    let (z, classes, shape) = ([0.5f32, -2.0, 3.0, 1.0, 0.25, -1.0, 0.0, 7.0, 2.0], [2i64, -100, 0], (3, 3));
    let (input, target) = (device.buffer(&z).unwrap(), device.buffer(&classes).unwrap());
    let [mut log_prob, mut entropy, mut lse, mut hit] = [(); 4].map(|()| device.zeros(3).unwrap());
    let (mut argmax, mut grad) = (device.zeros(3).unwrap(), device.zeros(9).unwrap());
    let on = CrossEntropy::new().on(&device);
    let report = Report {
        log_prob: Some(&mut log_prob),
        entropy: Some(&mut entropy),
        lse: Some(&mut lse),
        hit: Some(&mut hit),
        argmax: Some(&mut argmax),
    };
    let got = on.forward_backward_report(&input, &target, shape, Mean, &mut grad, report).unwrap();

    let mut want = [[0.0; 3]; 4];
    let [w_log_prob, w_entropy, w_lse, w_hit] = &mut want;
    let (mut want_argmax, mut want_grad) = ([0; 3], [0.0; 9]);
    let call =
        CrossEntropy::new().call(&z, &classes, shape).log_prob(w_log_prob).entropy(w_entropy).lse(w_lse).hit(w_hit);
    let value = call.argmax(&mut want_argmax).forward_backward(Mean, &mut want_grad).unwrap();
    let near = |got: &[f32], want: &[f32]| got.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-6);
    assert!((got - value).abs() < 1e-6 && near(&grad.to_vec().unwrap(), &want_grad));
    for (got, want) in [&log_prob, &entropy, &lse, &hit].into_iter().zip(&want) {
        assert!(near(&got.to_vec().unwrap(), want), "{got:?} {want:?}");
    }
    assert_eq!((argmax.to_vec().unwrap(), want_argmax), (vec![2, -1, 1], [2, -1, 1]));

    // Without a gradient; as many as there are rows.
    let report = Report { entropy: Some(&mut lse), ..Report::default() };
    assert_eq!(on.forward_report(&input, &target, shape, Mean, report), Ok(got));
    assert_eq!(lse.to_vec().unwrap(), entropy.to_vec().unwrap());
    let mut short = device.zeros(2).unwrap();
    let report = Report { hit: Some(&mut short), ..Report::default() };
    let refused = on.forward_report(&input, &target, shape, Mean, report);
    assert_eq!(refused, Err(Error::Length { what: "hit", expected: 3, got: 2 }));
}

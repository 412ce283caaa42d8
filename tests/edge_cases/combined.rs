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
    for n in [0, 1, 5, 4096, 12_289, 70_001] {
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

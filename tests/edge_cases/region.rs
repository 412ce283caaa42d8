//! 45 to 47: Dice and its kin.

use super::support::*;
use fused_loss::Reduction::{Mean, Sum};
use fused_loss::*;

fn dice(smooth: f32) -> DiceLoss {
    DiceLoss::new().smooth(smooth).unwrap()
}

/// 45
#[test]
fn an_empty_prediction_of_an_empty_target_is_perfect_if_smoothed() {
    fn check<T: Element>() {
        let zero = to::<T>(&[0.0; 24]);
        for loss in
            [dice(1.0), dice(1e-5), dice(1.0).jaccard(true), dice(1.0).squared_pred(true), dice(1.0).batch(true)]
        {
            assert_eq!(loss.forward(&zero, Target::Dense(&zero), [2, 3, 4], Mean), Ok(0.0), "{loss:?} {}", T::NAME);
        }
        assert!(dice(0.0).forward(&zero, Target::Dense(&zero), [2, 3, 4], Mean).unwrap().is_nan());
    }
    every_dtype!(check);
}

/// 46
#[test]
fn a_missed_target_costs_one_and_a_met_one_nothing() {
    let (zero, one) = ([0.0f32; 200], [1.0; 200]);
    let value = |loss: DiceLoss, p: &[f32], t: &[f32]| loss.forward(p, t, [1, 2, 100], Mean).unwrap();
    for loss in [dice(1e-5), dice(1e-5).jaccard(true), dice(1e-5).squared_pred(true)] {
        close("missed", value(loss, &zero, &one), 1.0, 1e-6);
        assert_eq!(value(loss, &one, &one), 0.0);
    }
    assert_eq!(value(dice(0.0), &one, &one), 0.0);
    // Far logits are certain, and their gradient is zero and not NaN.
    let (logits, mut grad) = (one.map(|x| 1e4 * x), [7.0; 200]);
    assert_eq!(dice(1.0).sigmoid().forward_backward(&logits, &one, [1, 2, 100], Mean, &mut grad), Ok(0.0));
    assert!(grad.iter().all(|&g| g == 0.0));
}

/// 47
#[test]
fn tversky_is_dice_or_jaccard_or_between() {
    let mut random = Random(47);
    let p = random.floats(600, 0.0, 1.0);
    let t: Vec<f32> = (0..600).map(|_| random.pick(&[0.0, 1.0])).collect();
    let tversky = |alpha, beta, smooth| {
        let mut grad = vec![0.0; 600];
        let loss = TverskyLoss::new(alpha, beta).unwrap().smooth(smooth).unwrap();
        (loss.forward_backward(&p, &t, [2, 3, 100], Mean, &mut grad).unwrap(), grad)
    };
    let with = |loss: DiceLoss| {
        let mut grad = vec![0.0; 600];
        (loss.forward_backward(&p, &t, [2, 3, 100], Mean, &mut grad).unwrap(), grad)
    };
    // The numerator of Dice is twice that of Tversky, and so is its smoothing.
    for (a, b) in [(tversky(0.5, 0.5, 0.5), with(dice(1.0))), (tversky(1.0, 1.0, 0.5), with(dice(1.0).jaccard(true)))] {
        close("value", a.0, b.0.into(), 1e-6);
        a.1.iter().zip(b.1).for_each(|(&a, b)| close("gradient", a, b.into(), 1e-8));
    }
    let cost = |alpha, beta, p: [f32; 2], t: [f32; 2]| {
        TverskyLoss::new(alpha, beta).unwrap().forward(&p, &t, [1, 1, 2], Sum).unwrap()
    };
    let (positive, negative) = (([1.0, 1.0], [1.0, 0.0]), ([1.0, 0.0], [1.0, 1.0]));
    assert!(cost(0.9, 0.5, positive.0, positive.1) > cost(0.1, 0.5, positive.0, positive.1));
    close("a miss", cost(0.9, 0.5, negative.0, negative.1), cost(0.1, 0.5, negative.0, negative.1).into(), 1e-7);
}

#[test]
fn a_background_that_is_left_out_counts_for_nothing_whatever_it_holds() {
    let (shape, t) = ([2, 3, 5], [1.0f32; 30]);
    let clean = Random(5).floats(30, 0.1, 0.9);
    let mut dirty = clean.clone();
    for i in [0..5, 15..20].into_iter().flatten() {
        dirty[i] = [f32::NAN, f32::INFINITY][i % 2];
    }
    let base = DiceLoss::new().include_background(false);
    for loss in [base, base.batch(true), base.squared_pred(true), base.jaccard(true)] {
        let run = |p: &[f32]| {
            let mut grad = vec![7.0; 30];
            (loss.forward_backward(p, &t, shape, Mean, &mut grad).unwrap(), grad)
        };
        let (got, want) = (run(&dirty), run(&clean));
        assert_eq!((got.0, bits(&got.1)), (want.0, bits(&want.1)), "{loss:?}");
        assert!(got.1[..5].iter().chain(&got.1[15..20]).all(|&g| g == 0.0));
    }
}

#[test]
fn class_indices_are_the_one_hot_targets_they_stand_for() {
    let (mut random, [n, c, inner]) = (Random(6), [3, 4, 37]);
    let x = random.floats(n * c * inner, -3.0, 3.0);
    let index: Vec<i32> = (0..n * inner).map(|_| random.below(c) as i32).collect();
    let mut one_hot = vec![0.0f32; x.len()];
    index.iter().enumerate().for_each(|(i, &t)| one_hot[(i / inner * c + t as usize) * inner + i % inner] = 1.0);
    for loss in
        [DiceLoss::new().sigmoid(), DiceLoss::new().softmax(), DiceLoss::new().softmax().batch(true).squared_pred(true)]
    {
        let run = |target: Target<'_, f32>| {
            let mut grad = vec![0.0; x.len()];
            (loss.forward_backward(&x, target, [n, c, inner], Mean, &mut grad).unwrap(), bits(&grad))
        };
        assert_eq!(run(Target::I32(&index)), run(Target::Dense(&one_hot)), "{loss:?}");
    }
}

/// Uniform weights make it Dice of all channels at once; what is rare counts for more the more it is weighed.
#[test]
fn generalised_dice_weighs_what_is_rare() {
    let t = [1.0f32, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
    let mut all_of_one = [0.0f32; 16];
    all_of_one[8..].fill(1.0);
    let value = |weight, p: &[f32]| GeneralizedDiceLoss::new().weight(weight).forward(p, &t, [1, 2, 8], Mean).unwrap();
    let [square, simple, uniform] =
        [DiceWeight::Square, DiceWeight::Simple, DiceWeight::Uniform].map(|w| value(w, &all_of_one));
    assert!(square > simple && simple > uniform, "{square} {simple} {uniform}");
    close("Dice of the whole", uniform, 1.0 - 14.0 / 16.0, 1e-5);
    assert_eq!([DiceWeight::Square, DiceWeight::Simple].map(|w| value(w, &t)), [0.0; 2]);
}

#[test]
fn a_channel_without_targets_has_the_weight_of_the_rarest() {
    let mut grad = [7.0f32; 6];
    let loss = GeneralizedDiceLoss::new().smooth(0.0).unwrap();
    // Channels of no, one and two pixels: weights 1, 1 and a quarter.
    let t = [0.0f32, 0.0, 1.0, 0.0, 1.0, 1.0];
    let p = [0.5f32, 0.5, 1.0, 0.0, 1.0, 1.0];
    let value = loss.forward_backward(&p, &t, [1, 3, 2], Sum, &mut grad).unwrap();
    let want = 1.0 - 2.0 * (1.0 + 0.5) / (1.0 + 2.0 + 1.0);
    close("value", value, want, 1e-6);
    close("gradient", grad[0], (1.0 - want) / 4.0, 1e-6);
    // Nothing anywhere: no weight at all.
    let loss = loss.smooth_dr(2.0).unwrap().smooth_nr(1.0).unwrap();
    assert_eq!(loss.forward_backward(&p, &[0.0f32; 6], [1, 3, 2], Sum, &mut grad), Ok(0.5));
    assert_eq!(grad, [0.0; 6]);
    // NaN is not passed over: not as a target, and not as a prediction.
    for (p, t) in [([f32::NAN, 0.0], [1.0, 0.0]), ([1.0, 0.0], [f32::NAN, 0.0])] {
        assert!(loss.forward(&p, &t, [1, 2, 1], Sum).unwrap().is_nan());
    }
}

#[test]
fn generalised_dice_has_weights_of_its_own() {
    let (p, mut grad) = ([0.5f32; 6], [7.0; 6]);
    let call = GeneralizedDiceLoss::new().call(&p, &p, [1, 3, 2]).class_weight(&[1.0; 3]);
    let error = call.forward_backward(Mean, &mut grad).unwrap_err();
    assert_eq!(error.to_string(), "GeneralizedDiceLoss: a class weight is not supported");
    assert_eq!(grad, [7.0; 6]);
}

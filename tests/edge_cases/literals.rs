//! 1 to 16: numbers that PyTorch, torchvision and MONAI gave in f64 for data that fit on a line.

use super::support::*;
use fused_loss::Reduction::{BatchMean, Mean, Sum};
use fused_loss::*;

const P: [f32; 4] = [0.5, -1.25, 2.0, 0.0];
const T: [f32; 4] = [0.0, -1.0, 2.5, 1.0];
const Z: [f32; 9] = [1.0, 2.0, 3.0, 0.0, 0.0, 5.0, -1.0, 4.0, 0.5];
const CLASSES: [i64; 3] = [2, 0, -100];
const W: [f32; 3] = [0.5, 1.0, 2.0];
const Q: [f32; 9] = [0.2, 0.3, 0.5, 0.0, 1.0, 0.0, 0.1, 0.1, 0.8];
const REAL: [f32; 3] = [1.2, -0.3, 0.8];
const FAKE: [f32; 3] = [-0.5, 0.4, -1.1];
const LOGITS: [f32; 4] = [-2.0, 0.5, 3.0, 0.0];
const LABELS: [f32; 4] = [0.0, 1.0, 1.0, 0.25];

fn smoothed() -> CrossEntropy {
    CrossEntropy::new().label_smoothing(0.1).unwrap()
}

/// ln softmax of the rows of Z.
fn log_softmax_z() -> Vec<f32> {
    let row = |z: &[f32]| {
        let lse = z.iter().map(|&z| f64::from(z).exp()).sum::<f64>().ln();
        z.iter().map(move |&z| (f64::from(z) - lse) as f32).collect::<Vec<_>>()
    };
    Z.chunks(3).flat_map(row).collect()
}

/// The rows whose data f16 and bf16 hold exactly: the value is f32 arithmetic for all three.
fn exact_data<E: Element>() {
    let [p, t, z, logits, labels] = [&P[..], &T, &Z, &LOGITS, &LABELS].map(to::<E>);
    let ce = |loss: CrossEntropy| loss.call(&z, Target::I64(&CLASSES), (3, 3));
    let pos_weight = BceWithLogits::new().pos_weight(3.0).unwrap();
    let table = [
        ("1: MSE", Mse::new().forward(&p, &t, Mean), 0.390625),
        ("2: MAE", Mae.forward(&p, &t, Mean), 0.5625),
        ("3: Huber", Huber::new(0.5).unwrap().forward(&p, &t, Mean), 0.1640625),
        ("4: SmoothL1", SmoothL1::new(0.5).unwrap().forward(&p, &t, Mean), 0.328125),
        ("5: BCE with logits", BceWithLogits::new().forward(&logits, &labels, Mean), 0.335684882),
        ("5: its pos_weight", pos_weight.forward(&logits, &labels, Sum), 2.734641789),
        ("7: cross-entropy", ce(CrossEntropy::new()).forward(Mean), 2.710495933),
        ("8: weighted", ce(CrossEntropy::new()).class_weight(&W).forward(Mean), 1.328761952),
        ("8: weighted, smoothed", ce(smoothed()).class_weight(&W).forward(Mean), 1.342198710),
        ("8: smoothed", ce(smoothed()).forward(Mean), 2.677162600),
        ("11: multi-margin", MultiMargin::new().forward(&z, Target::I64(&[2, 0, 1]), (3, 3), Mean), 0.777777778),
    ];
    for (row, got, want) in table {
        close(&format!("{row} in {}", E::NAME), got.unwrap(), want, 1e-6);
    }
    let mut grad = vec![E::from_f32(7.0); 9];
    ce(CrossEntropy::new()).forward_backward(Mean, &mut grad).unwrap();
    assert_eq!(from(&grad[6..]), [0.0; 3], "7: the ignored row");

    let mut focal = [0.0; 4];
    let labels = to::<E>(&[0.0, 1.0, 1.0, 0.0]);
    SigmoidFocal::new().call(&logits, &labels).forward_unreduced(&mut focal).unwrap();
    for (got, want) in focal.into_iter().zip([0.001352672, 0.016893373, 2.7321e-5, 0.129965096]) {
        // Half a digit of the wanted number, and a rounding.
        let error = (f64::from(got) - want).abs();
        assert!(error <= 6e-10 + 1.5e-7 * want, "12: focal in {}: expected {want}, got {got}", E::NAME);
    }
}

#[test]
fn values_are_those_of_the_frameworks_in_every_dtype() {
    every_dtype!(exact_data);
}

#[test]
fn values_are_those_of_the_frameworks_in_f32() {
    let dense = |loss: CrossEntropy| loss.call(&Z, &Q, (3, 3));
    let gan = |mode| GanLoss::new(mode);
    let d = |mode| gan(mode).discriminator_forward(&REAL, &FAKE, Mean);
    let g = |mode| gan(mode).generator_forward(&FAKE, Mean);
    let ragan = RelativisticAverage::new();
    let dice = |smooth| {
        let p = [0.9, 0.2, 0.4, 0.1, 0.5, 0.5, 0.3, 0.8f32];
        let t = [1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        DiceLoss::new().smooth(smooth).unwrap().forward(&p, &t, [1, 2, 2, 2], Mean)
    };
    let table = [
        ("6: BCE", Bce::new().forward(&[0.1, 0.5, 0.9, 0.7f32], &LABELS, Mean), 0.474004138),
        ("9: dense targets", dense(CrossEntropy::new()).forward(Mean), 3.152420477),
        ("9: weighted, smoothed", dense(smoothed()).class_weight(&W).forward(Mean), 3.828145297),
        ("10: KL", KlDiv::new().forward(&log_softmax_z(), &Q, BatchMean(3)), 2.596192186),
        ("13: D", d(GanMode::NonSaturating), 1.054388646),
        ("13: G", g(GanMode::NonSaturating), 0.958142521),
        ("13: G, minimax", g(GanMode::Minimax), -0.558142521),
        ("14: LSGAN D", d(GanMode::LeastSquares), 1.13),
        ("14: LSGAN G", g(GanMode::LeastSquares), 2.34),
        ("14: WGAN D", d(GanMode::Wasserstein), -0.966666667),
        ("14: hinge D", d(GanMode::Hinge), 1.133333333),
        ("15: RaGAN D", Ok(ragan.discriminator_forward(&REAL, &FAKE)), 0.362272429),
        ("15: RaGAN G", Ok(ragan.generator_forward(&REAL, &FAKE)), 1.328939096),
        ("15: Rp D", RelativisticPair.forward(&FAKE, &REAL, Mean), 0.470119612),
        ("16: Dice", dice(1.0), 0.447405330),
        ("16: Dice, MONAI's smoothing", dice(1e-5), 0.638886122),
    ];
    for (row, got, want) in table {
        close(row, got.unwrap(), want, 1e-6);
    }
}

/// 10: the divergence and the cross-entropy differ by the entropy of Q, which has no gradient.
#[test]
fn distillation_has_the_value_of_kl_and_the_gradient_of_cross_entropy() {
    let teacher = Q.map(f32::ln); // minus infinity for the zeros
    let (mut of_kl, mut of_ce) = ([0.0; 9], [0.0; 9]);
    let kl = Distillation::new().forward_backward(&Z, &teacher, (3, 3), Mean, &mut of_kl).unwrap();
    CrossEntropy::new().forward_backward(&Z, &Q, (3, 3), Mean, &mut of_ce).unwrap();
    close("10: value", kl, 2.596192186, 1e-6);
    for (kl, ce) in of_kl.into_iter().zip(of_ce) {
        close("10: gradient", kl, ce.into(), 1e-6);
    }
}

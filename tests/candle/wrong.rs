//! Where candle's own losses are wrong, and these are not.

use candle_core::{DType, Device, Result, Tensor, Var};
use fused_loss::candle::OnTensors;
use fused_loss::{BceWithLogits, CrossEntropy, Mse, Reduction};

use super::{gradient, numbers, tensor, var};

/// candle-nn's `loss::binary_cross_entropy_with_logit`, to the letter; its sigmoid is this.
fn candles_bce(logits: &Tensor, target: &Tensor) -> Result<Tensor> {
    let p = (logits.neg()?.exp()? + 1.0)?.recip()?;
    let left_side = target * p.log()?;
    let right_side = (target.affine(-1., 1.))? * p.affine(-1., 1.)?.log()?;
    let loss = left_side? + right_side?;
    loss?.neg()?.mean_all()
}

/// candle-nn's `loss::mse`.
fn candles_mse(input: &Tensor, target: &Tensor) -> Result<Tensor> {
    (input - target)?.sqr()?.mean_all()
}

#[test]
fn bce_at_logit_20() -> Result<()> {
    for (logit, target, value, slope) in
        [(20.0f32, 0.0f32, 20.0f32, 1.0f32), (20.0, 1.0, 2.0611537e-9, -2.0611537e-9), (-200.0, 1.0, 200.0, -1.0)]
    {
        let (x, t) = (var(&[logit], 1), tensor(&[target], 1));
        let theirs = candles_bce(&x, &t)?;
        assert!(!theirs.to_scalar::<f32>()?.is_finite() || !gradient::<f32>(&theirs, &x)?[0].is_finite(), "mended");

        let ours = BceWithLogits::new().tensors(&x, &t).forward(Reduction::Mean)?;
        let (got, slope_got) = (ours.to_scalar::<f32>()?, gradient::<f32>(&ours, &x)?[0]);
        assert!((got - value).abs() <= 1e-6 * value, "{got} for {value} at {logit}");
        assert!((slope_got - slope).abs() <= 1e-6 * slope.abs(), "{slope_got} for {slope} at {logit}");
    }
    Ok(())
}

#[test]
fn mse_of_more_halves_than_their_sum_can_hold() -> Result<()> {
    // More than 65504 errors of 1: candle sums them in f16 and bf16, where adding 1 to 2048 (256) changes nothing.
    let n = 131_072;
    for dtype in [DType::F16, DType::BF16] {
        let x = Var::from_tensor(&Tensor::ones(n, dtype, &Device::Cpu)?)?;
        let t = Tensor::zeros(n, dtype, &Device::Cpu)?;
        let theirs = candles_mse(&x, &t)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
        assert!((theirs - 1.0).abs() > 0.5, "mended: {theirs}");
        let ours = Mse::new().tensors(&x, &t).forward(Reduction::Mean)?;
        assert_eq!(ours.to_scalar::<f32>()?, 1.0);
        let sum = Mse::new().tensors(&x, &t).forward(Reduction::Sum)?;
        assert_eq!(sum.to_scalar::<f32>()?, 131_072.0);
    }
    Ok(())
}

#[test]
fn errors_whose_squares_f16_cannot_hold() -> Result<()> {
    let (x, t) = (tensor(&[half::f16::from_f32(300.0)], 1), tensor(&[half::f16::ZERO], 1));
    let theirs = candles_mse(&x, &t)?.to_dtype(DType::F32)?.to_scalar::<f32>()?;
    assert_eq!(theirs, f32::INFINITY, "mended");
    assert_eq!(Mse::new().tensors(&x, &t).forward(Reduction::Mean)?.to_scalar::<f32>()?, 90_000.0);
    Ok(())
}

#[test]
fn f16_gradients_that_a_loss_scale_saves() -> Result<()> {
    // 2e-8 is below what f16 has; 65536 times it is not. Only after `forward` does the scale come.
    let n = 100_000_usize;
    let x = Var::from_tensor(&Tensor::ones(n, DType::F16, &Device::Cpu)?)?;
    let t = Tensor::from_slice(&[half::f16::from_f32(0.999)], 1, &Device::Cpu)?.broadcast_as(n)?;
    let loss = Mse::new().tensors(&x, &t).forward(Reduction::Mean)?;
    let scaled = (&loss * 65536.0)?;
    let want = half::f16::from_f32(2.0 * (1.0 - half::f16::from_f32(0.999).to_f32()) * 65536.0 / n as f32);
    assert!(want.to_f32() > 1e-3);
    let grads = scaled.backward()?;
    assert_eq!(numbers::<half::f16>(grads.get(&x).expect("a gradient"))[..3], [want; 3]);

    let call = Mse::new().tensors(&x, &t).grad_output(65536.0);
    assert_eq!(numbers::<half::f16>(&call.forward_backward(Reduction::Mean)?.1)[..3], [want; 3]);
    Ok(())
}

#[test]
fn rows_that_are_ignored() -> Result<()> {
    let (x, t) = (var(&[2.0f32, -1.0, 0.5, f32::NAN, 0.2, 0.3], (2, 3)), tensor(&[0i64, -100], 2));
    // candle: "gather invalid index".
    let theirs = x.log()?.gather(&t.unsqueeze(1)?, 1);
    assert!(theirs.is_err(), "mended");
    let loss = CrossEntropy::new().tensors(&x, &t).forward(Reduction::Mean)?;
    assert!((loss.to_scalar::<f32>()? - ((2f32.exp() + (-1f32).exp() + 0.5f32.exp()).ln() - 2.0)).abs() < 1e-6);
    assert_eq!(gradient::<f32>(&loss, &x)?[3..], [0.0; 3]);
    Ok(())
}

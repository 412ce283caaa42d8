//! On candle's GPU: what the CPU says, within what another order of additions makes of it. Needs a GPU; says so where there is none,
//! and fails there if FUSED_LOSS_REQUIRE_GPU is 1.

use std::io::Write;

use candle_core::{DType, Device, IndexOp, Result, Tensor, Var};
use fused_loss::candle::{OnTensors, check};
use fused_loss::*;

use super::{gradient, numbers};

fn gpu() -> Option<Device> {
    let found = Device::new_cuda(0);
    let required = std::env::var("FUSED_LOSS_REQUIRE_GPU").is_ok_and(|v| v == "1");
    assert!(found.is_ok() || !required, "FUSED_LOSS_REQUIRE_GPU is 1: {}", found.unwrap_err());
    found.map_err(|why| writeln!(std::io::stderr(), "\nSKIPPED, candle's tests on a GPU: {why}")).ok()
}

fn close(got: &Tensor, want: &Tensor, relative: f32) -> Result<()> {
    let [got, want] = [got, want].map(|t| t.to_device(&Device::Cpu).and_then(|t| t.to_dtype(DType::F32)));
    let (got, want) = (numbers::<f32>(&got?), numbers::<f32>(&want?));
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    assert_eq!(got.len(), want.len());
    for (got, want) in got.iter().zip(&want) {
        assert!((got - want).abs() <= relative * largest, "{got} for {want}");
    }
    Ok(())
}

/// Value and gradients by candle's graph, there and on the CPU.
fn same(
    gpu: &Device,
    input: &Tensor,
    target: Option<&Tensor>,
    run: impl Fn(&Tensor, Option<&Tensor>) -> Result<Tensor>,
) -> Result<()> {
    let mut all = Vec::new();
    for device in [gpu, &Device::Cpu] {
        let input = Var::from_tensor(&input.to_device(device)?)?;
        let target = target.map(|t| t.to_device(device)).transpose()?;
        let value = run(&input, target.as_ref())?;
        // Not 1, and once more.
        let scaled = (value.sum_all()? * 0.3)?;
        let grads = [0, 1].map(|_| scaled.backward().map(|grads| grads.get(&input).cloned().expect("a gradient")));
        let [first, second] = grads;
        all.push([value, first?, second?]);
    }
    let relative = match input.dtype() {
        DType::F32 => 2e-6,
        DType::F16 => 2e-3,
        _ => 1.6e-2,
    };
    close(&all[0][0], &all[1][0], 2e-6)?;
    close(&all[0][1], &all[1][1], relative)?;
    close(&all[0][2], &all[1][2], relative)
}

#[test]
fn every_kind_of_loss_is_that_of_the_cpu() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let x = Tensor::randn(0f32, 2.0, (64, 33), &Device::Cpu)?.to_dtype(dtype)?;
        let t = Tensor::rand(0f32, 1.0, (64, 33), &Device::Cpu)?.to_dtype(dtype)?;
        let classes = Tensor::from_iter((0..64i64).map(|i| if i % 5 == 0 { -100 } else { i % 33 }), &Device::Cpu)?;
        let dense = |t: Option<&Tensor>| t.cloned().expect("a target");
        same(&gpu, &x, Some(&t), |x, t| Mse::new().tensors(x, &dense(t)).forward(Reduction::Mean))?;
        same(&gpu, &x, Some(&t), |x, t| BceWithLogits::new().tensors(x, &dense(t)).forward(Reduction::Sum))?;
        same(&gpu, &x, Some(&t), |x, t| BceWithLogits::new().tensors(x, &dense(t)).forward_unreduced())?;
        same(&gpu, &x, Some(&classes), |x, t| CrossEntropy::new().tensors(x, &dense(t)).forward(Reduction::Mean))?;
        same(&gpu, &x, Some(&t), |x, t| Distillation::new().tensors(x, &dense(t)).forward(Reduction::Sum))?;
        let [images, masks] = [&x, &t].map(|t| t.reshape((4, 16, 33)));
        let (images, masks) = (images?, masks?);
        let dice = DiceLoss::new().sigmoid();
        same(&gpu, &images, Some(&masks), |x, t| dice.tensors(x, &dense(t)).forward(Reduction::Mean))?;
        same(&gpu, &x, None, |x, _| GanLoss::default().generator_term().tensor(x).forward(Reduction::Mean))?;
    }
    Ok(())
}

#[test]
fn views_are_taken_as_they_are_and_others_are_made_contiguous_or_refused() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let all = Tensor::randn(0f32, 1.0, (10, 7), &gpu)?;
    let (x, t) = (all.i(3..6)?, all.i(6..9)?);
    let on_cpu = |t: &Tensor| t.to_device(&Device::Cpu);
    let value = Huber::new(1.0).map_err(candle_core::Error::wrap)?.tensors(&x, &t).forward(Reduction::Mean)?;
    let want = Huber::new(1.0).map_err(candle_core::Error::wrap)?.tensors(&on_cpu(&x)?, &on_cpu(&t)?);
    close(&value, &want.forward(Reduction::Mean)?, 2e-6)?;
    let mixed = Mse::new().tensors(&x, &on_cpu(&t)?).forward(Reduction::Mean);
    assert!(mixed.is_err());
    Ok(())
}

#[test]
fn a_bad_class_is_found_by_a_check() -> Result<()> {
    let Some(gpu) = gpu() else { return Ok(()) };
    let x = Var::zeros((2, 3), DType::F32, &gpu)?;
    let bad = Tensor::new(&[1i64, 3], &gpu)?;
    let loss = CrossEntropy::new().tensors(&x, &bad).forward(Reduction::Mean)?;
    assert!(loss.to_scalar::<f32>()?.is_nan());
    let grad = gradient::<f32>(&loss, &x);
    assert!(grad.is_ok_and(|g| g[3..] == [0.0; 3]));
    assert!(check(&gpu).is_err() && check(&gpu).is_ok());
    Ok(())
}

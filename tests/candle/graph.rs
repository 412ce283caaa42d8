//! In the middle of candle's graph.

use candle_core::{DType, Device, Result, Tensor, Var};
use fused_loss::candle::{OnTensors, check};
use fused_loss::{
    CrossEntropy, GanLoss, GanMode, Huber, LovaszHinge, LovaszSoftmax, Mse, Reduction, RelativisticAverage,
    RelativisticPair,
};

use super::{gradient, numbers, tensor, var};

fn close(got: &[f32], want: &[f32]) {
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(0f32, |a, x| a.max(x.abs()));
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        assert!((got - want).abs() <= 2e-6 * largest, "{i}: {got} for {want}");
    }
}

#[test]
fn through_a_layer_and_a_factor() -> Result<()> {
    let (x, w) = (Tensor::randn(0f32, 1.0, (32, 8), &Device::Cpu)?, Var::randn(0f32, 1.0, (8, 5), &Device::Cpu)?);
    let target = Tensor::from_iter((0..32u32).map(|i| i % 5), &Device::Cpu)?;
    let logits = x.matmul(&w)?;
    // candle's own cross-entropy, which of such logits is right.
    let max = logits.max_keepdim(1)?;
    let shifted = logits.broadcast_sub(&max)?;
    let log_softmax = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(1)?.log()?)?;
    let theirs = (log_softmax.gather(&target.unsqueeze(1)?, 1)?.sum_all()? * (-0.3 / 32.0))?;
    let ours = (CrossEntropy::new().tensors(&logits, &target).forward(Reduction::Mean)? * 0.3)?;
    close(&numbers(&ours), &numbers(&theirs));
    close(&gradient(&ours, &w)?, &gradient(&theirs, &w)?);
    // And again, which computes it anew.
    close(&gradient(&ours, &w)?, &gradient(&theirs, &w)?);
    Ok(())
}

#[test]
fn two_losses_of_one_tensor() -> Result<()> {
    let (x, t) = (var(&[0.5f32, 3.0, -4.0], 3), tensor(&[0f32; 3], 3));
    let huber = Huber::new(1.0).map_err(candle_core::Error::wrap)?;
    let both = (huber.tensors(&x, &t).forward(Reduction::Sum)?
        + (Mse::new().tensors(&x, &t).forward(Reduction::Sum)? * 2.0)?)?;
    assert_eq!(gradient::<f32>(&both, &x)?, [0.5 + 2.0, 1.0 + 12.0, -1.0 - 16.0]);
    Ok(())
}

#[test]
fn a_tensor_that_is_input_and_target() -> Result<()> {
    let x = var(&[0.5f32, 3.0], 2);
    let loss = Mse::new().tensors(&x, &x).forward(Reduction::Sum)?;
    assert_eq!((loss.to_scalar::<f32>()?, gradient::<f32>(&loss, &x)?), (0.0, vec![0.0; 2]));
    Ok(())
}

#[test]
fn a_target_alone() -> Result<()> {
    let (x, t) = (tensor(&[0.5f32, 3.0], 2), var(&[0f32, 1.0], 2));
    let loss = Mse::new().tensors(&x, &t).forward(Reduction::Sum)?;
    for _ in 0..2 {
        let grads = loss.backward()?;
        assert_eq!(numbers::<f32>(grads.get(&t).expect("a gradient")), [-1.0, -4.0]);
        assert!(grads.get(&x).is_none());
    }
    Ok(())
}

#[test]
fn a_variable_that_was_set_between_two_backwards() -> Result<()> {
    // As with candle's own operations, a gradient that is computed anew is that of what is there now.
    let (x, t) = (var(&[1f32], 1), tensor(&[0f32], 1));
    let loss = Mse::new().tensors(&x, &t).forward(Reduction::Sum)?;
    assert_eq!(gradient::<f32>(&loss, &x)?, [2.0]);
    x.set(&tensor(&[5f32], 1))?;
    assert_eq!(gradient::<f32>(&loss, &x)?, [10.0]);
    Ok(())
}

#[test]
fn from_several_threads() -> Result<()> {
    let (x, t) = (var(&[1f32, 2.0], 2), tensor(&[0f32; 2], 2));
    let loss = Mse::new().tensors(&x, &t).forward(Reduction::Sum)?;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(gradient::<f32>(&loss, &x).expect("a gradient"), [2.0, 4.0]));
        }
    });
    Ok(())
}

#[test]
fn nothing_at_all() -> Result<()> {
    let (x, t) = (Var::zeros((0, 3), DType::F32, &Device::Cpu)?, Tensor::zeros(0, DType::U32, &Device::Cpu)?);
    let loss = CrossEntropy::new().tensors(&x, &t).forward(Reduction::Mean)?;
    assert!(loss.to_scalar::<f32>()?.is_nan());
    assert!(gradient::<f32>(&loss, &x)?.is_empty());
    assert_eq!(CrossEntropy::new().tensors(&x, &t).forward_unreduced()?.dims(), [0]);
    check(&Device::Cpu)
}

#[test]
fn a_gan() -> Result<()> {
    let (real, fake) = ([1.2f32, -0.3, 0.8], [-0.5f32, 0.4]);
    let (r, f) = (var(&real, 3), var(&fake, 2));
    let (mut on_real, mut on_fake) = ([0.0; 3], [0.0; 2]);
    let gan = GanLoss::new(GanMode::LeastSquares);
    let want = gan.discriminator(&real, &fake, Reduction::Mean, &mut on_real, &mut on_fake).expect("a value");
    let loss = gan.tensors(&r, &f).discriminator(Reduction::Mean)?;
    assert_eq!(loss.to_scalar::<f32>()?, want);
    assert_eq!(gradient::<f32>(&loss, &r)?, on_real);
    assert_eq!(gradient::<f32>(&loss, &f)?, on_fake);
    let want = gan.generator(&fake, Reduction::Mean, &mut on_fake).expect("a value");
    let loss = gan.tensors(&r, &f).generator(Reduction::Mean)?;
    assert_eq!((loss.to_scalar::<f32>()?, gradient::<f32>(&loss, &f)?), (want, on_fake.to_vec()));
    Ok(())
}

#[test]
fn relativistic_gans() -> Result<()> {
    let (real, fake) = ([1.2f32, -0.3, 0.8], [-0.5f32, 0.4]);
    let (r, f) = (var(&real, 3), var(&fake, 2));
    let (mut on_real, mut on_fake) = ([0.0; 3], [0.0; 2]);
    let ragan = RelativisticAverage::new();
    for of_generator in [false, true] {
        let call = ragan.tensors(&r, &f);
        let (want, loss) = if of_generator {
            (ragan.generator(&real, &fake, &mut on_real, &mut on_fake), call.generator()?)
        } else {
            (ragan.discriminator(&real, &fake, &mut on_real, &mut on_fake), call.discriminator()?)
        };
        assert_eq!(loss.to_scalar::<f32>()?, want.expect("a value"));
        for _ in 0..2 {
            let grads = loss.backward()?;
            assert_eq!(numbers::<f32>(grads.get(&r).expect("a gradient")), on_real);
            assert_eq!(numbers::<f32>(grads.get(&f).expect("a gradient")), on_fake);
        }
        close(&gradient(&(loss * 0.3)?, &r)?, &on_real.map(|g| 0.3 * g));
    }

    let f = var(&[-0.5f32, 0.4, 0.1], 3);
    let pair = RelativisticPair.tensors(&f, &r).forward(Reduction::Mean)?;
    let (on_fake, on_real) = (gradient::<f32>(&pair, &f)?, gradient::<f32>(&pair, &r)?);
    assert!(on_fake.iter().zip(&on_real).all(|(f, r)| f == &-r && *f > 0.0));
    Ok(())
}

/// Which the case table does not have, for numerical differentiation would cross from one order of errors to another.
#[test]
fn lovasz_is_that_of_slices() -> Result<()> {
    let x: Vec<f32> = (0..24).map(|i| ((i * 7) % 11) as f32 / 4.0 - 1.0).collect();
    let masks: Vec<f32> = (0..24).map(|i| (i % 3 % 2) as f32).collect();
    let index: Vec<u8> = (0..8).map(|i| i % 4).collect();
    let input = var(&x, (2, 3, 4));
    let mut grad = vec![0.0; 24];
    let loss = LovaszHinge::new().tensors(&input, &tensor(&masks, (2, 3, 4))).forward(Reduction::Mean)?;
    let want = LovaszHinge::new().forward_backward(&x, &masks, [2, 3, 4], Reduction::Mean, &mut grad).unwrap();
    assert_eq!((loss.to_scalar::<f32>()?, gradient::<f32>(&loss, &input)?), (want, grad.clone()));
    let of = LovaszSoftmax::new().ignore_index(3);
    let loss = of.tensors(&input, &Tensor::from_slice(&index, (2, 4), &Device::Cpu)?).forward(Reduction::Mean)?;
    let want = of.forward_backward(&x, &index, [2, 3, 4], Reduction::Mean, &mut grad).unwrap();
    assert_eq!((loss.to_scalar::<f32>()?, gradient::<f32>(&loss, &input)?), (want, grad));
    let each = of.tensors(&input, &Tensor::from_slice(&index, (2, 4), &Device::Cpu)?).forward_unreduced()?;
    assert_eq!(each.dims(), [3]);
    Ok(())
}

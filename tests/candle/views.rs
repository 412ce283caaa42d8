//! Views: transposed, cut out, broadcast; and what the axes of a tensor mean.

use candle_core::{Device, IndexOp, Result, Tensor};
use fused_loss::candle::OnTensors;
use fused_loss::{
    BceWithLogits, CrossEntropy, DiceLoss, GradientPenalty, Mse, MultiMargin, Reduction, Result as OurResult,
};

use super::{gradient, numbers, tensor, var};

fn range(shape: &[usize]) -> Tensor {
    let n = shape.iter().product::<usize>();
    tensor(&(0..n).map(|i| (i * 7 % 11) as f32 / 4.0 - 1.0).collect::<Vec<_>>(), shape)
}

#[test]
fn transposed() -> Result<()> {
    let (x, t) = (candle_core::Var::from_tensor(&range(&[4, 6]))?, range(&[6, 4]).affine(0.5, 1.0)?);
    let view = x.t()?;
    assert!(!view.is_contiguous());
    let (a, b) = (Mse::new().tensors(&view, &t), Mse::new().tensors(&x, &t.t()?));
    let (a, b) = (a.forward(Reduction::Mean)?, b.forward(Reduction::Mean)?);
    assert!((a.to_scalar::<f32>()? - b.to_scalar::<f32>()?).abs() < 1e-6);
    assert_eq!(gradient::<f32>(&a, &x)?, gradient::<f32>(&b, &x)?);
    Ok(())
}

#[test]
fn cut_out() -> Result<()> {
    // Contiguous, and not at the start of its storage: taken as it is.
    let all = candle_core::Var::from_tensor(&range(&[5, 3]))?;
    let rows = all.i(2..4)?;
    assert!(rows.is_contiguous());
    let targets = tensor(&[0u8, 0, 2, 1, 0], 5).i(2..4)?;
    let weight = tensor(&[9f32, 2.0, 0.5, 9.0], 4).i(1..3)?;
    let classes = tensor(&[9f32, 1.0, 2.0, 3.0], 4).i(1..)?;
    let call = |x: &Tensor, t: &Tensor, w: &Tensor, c: &Tensor| {
        CrossEntropy::new().tensors(x, t).weight(w).class_weight(c).forward(Reduction::Mean)
    };
    let cut = call(&rows, &targets, &weight, &classes)?;
    let copy = candle_core::Var::from_tensor(&tensor(&numbers::<f32>(&rows), (2, 3)))?;
    let whole = call(&copy, &tensor(&[2u8, 1], 2), &tensor(&[2f32, 0.5], 2), &tensor(&[1f32, 2.0, 3.0], 3))?;
    assert_eq!(cut.to_scalar::<f32>()?, whole.to_scalar::<f32>()?);
    let want = gradient::<f32>(&whole, &copy)?;
    for _ in 0..2 {
        let grad = gradient::<f32>(&cut, &all)?;
        assert_eq!((&grad[..6], &grad[6..12], &grad[12..]), (&[0.0; 6][..], &want[..], &[0.0; 3][..]));
    }
    // An upstream gradient that is cut out, and one that is broadcast.
    let losses = CrossEntropy::new().tensors(&rows, &targets).forward_unreduced()?;
    let (by_slice, by_sum) = ((&losses * &weight)?.sum_all()?, losses.sum_all()?);
    assert_eq!(gradient::<f32>(&by_slice, &all)?[..6], [0.0; 6]);
    let sum = CrossEntropy::new().tensors(&rows, &targets).forward(Reduction::Sum)?;
    assert_eq!(gradient::<f32>(&by_sum, &all)?, gradient::<f32>(&sum, &all)?);
    Ok(())
}

#[test]
fn classes_on_axis_1_or_last() -> Result<()> {
    let x = candle_core::Var::from_tensor(&range(&[2, 3, 4, 5]))?;
    let t = tensor(&(0..40).map(|i| i % 3).collect::<Vec<u32>>(), (2, 4, 5));
    let first = CrossEntropy::new().tensors(&x, &t).forward_unreduced()?;
    let last = CrossEntropy::new().tensors(&x.permute((0, 2, 3, 1))?, &t).classes_last().forward_unreduced()?;
    assert_eq!((first.dims(), last.dims()), (t.dims(), t.dims()));
    for (a, b) in numbers::<f32>(&first).into_iter().zip(numbers::<f32>(&last)) {
        assert!((a - b).abs() < 1e-6);
    }
    let (a, b) = (gradient::<f32>(&first.mean_all()?, &x)?, gradient::<f32>(&last.mean_all()?, &x)?);
    assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() < 1e-7));
    Ok(())
}

#[test]
fn one_row() -> Result<()> {
    let (x, dense) = (var(&[0.5f32, 3.0, -1.0], 3), tensor(&[0.2f32, 0.3, 0.5], 3));
    let ce = CrossEntropy::new();
    let want = ce.tensors(&x.unsqueeze(0)?, &tensor(&[1u32], 1)).forward(Reduction::Mean)?.to_scalar::<f32>()?;
    for target in [tensor(&[1u32], 1), tensor(&[1u32], ())] {
        let losses = ce.tensors(&x, &target).forward_unreduced()?;
        assert_eq!((losses.dims(), numbers::<f32>(&losses)), (target.dims(), vec![want]));
        assert_eq!(gradient::<f32>(&losses.sum_all()?, &x)?.len(), 3);
    }
    assert_eq!(ce.tensors(&x, &dense).forward_unreduced()?.dims(), [0usize; 0]);
    Ok(())
}

#[test]
fn element_wise_losses_of_any_rank() -> Result<()> {
    let scalar = Mse::new().tensors(&var(&[3f32], ()), &tensor(&[1f32], ())).forward_unreduced()?;
    assert_eq!((scalar.dims(), scalar.to_scalar::<f32>()?), (&[][..], 4.0));
    let (x, t) = (range(&[2, 3, 4]), range(&[2, 3, 4]).ge(0.0)?.to_dtype(candle_core::DType::F32)?);
    let bce = BceWithLogits::new().tensors(&x, &t);
    let of_last = bce.clone().class_weight(&range(&[4]).sqr()?).forward_unreduced()?;
    let of_two = bce.class_weight(&range(&[4]).sqr()?.broadcast_as((3, 4))?).forward_unreduced()?;
    assert_eq!(of_last.dims(), [2, 3, 4]);
    assert_eq!(numbers::<f32>(&of_last), numbers::<f32>(&of_two));
    Ok(())
}

#[test]
fn regions() -> Result<()> {
    let (x, t) = (range(&[2, 3, 4, 5]), tensor(&(0..40).map(|i| i % 3).collect::<Vec<i64>>(), (2, 4, 5)));
    let dims = |dice: DiceLoss| -> Result<Vec<usize>> {
        let losses = dice.softmax().tensors(&x, &t).forward_unreduced()?;
        Ok(losses.dims().to_vec())
    };
    assert_eq!(dims(DiceLoss::new())?, [2, 3]);
    assert_eq!(dims(DiceLoss::new().include_background(false))?, [2, 2]);
    assert_eq!(dims(DiceLoss::new().batch(true))?, [3]);
    Ok(())
}

#[test]
fn a_penalty_is_of_whole_samples() -> Result<()> {
    let penalty = || -> OurResult<GradientPenalty> { GradientPenalty::wgan_gp(10.0) };
    let penalty = penalty().map_err(candle_core::Error::wrap)?;
    let x = candle_core::Var::from_tensor(&range(&[4, 3, 2, 2]))?;
    let (images, flat) = (penalty.tensor(&x), penalty.tensor(&x.flatten_from(1)?));
    let losses = images.clone().forward_unreduced()?;
    assert_eq!((losses.dims(), numbers(&losses)), (&[4][..], numbers::<f32>(&flat.clone().forward_unreduced()?)));
    let (a, b) = (images.forward(Reduction::Mean)?, flat.forward(Reduction::Mean)?);
    assert_eq!(gradient::<f32>(&a, &x)?, gradient::<f32>(&b, &x)?);
    Ok(())
}

#[test]
fn index_targets_of_every_type() -> Result<()> {
    let x = range(&[3, 4]);
    let t = Tensor::new(&[3i64, 0, 1], &Device::Cpu)?;
    let want = MultiMargin::new().tensors(&x, &t).forward(Reduction::Mean)?.to_scalar::<f32>()?;
    for dtype in [candle_core::DType::U8, candle_core::DType::U32, candle_core::DType::I32] {
        let got = MultiMargin::new().tensors(&x, &t.to_dtype(dtype)?).forward(Reduction::Mean)?;
        assert_eq!(got.to_scalar::<f32>()?, want);
    }
    Ok(())
}

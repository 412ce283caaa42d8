//! What is refused, and in which words.

use candle_core::{DType, Device, Result, Tensor, Var};
use fused_loss::candle::OnTensors;
use fused_loss::{
    BceWithLogits, CosineEmbedding, CrossEntropy, DiceLoss, GanLoss, GanMode, GaussianNll, Mse, Nll, Reduction,
    RelativisticAverage, SigmoidFocal,
};

use super::{tensor, var};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("zeros")
}

#[track_caller]
fn refused<X>(call: Result<X>, words: &str) {
    let error = call.err().expect("it is refused").to_string();
    // With RUST_BACKTRACE there is more.
    assert_eq!(error.lines().next(), Some(words));
}

#[test]
fn types() -> Result<()> {
    let (x, mean) = (zeros(&[2, 3]), Reduction::Mean);
    let (f64s, halves) = (x.to_dtype(DType::F64)?, x.to_dtype(DType::F16)?);
    let mse = |x: &Tensor, t: &Tensor| Mse::new().tensors(x, t).forward(mean);
    let name = "MSE";
    refused(mse(&f64s, &f64s), &format!("{name}: input: expected f32, f16 or bf16, got f64"));
    refused(mse(&x, &halves), &format!("{name}: target: expected f32, got f16"));
    refused(mse(&x, &x.to_dtype(DType::I64)?), &format!("{name}: target: expected f32, got i64"));
    refused(mse(&halves, &x), &format!("{name}: target: expected f16, got f32"));
    let index = "class indices (u8, u32, i32 or i64)";
    let ce = |t: DType| CrossEntropy::new().tensors(&halves, &x.to_dtype(t)?).forward(mean);
    refused(ce(DType::F32), &format!("cross-entropy: target: expected f16 or {index}, got f32"));
    refused(ce(DType::I16), &format!("cross-entropy: target: expected f16 or {index}, got i16"));
    refused(Nll::new().tensors(&x, &x).forward(mean), &format!("NLL: target: expected {index}, got f32"));
    let call = || Mse::new().tensors(&x, &x);
    refused(call().weight(&halves).forward(mean), &format!("{name}: weight: expected f32, got f16"));
    refused(call().sample_weight(&f64s).forward(mean), &format!("{name}: sample_weight: expected f32, got f64"));
    refused(call().class_weight(&halves).forward(mean), &format!("{name}: class_weight: expected f32, got f16"));
    let fake = RelativisticAverage::new().tensors(&x, &halves);
    refused(fake.generator(), "relativistic average: fake: expected f32, as the real batch is, got f16");
    refused(
        RelativisticAverage::new().tensors(&f64s, &f64s).discriminator(),
        "relativistic average: input: expected f32, f16 or bf16, got f64",
    );
    Ok(())
}

#[test]
fn third_tensors() -> Result<()> {
    let (x, mean) = (zeros(&[2, 3]), Reduction::Mean);
    let nll = || GaussianNll::new().tensors(&x, &x);
    refused(nll().forward(mean), "Gaussian NLL: third: expected one, got none: add it by `third`");
    let halves = x.to_dtype(DType::F16)?;
    refused(nll().third(&halves).forward(mean), "Gaussian NLL: third: expected f32, got f16");
    refused(nll().third(&zeros(&[2])).forward(mean), "Gaussian NLL: third: expected shape [2, 3], got [2]");
    let tracked = Var::from_tensor(&x)?;
    let refusal = "Gaussian NLL: third: it gets no gradient here: pass `third.detach()`";
    refused(nll().third(&tracked).forward(mean), refusal);
    let cosine = CosineEmbedding::default().tensors(&x, &x).third(&x);
    refused(cosine.forward(mean), "cosine embedding: third: expected shape [2], got [2, 3]");
    let mse = Mse::new().tensors(&x, &x).third(&x);
    refused(mse.forward(mean), "MSE: third: expected none, got one: this loss is of two tensors");
    Ok(())
}

#[test]
fn shapes() -> Result<()> {
    let (x, mean) = (zeros(&[2, 3]), Reduction::Mean);
    let mse = |t: &[usize]| Mse::new().tensors(&x, &zeros(t)).forward(mean);
    refused(mse(&[3, 2]), "MSE: target: expected shape [2, 3], got [3, 2]");
    refused(mse(&[6]), "MSE: target: expected shape [2, 3], got [6]");
    let ce = |x: &[usize], t: &[usize]| {
        CrossEntropy::new().tensors(&zeros(x), &zeros(t).to_dtype(DType::U32)?).forward(mean)
    };
    refused(ce(&[2, 3], &[3]), "cross-entropy: target: expected shape [2], got [3]");
    refused(ce(&[2, 3], &[2, 1]), "cross-entropy: target: expected shape [2], got [2, 1]");
    refused(ce(&[2, 3, 4], &[2, 3]), "cross-entropy: target: expected shape [2, 4], got [2, 3]");
    refused(ce(&[3], &[3]), "cross-entropy: target: expected shape [], got [3]");
    refused(ce(&[], &[]), "cross-entropy: input: expected at least one axis, got a scalar");
    let dice = DiceLoss::new().tensors(&zeros(&[2, 3, 4, 4]), &zeros(&[2, 4, 4]).to_dtype(DType::U8)?);
    refused(
        dice.clone().classes_last().forward(mean),
        "DiceLoss: classes_last: regions of more than two axes have their classes on axis 1: permute the input",
    );
    refused(dice.weight(&zeros(&[2, 2])).forward(mean), "DiceLoss: weight: expected shape [2, 3], got [2, 2]");
    refused(
        DiceLoss::new().tensors(&zeros(&[2, 3, 4]), &zeros(&[2, 3]).to_dtype(DType::U8)?).forward(mean),
        "DiceLoss: target: expected shape [2, 4], got [2, 3]",
    );
    let call = || Mse::new().tensors(&x, &x);
    refused(call().classes_last().forward(mean), "MSE: classes_last: this loss has no class axis");
    refused(call().weight(&zeros(&[6])).forward(mean), "MSE: weight: expected shape [2, 3], got [6]");
    refused(
        call().sample_weight(&zeros(&[2, 1])).forward(mean),
        "MSE: sample_weight: expected one axis, got shape [2, 1]",
    );
    refused(
        call().sample_weight(&zeros(&[4])).forward(mean),
        "sample_weight: 4 samples do not divide 6 elements into equal parts",
    );
    refused(call().class_weight(&zeros(&[3])).forward(mean), "MSE: a class weight is not supported");
    let bce = BceWithLogits::new().tensors(&x, &x);
    refused(
        bce.class_weight(&zeros(&[2])).forward(mean),
        "BCE with logits: class_weight: expected the last axes of [2, 3], got shape [2]",
    );
    let ce = CrossEntropy::new().tensors(&x, &x);
    refused(ce.clone().class_weight(&zeros(&[2])).forward(mean), "class_weight: expected 3 elements, got 2");
    refused(
        ce.class_weight(&zeros(&[3, 1])).forward(mean),
        "cross-entropy: class_weight: expected one axis, got shape [3, 1]",
    );
    Ok(())
}

#[test]
fn values() {
    let (x, t) = (var(&[0f32; 6], (2, 3)), tensor(&[0u32, 3], 2));
    let ce = || CrossEntropy::new().tensors(&x, &t);
    let words = "target: expected a class in 0..3 or the ignored index, got 3 in row 1";
    refused(ce().forward(Reduction::Mean), words);
    refused(ce().forward_unreduced(), words);
    refused(ce().forward_backward(Reduction::Mean), words);
    let zero = Mse::new().tensors(&x, &x).forward(Reduction::SumOver(0.0));
    refused(zero, "SumOver: expected a finite number above zero, got 0");
}

#[test]
fn what_has_no_gradient() -> Result<()> {
    let (x, mean) = (var(&[0f32; 6], (2, 3)), Reduction::Mean);
    let t = Var::from_tensor(&zeros(&[2, 3]))?;
    refused(
        SigmoidFocal::new().tensors(&x, &t).forward(mean),
        "sigmoid focal: target: this loss has no gradient for its target: pass `target.detach()`",
    );
    assert!(SigmoidFocal::new().tensors(&x, &t.detach()).forward(mean).is_ok());
    refused(
        Mse::new().tensors(&x, &t).weight(&t).forward(mean),
        "MSE: weight: weights get no gradient: pass `weight.detach()`",
    );
    refused(
        Mse::new().tensors(&x, &t).grad_output(2.0).forward(mean),
        "MSE: grad_output: multiply the loss, or call `forward_backward`",
    );
    refused(
        GanLoss::default().grad_output(2.0).tensors(&x, &t).generator(mean),
        "GAN loss: grad_output and accumulate are not for tensors: multiply the loss; candle adds gradients",
    );
    Ok(())
}

#[test]
fn targets_that_are_missing_or_too_many() {
    let x = zeros(&[2, 3]);
    refused(Mse::new().tensor(&x).forward_unreduced(), "MSE: target: expected one, got none: call `tensors`");
    let term = GanLoss::new(GanMode::Hinge).real_term();
    refused(term.tensors(&x, &x).forward_unreduced(), "GAN term: target: expected none, got one: call `tensor`");
}

//! What is refused, and in which words.

use burn_tensor::Tensor;
use fused_loss::burn::{Error, OnPairs, OnTensors};
use fused_loss::{CrossEntropy, GanLoss, Mse, Nll, Reduction, RelativisticAverage, SigmoidFocal};

use super::{indices, leaf, tensor};

#[track_caller]
fn refused<X>(call: Result<X, Error>, words: &str) {
    assert_eq!(call.err().expect("it is refused").to_string(), words);
}

#[test]
fn types_and_shapes() {
    let (x, mean) = (tensor(&[0f32; 6], [2, 3]), Reduction::Mean);
    let (f64s, halves) = (tensor(&[0f64; 6], [2, 3]), tensor(&[half::f16::ZERO; 6], [2, 3]));
    let mse = |x: &Tensor<2>, t: &Tensor<2>| Mse::new().tensors(x, t).forward(mean);
    refused(mse(&f64s, &f64s), "MSE: input: expected f32, f16 or bf16, got f64");
    refused(mse(&x, &halves), "MSE: target: expected f32, got f16");
    refused(mse(&x, &tensor(&[0f32; 6], [3, 2])), "MSE: target: expected shape [2, 3], got [3, 2]");
    let index = "class indices (u8, u32, i32 or i64)";
    let ce = CrossEntropy::new().tensors(&halves, &indices(&[0i16; 2], [2])).forward(mean);
    refused(ce, &format!("cross-entropy: target: expected f16 or {index}, got i16"));
    refused(Nll::new().tensors(&x, &x).forward(mean), &format!("NLL: target: expected {index}, got f32"));
    let ce = CrossEntropy::new().tensors(&x, &indices(&[0i64; 3], [3]));
    refused(ce.forward(mean), "cross-entropy: target: expected shape [2], got [3]");
    let ce = || CrossEntropy::new().tensors(&x, &indices(&[0i64, 3], [2]));
    let words = "target: expected a class in 0..3 or the ignored index, got 3 in row 1";
    refused(ce().forward(mean), words);
    refused(ce().forward_unreduced::<1>(), words);
    refused(ce().forward_backward::<2>(mean), words);
    let call = || Mse::new().tensors(&x, &x);
    refused(call().weight(&halves).forward(mean), "MSE: weight: expected f32, got f16");
    refused(call().weight(&tensor(&[0f32; 6], [6])).forward(mean), "MSE: weight: expected shape [2, 3], got [6]");
    refused(call().forward_unreduced::<1>(), "MSE: the losses have the shape [2, 3], which is not of 1 axes");
    refused(call().forward_backward::<3>(mean), "MSE: the gradient has the input's shape, which is not of 3 axes");
    let fake = RelativisticAverage::new().pair(&x, &halves);
    refused(fake.generator(), "relativistic average: fake: expected f32, as the real batch is, got f16");
}

#[test]
fn what_has_no_gradient() {
    let (x, mean) = (leaf(&[0f32; 6], [2, 3]), Reduction::Mean);
    let t = leaf(&[0f32; 6], [2, 3]);
    refused(
        SigmoidFocal::new().tensors(&x, &t).forward(mean),
        "sigmoid focal: target: this loss has no gradient for its target: pass `target.inner()`",
    );
    assert!(SigmoidFocal::new().tensors(&x, &t.clone().inner()).forward(mean).is_ok());
    refused(
        Mse::new().tensors(&x, &t).weight(&t).forward(mean),
        "MSE: weight: weights get no gradient: pass `weight.inner()`",
    );
    refused(
        Mse::new().tensors(&x, &t).grad_output(2.0).forward(mean),
        "MSE: grad_output: multiply the loss, or call `forward_backward`",
    );
    refused(
        GanLoss::default().grad_output(2.0).pair(&x, &t).generator(mean),
        "GAN loss: grad_output and accumulate are not for tensors: multiply the loss; burn adds gradients",
    );
    refused(Mse::new().tensor(&x).forward(mean), "MSE: target: expected one, got none: call `tensors`");
}

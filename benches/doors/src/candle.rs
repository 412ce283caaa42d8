//! The door of candle's tensors: squared error of `n` elements, whose mean and gradient a call gives.

use candle_core::{Device, Tensor, Var};
use fused_loss::candle::OnTensors;
use fused_loss::{Mse, Reduction};

use super::draw;

fn tensors(n: usize) -> (Var, Tensor) {
    let draw = |step| Tensor::from_vec(draw(n, step), n, &Device::Cpu);
    let input = draw(31).and_then(|x| Var::from_tensor(&x)).expect("a variable");
    (input, draw(17).expect("a tensor"))
}

/// Value and gradient as two tensors, without a graph.
pub fn call(n: usize) -> impl FnMut() {
    let (input, target) = tensors(n);
    move || {
        let made = Mse::new().tensors(&input, &target).forward_backward(Reduction::Mean);
        std::hint::black_box(made.expect("a value and a gradient"));
    }
}

/// The value on candle's graph, and candle's `backward`, which adds the gradient to zeros of its own.
pub fn autograd(n: usize) -> impl FnMut() {
    let (input, target) = tensors(n);
    move || {
        let loss = Mse::new().tensors(&input, &target).forward(Reduction::Mean).expect("a value");
        std::hint::black_box(loss.backward().expect("gradients"));
    }
}

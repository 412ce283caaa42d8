//! The door of burn's tensors.

use burn_tensor::{Device, Tensor};
use fused_loss::burn::OnTensors;
use fused_loss::{Mse, Reduction};

use super::draw;

fn tensors(n: usize) -> (Tensor<1>, Tensor<1>) {
    let tensor = |step| Tensor::from_data(draw(n, step).as_slice(), &Device::flex().autodiff());
    (Tensor::require_grad(tensor(31)), tensor(17))
}

/// Value and gradient at once, without a graph.
pub fn call(n: usize) -> impl FnMut() {
    let (input, target) = tensors(n);
    move || {
        let made = Mse::new().tensors(&input, &target).forward_backward::<1>(Reduction::Mean);
        std::hint::black_box(made.expect("a value and a gradient"));
    }
}

/// The value on burn's graph, and burn's `backward`.
pub fn autograd(n: usize) -> impl FnMut() {
    let (input, target) = tensors(n);
    move || {
        let loss = Mse::new().tensors(&input, &target).forward(Reduction::Mean).expect("a value");
        std::hint::black_box(loss.backward());
    }
}

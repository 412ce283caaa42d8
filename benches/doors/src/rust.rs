//! The first door: slices.

use fused_loss::{Mse, Reduction};

use super::draw;

fn run(input: &[f32], target: &[f32], grad: &mut [f32]) {
    let value = Mse::new().forward_backward(input, target, Reduction::Mean, grad);
    std::hint::black_box(value.expect("a value"));
}

/// Into a gradient that is kept, as in a training loop without a framework.
pub fn call(n: usize) -> impl FnMut() {
    let (input, target, mut grad) = (draw(n, 31), draw(n, 17), vec![0.0; n]);
    move || run(&input, &target, &mut grad)
}

/// Into memory of its own, as the operations of frameworks do.
pub fn fresh(n: usize) -> impl FnMut() {
    let (input, target) = (draw(n, 31), draw(n, 17));
    move || run(&input, &target, &mut vec![0.0; n])
}

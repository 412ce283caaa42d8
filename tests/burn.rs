//! Losses on burn's tensors: the numbers of the crate's own calls, on burn's graph.

mod cases;
#[path = "burn/graph.rs"]
mod graph;
#[path = "burn/refused.rs"]
mod refused;
#[path = "burn/same.rs"]
mod same;

use burn_tensor::{Device, Element, Int, Tensor, TensorData};

/// A tensor of this storage type, on a device with autodiff.
pub fn tensor<const D: usize, X: Element>(data: &[X], dims: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(data.to_vec(), dims), (&Device::flex().autodiff(), X::dtype()))
}

/// The same, that gets a gradient.
pub fn leaf<const D: usize, X: Element>(data: &[X], dims: [usize; D]) -> Tensor<D> {
    tensor(data, dims).require_grad()
}

pub fn indices<const D: usize, X: Element>(data: &[X], dims: [usize; D]) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(data.to_vec(), dims), (&Device::flex(), X::dtype()))
}

pub fn numbers<const D: usize, X: Element>(x: &Tensor<D>) -> Vec<X> {
    x.to_data().try_to_vec().expect("numbers of this type")
}

/// The gradient that a value has for a leaf, by burn.
pub fn gradient<const D: usize, X: Element>(value: &Tensor<1>, of: &Tensor<D>) -> Vec<X> {
    numbers(&of.grad(&value.backward()).expect("it has a gradient"))
}

#[test]
fn the_readmes_program_is_the_one_that_is_compiled() {
    let readme = include_str!("../README.md");
    let section = readme.split("## burn\n").nth(1).expect("the section");
    let program = section.split("```rust,ignore\n").nth(1).and_then(|p| p.split("```").next()).expect("a program");
    let module = include_str!("../src/burn/mod.rs");
    let docs: String = module
        .lines()
        .map_while(|l| l.strip_prefix("//!"))
        .map(|l| format!("{}\n", l.strip_prefix(' ').unwrap_or(l)))
        .collect();
    let example = docs.split("```\n").nth(1).expect("an example");
    assert_eq!(program, example);
}

//! Losses on candle's tensors: the numbers of the crate's own calls, on candle's graph.

#[path = "candle/bad_input.rs"]
mod bad_input;
mod cases;
#[path = "candle/gpu.rs"]
mod gpu;
#[path = "candle/graph.rs"]
mod graph;
#[path = "candle/same.rs"]
mod same;
#[path = "candle/views.rs"]
mod views;
#[path = "candle/wrong.rs"]
mod wrong;

use candle_core::{Device, Result, Shape, Tensor, Var, WithDType};

/// A tensor on the CPU.
pub fn tensor<X: WithDType>(data: &[X], shape: impl Into<Shape>) -> Tensor {
    Tensor::from_slice(data, shape, &Device::Cpu).expect("as many numbers as the shape says")
}

/// The same, that gets a gradient.
pub fn var<X: WithDType>(data: &[X], shape: impl Into<Shape>) -> Var {
    Var::from_tensor(&tensor(data, shape)).expect("a variable")
}

pub fn numbers<X: WithDType>(x: &Tensor) -> Vec<X> {
    x.flatten_all().and_then(|x| x.to_vec1()).expect("numbers of this type")
}

/// The gradient that a value has for a variable, by candle.
pub fn gradient<X: WithDType>(value: &Tensor, of: &Tensor) -> Result<Vec<X>> {
    Ok(numbers(value.backward()?.get(of).expect("it has a gradient")))
}

#[test]
fn the_readmes_program_is_the_one_that_is_compiled() {
    let readme = include_str!("../README.md");
    let section = readme.split("## candle\n").nth(1).expect("the section");
    let program = section.split("```rust,ignore\n").nth(1).and_then(|p| p.split("```").next()).expect("a program");
    let module = include_str!("../src/candle/mod.rs");
    let docs: String = module
        .lines()
        .map_while(|l| l.strip_prefix("//!"))
        .map(|l| format!("{}\n", l.strip_prefix(' ').unwrap_or(l)))
        .collect();
    let example = docs.split("```\n").nth(1).expect("an example");
    assert_eq!(program, example);
}

//! What is timed and how: shared by the criterion benches and the throughput command, so that both mean the same by a number.
//!
//! A *turn* is one fused forward + backward call (mean reduction, upstream gradient 0.5, the gradient buffer used again), then one
//! copy of the same input into the same gradient buffer. They alternate, so that a machine that slows down slows both. Before a
//! problem is timed, its value is compared with the textbook's.
#![allow(dead_code)] // neither of the two uses all of it

pub mod beyond;
#[path = "../../tests/cases/mod.rs"]
pub mod cases;
mod cpu;
#[cfg(feature = "cuda")]
mod gpu;
pub mod list;
pub mod memory;
mod problem;

use std::time::Duration;

use cases::Case;
use cases::draw::{Dims, Problem};
use fused_loss::{Device, Element};

/// How long the two halves of a turn took.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub loss: Duration,
    pub copy: Duration,
}

/// A problem on a device, ready to be timed.
pub trait Timed {
    /// Takes so many turns.
    fn turns(&mut self, turns: usize) -> Result<Vec<Turn>, String>;

    /// Bytes that one call needs beside the caller's buffers.
    fn memory(&mut self) -> Result<usize, String>;

    /// Kernels that one call launches, on a GPU.
    fn launches(&self) -> Option<usize>;
}

/// A storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    F32,
    F16,
    Bf16,
}

impl Dtype {
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::Bf16];

    pub fn name(self) -> &'static str {
        match self {
            Dtype::F32 => "f32",
            Dtype::F16 => "f16",
            Dtype::Bf16 => "bf16",
        }
    }

    pub fn bytes(self) -> usize {
        if self == Dtype::F32 { 4 } else { 2 }
    }
}

/// Draws a problem, checks the device's answer to it, and puts all of it there. Says why if that cannot be.
pub fn open<'a>(device: &'a Device, case: &'a Case, dims: Dims, dtype: Dtype) -> Result<Box<dyn Timed + 'a>, String> {
    // Input, targets and gradient; what is drawn before it is repeated is little.
    let on_host = if device.is_cuda() { 0 } else { list::fewest_bytes(case, dims, dtype.bytes()) };
    memory::check_host(on_host + (64 << 20))?;
    match dtype {
        Dtype::F32 => open_as::<f32>(device, case, dims),
        Dtype::F16 => open_as::<half::f16>(device, case, dims),
        Dtype::Bf16 => open_as::<half::bf16>(device, case, dims),
    }
}

/// How long a call takes inside a CUDA graph, and a kernel that does nothing; `None` on the CPU.
pub fn in_graph(device: &Device, case: &Case, dims: Dims, dtype: Dtype) -> Option<Result<[Duration; 2], String>> {
    #[cfg(feature = "cuda")]
    return device.handle().map(|cuda| match dtype {
        Dtype::F32 => gpu::in_graph::<f32>(cuda, case, &problem::draw(case, dims), dims),
        Dtype::F16 => gpu::in_graph::<half::f16>(cuda, case, &problem::draw(case, dims), dims),
        Dtype::Bf16 => gpu::in_graph::<half::bf16>(cuda, case, &problem::draw(case, dims), dims),
    });
    #[cfg(not(feature = "cuda"))]
    {
        let _ = (device, case, dims, dtype);
        None
    }
}

#[cfg(feature = "cuda")]
trait Stored: Element + fused_loss::cudarc::driver::DeviceRepr + fused_loss::cudarc::driver::ValidAsZeroBits {}
#[cfg(feature = "cuda")]
impl<T: Element + fused_loss::cudarc::driver::DeviceRepr + fused_loss::cudarc::driver::ValidAsZeroBits> Stored for T {}
#[cfg(not(feature = "cuda"))]
trait Stored: Element {}
#[cfg(not(feature = "cuda"))]
impl<T: Element> Stored for T {}

fn open_as<'a, T: Stored>(device: &'a Device, case: &'a Case, dims: Dims) -> Result<Box<dyn Timed + 'a>, String> {
    let small: Problem<T> = problem::draw(case, dims);
    #[cfg(feature = "cuda")]
    if let Some(cuda) = device.handle() {
        let (value, grad) = gpu::Gpu::new(cuda, case, &small, small.dims)?.answer()?;
        problem::check(case, &small, value, &grad)?;
        return Ok(Box::new(gpu::Gpu::new(cuda, case, &small, dims)?));
    }
    let _ = device;
    let mut on_cpu = cpu::Cpu::new(case, small);
    let (value, grad) = on_cpu.answer()?;
    problem::check(case, &on_cpu.problem, value, &grad)?;
    Ok(Box::new(cpu::Cpu::new(case, problem::repeat(on_cpu.problem, dims))))
}

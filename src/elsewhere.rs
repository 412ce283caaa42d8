//! In debug builds a test can take all calls of the first door elsewhere: so the tests of the CPU backend are those of the kernels
//! too, without a word of them changed.
#![allow(missing_docs)] // for tests alone

use std::sync::OnceLock;

use crate::call::{Loss, Output, Request, Weight};
use crate::cpu::mem::Dst;
use crate::cuda::kernel::Kernel;
use crate::cuda::request::{self, Average, Dtype, Memory, Scalar, Targets};
use crate::element::Element;
use crate::error::Result;
use crate::report::Report;
use crate::target::Target;

/// Where to. The addresses are the host's; the calls are as the caller made them, unchecked but for the length of the gradient.
pub trait Elsewhere: Sync {
    fn run(&self, kernel: &Kernel, request: &request::Request) -> Result<()>;
    fn average(&self, call: &Average);
}

static ELSEWHERE: OnceLock<&'static dyn Elsewhere> = OnceLock::new();

/// From now on.
pub fn go(to: &'static dyn Elsewhere) {
    if ELSEWHERE.set(to).is_err() {
        panic!("calls go elsewhere already");
    }
}

/// The outcome of a call, if it went there.
pub(crate) fn run<L: Loss, T: Element>(loss: &L, call: &Request<'_, T>) -> Option<Result<f32>> {
    let to = ELSEWHERE.get()?;
    let extras = &call.extras;
    let targets = match extras.target {
        Target::Nothing => Targets::Nothing,
        Target::Dense(t) => Targets::Dense(slice(t)),
        Target::I64(t) => Targets::I64(slice(t)),
        Target::I32(t) => Targets::I32(slice(t)),
        Target::U32(t) => Targets::U32(slice(t)),
        Target::U8(t) => Targets::U8(slice(t)),
    };
    let mut value = [f32::NAN];
    let mut request = request::Request::new::<T>(call.input.memory(), targets, extras.shape);
    request.weight = extras.weight.map(|weight| match weight {
        Weight::PerElement(w) => request::Weight::PerElement(slice(w)),
        Weight::PerSample(w) => request::Weight::PerSample(slice(w)),
    });
    request.class_weight = extras.class_weight.map(slice);
    request.grad_output = Scalar::Host(extras.grad_output);
    request.accumulate = extras.accumulate;
    request.grad_target = extras.grad_target.map(Dst::memory);
    request.terms = extras.terms.map(Dst::memory);
    request.third = extras.third.input.map(slice);
    request.grad_third = extras.third.grad.map(Dst::memory);
    let report = &extras.report;
    request.report = Report {
        log_prob: report.log_prob.map(Dst::memory),
        entropy: report.entropy.map(Dst::memory),
        lse: report.lse.map(Dst::memory),
        hit: report.hit.map(Dst::memory),
        argmax: report.argmax.map(Dst::memory_of_indices),
    };
    request.grad_input = call.grad_input.map(Dst::memory);
    request.in_place = call.in_place;
    request.output = match &call.output {
        Output::Reduced(reduction) => request::Output::Reduced(*reduction, Some(Dst::new(&mut value).memory())),
        Output::Unreduced { losses, grad_output } => {
            request::Output::Unreduced { losses: losses.map(Dst::memory), grad_output: grad_output.map(slice) }
        }
    };
    let done = to.run(&loss.kernel(), &request);
    let value = if matches!(call.output, Output::Reduced(_)) { value[0] } else { 0.0 };
    Some(done.map(|()| value))
}

/// The same of the relativistic average.
pub(crate) fn average<T: Element>(
    (high, low): (&[T], &[T]),
    grads: &mut Option<[&mut [T]; 2]>,
    grad_output: f32,
    accumulate: bool,
) -> Option<f32> {
    let to = ELSEWHERE.get()?;
    let mut value = [f32::NAN];
    to.average(&Average {
        dtype: Dtype::of::<T>(),
        high: slice(high),
        low: slice(low),
        grads: grads.as_mut().map(|both| both.each_mut().map(|g| Dst::new(g).memory())),
        value: Some(Dst::new(&mut value).memory()),
        grad_output: Scalar::Host(grad_output),
        accumulate,
    });
    Some(value[0])
}

fn slice<X>(x: &[X]) -> Memory {
    Memory { address: x.as_ptr() as u64, len: x.len() }
}

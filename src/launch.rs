//! Where calls become launches of kernels, for this crate's own tests: they hand in a runtime that executes the kernels on the host.
//! No part of the public interface.
#![allow(missing_docs, unsafe_code)]

#[cfg(all(feature = "cuda", feature = "head"))]
pub use crate::cuda::blas::{Matrix, Product};
#[cfg(all(feature = "cuda", feature = "head"))]
pub use crate::cuda::head::product;
pub use crate::cuda::kernel::{Kernel, Params};
pub use crate::cuda::marshal::Launch;
pub use crate::cuda::plan;
pub use crate::cuda::request::{Average, Dtype, Memory, Output, Request, Scalar, Targets, Weight};
pub use crate::params;
pub use crate::report::Report;

/// The file of a loss that the user wrote, without its ending, and its text.
pub fn source(loss: &crate::Custom) -> Option<(&'static str, &'static str)> {
    let definition = crate::cuda::custom::of_file(crate::cuda::kernel::HasKernel::kernel(loss).file())?;
    Some((definition.file, definition.source.as_deref()?))
}

/// The file of a sum with kernels of its own, by its name without the ending.
pub fn sum_source(file: &str) -> Option<String> {
    crate::cuda::sums::source(file)
}

/// The version of NVRTC, if it is there.
#[cfg(feature = "cuda")]
pub fn nvrtc() -> crate::Result<&'static str> {
    crate::cuda::nvrtc()
}

/// Checks a call of a loss and launches its kernels.
///
/// # Safety
/// Each [`Memory`] and address of the request is of memory as long and as aligned as it says, which the launches may use.
pub unsafe fn run<L: crate::Loss>(loss: &L, request: &Request, launcher: &mut dyn Launch) -> crate::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run(&loss.kernel(), request, launcher) }
}

/// The same for a loss whose type is not known.
///
/// # Safety
/// As for [`run`].
pub unsafe fn run_kernel(kernel: &Kernel, request: &Request, launcher: &mut dyn Launch) -> crate::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run(kernel, request, launcher) }
}

/// The same of the relativistic average.
///
/// # Safety
/// As for [`run`].
pub unsafe fn run_average(call: &Average, launcher: &mut dyn Launch) -> crate::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run_average(call, ["grad_high", "grad_low"], launcher) }
}

/// Cross-entropy of this rank's classes, the first of which is the first of these two numbers, among as many as the second; `reduce` has the
/// ranks reduce so many f32 at an address.
///
/// # Safety
/// As for [`run`]; the request has a shape of its own rows and classes, indices, and lengths that fit.
pub unsafe fn run_vocab(
    loss: &crate::CrossEntropy,
    request: &Request,
    classes: [usize; 2],
    launcher: &mut dyn Launch,
    reduce: &dyn Fn(u64, usize, crate::parallel::ReduceOp) -> crate::Result<()>,
) -> crate::Result<()> {
    let sizes = crate::cuda::vocab::check(request, request.targets.memory().len)?;
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::vocab::run(loss, request, &sizes, classes, launcher, reduce) }
}

/// A call on a GPU of a loss of any type, where the loss's own methods cannot be named.
#[cfg(feature = "cuda")]
pub fn call<'a, L: crate::Loss, T: crate::Element>(
    cuda: &'a crate::Cuda,
    loss: L,
    input: crate::DeviceRef<'a, T>,
    target: crate::DeviceTarget<'a, T>,
    shape: Option<crate::Shape>,
) -> crate::CudaCall<'a, L, T> {
    crate::CudaCall::new(crate::OnCuda { loss, cuda }, input, target, shape)
}

/// The same in place.
#[cfg(feature = "cuda")]
pub fn call_in_place<'a, L: crate::Loss, T: crate::Element>(
    cuda: &'a crate::Cuda,
    loss: L,
    input: crate::DeviceMut<'a, T>,
    target: crate::DeviceTarget<'a, T>,
    shape: Option<crate::Shape>,
) -> crate::CudaCall<'a, L, T, crate::DeviceMut<'a, T>> {
    crate::CudaCall::new(crate::OnCuda { loss, cuda }, input, target, shape)
}

/// [`run_kernel`] on a GPU.
///
/// # Safety
/// As for [`run`], of memory of the handle's GPU.
#[cfg(feature = "cuda")]
pub unsafe fn run_on(cuda: &crate::Cuda, kernel: &Kernel, request: &Request) -> crate::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run(kernel, request, &mut cuda.launcher()) }
}

/// [`run_average`] on a GPU.
///
/// # Safety
/// As for [`run_on`].
#[cfg(feature = "cuda")]
pub unsafe fn run_average_on(cuda: &crate::Cuda, call: &Average) -> crate::Result<()> {
    // SAFETY: the caller's promise.
    unsafe { crate::cuda::marshal::run_average(call, ["grad_high", "grad_low"], &mut cuda.launcher()) }
}

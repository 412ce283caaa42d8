//! The CUDA backend's host side.
//!
//! * `kernel`: which kernel a loss has; `request`: a call, and its checks; `plan`: how large a launch is; `marshal`: from a call to
//!   launches. They need neither CUDA nor a GPU, and the tests run them with kernels that are executed on the host.

pub(crate) mod kernel;
pub(crate) mod marshal;
#[allow(missing_docs)] // public for the tests alone
pub mod plan;
#[allow(missing_docs)] // public for the tests alone
pub(crate) mod request;

use crate::error::Error;
use crate::params;

/// Why the GPU of this number cannot be used.
pub(crate) fn unavailable(ordinal: usize) -> Error {
    match probe(ordinal) {
        Err(error) => error,
        Ok(()) => Error::CudaUnavailable("this version of fused-loss has no CUDA kernels yet"),
    }
}

#[cfg(not(feature = "cuda"))]
fn probe(_: usize) -> Result<(), Error> {
    Err(Error::CudaUnavailable("fused-loss was built without its feature `cuda`"))
}

/// Whether there is a driver and a GPU of this number.
#[cfg(feature = "cuda")]
fn probe(ordinal: usize) -> Result<(), Error> {
    let names = if cfg!(windows) { &["nvcuda.dll"][..] } else { &["libcuda.so.1", "libcuda.so"][..] };
    // cudarc panics where there is no driver, and again where one of its errors is printed then; so the
    // library is opened by hand before cudarc is asked anything.
    // SAFETY: opening the driver's library runs its initialisers, which is what using it means.
    if !names.iter().any(|name| unsafe { libloading::Library::new(*name) }.is_ok()) {
        return Err(Error::CudaUnavailable("no NVIDIA driver: libcuda could not be loaded"));
    }
    match cudarc::driver::CudaContext::device_count() {
        Ok(count) if count > 0 && ordinal < count as usize => Ok(()),
        Ok(_) | Err(_) => Err(Error::CudaUnavailable("the NVIDIA driver finds no GPU of this number")),
    }
}

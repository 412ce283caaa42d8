//! The CUDA backend's place in the house. So far it finds out whether CUDA could be used, without a panic
//! on machines that have none; the kernels are not written yet.

use crate::error::Error;

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
#[allow(unsafe_code)]
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

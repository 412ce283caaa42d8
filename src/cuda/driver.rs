//! The driver: whether there is one, and what it says when something fails.

use cudarc::driver::{CudaContext, DriverError, sys};

use crate::error::{Error, Result};

/// What this crate calls of the driver, by itself or through cudarc.
const FUNCTIONS: [&str; 36] = [
    "cuInit",
    "cuDriverGetVersion",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease_v2",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemsetD8_v2",
    "cuMemsetD8Async",
    "cuMemsetD32Async",
    "cuMemcpyHtoDAsync_v2",
    "cuMemcpyDtoHAsync_v2",
    "cuMemcpyDtoH_v2",
    "cuMemcpyDtoDAsync_v2",
    "cuPointerGetAttribute",
    "cuStreamCreate",
    "cuStreamDestroy_v2",
    "cuStreamGetCtx",
    "cuStreamQuery",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuStreamIsCapturing",
    "cuEventCreate",
    "cuEventDestroy_v2",
    "cuEventRecord",
    "cuModuleLoadData",
    "cuModuleUnload",
    "cuModuleGetFunction",
    "cuFuncSetAttribute",
    "cuLaunchKernel",
];

/// Whether there is a driver that has all that it takes.
///
/// cudarc panics where there is no driver, where the driver lacks a function, and again where one of its errors is printed then; so the
/// library is opened by hand before cudarc is asked anything.
pub(super) fn complete() -> Result<()> {
    // In the order in which cudarc looks.
    let names = if cfg!(windows) { &["nvcuda.dll"][..] } else { &["libcuda.so", "libcuda.so.1"][..] };
    // SAFETY: opening the driver's library runs its initialisers, which is what using it means.
    let library =
        names.iter().find_map(|name| unsafe { libloading::Library::new(*name) }.ok()).ok_or(Error::NoDriver)?;
    // SAFETY: asked whether it is there, and not called.
    let missing = |name: &&&str| unsafe { library.get::<unsafe extern "C" fn()>(name.as_bytes()) }.is_err();
    FUNCTIONS.iter().find(missing).map_or(Ok(()), |function| Err(Error::DriverTooOld { function }))
}

/// Whether there is a driver and a GPU of this number.
pub(super) fn probe(ordinal: usize) -> Result<()> {
    complete()?;
    let devices = match CudaContext::device_count() {
        Ok(count) => count as usize,
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => 0,
        Err(error) => return Err(failed("counting GPUs", error)),
    };
    if ordinal < devices { Ok(()) } else { Err(Error::NoDevice { ordinal, devices }) }
}

/// The error of a call. Its name comes from the bindings and not from the driver, which may not be there.
pub(super) fn failed(what: &'static str, DriverError(code): DriverError) -> Error {
    Error::Cuda { what, name: format!("{code:?}") }
}

/// The error of an allocation.
pub(super) fn no_memory(bytes: usize, error: DriverError) -> Error {
    match error {
        DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY) => Error::OutOfMemory { bytes: bytes as u128 },
        error => failed("allocating memory", error),
    }
}

/// Whether a GPU can reach this address, as far as the driver knows.
pub(super) fn check_address(address: u64, ordinal: usize) -> Result<()> {
    let expected = "the GPU of the call";
    let (mut owner, attribute) = (-1i32, sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
    // SAFETY: the driver writes one int.
    match unsafe { sys::cuPointerGetAttribute((&raw mut owner).cast(), attribute, address) } {
        sys::CUresult::CUDA_SUCCESS if owner as usize == ordinal => Ok(()),
        sys::CUresult::CUDA_SUCCESS => Err(Error::WrongDevice { expected, got: "another GPU" }),
        sys::CUresult::CUDA_ERROR_INVALID_VALUE => Err(Error::WrongDevice { expected, got: "the host" }),
        code => Err(failed("asking whose memory a buffer is", DriverError(code))),
    }
}

/// The newest CUDA that the driver is for, such as 13.0.
pub(super) fn version() -> String {
    let mut version = 0;
    // SAFETY: it writes one number.
    match unsafe { sys::cuDriverGetVersion(&raw mut version) } {
        sys::CUresult::CUDA_SUCCESS => format!("{}.{}", version / 1000, version % 1000 / 10),
        _ => "unknown".into(),
    }
}

//! A GPU as a [`Device`](crate::Device) has it: a handle, and memory of its own.

use std::sync::{Mutex, PoisonError};

use cudarc::driver::{CudaSlice, DevicePtr, DevicePtrMut};

use super::buffers::DeviceMut;
use super::driver::{failed, no_memory};
use super::handle::Cuda;
use crate::device::Storable;
use crate::error::{Error, Result};

/// A GPU.
#[derive(Debug)]
pub(crate) struct Gpu {
    pub(crate) cuda: Cuda,
    /// Such as `NVIDIA H100, 9.0`.
    pub(crate) name: String,
    /// Where losses write their values.
    values: Mutex<CudaSlice<f32>>,
}

impl Gpu {
    pub(crate) fn new(ordinal: usize) -> Result<Self> {
        let cuda = Cuda::device(ordinal)?;
        let context = cuda.stream.context();
        let name = context.name().map_err(|e| failed("asking for the GPU's name", e))?;
        let (major, minor) = context.compute_capability().map_err(|e| failed("asking what the GPU can do", e))?;
        let values = cuda.stream.alloc_zeros(2).map_err(|e| no_memory(8, e))?;
        Ok(Gpu { name: format!("{name}, {major}.{minor}"), values: Mutex::new(values), cuda })
    }

    /// `len` zeros; at least one, for the driver has no empty memory.
    pub(crate) fn zeros<T: Storable>(&self, len: usize) -> Result<CudaSlice<T>> {
        let bytes = len as u128 * size_of::<T>() as u128;
        // cudarc multiplies without a look.
        let small = usize::try_from(bytes).map_err(|_| Error::OutOfMemory { bytes })?;
        self.cuda.stream.alloc_zeros(len.max(1)).map_err(|e| no_memory(small, e))
    }

    pub(crate) fn copy<T: Storable>(&self, data: &CudaSlice<T>) -> Result<CudaSlice<T>> {
        self.cuda.stream.clone_dtod(data).map_err(|e| no_memory(data.num_bytes(), e))
    }

    pub(crate) fn write<T: Storable>(&self, data: &[T], to: &mut impl DevicePtrMut<T>) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.cuda.stream.memcpy_htod(data, to).map_err(|e| failed("copying to the GPU", e))?;
        self.cuda.stream.synchronize().map_err(|e| failed("copying to the GPU", e))
    }

    pub(crate) fn read<T: Storable>(&self, from: &impl DevicePtr<T>, to: &mut [T]) -> Result<()> {
        if to.is_empty() {
            return Ok(());
        }
        self.cuda.stream.memcpy_dtoh(from, to).map_err(|e| failed("copying from the GPU", e))?;
        self.cuda.stream.synchronize().map_err(|e| failed("copying from the GPU", e))
    }

    /// Has `call` write values to the device, and reads them. `checked` if there may be class indices that are no classes.
    pub(crate) fn values(
        &self,
        checked: bool,
        call: impl FnOnce(DeviceMut<'_, f32>, DeviceMut<'_, f32>) -> Result<()>,
    ) -> Result<[f32; 2]> {
        let mut values = self.values.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut first, mut second) = values.split_at_mut(1);
        call((&mut first).into(), (&mut second).into())?;
        if checked {
            self.cuda.check()?;
        }
        let mut read = [0.0; 2];
        self.read(&*values, &mut read)?;
        Ok(read)
    }
}

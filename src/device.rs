//! The third door: one program for a machine with a GPU and one without.

use std::fmt;

use crate::cpu::simd::Isa;
use crate::element::Element;
use crate::error::{Error, Result, check_len};

/// Where losses are computed.
///
/// [`Device::auto`] takes CUDA where it works and the CPU otherwise. Memory is had from the device as
/// [`Buffer`]s, and a loss is bound to it by its `on` method; the program is the same for both.
///
/// ```
/// use fused_loss::{Device, Huber, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let device = Device::auto();
/// println!("{device}: {}", device.reason());
/// let input = device.buffer(&[0.5f32, 3.0, -4.0])?;
/// let target = device.buffer(&[0.0f32; 3])?;
/// let mut grad = device.zeros(3)?;
/// let loss = Huber::new(1.0)?.on(&device).forward_backward(&input, &target, Reduction::Sum, &mut grad)?;
/// assert_eq!((loss, grad.to_vec()?), (6.125, vec![0.5, 1.0, -1.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Device {
    reason: String,
}

impl Device {
    /// CUDA if there is a driver, a GPU and kernels for it, the CPU if not; [`reason`](Self::reason)
    /// says why. Never fails and never panics.
    pub fn auto() -> Self {
        match Self::cuda(0) {
            Ok(device) => device,
            Err(error) => Device { reason: error.to_string() },
        }
    }

    /// The CPU.
    pub fn cpu() -> Self {
        Device { reason: "the CPU was asked for".into() }
    }

    /// The GPU of this number, or why it cannot be used.
    pub fn cuda(ordinal: usize) -> Result<Self> {
        Err(crate::cuda::unavailable(ordinal))
    }

    /// Whether it is a GPU.
    pub fn is_cuda(&self) -> bool {
        false
    }

    /// Why it is this device.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// A buffer on this device that holds a copy of `data`.
    pub fn buffer<T: Copy>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = allocate(data.len())?;
        buffer.extend_from_slice(data);
        Ok(Buffer { data: buffer })
    }

    /// A buffer of `len` zeros on this device.
    pub fn zeros<T: Copy + Default>(&self, len: usize) -> Result<Buffer<T>> {
        let mut buffer = allocate(len)?;
        buffer.resize(len, T::default());
        Ok(Buffer { data: buffer })
    }
}

/// Room for `len` elements.
fn allocate<T>(len: usize) -> Result<Vec<T>> {
    let mut buffer = Vec::new();
    let bytes = len as u128 * size_of::<T>() as u128;
    buffer.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes })?;
    Ok(buffer)
}

impl fmt::Display for Device {
    /// Such as `CPU (AVX-512, 2 threads)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let threads = rayon::current_num_threads();
        let s = if threads == 1 { "" } else { "s" };
        write!(f, "CPU ({}, {threads} thread{s})", Isa::detect().name())
    }
}

/// Memory of a [`Device`].
#[derive(Clone, Debug)]
pub struct Buffer<T> {
    data: Vec<T>,
}

impl<T: Copy> Buffer<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Copies the buffer into host memory of its length.
    pub fn read(&self, out: &mut [T]) -> Result<()> {
        check_len("buffer", self.data.len(), out.len())?;
        out.copy_from_slice(&self.data);
        Ok(())
    }

    /// Copies host memory of its length into the buffer.
    pub fn write(&mut self, data: &[T]) -> Result<()> {
        check_len("buffer", self.data.len(), data.len())?;
        self.data.copy_from_slice(data);
        Ok(())
    }

    /// A copy in host memory.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        Ok(self.data.clone())
    }

    pub(crate) fn host(&self) -> &[T] {
        &self.data
    }

    pub(crate) fn host_mut(&mut self) -> &mut [T] {
        &mut self.data
    }
}

/// A loss bound to a [`Device`] by its `on` method.
#[derive(Clone, Copy, Debug)]
pub struct On<'d, L> {
    pub(crate) loss: L,
    pub(crate) device: &'d Device,
    pub(crate) grad_output: f32,
    pub(crate) accumulate: bool,
}

impl<'d, L> On<'d, L> {
    pub(crate) fn new(loss: L, device: &'d Device) -> Self {
        On { loss, device, grad_output: 1.0, accumulate: false }
    }

    /// The device.
    pub fn device(&self) -> &'d Device {
        self.device
    }

    /// The upstream gradient; see [`Call::grad_output`](crate::Call::grad_output).
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// The upstream gradient and the accumulation, set on a call.
    pub(crate) fn extend<'a, T: Element>(&self, call: crate::Call<'a, L, T>) -> crate::Call<'a, L, T>
    where
        L: crate::Loss,
    {
        let call = call.grad_output(self.grad_output);
        if self.accumulate { call.accumulate() } else { call }
    }
}

//! The third door: one program for a machine with a GPU and one without.

use std::fmt;
#[cfg(feature = "cuda")]
use std::sync::Arc;

use crate::cpu::simd::Isa;
#[cfg(feature = "cuda")]
use crate::cuda::{DeviceMut, DeviceRef, gpu::Gpu};
use crate::error::{Error, Result, check_len};

/// Where losses are computed.
///
/// [`Device::auto`] takes CUDA where it works and the CPU otherwise. Memory is had from the device as
/// [`Buffer`]s, and a loss is bound to it by its `on` method; the program is the same for both.
///
/// On a GPU a loss waits for its value. Programs that should not wait use a `Cuda` handle, such as the device's own.
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
    kind: Kind,
    reason: String,
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Arc<Gpu>),
}

/// What a [`Buffer`] can hold: the [`Element`](crate::Element)s, and the types of class indices.
#[allow(private_bounds)]
pub trait Storable: OnDevices + Copy + Default + Send + Sync + fmt::Debug + 'static {}

#[cfg(feature = "cuda")]
pub(crate) trait OnDevices: cudarc::driver::DeviceRepr + cudarc::driver::ValidAsZeroBits {}
#[cfg(not(feature = "cuda"))]
pub(crate) trait OnDevices {}

macro_rules! data {
    ($($t:ty)*) => {$(
        #[allow(private_bounds)]
        impl OnDevices for $t {}
        impl Storable for $t {}
    )*};
}
data!(f32 half::f16 half::bf16 i64 i32 u32 u8);

impl Device {
    /// CUDA if there is a driver, a GPU and kernels for it, the CPU if not; [`reason`](Self::reason)
    /// says why. Never fails and never panics.
    pub fn auto() -> Self {
        match Self::cuda(0) {
            Ok(device) => device,
            Err(error) => Device { kind: Kind::Cpu, reason: error.to_string() },
        }
    }

    /// The CPU.
    pub fn cpu() -> Self {
        Device { kind: Kind::Cpu, reason: "the CPU was asked for".into() }
    }

    /// The GPU of this number, or why it cannot be used.
    #[cfg(feature = "cuda")]
    pub fn cuda(ordinal: usize) -> Result<Self> {
        let gpu = Gpu::new(ordinal)?;
        let reason = format!("there is a driver, GPU {ordinal} ({}), and kernels for it", gpu.name);
        Ok(Device { kind: Kind::Cuda(Arc::new(gpu)), reason })
    }

    /// The GPU of this number, or why it cannot be used.
    #[cfg(not(feature = "cuda"))]
    pub fn cuda(_: usize) -> Result<Self> {
        Err(Error::CudaUnavailable("fused-loss was built without its feature `cuda`"))
    }

    /// Whether it is a GPU.
    pub fn is_cuda(&self) -> bool {
        !matches!(self.kind, Kind::Cpu)
    }

    /// Why it is this device.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// The handle of the GPU, if it is one: for calls that do not wait.
    #[cfg(feature = "cuda")]
    pub fn handle(&self) -> Option<&crate::Cuda> {
        match &self.kind {
            Kind::Cpu => None,
            Kind::Cuda(gpu) => Some(&gpu.cuda),
        }
    }

    /// A buffer on this device that holds a copy of `data`.
    pub fn buffer<T: Storable>(&self, data: &[T]) -> Result<Buffer<T>> {
        let mut buffer = self.zeros(data.len())?;
        buffer.write(data)?;
        Ok(buffer)
    }

    /// A buffer of `len` zeros on this device.
    pub fn zeros<T: Storable>(&self, len: usize) -> Result<Buffer<T>> {
        let memory = match &self.kind {
            Kind::Cpu => {
                let mut data = Vec::new();
                let bytes = len as u128 * size_of::<T>() as u128;
                data.try_reserve_exact(len).map_err(|_| Error::OutOfMemory { bytes })?;
                data.resize(len, T::default());
                Memory::Host(data)
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => Memory::Cuda { gpu: gpu.clone(), data: gpu.zeros(len)?, len },
        };
        Ok(Buffer { memory })
    }

    pub(crate) fn kind(&self) -> &Kind {
        &self.kind
    }
}

impl fmt::Display for Device {
    /// Such as `CPU (AVX-512, 2 threads)` or `CUDA (NVIDIA H100, 9.0)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Cpu => {
                let threads = rayon::current_num_threads();
                let s = if threads == 1 { "" } else { "s" };
                write!(f, "CPU ({}, {threads} thread{s})", Isa::detect().name())
            }
            #[cfg(feature = "cuda")]
            Kind::Cuda(gpu) => write!(f, "CUDA ({})", gpu.name),
        }
    }
}

/// Memory of a [`Device`].
pub struct Buffer<T> {
    memory: Memory<T>,
}

enum Memory<T> {
    Host(Vec<T>),
    #[cfg(feature = "cuda")]
    Cuda {
        gpu: Arc<Gpu>,
        data: cudarc::driver::CudaSlice<T>,
        len: usize,
    },
}

impl<T: Storable> Buffer<T> {
    /// The number of elements.
    pub fn len(&self) -> usize {
        match &self.memory {
            Memory::Host(data) => data.len(),
            #[cfg(feature = "cuda")]
            Memory::Cuda { len, .. } => *len,
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Copies the buffer into host memory of its length.
    pub fn read(&self, out: &mut [T]) -> Result<()> {
        check_len("buffer", self.len(), out.len())?;
        match &self.memory {
            Memory::Host(data) => out.copy_from_slice(data),
            #[cfg(feature = "cuda")]
            Memory::Cuda { gpu, data, len } => gpu.read(&data.slice(..*len), out)?,
        }
        Ok(())
    }

    /// Copies host memory of its length into the buffer.
    pub fn write(&mut self, new: &[T]) -> Result<()> {
        check_len("buffer", self.len(), new.len())?;
        match &mut self.memory {
            Memory::Host(data) => data.copy_from_slice(new),
            #[cfg(feature = "cuda")]
            Memory::Cuda { gpu, data, .. } => gpu.write(new, data)?,
        }
        Ok(())
    }

    /// A copy in host memory.
    pub fn to_vec(&self) -> Result<Vec<T>> {
        let mut copy = vec![T::default(); self.len()];
        self.read(&mut copy)?;
        Ok(copy)
    }

    /// A copy on the same device.
    pub fn try_clone(&self) -> Result<Self> {
        let memory = match &self.memory {
            Memory::Host(data) => Memory::Host(data.clone()),
            #[cfg(feature = "cuda")]
            Memory::Cuda { gpu, data, len } => Memory::Cuda { gpu: gpu.clone(), data: gpu.copy(data)?, len: *len },
        };
        Ok(Buffer { memory })
    }

    /// One element.
    #[cfg(feature = "cuda")]
    pub(crate) fn at(&self, i: usize) -> Result<T> {
        let mut one = [T::default()];
        match &self.memory {
            Memory::Host(data) => one[0] = data[i],
            Memory::Cuda { gpu, data, .. } => gpu.read(&data.slice(i..i + 1), &mut one)?,
        }
        Ok(one[0])
    }

    /// The elements, if the buffer is the CPU's.
    pub(crate) fn host(&self) -> Result<&[T]> {
        match &self.memory {
            Memory::Host(data) => Ok(data),
            #[cfg(feature = "cuda")]
            Memory::Cuda { .. } => Err(Error::WrongDevice { expected: "the CPU", got: "a GPU" }),
        }
    }

    /// The same, to be written.
    pub(crate) fn host_mut(&mut self) -> Result<&mut [T]> {
        match &mut self.memory {
            Memory::Host(data) => Ok(data),
            #[cfg(feature = "cuda")]
            Memory::Cuda { .. } => Err(Error::WrongDevice { expected: "the CPU", got: "a GPU" }),
        }
    }

    /// The device memory, if the buffer is a GPU's. Whether it is the right one's is checked where it is used.
    #[cfg(feature = "cuda")]
    pub(crate) fn device(&self) -> Result<DeviceRef<'_, T>> {
        match &self.memory {
            Memory::Host(_) => Err(Error::WrongDevice { expected: "a GPU", got: "the CPU" }),
            Memory::Cuda { data, len, .. } => Ok(DeviceRef::from(data.slice(..*len))),
        }
    }

    /// The same, to be written.
    #[cfg(feature = "cuda")]
    pub(crate) fn device_mut(&mut self) -> Result<DeviceMut<'_, T>> {
        match &mut self.memory {
            Memory::Host(_) => Err(Error::WrongDevice { expected: "a GPU", got: "the CPU" }),
            Memory::Cuda { data, len, .. } => Ok(DeviceMut::from(data.slice_mut(..*len))),
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Buffer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.memory {
            Memory::Host(data) => f.debug_tuple("Buffer").field(data).finish(),
            #[cfg(feature = "cuda")]
            Memory::Cuda { gpu, len, .. } => write!(f, "Buffer({len} on {})", gpu.name),
        }
    }
}

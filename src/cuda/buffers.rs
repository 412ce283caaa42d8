//! Device memory as calls take it: cudarc's slices and views, or addresses.

use std::mem::forget;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice, SyncOnDrop};

use super::handle::Cuda;
use super::request::{Memory, Scalar, Targets};
use crate::element::Element;
use crate::error::{Error, Result, check_len};

/// Device memory to read: made by `into()` from `&CudaSlice`, `CudaView`, `&CudaView` or `&CudaViewMut`, or from an address.
#[derive(Debug)]
pub struct DeviceRef<'a, T>(Source<CudaView<'a, T>>);

/// Device memory to write: made by `into()` from `&mut CudaSlice`, `CudaViewMut` or `&mut CudaViewMut`, or from an address.
#[derive(Debug)]
pub struct DeviceMut<'a, T>(Source<CudaViewMut<'a, T>>);

#[derive(Debug)]
enum Source<V> {
    View(V),
    Raw(Memory),
}

macro_rules! from_raw {
    ($($name:ident: $promise:literal,)*) => {$(
        impl<T> $name<'_, T> {
            /// Memory of another library: `len` elements at a device address.
            ///
            /// # Safety
            /// The memory is of the context of the call that it is given to, has that length, and is aligned as `T` is; it
            #[doc = $promise]
            pub unsafe fn from_raw(address: u64, len: usize) -> Self {
                $name(Source::Raw(Memory { address, len }))
            }

            /// The number of elements.
            pub fn len(&self) -> usize {
                match &self.0 {
                    Source::View(view) => view.len(),
                    Source::Raw(memory) => memory.len,
                }
            }

            /// Whether there are none.
            pub fn is_empty(&self) -> bool {
                self.len() == 0
            }
        }
    )*};
}
from_raw! {
    DeviceRef: "stays allocated, and nobody writes it, until what the call enqueues has been done (by every replay of a graph, too).",
    DeviceMut: "stays allocated, and nobody else uses it, until what the call enqueues has been done (by every replay of a graph, too).",
}

impl<'a, T> From<&'a CudaSlice<T>> for DeviceRef<'a, T> {
    fn from(x: &'a CudaSlice<T>) -> Self {
        DeviceRef(Source::View(x.as_view()))
    }
}

impl<'a, T> From<&'a CudaView<'_, T>> for DeviceRef<'a, T> {
    fn from(x: &'a CudaView<'_, T>) -> Self {
        DeviceRef(Source::View(x.slice(..)))
    }
}

impl<'a, T> From<&'a CudaViewMut<'_, T>> for DeviceRef<'a, T> {
    fn from(x: &'a CudaViewMut<'_, T>) -> Self {
        DeviceRef(Source::View(x.as_view()))
    }
}

impl<'a, T> From<CudaView<'a, T>> for DeviceRef<'a, T> {
    fn from(x: CudaView<'a, T>) -> Self {
        DeviceRef(Source::View(x))
    }
}

impl<'a, T> From<&'a mut CudaSlice<T>> for DeviceMut<'a, T> {
    fn from(x: &'a mut CudaSlice<T>) -> Self {
        DeviceMut(Source::View(x.as_view_mut()))
    }
}

impl<'a, T> From<&'a mut CudaViewMut<'_, T>> for DeviceMut<'a, T> {
    fn from(x: &'a mut CudaViewMut<'_, T>) -> Self {
        DeviceMut(Source::View(x.slice_mut(..)))
    }
}

impl<'a, T> From<CudaViewMut<'a, T>> for DeviceMut<'a, T> {
    fn from(x: CudaViewMut<'a, T>) -> Self {
        DeviceMut(Source::View(x))
    }
}

/// The targets of a call on the GPU: made by `into()` from a slice or view of the input's type (dense targets), or of `i64`, `i32`,
/// `u32` or `u8` (class indices, one a row).
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceTarget<'a, T> {
    /// The loss needs none.
    Nothing,
    /// One value for each input element.
    Dense(DeviceRef<'a, T>),
    /// One class a row.
    I64(DeviceRef<'a, i64>),
    /// One class a row.
    I32(DeviceRef<'a, i32>),
    /// One class a row.
    U32(DeviceRef<'a, u32>),
    /// One class a row.
    U8(DeviceRef<'a, u8>),
}

macro_rules! targets {
    ($($variant:ident: $t:ty,)*) => {$(
        impl<'a, T: Element> From<&'a CudaSlice<$t>> for DeviceTarget<'a, T> {
            fn from(x: &'a CudaSlice<$t>) -> Self { DeviceTarget::$variant(x.into()) }
        }
        impl<'a, T: Element> From<&'a CudaView<'_, $t>> for DeviceTarget<'a, T> {
            fn from(x: &'a CudaView<'_, $t>) -> Self { DeviceTarget::$variant(x.into()) }
        }
        impl<'a, T: Element> From<&'a CudaViewMut<'_, $t>> for DeviceTarget<'a, T> {
            fn from(x: &'a CudaViewMut<'_, $t>) -> Self { DeviceTarget::$variant(x.into()) }
        }
        impl<'a, T: Element> From<DeviceRef<'a, $t>> for DeviceTarget<'a, T> {
            fn from(x: DeviceRef<'a, $t>) -> Self { DeviceTarget::$variant(x) }
        }
    )*};
}
targets! {
    Dense: T,
    I64: i64,
    I32: i32,
    U32: u32,
    U8: u8,
}

/// A number that the host knows, or one f32 on the device, which is read when the call runs: made by `into()`.
#[derive(Debug)]
#[non_exhaustive]
pub enum DeviceScalar<'a> {
    /// The host's.
    Host(f32),
    /// The device's.
    Device(DeviceRef<'a, f32>),
}

impl From<f32> for DeviceScalar<'_> {
    fn from(x: f32) -> Self {
        DeviceScalar::Host(x)
    }
}

impl<'a, X: Into<DeviceRef<'a, f32>>> From<X> for DeviceScalar<'a> {
    fn from(x: X) -> Self {
        DeviceScalar::Device(x.into())
    }
}

/// Most buffers that one call has.
const MOST: usize = 16;

/// Hands out the addresses of buffers for one call. While it lives cudarc has the stream wait for what was done to them on others;
/// when it is dropped, after the launches, cudarc notes that the stream has used them.
pub(super) struct Lender<'s> {
    cuda: &'s Cuda,
    /// Events are not for a stream that is captured: it may not wait for what was recorded outside, and nobody outside may wait
    /// for what it records.
    capturing: bool,
    lent: [Option<SyncOnDrop<'s>>; MOST],
    count: usize,
}

impl<'s> Lender<'s> {
    pub(super) fn new(cuda: &'s Cuda) -> Result<Self> {
        cuda.bind()?;
        let events = cuda.stream.context().is_managing_stream_synchronization();
        Ok(Lender { cuda, capturing: events && cuda.is_capturing()?, lent: Default::default(), count: 0 })
    }

    pub(super) fn read<T>(&mut self, x: &'s DeviceRef<'_, T>) -> Result<Memory> {
        match &x.0 {
            Source::Raw(memory) => Ok(*memory),
            Source::View(view) => {
                self.check_context(view)?;
                let lent = view.device_ptr(self.stream());
                Ok(self.note(lent, view.len()))
            }
        }
    }

    pub(super) fn write<T>(&mut self, x: &'s mut DeviceMut<'_, T>) -> Result<Memory> {
        match &mut x.0 {
            Source::Raw(memory) => Ok(*memory),
            Source::View(view) => {
                self.check_context(view)?;
                let len = view.len();
                let lent = view.device_ptr_mut(self.stream());
                Ok(self.note(lent, len))
            }
        }
    }

    pub(super) fn targets<T>(&mut self, x: &'s DeviceTarget<'_, T>) -> Result<Targets> {
        Ok(match x {
            DeviceTarget::Nothing => Targets::Nothing,
            DeviceTarget::Dense(x) => Targets::Dense(self.read(x)?),
            DeviceTarget::I64(x) => Targets::I64(self.read(x)?),
            DeviceTarget::I32(x) => Targets::I32(self.read(x)?),
            DeviceTarget::U32(x) => Targets::U32(self.read(x)?),
            DeviceTarget::U8(x) => Targets::U8(self.read(x)?),
        })
    }

    /// The address of one f32.
    pub(super) fn read_one(&mut self, what: &'static str, x: &'s DeviceRef<'_, f32>) -> Result<u64> {
        check_len(what, 1, x.len())?;
        Ok(self.read(x)?.address)
    }

    pub(super) fn scalar(&mut self, x: &'s DeviceScalar<'_>) -> Result<Scalar> {
        Ok(match x {
            DeviceScalar::Host(x) => Scalar::Host(*x),
            DeviceScalar::Device(x) => Scalar::Device(self.read_one("grad_output", x)?),
        })
    }

    /// The stream that waits.
    fn stream(&self) -> &'s CudaStream {
        if self.capturing { &self.cuda.aside.0 } else { &self.cuda.stream }
    }

    fn check_context<T>(&self, x: &impl DeviceSlice<T>) -> Result<()> {
        if x.stream().context().cu_ctx() == self.cuda.stream.context().cu_ctx() {
            return Ok(());
        }
        Err(Error::WrongDevice { expected: "the GPU (and context) of the call", got: "another one" })
    }

    fn note(&mut self, (address, sync): (u64, SyncOnDrop<'s>), len: usize) -> Memory {
        if self.capturing {
            forget(sync);
        } else {
            self.lent[self.count] = Some(sync);
            self.count += 1;
        }
        Memory { address, len }
    }
}

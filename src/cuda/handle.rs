//! The handle: a stream with the kernels of its context and a workspace.

use std::ffi::c_void;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cudarc::driver::{CudaContext, CudaStream, result, sys};

#[cfg(feature = "head")]
use super::blas::Blas;
use super::driver::{self, failed, no_memory};
use super::kernel::Params;
use super::marshal::Launch;
use super::modules::Kernels;
use super::params::{LaunchArgs, TOO_MANY};
use super::plan::{Limits, Plan, WORKSPACE_BYTES};
use super::request;
use crate::error::{Error, Result};

/// The GPU backend on one stream: the kernels, and the little memory that they need between themselves.
///
/// A loss is bound to it by its `on` method and is then called with cudarc's slices and views. Calls only enqueue: nothing is
/// synchronised or allocated, values and gradients stay on the device. (A file of kernels is loaded when it is first used:
/// [`load_all`](Self::load_all) loads them beforehand. Regions of very large batches may need more scratch memory than there is at
/// first, which is then allocated once.)
///
/// One handle serves any number of threads; their calls follow one another on its stream. For calls that shall run at the same time,
/// make a handle for each stream: the kernels are shared by all handles of a context.
///
/// **CUDA graphs**: calls can be captured. Run a call once before it is captured, so that what is loaded is there. A graph uses the
/// handle's workspace: keep the handle as long as the graph, and replay it on the handle's stream (or in an order with it). While a
/// stream is captured the buffers' events, by which cudarc orders streams, are left alone.
///
/// ```no_run
/// use fused_loss::{Cuda, Huber, Reduction, cudarc::driver::CudaContext};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let stream = CudaContext::new(0)?.default_stream();
/// let cuda = Cuda::new(&stream)?;
/// let (input, target) = (stream.clone_htod(&[0.5f32, 3.0, -4.0])?, stream.alloc_zeros::<f32>(3)?);
/// let (mut loss, mut grad) = (stream.alloc_zeros::<f32>(1)?, stream.alloc_zeros::<f32>(3)?);
/// Huber::new(1.0)?.on(&cuda).forward_backward(&input, &target, Reduction::Sum, &mut loss, &mut grad)?;
/// assert_eq!(stream.clone_dtoh(&loss)?, [6.125]);
/// # Ok(()) }
/// ```
pub struct Cuda {
    pub(super) stream: Arc<CudaStream>,
    pub(super) kernels: Arc<Kernels>,
    /// A stream that nothing runs on: what a captured stream must not wait for.
    pub(super) aside: Aside,
    memory: Mutex<Memory>,
}

/// What the launches of a handle share. The lock keeps the launches of one call together.
struct Memory {
    workspace: DeviceMemory,
    /// The last is in use; graphs may hold on to the ones before.
    scratch: Vec<DeviceMemory>,
    #[cfg(feature = "head")]
    head: HeadMemory,
}

/// What heads need besides, from the first of them on.
#[cfg(feature = "head")]
#[derive(Default)]
struct HeadMemory {
    blas: Option<Arc<Blas>>,
    /// The last is in use; graphs hold on to the ones before.
    blocks: Vec<DeviceMemory>,
    /// The last is used by a graph.
    captured: bool,
}

/// Scratch memory that a handle has from the start.
const FIRST_SCRATCH: usize = 1 << 20;

impl Cuda {
    /// A handle for this stream.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        driver::complete()?;
        let context = stream.context();
        context.bind_to_thread().map_err(|e| failed("using the context", e))?;
        let kernels = Kernels::of(context)?;
        let memory = Memory {
            workspace: DeviceMemory::new(context, WORKSPACE_BYTES)?,
            scratch: vec![DeviceMemory::new(context, FIRST_SCRATCH)?],
            #[cfg(feature = "head")]
            head: HeadMemory::default(),
        };
        Ok(Cuda { stream: stream.clone(), kernels, aside: Aside::new(context)?, memory: Mutex::new(memory) })
    }

    /// A handle for the default stream of the GPU of this number.
    pub fn device(ordinal: usize) -> Result<Self> {
        driver::probe(ordinal)?;
        let context = CudaContext::new(ordinal).map_err(|e| failed("making a context", e))?;
        Cuda::new(&context.default_stream())
    }

    /// A handle for a stream of another library, such as PyTorch's current one: a `CUstream` (or `cudaStream_t`) of this context.
    ///
    /// # Safety
    /// The stream is of this context, and outlives the handle.
    pub unsafe fn from_raw(context: &Arc<CudaContext>, stream: *mut c_void) -> Result<Self> {
        // SAFETY: the caller's promise.
        Cuda::new(&unsafe { borrow(context, stream) }?)
    }

    /// The same in the primary context of the GPU of this number, which is the one that the CUDA runtime, and with it PyTorch, uses.
    ///
    /// # Safety
    /// The stream outlives the handle.
    pub unsafe fn on_stream(ordinal: usize, stream: *mut c_void) -> Result<Self> {
        driver::probe(ordinal)?;
        let context = CudaContext::new(ordinal).map_err(|e| failed("making a context", e))?;
        // SAFETY: the caller's promise.
        unsafe { Cuda::from_raw(&context, stream) }
    }

    /// Goes on on another stream of the same context; nothing is allocated, so that a stream that is being captured can have a handle
    /// that was made before.
    ///
    /// # Safety
    /// The stream outlives the handle, and begins what comes now after what the handle has enqueued before.
    pub unsafe fn set_stream(&mut self, stream: *mut c_void) -> Result<()> {
        // SAFETY: the caller's promise.
        self.stream = unsafe { borrow(self.stream.context(), stream) }?;
        Ok(())
    }

    /// The stream.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Loads all kernels, which takes a while where the driver has to compile them: calls of losses that have not been called before
    /// need not wait then, and can be captured. (Losses that the user wrote, and the kernels of single sums, are compiled when they are called.)
    pub fn load_all(&self) -> Result<()> {
        self.bind()?;
        self.kernels.load_all()
    }

    /// Waits for the stream, and fails with [`Error::ClassIndexOnDevice`] if any call since the last check met a class index that is
    /// neither a class nor the ignored index. Such a row has a gradient of zero, and the value of its call is NaN. A language-model
    /// head that was told of fewer tokens than count is [`Error::TooManyOnDevice`].
    pub fn check(&self) -> Result<()> {
        if self.is_capturing()? {
            return Err(Error::Capturing { what: "check" });
        }
        let memory = self.memory();
        self.stream.synchronize().map_err(|e| failed("waiting for the stream", e))?;
        let mut error = [0u64];
        let address = memory.workspace.address;
        // SAFETY: the error word is the first of the workspace, and nothing runs on the stream that writes it.
        unsafe { result::memcpy_dtoh_sync(&mut error, address) }.map_err(|e| failed("reading the error word", e))?;
        if error[0] == 0 {
            return Ok(());
        }
        // SAFETY: as above.
        let cleared = unsafe { result::memset_d8_async(address, 0, 8, self.stream.cu_stream()) };
        cleared.map_err(|e| failed("clearing the error word", e))?;
        let row = !error[0];
        match row >> TOO_MANY & 1 {
            0 => Err(Error::ClassIndexOnDevice { row: row as usize }),
            _ => Err(Error::TooManyOnDevice { token: (row & !(1 << TOO_MANY)) as usize }),
        }
    }

    /// Whether all of this is memory that the GPU can reach, as far as the driver knows: memory of the host or of another GPU would
    /// end the context.
    pub(crate) fn check_addresses<'m>(&self, all: impl Iterator<Item = &'m request::Memory>) -> Result<()> {
        let here = self.stream.context().ordinal();
        all.filter(|memory| memory.len != 0).try_for_each(|memory| driver::check_address(memory.address, here))
    }

    pub(crate) fn bind(&self) -> Result<()> {
        self.stream.context().bind_to_thread().map_err(|e| failed("using the context", e))
    }

    /// An error while the stream is captured.
    pub(crate) fn may_wait(&self, what: &'static str) -> Result<()> {
        if self.is_capturing()? { Err(Error::Capturing { what }) } else { Ok(()) }
    }

    pub(super) fn is_capturing(&self) -> Result<bool> {
        let status = self.stream.capture_status().map_err(|e| failed("asking for the stream's state", e))?;
        Ok(status != sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE)
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // A panic while it was held would have left the memory as sound as before.
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What launches the kernels of one call.
    pub(crate) fn launcher(&self) -> OnStream<'_> {
        OnStream { cuda: self, memory: self.memory() }
    }
}

impl std::fmt::Debug for Cuda {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cuda").field("device", &self.stream.context().ordinal()).finish_non_exhaustive()
    }
}

/// A stream of another library, if it is of this context.
///
/// # Safety
/// The stream outlives what is returned.
unsafe fn borrow(context: &Arc<CudaContext>, stream: *mut c_void) -> Result<Arc<CudaStream>> {
    let stream = stream as sys::CUstream;
    // The first addresses name the default streams of whatever context is current.
    if stream.addr() > 2 {
        context.bind_to_thread().map_err(|e| failed("using the context", e))?;
        let mut of = std::ptr::null_mut();
        // SAFETY: it is a stream, as the caller says; its context is written to a local.
        let asked = unsafe { sys::cuStreamGetCtx(stream, &raw mut of) };
        asked.result().map_err(|e| failed("asking for the stream's context", e))?;
        if of != context.cu_ctx() {
            return Err(Error::WrongStream);
        }
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { context.wrap_borrowed_stream(stream) })
}

/// The stream, locked for one call.
pub(crate) struct OnStream<'a> {
    cuda: &'a Cuda,
    memory: MutexGuard<'a, Memory>,
}

#[cfg(feature = "head")]
impl OnStream<'_> {
    /// cuBLAS, and at least so many bytes that no other call uses before the last launch of this one.
    pub(super) fn head(&mut self, bytes: usize) -> Result<(Arc<Blas>, u64)> {
        let (capturing, context) = (self.cuda.is_capturing()?, self.cuda.stream.context());
        self.cuda.bind()?;
        let HeadMemory { blas, blocks, captured } = &mut self.memory.head;
        let enough = blocks.last().is_some_and(|block| block.bytes >= bytes);
        if capturing && (blas.is_none() || !enough) {
            return Err(Error::Capturing { what: "the memory of a head, or cuBLAS, for the first time" });
        }
        if blas.is_none() {
            *blas = Some(Arc::new(Blas::new()?));
        }
        if !enough {
            // The memory before is given back first, or two budgets would be taken. A graph keeps its own.
            if !*captured {
                blocks.pop();
            }
            *captured = false;
            blocks.push(DeviceMemory::new(context, bytes)?);
        }
        let (Some(blas), Some(block)) = (blas, blocks.last()) else { unreachable!("they have just been made") };
        Ok((blas.clone(), block.address))
    }

    /// From now on a graph may use that memory, if one is captured.
    pub(super) fn use_head(&mut self) -> Result<()> {
        self.memory.head.captured |= self.cuda.is_capturing()?;
        Ok(())
    }
}

impl Launch for OnStream<'_> {
    fn limits(&self) -> Limits {
        self.cuda.kernels.limits
    }

    fn workspace(&self) -> u64 {
        self.memory.workspace.address
    }

    fn scratch(&mut self, bytes: u64) -> Result<u64> {
        let last = self.memory.scratch.last().expect("there is one from the start");
        if last.bytes as u64 >= bytes {
            return Ok(last.address);
        }
        if self.cuda.is_capturing()? {
            return Err(Error::Capturing { what: "more scratch memory" });
        }
        let bytes = usize::try_from(bytes).ok().and_then(usize::checked_next_power_of_two);
        let bytes = bytes.ok_or(Error::OutOfMemory { bytes: u128::MAX })?;
        let new = DeviceMemory::new(self.cuda.stream.context(), bytes)?;
        let address = new.address;
        self.memory.scratch.push(new);
        Ok(address)
    }

    fn has_sum(&mut self, file: &str) -> bool {
        self.cuda.kernels.has_sum(file, || self.cuda.is_capturing().is_ok_and(|capturing| !capturing))
    }

    unsafe fn launch(&mut self, file: &str, name: &str, plan: &Plan, args: &LaunchArgs, params: &Params) -> Result<()> {
        let Cuda { stream, kernels, .. } = self.cuda;
        if !kernels.has(file) && self.cuda.is_capturing()? {
            return Err(Error::Capturing { what: "a kernel that has not been loaded" });
        }
        let (mut args, mut params) = (*args, *params);
        let mut pointers = [(&raw mut args).cast::<c_void>(), params.as_mut_ptr()];
        let mut attribute = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { pad: [0; 64] },
        };
        attribute.value.clusterDim.x = plan.cluster;
        attribute.value.clusterDim.y = 1;
        attribute.value.clusterDim.z = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: plan.grid,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: plan.block.0,
            blockDimY: plan.block.1,
            blockDimZ: 1,
            sharedMemBytes: plan.shared,
            hStream: stream.cu_stream(),
            attrs: &raw mut attribute,
            numAttrs: 1,
        };
        let function = kernels.function(file, name, plan.shared)?;
        let (f, pointers, none) = (function.cu_function(), pointers.as_mut_ptr(), std::ptr::null_mut());
        let (p, (threads, rows)) = (plan, plan.block);
        // SAFETY: the caller's promise; the context is bound, and the arguments are copied before the launch returns. The plain launch
        // is for drivers and GPUs without clusters.
        let code = unsafe {
            match p.cluster {
                1 => {
                    sys::cuLaunchKernel(f, p.grid, 1, 1, threads, rows, 1, p.shared, stream.cu_stream(), pointers, none)
                }
                _ => sys::cuLaunchKernelEx(&raw const config, f, pointers, none),
            }
        };
        code.result().map_err(|e| failed("launching a kernel", e))
    }
}

/// Zeroed device memory.
struct DeviceMemory {
    context: Arc<CudaContext>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    fn new(context: &Arc<CudaContext>, bytes: usize) -> Result<Self> {
        context.bind_to_thread().map_err(|e| failed("using the context", e))?;
        // SAFETY: the context is bound, and the memory is freed once, when this is dropped.
        let address = unsafe { result::malloc_sync(bytes) }.map_err(|e| no_memory(bytes, e))?;
        let memory = DeviceMemory { context: context.clone(), address, bytes };
        // SAFETY: it is as long as that. Streams that do not wait for the default one do not wait for this either, hence the second.
        let zeroed = unsafe { result::memset_d8_sync(address, 0, bytes) }.and_then(|()| result::ctx::synchronize());
        zeroed.map_err(|e| failed("zeroing memory", e))?;
        Ok(memory)
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        if self.context.bind_to_thread().is_ok() {
            // SAFETY: it was allocated here. The driver waits for what still uses it.
            let _ = unsafe { result::free_sync(self.address) };
        }
    }
}

/// A stream of our own that cudarc does not count: one more counted stream would make it record events for every buffer.
pub(super) struct Aside(pub(super) Arc<CudaStream>);

impl Aside {
    fn new(context: &Arc<CudaContext>) -> Result<Self> {
        let stream = result::stream::create(result::stream::StreamKind::NonBlocking);
        let stream = stream.map_err(|e| failed("making a stream", e))?;
        // SAFETY: it is a stream of this context, and lives as long as this.
        Ok(Aside(unsafe { context.wrap_borrowed_stream(stream) }))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        if self.0.context().bind_to_thread().is_ok() {
            // SAFETY: it was made here, and no one else has it.
            let _ = unsafe { result::stream::destroy(self.0.cu_stream()) };
        }
    }
}

const _: () = {
    const fn shared_by_threads<T: Send + Sync>() {}
    shared_by_threads::<Cuda>();
};

//! NCCL: ranks that are GPUs, loaded when the first of them is made.
//!
//! By hand for the reasons that `blas.rs` gives. What is used here has been the same since NCCL 2.14.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cudarc::driver::{CudaStream, DevicePtrMut, DriverError, result, sys};
use libloading::Library;

use super::driver::{self, failed};
use super::foreign::{Status, functions};
use crate::error::{Error, Result};
use crate::parallel::{Communicator, ReduceOp};

type Comm = *mut c_void;

functions! {
    unique_id ncclGetUniqueId(*mut UniqueId);
    init ncclCommInitRankConfig(*mut Comm, c_int, UniqueId, c_int, *const Config);
    async_error ncclCommGetAsyncError(Comm, *mut Status);
    abort ncclCommAbort(Comm);
    // From, to, how many, of what type, by which operation.
    all_reduce ncclAllReduce(*const c_void, *mut c_void, usize, c_int, c_int, Comm, *mut c_void);
}

const FLOAT32: c_int = 7;
const SUM: c_int = 0;
const MAX: c_int = 2;
const IN_PROGRESS: Status = 7;

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId([c_char; 128]);

/// The first fields of `ncclConfig_t`, as it was in version 2.14; later versions fill in the rest by themselves.
#[repr(C)]
struct Config {
    size: usize,
    magic: c_uint,
    version: c_uint,
    /// 0: calls return at once, so that a rank that does not come is an error and no endless wait.
    blocking: c_int,
}

static CONFIG: Config = Config { size: size_of::<Config>(), magic: 0xcafe_beef, version: 21400, blocking: 0 };

const NAMES: &[&str] = &["libnccl.so.2", "libnccl.so"];

impl Functions {
    fn get() -> Result<&'static Functions> {
        static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
        if let Some(functions) = FUNCTIONS.get() {
            return Ok(functions);
        }
        driver::complete()?;
        // SAFETY: opening NCCL runs its initialisers, which is what using it means.
        let library = NAMES.iter().find_map(|name| unsafe { Library::new(*name) }.ok()).ok_or(Error::NoNccl)?;
        // SAFETY: the signatures are those of NCCL's documentation.
        let functions = unsafe { Functions::of(&library) }.map_err(|_| Error::NoNccl)?;
        // It stays loaded.
        std::mem::forget(library);
        Ok(FUNCTIONS.get_or_init(|| functions))
    }
}

/// What the ranks of a group know one another by: one of them makes it, and all others are given it, by whatever they talk through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NcclId([u8; 128]);

impl NcclId {
    /// A new one: an `ncclUniqueId`.
    pub fn new() -> Result<Self> {
        let mut id = UniqueId([0; 128]);
        // SAFETY: it writes one.
        check("making an id", unsafe { (Functions::get()?.unique_id)(&raw mut id) })?;
        Ok(NcclId(id.0.map(|c| c as u8)))
    }

    /// Its bytes, to be sent.
    pub fn to_bytes(&self) -> [u8; 128] {
        self.0
    }

    /// Of bytes that have been sent.
    pub fn from_bytes(bytes: [u8; 128]) -> Self {
        NcclId(bytes)
    }
}

/// A rank on a GPU, that talks to the others through NCCL, which is looked for when the first is made
/// ([`NoNccl`](crate::Error::NoNccl) says how to get it).
///
/// What is on the GPU is reduced there, on the stream of the call, without waiting; [`wait`](Self::wait) is how to wait for it. A rank that
/// does not come is [`RanksLate`](crate::Error::RanksLate) after a minute (or [`timeout`](Self::timeout)), from whatever waits: after an
/// error the group has ended, and every later call gives the same error.
///
/// Ranks are GPUs, no two of them the same; and each is used by its own thread or process, for a thread that waits for the others of its
/// own would wait for ever.
pub struct Nccl {
    functions: &'static Functions,
    group: Mutex<Group>,
    stream: Arc<CudaStream>,
    rank: usize,
    size: usize,
    timeout: Duration,
}

/// What is left of a group.
struct Group {
    /// None once it has been aborted.
    comm: Option<Comm>,
    /// Why this rank comes to no further collective.
    ended: Option<Error>,
}

// SAFETY: any thread may use a communicator, if no other does meanwhile; whoever has one locks it.
unsafe impl Send for Nccl {}
// SAFETY: as above.
unsafe impl Sync for Nccl {}

impl Nccl {
    /// Rank `rank` of `size`, on the GPU of this stream. A collective: it waits until all have come, for a minute at most.
    pub fn new(stream: &Arc<CudaStream>, id: &NcclId, rank: usize, size: usize) -> Result<Self> {
        Nccl::new_with_timeout(stream, id, rank, size, Duration::from_secs(60))
    }

    /// The same, with the longest that it waits for the others: now, and in all that it does.
    pub fn new_with_timeout(
        stream: &Arc<CudaStream>,
        id: &NcclId,
        rank: usize,
        size: usize,
        timeout: Duration,
    ) -> Result<Self> {
        if rank >= size || c_int::try_from(size).is_err() {
            return Err(Error::Option { name: "rank", expected: "a number below that of the ranks", got: rank as f64 });
        }
        let (functions, id) = (Functions::get()?, UniqueId(id.0.map(|byte| byte as c_char)));
        stream.context().bind_to_thread().map_err(|e| failed("using the context", e))?;
        let mut comm = std::ptr::null_mut();
        // SAFETY: a context is current; it writes the communicator, and reads as much of the configuration as that says.
        let status = unsafe { (functions.init)(&raw mut comm, size as c_int, id, rank as c_int, &raw const CONFIG) };
        begun("making a communicator", status)?;
        let ranks = Nccl {
            functions,
            group: Mutex::new(Group { comm: Some(comm), ended: None }),
            stream: stream.clone(),
            rank,
            size,
            timeout,
        };
        ranks.with(|ranks, comm| ranks.until(comm, || Ok(true)))?;
        Ok(ranks)
    }

    /// All ranks of one process, in their order: one for each stream, each of a GPU of its own. (Then each goes to a thread.)
    pub fn group(streams: &[Arc<CudaStream>]) -> Result<Vec<Nccl>> {
        Nccl::group_with_timeout(streams, Duration::from_secs(60))
    }

    /// The same, with the longest that they wait for one another.
    pub fn group_with_timeout(streams: &[Arc<CudaStream>], timeout: Duration) -> Result<Vec<Nccl>> {
        let id = NcclId::new()?;
        std::thread::scope(|scope| {
            let new =
                |(rank, stream)| scope.spawn(move || Nccl::new_with_timeout(stream, &id, rank, streams.len(), timeout));
            let threads: Vec<_> = streams.iter().enumerate().map(new).collect();
            threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
        })
    }

    /// The longest to wait for other ranks. Defaults to a minute.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Waits until the GPU has done what its stream has been given, as `synchronize` does; but where another rank does not come, or NCCL
    /// has lost it, this ends the group, and is an error.
    pub fn wait(&self) -> Result<()> {
        self.with(|ranks, comm| ranks.until_done(comm, &ranks.stream)).inspect_err(|error| {
            self.leave(error);
            self.end();
        })
    }

    /// Ends what this rank has enqueued, once the others have come to it or are late.
    fn end(&self) {
        if let Some(comm) = self.lock().comm.take()
            && self.stream.context().bind_to_thread().is_ok()
        {
            // Others may still need it.
            let _ = self.until_done(comm, &self.stream);
            // SAFETY: nobody else has it. Destroying it would wait for the others.
            unsafe { (self.functions.abort)(comm) };
        }
    }

    /// Waits for a stream.
    fn until_done(&self, comm: Comm, stream: &CudaStream) -> Result<()> {
        self.until(comm, || {
            // SAFETY: the stream is there as long as this is.
            match unsafe { sys::cuStreamQuery(stream.cu_stream()) } {
                sys::CUresult::CUDA_SUCCESS => Ok(true),
                sys::CUresult::CUDA_ERROR_NOT_READY => Ok(false),
                code => Err(failed("waiting for ranks", DriverError(code))),
            }
        })
    }

    fn lock(&self) -> MutexGuard<'_, Group> {
        // Nothing panics while it is held.
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the communicator; after an error there is none.
    fn with(&self, something: impl FnOnce(&Self, Comm) -> Result<()>) -> Result<()> {
        let mut group = self.lock();
        let comm = match (&group.ended, group.comm) {
            (Some(why), _) => return Err(why.clone()),
            (None, comm) => comm.expect("what has been aborted has ended"),
        };
        self.stream.context().bind_to_thread().map_err(|e| failed("using the context", e))?;
        something(self, comm).inspect_err(|error| {
            // SAFETY: nobody else has it, and nobody will. What it has enqueued ends.
            unsafe { (self.functions.abort)(comm) };
            *group = Group { comm: None, ended: Some(error.clone()) };
        })
    }

    /// Waits until NCCL is done with the last call and `done` says so, too.
    fn until(&self, comm: Comm, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let (begin, mut tries) = (Instant::now(), 0u32);
        loop {
            let mut status = 0;
            // SAFETY: it writes one number.
            check("asking for errors", unsafe { (self.functions.async_error)(comm, &raw mut status) })?;
            begun("a collective", status)?;
            if status != IN_PROGRESS && done()? {
                return Ok(());
            }
            if begin.elapsed() >= self.timeout {
                return Err(Error::RanksLate { seconds: self.timeout.as_secs_f64() });
            }
            tries += 1;
            if tries > 100 { std::thread::sleep(Duration::from_micros(50)) } else { std::hint::spin_loop() }
        }
    }
}

impl Communicator for Nccl {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_reduce(&self, data: &mut [f32], op: ReduceOp) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        let copied = |e| failed("copying what ranks reduce", e);
        let mut there = self.stream.clone_htod(data).map_err(copied)?;
        let (address, used) = there.device_ptr_mut(&self.stream);
        // SAFETY: it is as long as that.
        unsafe { self.all_reduce_on(&self.stream, address, data.len(), op)? };
        drop(used);
        self.wait()?;
        self.stream.memcpy_dtoh(&there, data).and_then(|()| self.stream.synchronize()).map_err(copied)
    }

    fn leave(&self, why: &Error) {
        // Not aborted yet: others may still need what this rank has enqueued for them.
        self.lock().ended.get_or_insert_with(|| why.clone());
    }

    unsafe fn all_reduce_on(&self, stream: &Arc<CudaStream>, address: u64, len: usize, op: ReduceOp) -> Result<()> {
        if len == 0 {
            return Ok(());
        }
        let op = match op {
            ReduceOp::Sum => SUM,
            ReduceOp::Max => MAX,
        };
        self.with(|ranks, comm| {
            let (at, on) = (address as *mut c_void, stream.cu_stream().cast());
            // SAFETY: the caller's promise; in place is when both addresses are the same.
            let status = unsafe { (ranks.functions.all_reduce)(at, at, len, FLOAT32, op, comm, on) };
            begun("an all-reduce", status)?;
            // The first ones take their time to connect; later ones are enqueued at once.
            ranks.until(comm, || Ok(true))
        })
    }

    unsafe fn agree_on(
        &self,
        stream: &Arc<CudaStream>,
        address: u64,
        own: [f32; 4],
        known: bool,
        look: &dyn Fn(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let (on, mut all) = (stream.cu_stream(), vec![0f32; 4 * self.size]);
        let refused = |e| failed("saying what a call is of", e);
        stream.context().bind_to_thread().map_err(refused)?;
        // Numbers that a captured graph has in itself.
        let put = |at: usize, x: f32, n| {
            // SAFETY: the caller's promise.
            unsafe { sys::cuMemsetD32Async(address + 4 * at as u64, x.to_bits(), n, on) }.result().map_err(refused)
        };
        put(0, 0.0, all.len())?;
        for (i, x) in own.into_iter().enumerate().filter(|(_, x)| *x != 0.0) {
            put(4 * self.rank + i, x, 1)?;
        }
        // SAFETY: as above.
        unsafe { self.all_reduce_on(stream, address, all.len(), ReduceOp::Sum)? };
        if known {
            return Ok(());
        }
        self.with(|ranks, comm| {
            ranks.until_done(comm, stream)?;
            // SAFETY: as above; the stream has done with the host's memory when this returns.
            unsafe { result::memcpy_dtoh_async(&mut all, address, on) }.map_err(refused)?;
            stream.synchronize().map_err(refused)
        })?;
        look(&all).inspect_err(|why| self.leave(why))
    }
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nccl").field("rank", &self.rank).field("size", &self.size).finish_non_exhaustive()
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        self.end();
    }
}

/// Of a call that may still be under way.
fn begun(what: &'static str, status: Status) -> Result<()> {
    if status == IN_PROGRESS { Ok(()) } else { check(what, status) }
}

fn check(what: &'static str, status: Status) -> Result<()> {
    let name = match status {
        0 => return Ok(()),
        1 => "ncclUnhandledCudaError",
        2 => "ncclSystemError",
        3 => "ncclInternalError",
        4 => "ncclInvalidArgument",
        5 => "ncclInvalidUsage",
        6 => "ncclRemoteError: another rank has ended",
        other => return Err(Error::Cuda { what, name: format!("NCCL's status {other}") }),
    };
    Err(Error::Cuda { what, name: name.into() })
}

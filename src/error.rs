//! The one error type.

use std::fmt;

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a call was refused. Everything is checked before anything is written: after an error every
/// buffer holds what it held before. (But for class indices on a GPU, which kernels look at while they write, and ranks that are lost.)
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Error {
    /// A buffer has the wrong number of elements.
    Length {
        /// Which buffer.
        what: &'static str,
        /// Its required number of elements.
        expected: usize,
        /// The number it has.
        got: usize,
    },
    /// A number of samples does not divide the number of elements (or rows) it should group.
    Samples {
        /// What gave the number of samples: a weight, or [`Reduction::BatchMean`](crate::Reduction::BatchMean).
        what: &'static str,
        /// The number of samples.
        samples: usize,
        /// The number of elements (or rows) to group.
        elements: usize,
    },
    /// A shape's product is not a number of elements that memory can hold.
    ShapeOverflow,
    /// A shape has too few axes.
    Rank {
        /// The fewest axes that the loss needs.
        expected: usize,
        /// The number that came.
        got: usize,
    },
    /// An option, or a denominator, has an impossible value.
    Option {
        /// Its name.
        name: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What came.
        got: f64,
    },
    /// A class index is neither a class nor the ignored index.
    ClassIndex {
        /// The first row (sample, or sample and position) with a bad index.
        row: usize,
        /// The index.
        index: i64,
        /// The number of classes.
        classes: usize,
    },
    /// This loss does not do what was asked of it.
    Unsupported {
        /// The loss.
        loss: &'static str,
        /// What was asked.
        what: &'static str,
    },
    /// A buffer lives on another device than the call.
    WrongDevice {
        /// Where the call runs.
        expected: &'static str,
        /// Where the buffer lives.
        got: &'static str,
    },
    /// A stream is of another GPU, or another context of it, than the handle.
    WrongStream,
    /// A buffer does not fit into memory.
    OutOfMemory {
        /// Its size.
        bytes: u128,
    },
    /// The memory that a call may take is too little for one row of it.
    Budget {
        /// The least that is enough.
        needed: u128,
        /// What it may take.
        budget: usize,
    },
    /// CUDA cannot be used here; the text says why and what to do.
    CudaUnavailable(&'static str),
    /// There is no CUDA driver: libcuda could not be loaded.
    NoDriver,
    /// What is found as libcuda lacks a function of the CUDA driver: it is too old, or none.
    DriverTooOld {
        /// The first function that is missing.
        function: &'static str,
    },
    /// The driver knows no GPU of this number.
    NoDevice {
        /// The number that was asked for.
        ordinal: usize,
        /// How many there are.
        devices: usize,
    },
    /// There is no cuBLAS: libcublas could not be loaded.
    NoCublas,
    /// There are no kernels for the GPU: no nvcc when this was built and no NVRTC now, or the GPU is older than they are for.
    KernelsNotBuilt,
    /// NVRTC, which compiles kernels at run time, could not be loaded.
    NoNvrtc {
        /// Why, as far as it is known.
        reason: String,
    },
    /// A kernel does not compile at run time: that of a [`Custom`](crate::Custom) loss, of whose text the lines are, or one of this
    /// crate, by an NVRTC that is too old.
    Compile {
        /// The loss.
        loss: String,
        /// What NVRTC says, by the lines of the text.
        log: String,
    },
    /// A [`Custom`](crate::Custom) loss is not defined as it must be.
    Custom {
        /// Its name.
        loss: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// The driver is older than the compiler of the kernels.
    PtxTooNew {
        /// The version of the kernels' PTX.
        ptx: String,
        /// The CUDA version of their compiler.
        compiler: String,
        /// The newest CUDA version that the driver is for.
        driver: String,
    },
    /// A rank of a group did not come to a collective: it ended, or took too long.
    RankLost {
        /// The first that did not.
        rank: usize,
    },
    /// Ranks came to one call with different numbers of rows, or to one collective with different lengths or operations.
    RanksDisagree {
        /// The first that differs from rank 0.
        rank: usize,
        /// What rank 0 brought.
        expected: usize,
        /// What it brought.
        got: usize,
    },
    /// Ranks came to one call with as many rows, but with something else that must be the same: options, the reduction, which weights
    /// there are, a gradient that is asked for; of a head, hidden numbers and how many tokens count; on GPUs, the storage type and, of a
    /// head, the budget.
    RanksDiffer {
        /// The first that differs from rank 0.
        rank: usize,
    },
    /// NCCL waited for other ranks, and none of what it waited for came.
    RanksLate {
        /// How long.
        seconds: f64,
    },
    /// There is no NCCL: libnccl could not be loaded, or is older than 2.14.
    NoNccl,
    /// A call of the CUDA driver failed, or a launch before it did.
    Cuda {
        /// What was being done.
        what: &'static str,
        /// The error's name, such as `CUDA_ERROR_LAUNCH_FAILED`.
        name: String,
    },
    /// Something that cannot be done while a CUDA graph is captured. Doing it once before helps, but for a check.
    Capturing {
        /// What.
        what: &'static str,
    },
    /// A class index on the device was neither a class nor the ignored index.
    ClassIndexOnDevice {
        /// The first such row (sample, or sample and position).
        row: usize,
    },
    /// More tokens of a language-model head counted, on the device, than the call was told.
    TooManyOnDevice {
        /// The first that was one too many.
        token: usize,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Length { what, expected, got } => write!(f, "{what}: expected {expected} elements, got {got}"),
            Error::Samples { what, samples, elements } => {
                write!(f, "{what}: {samples} samples do not divide {elements} elements into equal parts")
            }
            Error::ShapeOverflow => write!(f, "shape: the number of elements overflows"),
            Error::Rank { expected, got } => write!(f, "shape: expected at least {expected} axes, got {got}"),
            Error::Option { name, expected, got } => write!(f, "{name}: expected {expected}, got {got}"),
            Error::ClassIndex { row, index, classes } => {
                write!(f, "target: expected a class in 0..{classes} or the ignored index, got {index} in row {row}")
            }
            Error::Unsupported { loss, what } => write!(f, "{loss}: {what} is not supported"),
            Error::WrongDevice { expected, got } => write!(f, "expected a buffer on {expected}, got one on {got}"),
            Error::WrongStream => {
                write!(f, "the stream is of another GPU, or of another context than the GPU's primary one")
            }
            Error::OutOfMemory { bytes } => write!(f, "a buffer of {bytes} bytes does not fit into memory"),
            Error::Budget { needed, budget } => {
                write!(f, "budget: one row takes {needed} bytes, more than the {budget} that the call may take")
            }
            Error::CudaUnavailable(why) => write!(f, "CUDA is not available: {why}"),
            Error::NoDriver => {
                write!(f, "no NVIDIA driver: libcuda could not be loaded; install the driver, or go on on the CPU")
            }
            Error::DriverTooOld { function } => write!(
                f,
                "the NVIDIA driver has no {function}: update it, or see which libcuda is found first if it is not the driver's own"
            ),
            Error::NoDevice { ordinal, devices } => write!(f, "no GPU {ordinal}: the NVIDIA driver finds {devices}"),
            Error::NoCublas => write!(
                f,
                "no cuBLAS: libcublas could not be loaded; it is part of the CUDA toolkit and of the Python package nvidia-cublas (with \
                 PyTorch: nvidia/*/lib in site-packages), whose folder LD_LIBRARY_PATH must name"
            ),
            Error::KernelsNotBuilt => {
                write!(
                    f,
                    "there are no CUDA kernels for the GPU: install nvcc (or set NVCC or CUDA_HOME) and rebuild, or have NVRTC compile \
                     them at run time (pip install nvidia-cuda-nvrtc, or set CUDA_HOME); they take a GPU of capability 7.5 or later"
                )
            }
            Error::NoNvrtc { reason } => write!(
                f,
                "NVRTC, which compiles kernels at run time, could not be loaded: {reason}. PyTorch and CUDA bring it, and so does \
                 `pip install nvidia-cuda-nvrtc`; where it is may be said by CUDA_HOME, LD_LIBRARY_PATH or an active Python environment"
            ),
            Error::Compile { loss, log } => write!(f, "{loss}: NVRTC does not compile the kernel:\n{log}"),
            Error::Custom { loss, problem } => write!(f, "custom loss `{loss}`: {problem}"),
            Error::PtxTooNew { ptx, compiler, driver } => write!(
                f,
                "the kernels are PTX {ptx}, made by nvcc {compiler}, but the driver is for CUDA {driver}: update the driver, or \
                 rebuild with nvcc {driver} or older; within one major version FUSED_LOSS_CUBIN, set to the GPU's compute \
                 capability when building, is enough"
            ),
            Error::RankLost { rank } => write!(f, "rank {rank} did not come: it has ended, or is late"),
            Error::RanksDisagree { rank, expected, got } => write!(
                f,
                "rank {rank} came with {got} rows or numbers, or with another operation, rank 0 with {expected}: do the shapes agree?"
            ),
            Error::RanksDiffer { rank } => write!(
                f,
                "rank {rank} calls for something else than rank 0: options, reduction, weights, outputs, hidden \
                 numbers, the number of tokens that count, storage type and budget must agree"
            ),
            Error::RanksLate { seconds } => write!(
                f,
                "NCCL waited {seconds} s for the other ranks: one has ended, is late, or was called with another shape; the group has ended"
            ),
            Error::NoNccl => write!(
                f,
                "no NCCL: libnccl (2.14 or later) could not be loaded; PyTorch brings it, and so does `pip install nvidia-nccl-cu13`, whose \
                 folder nvidia/nccl/lib in site-packages LD_LIBRARY_PATH must name"
            ),
            Error::Cuda { what, name } => write!(f, "CUDA, {what}: {name}"),
            Error::Capturing { what } => {
                write!(
                    f,
                    "{what}: not while a CUDA graph is captured; what is loaded or allocated can be by a call before"
                )
            }
            Error::ClassIndexOnDevice { row } => {
                write!(f, "target: row {row} is neither a class nor the ignored index")
            }
            Error::TooManyOnDevice { token } => {
                write!(f, "target: token {token} counts, and is one more than the call was told")
            }
        }
    }
}

impl std::error::Error for Error {}

/// `Ok` if a buffer has the expected length.
pub(crate) fn check_len(what: &'static str, expected: usize, got: usize) -> Result<()> {
    if expected == got { Ok(()) } else { Err(Error::Length { what, expected, got }) }
}

/// `Ok(value as f32)` if `ok`; the error of an impossible option otherwise.
pub(crate) fn check_option(name: &'static str, expected: &'static str, value: f32, ok: bool) -> Result<f32> {
    if ok { Ok(value) } else { Err(Error::Option { name, expected, got: value.into() }) }
}

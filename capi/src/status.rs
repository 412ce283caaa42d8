//! Status codes, and the message that goes with them.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use fl::Error;

/// What a function returns. Everything but `FL_OK` means that nothing was written (but of `fl_check`, which tells of calls that
/// have run), and that `fl_last_error` says why.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum fl_status {
    /// Done; on a GPU: enqueued.
    FL_OK = 0,
    /// A null pointer where something is needed.
    FL_ERROR_NULL = 1,
    /// A struct that was not initialised by its init function, or that a newer library would understand.
    FL_ERROR_STRUCT = 2,
    /// A buffer has the wrong number of elements, or a shape is impossible.
    FL_ERROR_LENGTH = 3,
    /// A buffer is not aligned as its elements are, or overlaps one that is written.
    FL_ERROR_MEMORY = 4,
    /// An option, or a code such as a dtype, has an impossible value.
    FL_ERROR_OPTION = 5,
    /// A class index is neither a class nor the ignored index.
    FL_ERROR_CLASS_INDEX = 6,
    /// The loss does not do what was asked of it.
    FL_ERROR_UNSUPPORTED = 7,
    /// A buffer or a stream of another device.
    FL_ERROR_DEVICE = 8,
    /// Memory could not be had.
    FL_ERROR_OUT_OF_MEMORY = 9,
    /// There is no CUDA to be used: no driver, no GPU, or no kernels for it.
    FL_ERROR_NO_CUDA = 10,
    /// A call of the CUDA driver failed.
    FL_ERROR_CUDA = 11,
    /// It cannot be done while a CUDA graph is captured.
    FL_ERROR_CAPTURING = 12,
    /// A defect of this library; please report it.
    FL_ERROR_INTERNAL = 13,
}
use fl_status::*;

/// Why a call was refused.
pub(crate) struct Failure {
    pub(crate) status: fl_status,
    pub(crate) message: String,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: fl_status, message: impl Into<String>) -> Self {
        Failure { status, message: message.into() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let status = match error {
            Error::Length { .. } | Error::Samples { .. } | Error::ShapeOverflow | Error::Rank { .. } => FL_ERROR_LENGTH,
            Error::Option { .. } => FL_ERROR_OPTION,
            Error::ClassIndex { .. } | Error::ClassIndexOnDevice { .. } => FL_ERROR_CLASS_INDEX,
            Error::Unsupported { .. } => FL_ERROR_UNSUPPORTED,
            Error::WrongDevice { .. } | Error::WrongStream => FL_ERROR_DEVICE,
            Error::OutOfMemory { .. } => FL_ERROR_OUT_OF_MEMORY,
            Error::CudaUnavailable(_)
            | Error::NoDriver
            | Error::DriverTooOld { .. }
            | Error::NoDevice { .. }
            | Error::KernelsNotBuilt
            | Error::NoNvrtc { .. }
            | Error::Compile { .. }
            | Error::PtxTooNew { .. } => FL_ERROR_NO_CUDA,
            Error::Cuda { .. } => FL_ERROR_CUDA,
            Error::Capturing { .. } => FL_ERROR_CAPTURING,
            _ => FL_ERROR_INTERNAL,
        };
        Failure::new(status, error.to_string())
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Runs the body of a function of the ABI: nothing unwinds out of it.
pub(crate) fn guarded(body: impl FnOnce() -> Outcome) -> fl_status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => return FL_OK,
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
            Failure::new(FL_ERROR_INTERNAL, format!("a panic: {text}"))
        }
    };
    let message = CString::new(failure.message.replace('\0', " ")).unwrap_or_default();
    // A thread that is ending has no place for it any more.
    let _ = LAST.try_with(|last| last.replace(message));
    failure.status
}

/// What was wrong with the last call that failed on this thread: one line, which is this thread's and holds until its next
/// failure. Never null; empty if none has failed.
#[unsafe(no_mangle)]
pub extern "C" fn fl_last_error() -> *const c_char {
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The name of a status code, such as `FL_ERROR_LENGTH`. Never null.
#[unsafe(no_mangle)]
pub extern "C" fn fl_status_name(status: i32) -> *const c_char {
    const NAMES: [&CStr; 14] = [
        c"FL_OK",
        c"FL_ERROR_NULL",
        c"FL_ERROR_STRUCT",
        c"FL_ERROR_LENGTH",
        c"FL_ERROR_MEMORY",
        c"FL_ERROR_OPTION",
        c"FL_ERROR_CLASS_INDEX",
        c"FL_ERROR_UNSUPPORTED",
        c"FL_ERROR_DEVICE",
        c"FL_ERROR_OUT_OF_MEMORY",
        c"FL_ERROR_NO_CUDA",
        c"FL_ERROR_CUDA",
        c"FL_ERROR_CAPTURING",
        c"FL_ERROR_INTERNAL",
    ];
    let name = usize::try_from(status).ok().and_then(|i| NAMES.get(i));
    name.unwrap_or(&c"no status").as_ptr()
}

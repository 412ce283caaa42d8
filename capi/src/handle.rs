//! Where losses are computed.

use std::ffi::{CString, c_char, c_void};

use fl::Device;

use crate::status::{Failure, Outcome, fl_status, guarded};

/// Where losses are computed: the CPU, or a stream of a GPU with the kernels and the little memory that they need between
/// themselves.
///
/// A CPU handle serves any number of threads at once. So does one of a GPU, whose calls follow one another on its stream; for calls
/// that shall run at the same time, make a handle for each stream.
pub struct fl_handle {
    pub(crate) place: Place,
    about: CString,
}

pub(crate) enum Place {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Box<fl::Cuda>),
}

impl fl_handle {
    fn new(place: Place, about: String) -> *mut fl_handle {
        Box::into_raw(Box::new(fl_handle { place, about: CString::new(about).unwrap_or_default() }))
    }
}

/// The object behind a pointer of the caller.
///
/// # Safety
/// It is null, or points to one that lives and that nobody writes meanwhile.
pub(crate) unsafe fn behind<'a, X>(pointer: *const X, what: &str) -> Outcome<&'a X> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_ref() }.ok_or_else(|| null(what))
}

/// The same, to be written.
///
/// # Safety
/// As above, and nobody else uses it meanwhile.
pub(crate) unsafe fn behind_mut<'a, X>(pointer: *mut X, what: &str) -> Outcome<&'a mut X> {
    // SAFETY: the caller's promise.
    unsafe { pointer.as_mut() }.ok_or_else(|| null(what))
}

fn null(what: &str) -> Failure {
    Failure::new(fl_status::FL_ERROR_NULL, format!("{what}: a null pointer"))
}

/// A handle of the CPU, with all its cores (`RAYON_NUM_THREADS` sets how many threads there are).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cpu(out: *mut *mut fl_handle) -> fl_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        *unsafe { behind_mut(out, "out") }? = fl_handle::new(Place::Cpu, Device::cpu().to_string());
        Ok(())
    })
}

/// A handle of a GPU (by its number) and of a stream of its primary context, which is the one that the CUDA runtime uses: a
/// `CUstream` or `cudaStream_t`, null for the default stream. The stream must outlive the handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_cuda(ordinal: i32, stream: *mut c_void, out: *mut *mut fl_handle) -> fl_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        let out = unsafe { behind_mut(out, "out") }?;
        let number = usize::try_from(ordinal).map_err(|_| {
            Failure::new(fl_status::FL_ERROR_OPTION, format!("ordinal: expected 0 or above, got {ordinal}"))
        })?;
        #[cfg(not(feature = "cuda"))]
        {
            let _ = (stream, &out);
            Device::cuda(number).map(drop).map_err(Failure::from)
        }
        #[cfg(feature = "cuda")]
        {
            // SAFETY: the caller's promise.
            let cuda = unsafe { fl::Cuda::on_stream(number, stream) }?;
            let about = format!("CUDA (GPU {number})");
            *out = fl_handle::new(Place::Cuda(Box::new(cuda)), about);
            Ok(())
        }
    })
}

/// Goes on on another stream of the same GPU (of a CPU handle: does nothing). Nothing is allocated, so that a stream that is being
/// captured can have a handle that was made before. No other thread may use the handle meanwhile.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_set_stream(handle: *mut fl_handle, stream: *mut c_void) -> fl_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        match &mut unsafe { behind_mut(handle, "handle") }?.place {
            Place::Cpu => {
                let _ = stream;
                Ok(())
            }
            #[cfg(feature = "cuda")]
            // SAFETY: the caller's promise.
            Place::Cuda(cuda) => Ok(unsafe { cuda.set_stream(stream) }?),
        }
    })
}

/// Loads all kernels of a GPU, which takes a while where the driver has to compile them: losses that have not been called before can
/// be captured into a CUDA graph then. Nothing on the CPU.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_load_all(handle: *const fl_handle) -> fl_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        match &unsafe { behind(handle, "handle") }?.place {
            Place::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Place::Cuda(cuda) => Ok(cuda.load_all()?),
        }
    })
}

/// Waits for the stream, and returns `FL_ERROR_CLASS_INDEX` if any call since the last check met a class index that is neither a
/// class nor the ignored index: its row has a gradient of zero, and the value of its call is NaN. (The CPU refuses such a call.)
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_check(handle: *const fl_handle) -> fl_status {
    guarded(|| {
        // SAFETY: the caller's promise.
        match &unsafe { behind(handle, "handle") }?.place {
            Place::Cpu => Ok(()),
            #[cfg(feature = "cuda")]
            Place::Cuda(cuda) => Ok(cuda.check()?),
        }
    })
}

/// What the handle is, such as `CPU (AVX-512, 2 threads)`; it lives as long as the handle. Null for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_describe(handle: *const fl_handle) -> *const c_char {
    // SAFETY: the caller's promise.
    unsafe { handle.as_ref() }.map_or(std::ptr::null(), |handle| handle.about.as_ptr())
}

/// Frees a handle; nothing for null.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn fl_destroy(handle: *mut fl_handle) {
    if !handle.is_null() {
        // SAFETY: the caller's promise. A panic in a destructor ends here too.
        guarded(|| {
            drop(unsafe { Box::from_raw(handle) });
            Ok(())
        });
    }
}

/// The version, `1000000 * major + 1000 * minor + patch`: what `FL_VERSION` of a header may be at most.
#[unsafe(no_mangle)]
pub extern "C" fn fl_version() -> u32 {
    crate::FL_VERSION
}

//! Libraries of NVIDIA's that are opened at run time, where they are there.

use std::ffi::c_int;

/// What their functions return; zero is success.
pub(super) type Status = c_int;

/// Declares the functions that we call, and finds them in the library.
macro_rules! functions {
    ($($field:ident $symbol:ident($($arg:ty),* $(,)?);)*) => {
        struct Functions { $($field: unsafe extern "C" fn($($arg),*) -> $crate::cuda::foreign::Status,)* }

        impl Functions {
            /// # Safety
            /// The library is the one that has these functions, with the arguments that are declared, and lives as long as they do.
            unsafe fn of(library: &libloading::Library) -> Result<Self, libloading::Error> {
                // SAFETY: the caller's promise.
                unsafe { Ok(Functions { $($field: *library.get(concat!(stringify!($symbol), "\0").as_bytes())?,)* }) }
            }
        }
    };
}
pub(super) use functions;

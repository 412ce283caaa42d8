//! The C ABI of `fused-loss`: `include/fused_loss.h` is made from this, and README.md shows how it is used.
//!
//! A handle says where losses are computed. A loss is one function, which takes the handle, its options (a plain struct, null for the
//! defaults) and the call (another, with the buffers). Every function returns a status code, nothing unwinds out of any, and what went
//! wrong is told by `fl_last_error`. Structs begin with their size, which their init function sets, so that programs and libraries of
//! different age understand each other.
//!
//! ```c
//! fl_handle* cpu;
//! fl_cpu(&cpu);
//! fl_huber_options huber;
//! fl_huber_options_init(&huber);
//! fl_call call;
//! fl_call_init(&call);
//! call.input = (fl_in){input, 3};
//! call.target = (fl_in){target, 3};
//! call.value = (fl_out){&value, 1};
//! call.grad_input = (fl_out){grad, 3};
//! if (fl_huber(cpu, &huber, &call) != FL_OK) puts(fl_last_error());
//! ```
//!
//! **What every caller promises**, here and not at each function: a pointer is null, or to what its type says, which lives and which
//! nobody else writes meanwhile; the buffers of a call are as long as it says, on the handle's device, and neither written while they
//! are read nor used while they are written, on a GPU until what is enqueued has been done. Null pointers, lengths, alignment and
//! overlaps are checked; on a GPU also that the memory is its own.
#![allow(non_camel_case_types)] // the names are C's
#![allow(clippy::missing_safety_doc)] // see above

mod call;
mod handle;
mod losses;
mod status;
mod structs;
#[cfg(test)]
mod tests;

pub use call::*;
pub use handle::*;
pub use losses::{
    classes::*, elementwise::*, embeddings::*, gan::*, likelihoods::*, preferences::*, regions::*, sums::*,
};
pub use status::*;

/// The version of the header; `fl_version` has that of the library.
pub const FL_VERSION: u32 = 1000;

//! The CUDA backend's host side.
//!
//! * `kernel`: which kernel a loss has; `request`: a call, and its checks; `plan`: how large a launch is; `marshal`: from a call to
//!   launches. They need neither CUDA nor a GPU, and the tests run them with kernels that are executed on the host.
//! * `custom`: the kernel of a loss that the user wrote; `sums`: those of one sum; `jit`: kernels compiled at run time, by NVRTC, and kept on the disk.
//! * `driver`: probe and errors; `modules`: kernels, loaded; `handle`: a stream with a workspace; `buffers`: cudarc's slices and
//!   views; `call`, `methods`, `others`: the methods of losses; `gpu`: what a `Device` has.
//! * `linear`: the calls of language-model heads, `contrastive`: those of InfoNCE; `head`: their launches and products; `chunks`: how many
//!   tokens at once; `blas`: cuBLAS.
//! * `vocab`: the launches of cross-entropy whose classes ranks share, `across`: its calls; `nccl`: what they talk through.

#[cfg(feature = "cuda")]
mod across;
#[cfg(all(feature = "cuda", feature = "head"))]
pub(crate) mod blas;
#[cfg(feature = "cuda")]
mod buffers;
#[cfg(feature = "cuda")]
mod call;
#[cfg(all(feature = "cuda", feature = "head"))]
mod chunks;
#[cfg(all(feature = "cuda", feature = "head"))]
mod contrastive;
#[allow(missing_docs)] // public for the tests alone
pub(crate) mod custom;
#[cfg(feature = "cuda")]
mod driver;
#[cfg(feature = "cuda")]
mod foreign;
#[cfg(feature = "cuda")]
pub(crate) mod gpu;
#[cfg(feature = "cuda")]
mod handle;
#[cfg(all(feature = "cuda", feature = "head"))]
pub(crate) mod head;
#[cfg(feature = "cuda")]
mod jit;
pub(crate) mod kernel;
#[cfg(all(feature = "cuda", feature = "head"))]
mod linear;
pub(crate) mod marshal;
pub(crate) mod methods;
#[cfg(feature = "cuda")]
mod modules;
#[cfg(feature = "cuda")]
mod nccl;
#[cfg(feature = "cuda")]
mod others;
#[allow(missing_docs)] // public for the tests alone
pub mod plan;
#[allow(missing_docs)] // public for the tests alone
pub(crate) mod request;
pub(crate) mod sums;
pub(crate) mod vocab;

#[cfg(feature = "cuda")]
pub use across::{CudaVocabCall, sum_over_ranks_on};
#[cfg(feature = "cuda")]
pub(crate) use across::{not_captured, reduce_on_host};
#[cfg(feature = "cuda")]
pub use buffers::{DeviceMut, DeviceRef, DeviceScalar, DeviceTarget};
#[cfg(feature = "cuda")]
pub use call::{CudaCall, OnCuda};
#[cfg(all(feature = "cuda", feature = "head"))]
pub use contrastive::{CudaInfoNceCall, CudaInfoNceGrads};
#[cfg(feature = "cuda")]
pub use handle::Cuda;
#[cfg(feature = "cuda")]
pub(crate) use jit::{nvrtc, ptx};
#[cfg(all(feature = "cuda", feature = "head"))]
pub use linear::{CudaLinearCall, CudaLinearGrads};
#[cfg(feature = "cuda")]
pub use nccl::{Nccl, NcclId};

use crate::params;

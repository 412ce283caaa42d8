//! Deep-learning losses whose value and gradient are computed in **one pass**, in f32, f16 and bf16.
//!
//! ```
//! use fused_loss::{Huber, Reduction};
//!
//! # fn main() -> fused_loss::Result<()> {
//! let (input, target) = ([0.5, 3.0, -4.0], [0.0; 3]);
//! let mut grad = [0.0; 3];
//! let loss = Huber::new(1.0)?.forward_backward(&input, &target, Reduction::Mean, &mut grad)?;
//! assert_eq!((loss, grad), (6.125 / 3.0, [0.5 / 3.0, 1.0 / 3.0, -1.0 / 3.0]));
//! # Ok(()) }
//! ```
//!
//! # Losses
//!
//! | loss | types |
//! |---|---|
//! | squared and absolute error | [`Mse`], [`Mae`], [`Huber`], [`SmoothL1`], [`LogCosh`], [`Quantile`] |
//! | binary cross-entropy | [`BceWithLogits`], [`Bce`], [`SoftMargin`] |
//! | categorical cross-entropy | [`CrossEntropy`], [`CrossEntropyProbs`], [`Nll`] |
//! | hinge | [`Hinge`], [`SquaredHinge`], [`CategoricalHinge`], [`MultiMargin`] |
//! | overlap | [`DiceLoss`] (and Jaccard), [`GeneralizedDiceLoss`], [`TverskyLoss`], [`LovaszHinge`], [`LovaszSoftmax`] |
//! | boxes | [`BoxIou`] |
//! | Kullback-Leibler divergence | [`KlDiv`], [`KlDivProbs`], [`Distillation`], [`Jsd`] |
//! | embeddings | [`CosineEmbedding`], [`TripletMargin`] |
//! | rankings and preferences | [`MarginRanking`], [`Dpo`] |
//! | focal | [`SigmoidFocal`], [`SoftmaxFocal`] |
//! | sums of losses | [`Combined`], [`CombinedRegions`], [`CombinedRows`]; of several tasks [`TaskUncertainty`] |
//! | likelihoods | [`GaussianNll`], [`PoissonNll`] |
//! | adversarial | [`GanLoss`], [`RelativisticAverage`], [`RelativisticPair`], [`GradientPenalty`] |
//! | your own | [`Custom`] |
//!
//! Each type's page has formula, gradient, shapes, defaults, the PyTorch and Keras equivalents and the edge cases. [`guide`] helps to
//! choose: by task, with reasons and pitfalls.
//!
//! # One vocabulary
//!
//! Words and defaults are PyTorch's. Options are small values; a setter that can be given nonsense returns a `Result`.
//! `forward`, `forward_backward` and `forward_backward_in_place` are what most programs need. Weights, an upstream
//! gradient, accumulation, gradients for the targets and unreduced values are added to a [`Call`]:
//!
//! ```
//! use fused_loss::{CrossEntropy, Reduction};
//!
//! # fn main() -> fused_loss::Result<()> {
//! let (rows, classes) = (2, 3);
//! let logits = [2.0, -1.0, 0.5, 0.1, 0.2, 0.3].map(half::bf16::from_f32);
//! let mut grad = [half::bf16::ZERO; 6];
//! let loss = CrossEntropy::new()
//!     .label_smoothing(0.1)?
//!     .call(&logits, &[0u8, 2], (rows, classes))
//!     .class_weight(&[1.0, 2.0, 0.5])
//!     .grad_output(1024.0) // AMP's loss scale: multiplied in before the gradient is rounded
//!     .forward_backward(Reduction::Mean, &mut grad)?;
//! # assert!(loss > 0.0);
//! # Ok(()) }
//! ```
//!
//! * [`Reduction`] has PyTorch's and a sum over any denominator; losses are always `f32`.
//! * [`Element`]: f16, bf16 and f32 are storage; arithmetic is f32; sums end in f64.
//! * [`Shape`] says where the classes are: on the last axis, or on axis 1 as in segmentation.
//! * [`parallel`]: classes and tokens that ranks share.
//! * [`Device`] and [`Buffer`] let one program run on a GPU box and on a laptop.
//! * `Cuda` takes cudarc's slices and views on the caller's stream, and only enqueues.
//! * [`Error`]: everything is checked before anything is written, but for class indices on a GPU. No safe call panics.
//!
//! # How it is built
//!
//! A loss is two small pure functions and a paragraph of maths (`src/loss`). Four skeletons (`src/cpu`) do the rest,
//! loads, storage types, reductions, scaling, threads, for any loss:
//!
//! | skeleton | a loss gives | passes over memory |
//! |---|---|---|
//! | element-wise | value and gradient at one element | each input read once, each gradient written once |
//! | row-wise | value and gradients of a row, with the log-sum-exp from the skeleton | the same; further looks at a row hit a cache |
//! | region | factors of three sums over a region | inputs read twice, the second time from a cache where the region fits one |
//! | sorted | errors, and what each weighs by its place among them | a sort of each region, which is most of it |
//!
//! Scalar maths over sixteen lanes is compiled for AVX-512, AVX2 + FMA and the target's baseline (NEON on aarch64), and
//! the best is chosen at run time. Large gradients are written past the caches. Results are **bit-identical** from run to
//! run and for any number of threads: tiles depend on the shape alone, and sums are added in their order.
//!
//! # Crate features
//!
//! * `cuda` (default): the CUDA backend. Builds and runs without CUDA installed: kernels are compiled where `build.rs` finds an
//!   nvcc, or at run time where there is NVRTC; the driver is looked for at run time, and where something is missing [`Device::auto`]
//!   takes the CPU and says why.
//! * `burn`: losses on burn's tensors of its CPU backend, Flex, with `backward`, in the module `burn`.
//! * `candle`: losses on candle's tensors, with `backward`, in the module `candle`. On the CPU; needs nothing but candle.
//! * `candle-cuda`: the same on candle's GPUs. It turns on candle's own CUDA, which wants nvcc to build and links libcuda: such a
//!   program does not start where there is no driver.
//! * `head`: the language-model head, linear layer and cross-entropy without the logits, in the module `head`. On GPUs it takes cuBLAS,
//!   which is looked for at run time.
#![deny(unsafe_code, missing_docs)]

// Unit tests that share what the tests of the public interface have, which call it by its name.
#[cfg(test)]
extern crate self as fused_loss;

#[cfg(feature = "burn")]
pub mod burn;
mod call;
#[cfg(feature = "candle")]
pub mod candle;
#[allow(unsafe_code)] // SIMD, and disjoint writes from several threads; each with its contract
mod cpu;
#[allow(unsafe_code)] // launches and what they are given; each with its contract
mod cuda;
mod device;
mod element;
#[cfg(debug_assertions)]
#[doc(hidden)]
pub mod elsewhere;
mod error;
#[cfg(any(feature = "candle", feature = "burn"))]
#[allow(unsafe_code)] // memory that a call has filled
mod fresh;
pub mod guide;
#[cfg(feature = "head")]
pub mod head;
#[doc(hidden)]
pub mod launch;
mod loss;
pub mod math;
mod on;
pub mod parallel;
#[doc(hidden)]
pub mod params;
#[doc(hidden)]
pub mod raw;
mod reduction;
mod report;
mod shape;
mod target;
#[cfg(any(feature = "candle", feature = "burn"))]
mod tensors;
mod third;

pub use call::{Call, Loss};
#[cfg(feature = "cuda")]
pub use cuda::{Cuda, CudaCall, DeviceMut, DeviceRef, DeviceScalar, DeviceTarget, OnCuda};
/// The version of cudarc whose slices, views and streams [`Cuda`] takes.
#[cfg(feature = "cuda")]
pub use cudarc;
pub use device::{Buffer, Device, Storable};
pub use element::Element;
pub use error::{Error, Result};
pub use loss::*;
pub use on::{BufferTarget, On, Place};
pub use reduction::Reduction;
pub use report::Report;
pub use shape::Shape;
pub use target::Target;

/// The README's programs, compiled and run by `cargo test`.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

//! fused-loss
#![deny(unsafe_code)]

mod call;
#[allow(unsafe_code)] // SIMD and disjoint writes from several threads; each with its contract
mod cpu;
mod cuda;
mod device;
mod element;
mod error;
mod loss;
mod params;
mod reduction;
mod shape;
mod target;

pub use call::{Call, Loss};
pub use device::{Buffer, Device, On};
pub use element::Element;
pub use error::{Error, Result};
pub use loss::*;
pub use reduction::Reduction;
pub use shape::Shape;
pub use target::Target;

//! The vector maths by itself, to be tested over all of f32 in release: as a test of the library all losses would be compiled with it.
//!
//!     cargo test --release --test math -- --include-ignored   # five minutes on two cores

#![allow(dead_code, unused_imports)] // it is what losses use

#[path = "../src/cpu"]
mod cpu {
    mod math;
    pub(crate) mod simd;
}

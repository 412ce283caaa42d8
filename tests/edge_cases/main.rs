//! Edge cases, numbered 1 to 54 as the comments count them. Three of them live elsewhere: the gradient
//! check of every loss, option and reduction against its f64 definition (17) in `battery.rs`, and the
//! reruns (36) in `determinism.rs`; bad class indices (31) are in `bad_input.rs` too.

#[macro_use]
mod support;
#[path = "../cases/textbook.rs"]
#[allow(dead_code)] // not all of it is needed here
mod textbook;

mod beyond;
mod combined;
mod combined_regions;
mod contrastive;
mod elementwise;
mod gan;
mod large;
mod literals;
mod lovasz;
mod pitfalls;
mod properties;
mod region;
mod report;
mod rowwise;
mod sizes;

//! Kernels compiled at run time, by NVRTC: those of losses that the user wrote, and all others where no nvcc has compiled them.

mod cache;
mod library;
#[cfg(test)]
mod tests;

use cache::Cache;
use library::{Nvrtc, Source};

pub(super) use library::Target;

use super::custom;
use super::modules::{HEADERS, SOURCES};
use super::sums;
use crate::error::{Error, Result};

/// As `build.rs` tells nvcc. Without contraction: see `kernels/skeleton/math.cuh`.
// Lambdas with parameters of any type would be functions of the host.
const OPTIONS: [&str; 3] = ["--std=c++17", "--fmad=false", "--device-as-default-execution-space"];

/// Whether kernels that nvcc has compiled are to be compiled here all the same: `FUSED_LOSS_NVRTC=1`.
pub(super) fn forced() -> bool {
    std::env::var_os("FUSED_LOSS_NVRTC").is_some_and(|v| v == "1")
}

/// Whether nothing is to be compiled here that nvcc could have compiled: `FUSED_LOSS_NVRTC=0`.
pub(super) fn forbidden() -> bool {
    std::env::var_os("FUSED_LOSS_NVRTC").is_some_and(|v| v == "0")
}

/// What to compile for a GPU of this capability: the PTX that nvcc would have made, and, for a driver that is older than NVRTC and
/// cannot read that, machine code.
pub(super) fn targets(capability: u32) -> impl Iterator<Item = Target> {
    let virtual_one = [90, 75].into_iter().find(|&c| c <= capability);
    virtual_one.into_iter().flat_map(move |c| [Target::Ptx(c), Target::Cubin(capability)])
}

/// A file of `kernels/`, of a loss that the user wrote, or of a sum, compiled; from the cache if it has been before.
pub(super) fn image(file: &str, target: Target) -> Result<Vec<u8>> {
    build(file, target, Nvrtc::get()?, &Cache::of_user()).map(|(image, _)| image)
}

/// The version of NVRTC, if it is there.
pub(crate) fn nvrtc() -> Result<&'static str> {
    Nvrtc::get().map(|nvrtc| &*nvrtc.version)
}

/// The PTX of a file for a virtual architecture.
pub(crate) fn ptx(file: &str, capability: u32) -> Result<String> {
    image(file, Target::Ptx(capability)).map(|ptx| String::from_utf8_lossy(&ptx).into_owned())
}

/// The same; and whether it had to be compiled.
fn build(file: &str, target: Target, nvrtc: &Nvrtc, cache: &Cache) -> Result<(Vec<u8>, bool)> {
    let definition = custom::of_file(file);
    let sum = sums::source(file);
    let (loss, text) = match definition {
        Some(custom::Definition { loss, source: Some(text), .. }) => (*loss, text.as_str()),
        Some(custom::Definition { loss, source: None, .. }) => {
            let problem = "it has no text for CUDA: give it one by `cuda`, or call it on the CPU".into();
            return Err(Error::Custom { loss, problem });
        }
        None => match &sum {
            Some(text) => ("combined loss", text.as_str()),
            None => *SOURCES.iter().find(|source| source.0 == file).ok_or(Error::KernelsNotBuilt)?,
        },
    };
    let mut key = format!("NVRTC {}\n{}\n{OPTIONS:?}\n{text}", nvrtc.version, target.architecture());
    for (name, header) in HEADERS {
        key = key + "\n" + name + "\n" + header;
    }
    if let Some(image) = cache.read(file, key.as_bytes()) {
        return Ok((image, false));
    }
    let name = format!("{file}.cu");
    let source = Source { name: &name, text, headers: HEADERS };
    let compiled = nvrtc.compile(&source, target, &OPTIONS);
    let image = compiled.map_err(|log| Error::Compile { loss: loss.into(), log })?;
    cache.write(file, key.as_bytes(), &image);
    Ok((image, true))
}

//! The kernels of a context: files of `kernels/`, compiled by `build.rs`, or else by NVRTC, loaded when they are first used.
//!
//! A file and not all of them at once: the driver compiles PTX, which takes seconds for some, and most programs use few losses. (It
//! keeps what it has compiled on the disk for the next time.)

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::{CudaContext, CudaFunction, CudaModule, DriverError, sys};
use cudarc::nvrtc::Ptx;
use miniz_oxide::inflate::decompress_to_vec_zlib;

use super::driver::{self, failed};
use super::jit;
use super::plan::Limits;
use crate::error::{Error, Result};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// Compiled kernels: the file, what capability they are for, `ptx` or `cubin`, and the bytes, of PTX squeezed.
type Compiled = (&'static str, u32, &'static str, &'static [u8]);

/// The files of `kernels/`.
pub(super) fn files() -> impl Iterator<Item = &'static str> {
    SOURCES.iter().map(|(file, _)| *file)
}

/// The loaded kernels of a context.
pub(super) struct Kernels {
    context: Arc<CudaContext>,
    /// Such as 90.
    capability: u32,
    pub(super) limits: Limits,
    loaded: Mutex<Loaded>,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<String, Arc<CudaModule>>,
    /// And the most dynamic shared memory that it has been launched with, if that is more than any function may have unasked.
    functions: HashMap<String, (CudaFunction, u32)>,
    /// Files that are not to be had: nothing compiles them, or the driver does not take what does.
    none: HashSet<String>,
}

/// The kernels of each context that is in use.
static CACHE: Mutex<Vec<(usize, Weak<Kernels>)>> = Mutex::new(Vec::new());

/// What the kernels declare at most besides dynamic shared memory, but for a few that ask for little of that (`tests/kernels_by_nvcc.rs`
/// looks).
const STATIC_SHARED: u32 = 4 << 10;
/// Dynamic shared memory that needs no asking: both together have 48 KiB.
const USUAL_SHARED: u32 = (48 << 10) - STATIC_SHARED;

/// The smallest file.
const SMALLEST: &str = "mse";

impl Kernels {
    /// Those of this context, once for all handles. Tries the smallest file, so that kernels that cannot be used, or compiled, are
    /// found out now.
    pub(super) fn of(context: &Arc<CudaContext>) -> Result<Arc<Kernels>> {
        let key = context.cu_ctx() as usize;
        let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
        cache.retain(|(_, kernels)| kernels.strong_count() > 0);
        if let Some(kernels) = cache.iter().find(|(k, _)| *k == key).and_then(|(_, kernels)| kernels.upgrade()) {
            return Ok(kernels);
        }
        let attribute = |attribute| context.attribute(attribute).map_err(|e| failed("asking what the GPU can do", e));
        let (major, minor) = context.compute_capability().map_err(|e| failed("asking what the GPU can do", e))?;
        let shared = attribute(sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let kernels = Arc::new(Kernels {
            context: context.clone(),
            capability: (10 * major + minor) as u32,
            limits: Limits {
                shared: (shared as u32).saturating_sub(STATIC_SHARED).max(USUAL_SHARED),
                cluster: if knows_clusters(MODULES, (10 * major + minor) as u32) { 8 } else { 1 },
            },
            loaded: Mutex::default(),
        });
        kernels.function(SMALLEST, "fl_mse_f32", 0)?;
        cache.push((key, Arc::downgrade(&kernels)));
        Ok(kernels)
    }

    /// Loads all files.
    pub(super) fn load_all(&self) -> Result<()> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        files().try_for_each(|file| self.module(&mut loaded, file).map(drop))
    }

    /// Whether a file has been loaded.
    pub(super) fn has(&self, file: &str) -> bool {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).modules.contains_key(file)
    }

    /// Whether a file of `sums` has been loaded, or, if it may be now, can be. It is tried once.
    pub(super) fn has_sum(&self, file: &str, may_load: impl FnOnce() -> bool) -> bool {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if loaded.none.contains(file) || loaded.modules.contains_key(file) {
            return !loaded.none.contains(file);
        }
        if jit::forbidden() || !may_load() {
            return false;
        }
        let module = self.module(&mut loaded, file);
        let has = module.is_ok_and(|module| module.load_function(&format!("fl_{file}")).is_ok());
        if !has {
            loaded.none.insert(file.into());
        }
        has
    }

    /// A function, which may be launched with so much dynamic shared memory; loads its file if need be.
    pub(super) fn function(&self, file: &str, name: &str, shared: u32) -> Result<CudaFunction> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        if !loaded.functions.contains_key(name) {
            let module = self.module(&mut loaded, file)?;
            let function = module.load_function(name).map_err(|e| failed("finding a kernel", e))?;
            loaded.functions.insert(name.into(), (function, USUAL_SHARED));
        }
        let (function, most) = loaded.functions.get_mut(name).expect("it is there now");
        if shared > *most {
            let attribute = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            function.set_attribute(attribute, shared as i32).map_err(|e| failed("asking for shared memory", e))?;
            *most = shared;
        }
        Ok(function.clone())
    }

    fn module(&self, loaded: &mut Loaded, file: &str) -> Result<Arc<CudaModule>> {
        if let Some(module) = loaded.modules.get(file) {
            return Ok(module.clone());
        }
        let module = self.load(file)?;
        loaded.modules.insert(file.into(), module.clone());
        Ok(module)
    }

    fn load(&self, file: &str) -> Result<Arc<CudaModule>> {
        let built = if jit::forced() { Vec::new() } else { candidates(MODULES, file, self.capability) };
        let mut of_nvcc = None;
        for compiled in built {
            match self.load_image(compiled.2, &unpacked(compiled)) {
                Ok(module) => return Ok(module),
                Err(error) => of_nvcc = Some(error),
            }
        }
        let mut of_nvrtc = Error::KernelsNotBuilt;
        for target in jit::targets(self.capability) {
            let image = match jit::image(file, target) {
                Ok(image) => image,
                Err(error) => {
                    of_nvrtc = error;
                    break;
                }
            };
            match self.load_image(target.kind(), &image) {
                Ok(module) => return Ok(module),
                Err(error) => of_nvrtc = error,
            }
            // Machine code is for drivers that are too old for the PTX.
            if !matches!(of_nvrtc, Error::PtxTooNew { .. }) {
                break;
            }
        }
        Err(match (of_nvcc, of_nvrtc) {
            (Some(error), _) => error,
            // Whoever has neither may install either; for a loss of the user's it has to be NVRTC.
            (None, Error::NoNvrtc { .. }) if !jit::forced() && files().any(|f| f == file) => Error::KernelsNotBuilt,
            (None, error) => error,
        })
    }

    fn load_image(&self, kind: &str, bytes: &[u8]) -> Result<Arc<CudaModule>> {
        let image = match kind {
            "ptx" => Ptx::from_src(String::from_utf8_lossy(bytes).trim_end_matches('\0')),
            _ => Ptx::from_binary(bytes.to_vec()),
        };
        self.context.load_module(image).map_err(|error| match error {
            DriverError(sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION) => {
                let [ptx, compiler] = ptx_versions(&String::from_utf8_lossy(bytes));
                Error::PtxTooNew { ptx, compiler, driver: driver::version() }
            }
            error => failed("loading kernels", error),
        })
    }
}

/// The text or the machine code of what has been compiled.
fn unpacked(&(_, _, kind, bytes): &Compiled) -> Cow<'static, [u8]> {
    match kind {
        "ptx" => Cow::Owned(decompress_to_vec_zlib(bytes).expect("build.rs has squeezed it")),
        _ => Cow::Borrowed(bytes),
    }
}

/// The first compute capability that has clusters of blocks. Kernels compiled for an older one take each block for a cluster.
const CLUSTERS: u32 = 90;

/// Whether kernels on a GPU of this capability are compiled for one that has clusters: by nvcc, or, where that has compiled none that fits,
/// by NVRTC, for the GPU itself.
fn knows_clusters(modules: &'static [Compiled], capability: u32) -> bool {
    let built = if jit::forced() { Vec::new() } else { candidates(modules, SMALLEST, capability) };
    built.first().map_or(capability, |best| best.1) >= CLUSTERS
}

/// What could be loaded of a file on a GPU of this capability, the best first: machine code of its generation, then PTX. None that knows
/// no clusters where another does: launches are of one kind.
fn candidates(modules: &'static [Compiled], file: &str, capability: u32) -> Vec<&'static Compiled> {
    let fits = |m: &&Compiled| m.0 == file && m.1 <= capability && (m.2 == "ptx" || m.1 / 10 == capability / 10);
    let mut found: Vec<_> = modules.iter().filter(fits).collect();
    found.sort_by_key(|m| (m.2 == "ptx", std::cmp::Reverse(m.1)));
    if found.iter().any(|m| m.1 >= CLUSTERS) {
        found.retain(|m| m.1 >= CLUSTERS);
    }
    found
}

/// The versions of PTX and of its compiler, from the head of the text.
fn ptx_versions(ptx: &str) -> [String; 2] {
    let after = |key: &str| {
        let word = ptx.lines().take(40).find_map(|line| line.split_once(key)).map_or("unknown", |(_, rest)| rest);
        word.trim().split([' ', ',']).next().unwrap_or("unknown").to_string()
    };
    [after(".version"), after("release")]
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &[Compiled] = &[
        ("a", 75, "ptx", b""),
        ("a", 90, "ptx", b""),
        ("a", 80, "cubin", b""),
        ("a", 86, "cubin", b""),
        ("b", 75, "ptx", b""),
    ];

    #[test]
    fn machine_code_of_the_generation_comes_first_and_then_the_newest_ptx() {
        let of = |capability| candidates(ALL, "a", capability).iter().map(|m| (m.1, m.2)).collect::<Vec<_>>();
        assert_eq!(of(70), []);
        assert_eq!(of(75), [(75, "ptx")]);
        assert_eq!(of(80), [(80, "cubin"), (75, "ptx")]);
        assert_eq!(of(89), [(86, "cubin"), (80, "cubin"), (75, "ptx")]);
        // Launches have clusters here, of which what is compiled for 75 knows nothing.
        assert_eq!(of(90), [(90, "ptx")]);
        assert_eq!(of(120), [(90, "ptx")]);
    }

    #[test]
    fn clusters_are_for_kernels_that_know_them() {
        const OLD: &[Compiled] = &[("mse", 75, "ptx", b""), ("mse", 86, "cubin", b"")];
        const NEW: &[Compiled] = &[("mse", 75, "ptx", b""), ("mse", 90, "ptx", b"")];
        if jit::forced() {
            return; // NVRTC compiles for the GPU, whatever nvcc has.
        }
        assert!(!knows_clusters(OLD, 86) && !knows_clusters(OLD, 90) && !knows_clusters(OLD, 120));
        assert!(!knows_clusters(NEW, 89) && knows_clusters(NEW, 90) && knows_clusters(NEW, 120));
        assert!(!knows_clusters(&[], 89) && knows_clusters(&[], 90));
    }

    #[test]
    fn ptx_says_its_versions() {
        let ptx = "//\n// Cuda compilation tools, release 13.0, V13.0.88\n//\n\n.version 9.0\n.target sm_75\n";
        assert_eq!(ptx_versions(ptx), ["9.0", "13.0"]);
        assert_eq!(ptx_versions("")[0], "unknown");
    }

    /// Every kernel that a loss may ask for has been compiled.
    #[test]
    fn every_kernel_is_in_the_ptx_of_its_file() {
        for module in MODULES.iter().filter(|m| m.2 == "ptx" && m.0 == "mse") {
            let (bytes, capability) = (unpacked(module), module.1);
            let ptx = String::from_utf8_lossy(&bytes);
            for dtype in ["f32", "f16", "bf16"] {
                for name in ["mse", "mse_general"] {
                    assert!(ptx.contains(&format!(".entry fl_{name}_{dtype}(")), "{name} {dtype} {capability}");
                }
            }
        }
    }
}

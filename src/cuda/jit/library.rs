//! NVRTC, NVIDIA's compiler as a library: looked for at run time, as the driver is.
//!
//! By our own few function pointers and not by cudarc's bindings, which panic where the library is missing.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use libloading::Library;

use crate::cuda::foreign::{Status, functions};
use crate::error::{Error, Result};

/// A program under way.
type Program = *mut std::ffi::c_void;

functions! {
    version nvrtcVersion(*mut c_int, *mut c_int);
    create nvrtcCreateProgram(
        *mut Program, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char
    );
    destroy nvrtcDestroyProgram(*mut Program);
    compile nvrtcCompileProgram(Program, c_int, *const *const c_char);
    log_size nvrtcGetProgramLogSize(Program, *mut usize);
    log nvrtcGetProgramLog(Program, *mut c_char);
    ptx_size nvrtcGetPTXSize(Program, *mut usize);
    ptx nvrtcGetPTX(Program, *mut c_char);
    cubin_size nvrtcGetCUBINSize(Program, *mut usize);
    cubin nvrtcGetCUBIN(Program, *mut c_char);
}

/// The loaded library.
pub(super) struct Nvrtc {
    functions: Functions,
    /// Such as `13.0`.
    pub(super) version: String,
    /// The compiler, and what it loads by name when it compiles.
    _libraries: Vec<Library>,
}

/// What is compiled: its name in messages, its text, and what it may include, by the names that it includes it by.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) text: &'a str,
    pub(super) headers: &'a [(&'a str, &'a str)],
}

/// What for: PTX of a virtual architecture such as 75, or machine code of a real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cuda) enum Target {
    Ptx(u32),
    Cubin(u32),
}

impl Target {
    /// As tables of kernels say it.
    pub(in crate::cuda) fn kind(self) -> &'static str {
        match self {
            Target::Ptx(_) => "ptx",
            Target::Cubin(_) => "cubin",
        }
    }

    /// As NVRTC's option names it.
    pub(super) fn architecture(self) -> String {
        match self {
            Target::Ptx(capability) => format!("compute_{capability}"),
            Target::Cubin(capability) => format!("sm_{capability}"),
        }
    }
}

impl Nvrtc {
    /// The library, looked for once.
    pub(super) fn get() -> Result<&'static Nvrtc> {
        static NVRTC: OnceLock<Result<Nvrtc>> = OnceLock::new();
        NVRTC.get_or_init(|| Self::first(candidates())).as_ref().map_err(Clone::clone)
    }

    /// The first of these that is one.
    pub(super) fn first(candidates: impl IntoIterator<Item = PathBuf>) -> Result<Nvrtc> {
        // A bare name that the loader does not know says nothing; a file that is there and does not load does.
        let mut reason = "it was found nowhere".to_string();
        for path in candidates {
            match Self::load(&path) {
                Ok(nvrtc) => return Ok(nvrtc),
                // The loader's own words are behind those of libloading.
                Err(error) if path.is_absolute() => {
                    reason = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                }
                Err(_) => {}
            }
        }
        Err(Error::NoNvrtc { reason })
    }

    fn load(path: &Path) -> Result<Nvrtc, libloading::Error> {
        // NVRTC opens its second half by its bare name, which the loader knows once it is there.
        let beside = path.parent().filter(|folder| folder.is_absolute()).map(|folder| libraries(folder, BUILTINS));
        // SAFETY: opening NVIDIA's libraries runs their initialisers, which is what using them means.
        let mut all: Vec<Library> =
            beside.into_iter().flatten().filter_map(|path| unsafe { Library::new(path) }.ok()).collect();
        // SAFETY: as above; and the library is kept as long as its functions.
        let (library, functions) = unsafe {
            let library = Library::new(path)?;
            let functions = Functions::of(&library)?;
            (library, functions)
        };
        all.push(library);
        let (mut major, mut minor) = (0, 0);
        // SAFETY: it writes two numbers.
        unsafe { (functions.version)(&raw mut major, &raw mut minor) };
        Ok(Nvrtc { functions, version: format!("{major}.{minor}"), _libraries: all })
    }

    /// The PTX (text, without the zero at its end) or the machine code; or what the compiler has to say.
    pub(super) fn compile(&self, source: &Source, target: Target, options: &[&str]) -> Result<Vec<u8>, String> {
        let c = |text: &str| CString::new(text).map_err(|_| "a zero byte in the source".to_string());
        let all = |texts: Vec<&str>| texts.into_iter().map(c).collect::<Result<Vec<CString>, String>>();
        let (name, text) = (c(source.name)?, c(source.text)?);
        let names = all(source.headers.iter().map(|h| h.0).collect())?;
        let headers = all(source.headers.iter().map(|h| h.1).collect())?;
        let architecture = format!("--gpu-architecture={}", target.architecture());
        let options = all([&architecture as &str].into_iter().chain(options.iter().copied()).collect())?;
        let pointers = |texts: &[CString]| texts.iter().map(|t| t.as_ptr()).collect::<Vec<_>>();
        let (names, headers, options) = (pointers(&names), pointers(&headers), (pointers(&options), options));

        let f = &self.functions;
        let mut program = std::ptr::null_mut();
        let count = names.len() as c_int;
        // SAFETY: the texts end in zeros and outlive the call, which copies them; there are as many as it is told.
        let status = unsafe {
            let (headers, names) = (headers.as_ptr(), names.as_ptr());
            (f.create)(&raw mut program, text.as_ptr(), name.as_ptr(), count, headers, names)
        };
        if status != 0 {
            return Err(format!("NVRTC {}: error {status}", self.version));
        }
        let mut program = Guard { program, f };
        let program = &mut program.program;
        // SAFETY: as above.
        let status = unsafe { (f.compile)(*program, options.0.len() as c_int, options.0.as_ptr()) };
        if status != 0 {
            // SAFETY: it is a program, and the buffer is as long as it says.
            let log = unsafe { result(*program, f.log_size, f.log) }.unwrap_or_default();
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            let nothing = || format!("NVRTC {}: error {status}", self.version);
            return Err(if log.trim().is_empty() { nothing() } else { log.trim_end().to_string() });
        }
        // SAFETY: as above.
        let image = unsafe {
            match target {
                Target::Ptx(_) => result(*program, f.ptx_size, f.ptx),
                Target::Cubin(_) => result(*program, f.cubin_size, f.cubin),
            }
        };
        let mut image = image.map_err(|status| format!("NVRTC {}: error {status}", self.version))?;
        if matches!(target, Target::Ptx(_)) && image.last() == Some(&0) {
            image.pop();
        }
        Ok(image)
    }
}

/// Destroys a program.
struct Guard<'a> {
    program: Program,
    f: &'a Functions,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        // SAFETY: it was created, and this is its end.
        unsafe { (self.f.destroy)(&raw mut self.program) };
    }
}

/// One of the results of a program.
///
/// # Safety
/// The program is one, and the second function writes as many bytes as the first says.
unsafe fn result(
    program: Program,
    size: unsafe extern "C" fn(Program, *mut usize) -> Status,
    get: unsafe extern "C" fn(Program, *mut c_char) -> Status,
) -> Result<Vec<u8>, Status> {
    let mut bytes = 0;
    // SAFETY: the caller's promise.
    unsafe {
        match size(program, &raw mut bytes) {
            0 => {}
            status => return Err(status),
        }
        let mut result = vec![0; bytes];
        match get(program, result.as_mut_ptr().cast()) {
            0 => Ok(result),
            status => Err(status),
        }
    }
}

const BUILTINS: bool = true;

/// Where it may be, most likely first: what the loader knows by name (LD_LIBRARY_PATH, what a Python process has loaded), where
/// CUDA is installed, and the active Python environment, where PyTorch brings it.
fn candidates() -> Vec<PathBuf> {
    let names = if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"][..]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"][..]
    };
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let homes = homes.chain(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    let mut folders: Vec<PathBuf> =
        homes.flat_map(|h| ["lib64", "lib", "targets/x86_64-linux/lib", "bin"].map(|f| h.join(f))).collect();
    for environment in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        folders.push(environment.join("lib"));
        let of_python = entries(&environment.join("lib")).into_iter().chain([environment.join("Lib")]);
        for packages in of_python.map(|python| python.join("site-packages")) {
            folders.extend(entries(&packages.join("nvidia")).into_iter().flat_map(|p| [p.join("lib"), p.join("bin")]));
            folders.push(packages.join("torch/lib"));
        }
    }
    let files = folders.iter().flat_map(|folder| libraries(folder, !BUILTINS));
    names.iter().map(PathBuf::from).chain(files).collect()
}

/// The files of a folder that are the library, or its builtins.
fn libraries(folder: &Path, builtins: bool) -> Vec<PathBuf> {
    let fits = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let library =
            name.starts_with("libnvrtc") && name.contains(".so") || name.starts_with("nvrtc") && name.ends_with(".dll");
        library && name.contains("builtins") == builtins && !name.contains(".alt")
    };
    entries(folder).into_iter().filter(fits).collect()
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
}

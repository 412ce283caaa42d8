//! The kernels, compiled for the host: built by the C++ compiler when a test first asks for them, loaded as a library, and
//! launched by name with the arguments that `cuLaunchKernel` would get.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::plan::Plan;

/// The root of the crate.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where builds go: a folder of the target directory, or `FUSED_LOSS_HOST_EXEC`, for several of them to compile the kernels once.
pub fn out() -> &'static Path {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        std::env::var_os("FUSED_LOSS_HOST_EXEC").map_or(env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from)
    })
}

/// Every file of `kernels/` that is compiled, and those of the losses that the tests define.
pub fn sources() -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(root().join("kernels"))
        .expect("the crate has kernels")
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "cu"))
        .collect();
    files.sort();
    files.extend(super::cases::custom::sources(out().join("custom")));
    files
}

/// One way of building them.
pub struct Build<'a> {
    pub name: &'a str,
    pub compiler: &'a str,
    /// For every file, and for the link.
    pub flags: &'a [&'a str],
    /// For the kernels alone.
    pub kernel_flags: &'a [&'a str],
    /// For the runtime alone.
    pub runtime_flags: &'a [&'a str],
    /// Further files, compiled like the runtime.
    pub with: &'a [&'a str],
    /// A shared library, or else a program.
    pub library: bool,
}

impl Build<'_> {
    /// Compiles what has changed and links; the path of the result.
    pub fn run(&self, kernels: &[PathBuf]) -> PathBuf {
        let dir = out().join(format!("host_exec_{}", self.name));
        std::fs::create_dir_all(&dir).unwrap();
        // build.rs writes one for each set of features and variables, and most of them are alike: what is compiled sees a copy, which is
        // written only where it differs.
        let (params, own) = (std::fs::read(env!("FUSED_LOSS_PARAMS_H")).unwrap(), dir.join("fused_loss_params.h"));
        if std::fs::read(&own).ok().as_ref() != Some(&params) {
            std::fs::write(&own, params).unwrap();
        }
        let newest = newest_header(own);
        let mut objects = Vec::new();
        let mut jobs = Vec::new();
        let here = root().join("tests/host_exec");
        let others = ["runtime.cpp"].iter().chain(self.with).map(|f| (here.join(f), self.runtime_flags));
        for (source, flags) in kernels.iter().map(|f| (f.clone(), self.kernel_flags)).chain(others) {
            let object = dir.join(source.file_name().unwrap()).with_extension("o");
            objects.push(object.clone());
            let fresh = |path: &Path| path.metadata().and_then(|m| m.modified()).ok();
            if fresh(&object) > fresh(&source).max(Some(newest)) {
                continue;
            }
            let mut job = Command::new(self.compiler);
            // Without contraction, as nvcc is told too; and objects of one type are seen through pointers to another.
            job.args(["-std=c++17", "-DFUSED_LOSS_HOST", "-ffp-contract=off", "-fno-strict-aliasing", "-fPIC", "-g1"]);
            job.args(["-Wall", "-Wno-unknown-pragmas", "-Wno-unused-function"]);
            job.args(self.flags)
                .args(flags)
                .arg("-I")
                .arg(root().join("kernels"))
                .arg("-I")
                .arg(&here)
                .arg("-I")
                .arg(&dir);
            job.args(["-x", "c++", "-c"]).arg(&source).arg("-o").arg(&object);
            jobs.push(job);
        }
        let result = dir.join(if self.library { "libkernels.so" } else { "kernels" });
        let changed = !jobs.is_empty() || !result.exists();
        // As many at once as there are cores.
        let queue = std::sync::Mutex::new(jobs);
        std::thread::scope(|scope| {
            for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    loop {
                        let Some(mut job) = queue.lock().unwrap().pop() else { break };
                        must(&mut job);
                    }
                });
            }
        });
        if changed {
            let mut link = Command::new(self.compiler);
            link.args(self.flags).args(self.kernel_flags).args(objects).arg("-o").arg(&result);
            must(link.args(if self.library { &["-shared"][..] } else { &[] }));
        }
        result
    }
}

fn must(command: &mut Command) {
    let run = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(run.status.success(), "{command:?}:\n{}", String::from_utf8_lossy(&run.stderr));
}

/// When the last header changed.
fn newest_header(params: PathBuf) -> std::time::SystemTime {
    let skeleton =
        root().join("kernels/skeleton").read_dir().unwrap().chain(root().join("kernels").read_dir().unwrap());
    let headers = skeleton.map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "cuh"));
    let own = ["shim.h", "half.h", "mod.rs"].map(|f| root().join("tests/host_exec").join(f));
    headers.chain(own).chain([params]).map(|path| path.metadata().unwrap().modified().unwrap()).max().unwrap()
}

/// The loaded library.
pub struct Host {
    launch: unsafe extern "C" fn(*const c_char, *const u32, *const u32, u32, u32, *mut *mut c_void) -> c_int,
    error: unsafe extern "C" fn() -> *const c_char,
    order: unsafe extern "C" fn(u64),
    #[allow(dead_code)]
    kernel: unsafe extern "C" fn(u32) -> *const c_char,
}

/// Whether the kernels can be executed here: it takes a C++ compiler (`CXX`, else `c++`) on 64-bit Linux. Says so where
/// they cannot, and panics if `FUSED_LOSS_REQUIRE_HOST_EXEC` is set.
#[allow(dead_code)]
pub fn possible() -> bool {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let there = std::process::Command::new(compiler).arg("--version").output().is_ok_and(|o| o.status.success());
    let possible = there && cfg!(all(target_os = "linux", target_arch = "x86_64"));
    if !possible {
        assert!(std::env::var_os("FUSED_LOSS_REQUIRE_HOST_EXEC").is_none(), "the kernels cannot be executed here");
        eprintln!("skipped: no C++ compiler on 64-bit Linux to execute the CUDA kernels with");
    }
    possible
}

impl Host {
    /// The kernels of this crate.
    pub fn get() -> &'static Host {
        static HOST: OnceLock<Host> = OnceLock::new();
        HOST.get_or_init(|| {
            let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
            let build = Build {
                name: "plain",
                compiler: &compiler,
                // As fast as with -O1, for the fibers take the time, and compiled in two thirds of it.
                flags: &["-Og"],
                kernel_flags: &[],
                runtime_flags: &["-O2"],
                with: &[],
                library: true,
            };
            Host::load(&build.run(&sources()))
        })
    }

    pub fn load(library: &Path) -> Host {
        // SAFETY: it is the library that was just built, and these are its functions.
        unsafe {
            let library = Box::leak(Box::new(libloading::Library::new(library).unwrap()));
            Host {
                launch: *library.get(b"fl_host_launch").unwrap(),
                error: *library.get(b"fl_host_error").unwrap(),
                order: *library.get(b"fl_host_order").unwrap(),
                kernel: *library.get(b"fl_host_kernel").unwrap(),
            }
        }
    }

    /// The order of threads and blocks in the launches of this thread: 0 ascending, 1 descending, otherwise random by this seed.
    pub fn order(&self, seed: u64) {
        // SAFETY: it sets a number.
        unsafe { (self.order)(seed) }
    }

    /// Every kernel's name.
    #[allow(dead_code)]
    pub fn kernels(&self) -> Vec<String> {
        // SAFETY: it returns names that live as long as the library, then null.
        let name =
            |i| unsafe { (self.kernel)(i).as_ref().map(|name| CStr::from_ptr(name).to_str().unwrap().to_string()) };
        (0..).map_while(name).collect()
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// `args` points to what the kernel takes, as for `cuLaunchKernel`.
    pub unsafe fn launch(&self, name: &str, plan: &Plan, args: &mut [*mut c_void]) -> Result<(), String> {
        let name = CString::new(name).unwrap();
        let (grid, block) = ([plan.grid, 1, 1], [plan.block.0, plan.block.1, 1]);
        // SAFETY: the caller's promise.
        unsafe {
            match (self.launch)(
                name.as_ptr(),
                grid.as_ptr(),
                block.as_ptr(),
                plan.cluster,
                plan.shared,
                args.as_mut_ptr(),
            ) {
                0 => Ok(()),
                _ => Err(CStr::from_ptr((self.error)()).to_string_lossy().into_owned()),
            }
        }
    }
}

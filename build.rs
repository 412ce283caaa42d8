//! Writes the C header of the parameter structs, from the Rust source of them, and compiles the kernels if there is an nvcc.
//!
//! The header goes to `OUT_DIR/fused_loss_params.h`, where the kernels include it from, and holds a `static_assert` on the size of
//! each struct and the offset of each field: whoever changes one side without the other does not get it past a compiler.
//! `tests/params_header.rs` feeds it to one.
//!
//! Every `kernels/*.cu` becomes PTX for two virtual architectures. `OUT_DIR/kernels.rs` has them all in one table, which is empty
//! without an nvcc, and their sources, for NVRTC.
//!
//! | variable | what |
//! |---|---|
//! | `NVCC` | the nvcc to take; an empty one means none |
//! | `CUDA_HOME`, `CUDA_PATH` | where CUDA is installed |
//! | `FUSED_LOSS_REQUIRE_NVCC` | 1: no nvcc is an error |
//! | `FUSED_LOSS_PTX` | of the two virtual architectures, `75` (any GPU) and `90` (Hopper and newer), the one to compile for: in half the time |
//! | `FUSED_LOSS_CUBIN` | compute capabilities such as `80,90` to compile machine code for as well |

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

#[path = "src/params.rs"]
mod params;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/params.rs");
    // Without optimisation a kernel that is inlined into one function has a frame larger than a thread's stack: every
    // vector that it ever computes has a place of its own there.
    println!("cargo::rustc-check-cfg=cfg(optimized)");
    if std::env::var("OPT_LEVEL").is_ok_and(|level| level != "0") {
        println!("cargo::rustc-cfg=optimized");
    }
    // All that is in it, and what will be.
    println!("cargo::rerun-if-changed=kernels");
    for variable in [
        "NVCC",
        "CUDA_HOME",
        "CUDA_PATH",
        "FUSED_LOSS_REQUIRE_NVCC",
        "FUSED_LOSS_PTX",
        "FUSED_LOSS_CUBIN",
        "VIRTUAL_ENV",
    ] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let header = out.join("fused_loss_params.h");
    std::fs::write(&header, c_header()).expect("OUT_DIR can be written");
    println!("cargo::rustc-env=FUSED_LOSS_PARAMS_H={}", header.display());

    let wanted = std::env::var_os("CARGO_FEATURE_CUDA").is_some();
    let required = std::env::var("FUSED_LOSS_REQUIRE_NVCC").is_ok_and(|v| v == "1");
    let nvcc = find_nvcc().filter(|_| wanted);
    println!("cargo::rustc-env=FUSED_LOSS_NVCC={}", nvcc.as_deref().unwrap_or(Path::new("")).display());
    // Of another choice, in whose place they would be taken for what there is.
    for old in entries(&out).into_iter().filter(|path| path.extension().is_some_and(|e| e == "ptx")) {
        std::fs::remove_file(old).expect("OUT_DIR can be written");
    }
    let modules = match nvcc {
        Some(nvcc) => compile(&nvcc, &out),
        None if wanted && required => fail("FUSED_LOSS_REQUIRE_NVCC is 1 and there is no nvcc: set NVCC or CUDA_HOME"),
        _ => Vec::new(),
    };
    std::fs::write(out.join("kernels.rs"), table(&modules) + &sources(&header)).expect("OUT_DIR can be written");
}

/// The structs of `params.rs` in C.
fn c_header() -> String {
    let mut c = String::from(
        "// Written by build.rs from src/params.rs. Do not edit.\n#pragma once\n\n\
         // NVRTC has neither headers nor offsetof; the sizes it can check.\n\
         #ifdef __CUDACC_RTC__\n#define FL_OFFSET(s, field, offset)\n#else\n#include <stddef.h>\n#include <stdint.h>\n\
         #define FL_OFFSET(s, field, offset) static_assert(offsetof(s, field) == offset, #s \".\" #field)\n#endif\n\
         #ifndef __cplusplus\n#define static_assert _Static_assert\n#endif\n",
    );
    for (name, value) in params::CONSTANTS {
        writeln!(c, "#define FL_{name} {value}").unwrap();
    }
    for (name, size, fields) in params::STRUCTS {
        write!(c, "\ntypedef struct {name} {{\n").unwrap();
        for (rust, field, _) in *fields {
            // `[f32; 4]`
            let array = rust.strip_prefix('[').and_then(|rust| rust.strip_suffix(']')?.split_once("; "));
            let (rust, count) = array.map_or((*rust, String::new()), |(rust, count)| (rust, format!("[{count}]")));
            let c_type = match rust {
                "f32" => "float",
                "f64" => "double",
                "u32" => "uint32_t",
                "u64" => "uint64_t",
                "i64" => "int64_t",
                other if params::STRUCTS.iter().any(|of| of.0 == other) => other,
                other => panic!("params.rs: no C type for {other} of {name}.{field}"),
            };
            writeln!(c, "    {c_type} {field}{count};").unwrap();
        }
        writeln!(c, "}} {name};\nstatic_assert(sizeof({name}) == {size}, \"{name}\");").unwrap();
        for (_, field, offset) in *fields {
            writeln!(c, "FL_OFFSET({name}, {field}, {offset});").unwrap();
        }
    }
    c
}

/// The compiler: where a variable says, on the path, in the usual folders, or of the active Python environment.
fn find_nvcc() -> Option<PathBuf> {
    let exe = if cfg!(windows) { "nvcc.exe" } else { "nvcc" };
    if let Some(nvcc) = std::env::var_os("NVCC") {
        let nvcc = PathBuf::from(nvcc);
        if nvcc.as_os_str().is_empty() {
            return None;
        }
        if !nvcc.is_file() {
            fail(&format!("NVCC is {}, which is no file", nvcc.display()));
        }
        return Some(nvcc);
    }
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(std::env::var_os).map(|home| Path::new(&home).join("bin"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/local/cuda/bin", "/opt/cuda/bin", "/usr/lib/cuda/bin"].map(PathBuf::from);
    // The wheels put it into site-packages/nvidia/*/bin.
    let python = std::env::var_os("VIRTUAL_ENV").into_iter().flat_map(|env| {
        let lib = PathBuf::from(env).join("lib");
        let nvidia = entries(&lib).into_iter().flat_map(|python| entries(&python.join("site-packages/nvidia")));
        nvidia.map(|package| package.join("bin")).collect::<Vec<_>>()
    });
    let folders = homes.chain(std::env::split_paths(&path)).chain(usual).chain(python);
    folders.map(|folder| folder.join(exe)).find(|nvcc| nvcc.is_file())
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
    entries.sort();
    entries
}

/// One compiled file: the kernels' name, the compute capability it is for, `ptx` or `cubin`.
struct Module {
    name: String,
    capability: u32,
    kind: &'static str,
    path: PathBuf,
}

impl Module {
    /// What goes into the program: PTX is text, a hundred megabytes of it, and is squeezed to a fifth.
    fn packed(&self) -> PathBuf {
        if self.kind == "ptx" { self.path.with_extension("ptx.zz") } else { self.path.clone() }
    }

    fn squeeze(&self) -> std::io::Result<()> {
        if self.kind == "ptx" {
            std::fs::write(self.packed(), miniz_oxide::deflate::compress_to_vec_zlib(&std::fs::read(&self.path)?, 6))?;
        }
        Ok(())
    }
}

/// Any GPU from Turing on; and Hopper, for its clusters, and for the bf16 instructions that Turing lacks.
const VIRTUAL: [u32; 2] = [75, 90];

fn compile(nvcc: &Path, out: &Path) -> Vec<Module> {
    let native = std::env::var("FUSED_LOSS_CUBIN").unwrap_or_default();
    let native = native.split(',').filter(|c| !c.trim().is_empty()).map(|c| {
        c.trim()
            .parse()
            .unwrap_or_else(|_| fail(&format!("FUSED_LOSS_CUBIN: `{c}` is no compute capability such as 90")))
    });
    let only = std::env::var("FUSED_LOSS_PTX").ok().filter(|only| !only.is_empty());
    if let Some(only) = only.as_ref().filter(|only| !VIRTUAL.iter().any(|c| c.to_string() == **only)) {
        fail(&format!("FUSED_LOSS_PTX: `{only}` is neither 75 nor 90"));
    }
    let ptx = VIRTUAL.into_iter().filter(|c| only.as_ref().is_none_or(|only| *only == c.to_string()));
    let kinds: Vec<(u32, &str)> = ptx.map(|c| (c, "ptx")).chain(native.map(|c| (c, "cubin"))).collect();
    let mut modules = Vec::new();
    for source in entries(Path::new("kernels")) {
        if source.extension().is_some_and(|e| e == "cu") {
            for &(capability, kind) in &kinds {
                let name = source.file_stem().unwrap().to_string_lossy().into_owned();
                let path = out.join(format!("{name}.{capability}.{kind}"));
                modules.push((Module { name, capability, kind, path }, source.clone()));
            }
        }
    }
    // As many at once as cargo allows.
    let jobs = std::env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (queue, errors) = (Mutex::new(modules.iter()), Mutex::new(String::new()));
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| {
                loop {
                    let Some((module, source)) = queue.lock().unwrap().next() else { break };
                    let arch = match module.kind {
                        "ptx" => format!("-arch=compute_{}", module.capability),
                        _ => format!("-arch=sm_{}", module.capability),
                    };
                    let mut command = Command::new(nvcc);
                    // Without contraction: see kernels/skeleton/math.cuh.
                    command.args(["-std=c++17", "-O3", "--fmad=false", &arch, &format!("-{}", module.kind), "-I"]);
                    command.arg(out).arg(source).arg("-o").arg(&module.path);
                    let said = match command.output() {
                        Ok(run) if run.status.success() => match module.squeeze() {
                            Ok(()) => continue,
                            Err(error) => error.to_string(),
                        },
                        Ok(run) => String::from_utf8_lossy(&[run.stdout, run.stderr].concat()).into_owned(),
                        Err(error) => error.to_string(),
                    };
                    write!(errors.lock().unwrap(), "{command:?}:\n{said}\n").unwrap();
                }
            });
        }
    });
    let errors = errors.into_inner().unwrap();
    if !errors.is_empty() {
        fail(&format!("nvcc did not compile the kernels.\n{errors}"));
    }
    modules.into_iter().map(|(module, _)| module).collect()
}

/// The Rust source of the table of modules.
fn table(modules: &[Module]) -> String {
    let mut rust = String::from(
        "/// Compiled kernels: the file of `kernels/` without its ending, the compute capability they are for, `ptx` or `cubin`,\n\
         /// and the bytes, of PTX squeezed by zlib. A cubin runs on that very capability (and later ones of its generation), PTX on that and all later ones.\n\
         pub(crate) static MODULES: &[(&str, u32, &str, &[u8])] = &[\n",
    );
    for module in modules {
        let (Module { name, capability, kind, .. }, path) = (module, module.packed());
        writeln!(rust, "    ({name:?}, {capability}, {kind:?}, include_bytes!({path:?})),").unwrap();
    }
    rust + "];\n"
}

/// The Rust source of the tables of sources: the kernels, and what they include.
fn sources(params: &Path) -> String {
    let mut rust = String::new();
    let mut table = |doc: &str, name: &str, files: &[(String, PathBuf)]| {
        writeln!(rust, "/// {doc}\npub(crate) static {name}: &[(&str, &str)] = &[").unwrap();
        for (name, path) in files {
            let path = path.canonicalize().expect("it was found");
            writeln!(rust, "    ({name:?}, include_str!({path:?})),").unwrap();
        }
        rust += "];\n";
    };
    let of = |folder: &str, ending: &str| -> Vec<PathBuf> {
        entries(Path::new(folder)).into_iter().filter(|p| p.extension().is_some_and(|e| e == ending)).collect()
    };
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let kernels: Vec<_> = of("kernels", "cu").into_iter().map(|p| (name(&p.with_extension("")), p)).collect();
    table("Files of `kernels/` without their ending, and their text.", "SOURCES", &kernels);
    let mut headers = vec![(name(params), params.to_path_buf())];
    headers.extend(of("kernels", "cuh").into_iter().map(|p| (name(&p), p)));
    for path in of("kernels/skeleton", "cuh") {
        // From the kernels, and from beside it.
        headers.push((format!("skeleton/{}", name(&path)), path.clone()));
        headers.push((name(&path), path));
    }
    // NVRTC takes them by name, and would say no more than that an argument is invalid.
    let names: std::collections::BTreeSet<_> = headers.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), headers.len(), "two headers of the kernels have one name");
    table("What they include, by the names that they include it by.", "HEADERS", &headers);
    rust
}

/// Ends the build with something that can be read.
fn fail(message: &str) -> ! {
    for line in message.lines() {
        println!("cargo::error={line}");
    }
    std::process::exit(1);
}

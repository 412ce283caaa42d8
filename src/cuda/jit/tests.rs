//! With the real NVRTC, which needs no GPU. Where there is none they say so, or fail if FUSED_LOSS_REQUIRE_NVRTC is 1. PTX is assembled
//! by the ptxas that FUSED_LOSS_PTXAS names.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;

use super::*;
use crate::cuda::request::Dtype;
use crate::{Custom, launch};

fn nvrtc() -> Option<&'static Nvrtc> {
    let nvrtc = Nvrtc::get();
    if let Err(why) = &nvrtc {
        assert!(std::env::var_os("FUSED_LOSS_REQUIRE_NVRTC").is_none_or(|v| v != "1"), "{why}");
        let _ = writeln!(std::io::stderr(), "\nSKIPPED, a test of NVRTC: {why}");
    }
    nvrtc.ok()
}

fn temporary(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("fused-loss-jit-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// The names of the kernels of a module of PTX.
fn entries(ptx: &[u8]) -> Vec<String> {
    let ptx = String::from_utf8_lossy(ptx).into_owned();
    let mut names: Vec<_> =
        ptx.split(".entry ").skip(1).map(|text| text[..text.find('(').unwrap()].to_string()).collect();
    names.sort();
    names
}

/// Assembles PTX: no kernel spills or has local memory.
fn assemble(name: &str, ptx: &[u8], capability: u32) {
    let Some(ptxas) = std::env::var_os("FUSED_LOSS_PTXAS") else { return };
    let folder = temporary(&format!("{name}-{capability}"));
    let file = folder.join("kernels.ptx");
    std::fs::write(&file, ptx).unwrap();
    let arch = format!("-arch=sm_{capability}");
    let run = Command::new(&ptxas).args(["-v", &arch]).arg(&file).arg("-o").arg("/dev/null").output();
    let run = run.unwrap_or_else(|e| panic!("{ptxas:?}: {e}"));
    let said = String::from_utf8_lossy(&run.stderr).into_owned() + &String::from_utf8_lossy(&run.stdout);
    assert!(run.status.success(), "{name} for {capability}: {said}");
    for line in said.lines().filter(|line| line.contains("spill")) {
        let clean = line.contains("0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads");
        assert!(clean, "{name} for {capability}:{line}\n{said}");
    }
    std::fs::remove_dir_all(folder).unwrap();
}

/// A loss with two options.
fn asymmetric() -> Custom {
    let formula = |x: f32, t: f32, [over, under]: [f32; 2]| {
        let e = x - t;
        let w = if e > 0.0 { over } else { under };
        (w * e * e, 2.0 * w * e)
    };
    Custom::new("asymmetric", [("over", 1.0), ("under", 2.0)], formula).unwrap().cuda(
        "const float e = x - t;
         const float w = e > 0.0f ? over : under;
         value = w * e * e;
         grad = 2.0f * w * e;",
    )
}

/// The same kernels as by nvcc, whose names `kernels/registers.txt` has: nothing of CUDA's headers is there, nor of C's.
#[test]
fn every_file_of_kernels_is_compiled_by_nvrtc() {
    let Some(nvrtc) = nvrtc() else { return };
    // For the oldest GPUs one of each skeleton: all of them take minutes, and differ in a few instructions.
    let oldest = ["mse", "nll", "region_sigmoid"].map(|file| (file, 75));
    let all: Vec<_> = SOURCES.iter().map(|(file, _)| (*file, 90)).chain(oldest).collect();
    let (queue, found) = (Mutex::new(all.into_iter()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((file, capability)) = queue.lock().unwrap().next() else { break };
                    let (ptx, _) = build(file, Target::Ptx(capability), nvrtc, &Cache::of_user()).unwrap();
                    assert!(String::from_utf8_lossy(&ptx).contains(&format!(".target sm_{capability}\n")));
                    assemble(file, &ptx, capability);
                    found.lock().unwrap().extend(entries(&ptx));
                }
            });
        }
    });
    let registers = include_str!("../../../kernels/registers.txt");
    let found = found.into_inner().unwrap();
    for name in registers.lines().map(|line| line.split(' ').next().unwrap()) {
        assert!(found.iter().any(|found| found == name), "no {name}");
    }
}

/// Every kind of term, and the most common sums.
#[test]
fn sums_have_kernels_of_their_own() {
    let Some(nvrtc) = nvrtc() else { return };
    let [f32, bf16] = [Dtype::of::<f32>(), Dtype::of::<half::bf16>()];
    for (kinds, general, dtype, capability) in [
        (&[0, 1][..], false, f32, 90),
        (&[0, 1], false, bf16, 90),
        (&[5, 11], false, f32, 90),
        (&[5, 11], false, bf16, 90),
        (&[5, 11], true, bf16, 90),
        (&[5, 11], false, f32, 75),
        (&[13, 11], false, f32, 90),
        (&[11, 13], false, bf16, 90),
        (&[13, 11], false, bf16, 75),
        (&[0, 1, 2, 3], false, bf16, 90),
        (&[4, 5, 6, 7], false, f32, 90),
        (&[8, 9, 10, 11], false, bf16, 90),
        (&[12, 5], true, f32, 90),
        (&[14, 15, 16, 18], false, bf16, 90),
        (&[0, 17], false, f32, 90),
        (&[18, 14], true, bf16, 90),
    ] {
        let own = sums::name(kinds, general, dtype);
        let (ptx, _) = build(own.file(), Target::Ptx(capability), nvrtc, &Cache::of_user()).unwrap();
        assert_eq!(entries(&ptx), [own.text()]);
        assemble(own.file(), &ptx, capability);
    }
    assert!(matches!(build("combined_99_f32", Target::Ptx(90), nvrtc, &Cache(None)), Err(Error::Compile { .. })));
}

#[test]
fn a_custom_loss_has_the_kernels_of_any_loss() {
    let Some(nvrtc) = nvrtc() else { return };
    let (file, _) = launch::source(&asymmetric()).unwrap();
    let mut want = Vec::new();
    for dtype in ["bf16", "f16", "f32"] {
        want.extend([format!("fl_{file}_{dtype}"), format!("fl_{file}_general_{dtype}")]);
    }
    want.sort();
    for capability in [75, 90] {
        let (ptx, _) = build(file, Target::Ptx(capability), nvrtc, &Cache(None)).unwrap();
        assert_eq!(entries(&ptx), want);
        assemble("custom", &ptx, capability);
    }
    // Machine code, for drivers that are older than NVRTC.
    let (cubin, _) = build(file, Target::Cubin(80), nvrtc, &Cache(None)).unwrap();
    assert!(cubin.starts_with(b"\x7fELF"));
    assert!(asymmetric().ptx(75).unwrap().contains(&want[0]));
    // And one without options.
    let plain = Custom::new("plain", [], |x, _, []| (x, 1.0)).unwrap().cuda("value = x; grad = 1.0f;");
    assert!(plain.ptx(90).is_ok());
}

/// The author's lines, as the author counts them; nothing of the text around them.
#[test]
fn errors_are_of_the_users_lines() {
    let Some(nvrtc) = nvrtc() else { return };
    let log = |text: &str| {
        let loss = Custom::new("my loss", [("delta", 1.0)], |x, _, [_]| (x, 1.0)).unwrap().cuda(text);
        match build(launch::source(&loss).unwrap().0, Target::Ptx(75), nvrtc, &Cache(None)) {
            Err(Error::Compile { loss, log }) => (assert_eq!(loss, "my loss"), log).1,
            other => panic!("{:?}", other.map(|_| ())),
        }
    };
    let unknown = log("const float e = x - t;\nvalue = e * detla;\ngrad = e;");
    assert!(unknown.contains("my loss(2): error: identifier \"detla\" is undefined"), "{unknown}");
    assert!(unknown.contains("value = e * detla;"), "{unknown}");
    let twice = log("x = 1.0f;\nvalue = y;\ngrad = 0.0f;");
    assert!(twice.contains("my loss(1): error") && twice.contains("my loss(2): error"), "{twice}");
    // The end of the text is where the next line would be.
    let semicolon = log("value = x;\ngrad = 1.0f");
    assert!(semicolon.contains("my loss(3): error: expected a \";\""), "{semicolon}");
    assert!(!log("value = x").contains("fused_loss"));
    // What an Error prints is what NVRTC said, and whose text it is.
    let printed = Error::Compile { loss: "my loss".into(), log: unknown.clone() }.to_string();
    assert!(printed.starts_with("my loss: ") && printed.contains(&unknown));
}

#[test]
fn what_has_been_compiled_is_not_compiled_again() {
    let Some(nvrtc) = nvrtc() else { return };
    let folder = temporary("cache");
    let cache = Cache(Some(folder.clone()));
    let (file, _) = launch::source(&asymmetric()).unwrap();
    let get = |file, target| build(file, target, nvrtc, &cache).unwrap();
    let (first, compiled) = get(file, Target::Ptx(75));
    assert!(compiled);
    assert_eq!(get(file, Target::Ptx(75)), (first.clone(), false));
    // Another architecture, and another text.
    assert!(get(file, Target::Ptx(90)).1 && get("mae", Target::Ptx(75)).1);
    assert_eq!(folder.read_dir().unwrap().count(), 3);
    // Another value of an option is no other text.
    let other = asymmetric().option("over", 3.0).unwrap();
    assert_eq!(launch::source(&other), launch::source(&asymmetric()));
    // Damaged.
    for path in folder.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert_eq!(get(file, Target::Ptx(75)), (first.clone(), true));
    assert_eq!(get(file, Target::Ptx(75)), (first, false));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn without_the_library_there_is_an_error_that_helps() {
    let folder = temporary("broken");
    let broken = folder.join("libnvrtc.so.13");
    std::fs::write(&broken, "no library").unwrap();
    for (candidates, word) in [(vec![], "nowhere"), (vec!["libno-such.so".into()], "nowhere"), (vec![broken], "broken")]
    {
        let Err(error) = Nvrtc::first(candidates) else { panic!("a library from nothing") };
        assert!(matches!(error, Error::NoNvrtc { .. }));
        let text = error.to_string();
        for word in [word, "pip install nvidia-cuda-nvrtc", "CUDA_HOME", "LD_LIBRARY_PATH"] {
            assert!(text.contains(word), "{text}");
        }
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_loss_without_text_is_for_the_cpu() {
    let loss = Custom::new("of the CPU", [], |x, _, []| (x, 1.0)).unwrap();
    let file = crate::cuda::kernel::HasKernel::kernel(&loss).file();
    let Some(nvrtc) = nvrtc() else { return };
    let refused = build(file, Target::Ptx(75), nvrtc, &Cache(None)).unwrap_err();
    assert!(matches!(&refused, Error::Custom { loss: "of the CPU", problem } if problem.contains("CUDA")), "{refused}");
}

#[test]
fn ptx_is_of_the_newest_architecture_that_the_gpu_has() {
    let of = |capability| targets(capability).collect::<Vec<_>>();
    assert_eq!(of(70), []);
    assert_eq!(of(75), [Target::Ptx(75), Target::Cubin(75)]);
    assert_eq!(of(89), [Target::Ptx(75), Target::Cubin(89)]);
    assert_eq!(of(120), [Target::Ptx(90), Target::Cubin(120)]);
}

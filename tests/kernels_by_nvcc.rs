//! What nvcc makes of the kernels, looked at without a GPU: the very PTX that the crate carries is assembled for the oldest generation
//! that each virtual architecture is loaded on (FUSED_LOSS_ALL_GENERATIONS=1: for every one, which takes a quarter of an hour more), and
//! no kernel may spill, use local memory, miss its 16-byte accesses, compute in f64 wherever there are elements, or need more registers
//! than it did (`kernels/registers.txt`).
//!
//! Runs where build.rs found an nvcc, and says so where it did not; FUSED_LOSS_REQUIRE_NVCC=1 makes that an error of the build.
//! `FUSED_LOSS_WRITE_REGISTERS=1 FUSED_LOSS_ALL_GENERATIONS=1 cargo test --test kernels_by_nvcc` writes that file anew.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

#[path = "../src/params.rs"]
#[allow(missing_docs, dead_code)]
mod params;

/// The GPUs that a virtual architecture is loaded on.
const GENERATIONS: [(&str, &[&str]); 2] = [("75", &["75", "86", "80", "89"]), ("90", &["90", "120", "100"])];

/// A kernel of a module of PTX.
struct Entry {
    name: String,
    text: String,
}

struct Module {
    path: PathBuf,
    virtual_arch: String,
    entries: Vec<Entry>,
}

fn modules() -> Vec<Module> {
    let out = Path::new(env!("FUSED_LOSS_PARAMS_H")).parent().unwrap();
    let mut modules = Vec::new();
    for path in out.read_dir().unwrap().map(|entry| entry.unwrap().path()) {
        if path.extension().is_none_or(|e| e != "ptx") {
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let virtual_arch = path.file_stem().unwrap().to_str().unwrap().rsplit('.').next().unwrap().to_string();
        assert!(text.contains(&format!(".target sm_{virtual_arch}\n")), "{path:?} is of another architecture");
        let entries = text.split(".visible .entry ").skip(1);
        let entry = |text: &str| Entry { name: text[..text.find('(').unwrap()].to_string(), text: text.to_string() };
        modules.push(Module { virtual_arch, entries: entries.map(entry).collect(), path });
    }
    modules.sort_by(|a, b| a.path.cmp(&b.path));
    modules
}

/// Whether there is something to test.
fn compiled() -> bool {
    let compiled = !env!("FUSED_LOSS_NVCC").is_empty();
    if !compiled {
        eprintln!("skipped: build.rs found no nvcc (NVCC or CUDA_HOME may name one)");
    }
    compiled
}

#[test]
fn every_architecture_has_every_kernel_with_the_arguments_that_rust_passes() {
    if !compiled() {
        return;
    }
    let mut names: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for module in modules() {
        for entry in &module.entries {
            assert!(
                names.entry(module.virtual_arch.clone()).or_default().insert(entry.name.clone()),
                "{} twice",
                entry.name
            );
            let size = size_of::<params::LaunchArgs>();
            assert!(entry.text.contains(&format!("_param_0[{size}]")), "{} has other arguments", entry.name);
        }
    }
    // Of both, unless FUSED_LOSS_PTX says one.
    let one = option_env!("FUSED_LOSS_PTX").is_some_and(|only| !only.is_empty());
    assert_eq!(names.len(), if one { 1 } else { 2 });
    let names: Vec<_> = names.into_values().collect();
    assert_eq!(names.first(), names.last());
    for name in &names[0] {
        let (stem, dtype) = name.rsplit_once('_').unwrap();
        assert!(stem.starts_with("fl_") && ["f32", "f16", "bf16"].contains(&dtype), "{name}");
        if OF_NO_TYPE.contains(&&stem[3..]) {
            assert_eq!(dtype, "f32");
            continue;
        }
        for other in ["f32", "f16", "bf16"] {
            assert!(names[0].contains(&format!("{stem}_{other}")), "{stem} lacks {other}");
        }
    }
}

/// Kernels that know nothing of the storage type: between the looks of ranks at their logits, and of a sort.
const OF_NO_TYPE: [&str; 10] = [
    "vocab_places",
    "vocab_move",
    "vocab_divisor",
    "lovasz_count",
    "lovasz_scan",
    "lovasz_scatter",
    "lovasz_marks",
    "lovasz_marks_before",
    "lovasz_slopes",
    "lovasz_finish",
];

#[test]
fn main_loops_move_sixteen_bytes_and_compute_in_f32() {
    if !compiled() {
        return;
    }
    for module in modules() {
        for Entry { name, text } in &module.entries {
            // A thread a row, or a few positions with all their channels: neighbours in memory belong to neighbouring threads.
            // (Likewise what a sort moves, which goes wherever its keys say.)
            let by_columns = ["_columns_", "region_softmax", "region_cross_entropy", "region_focal", "lovasz_"]
                .iter()
                .any(|part| name.contains(part));
            // Reads labels, or what is small beside everything else of a GAN.
            let small = ["keras_labels", "relativistic_average", "_vocab_places", "_vocab_move", "_vocab_divisor"]
                .iter()
                .any(|part| name.contains(part))
                || is_small_of_head(name);
            if !by_columns && !small {
                let reads = text.matches("ld.global.v4").count() + text.matches("cp.async.cg").count();
                // NLL reads one element a row, the sums write none.
                assert!(reads >= 1 || name.contains("_nll_"), "{name}: no 16-byte loads");
                // The head's logits are f32, its gradients may be 16 bits: four at a time are eight bytes.
                let of_head = name.contains("head_cross_entropy") || name.contains("head_vocab");
                let stores = if of_head { "st.global.v2" } else { "st.global.v4" };
                let stores = if name.ends_with("_f32") { "st.global.v4" } else { stores };
                let none = name.contains("_sums_") || name.contains("vocab_fold");
                assert!(text.contains(stores) || none, "{name}: no wide stores");
            }
            // Sums in f64 are of what threads, rows and blocks have found: additions, never products of elements. A division gives
            // the value, and the weights a mean divides by are one product each, written out four times (one block or several,
            // unrolled or not; a sum of losses divides once a term); regions (whose weights generalised Dice
            // makes of their sums) and the norm of the gradient penalty have more arithmetic, once a region or row.
            let few = ["region_", "gradient_penalty", "relativistic_average", "lovasz_finish", "vocab_divisor"]
                .iter()
                .any(|part| name.contains(part));
            let products = text.matches("mul.rn.f64").count()
                + text.matches("fma.rn.f64").count()
                + text.matches("mul.f64").count();
            assert!(products <= if few { 28 } else { 8 }, "{name}: {products} products in f64");
            assert!(!text.contains(".local"), "{name}: local memory");
        }
    }
}

/// What a head does beside its products and losses: a hundredth of the bytes, or less.
fn is_small_of_head(name: &str) -> bool {
    ["rows", "apart", "scatter", "scale", "rest", "bias", "value"]
        .iter()
        .any(|kernel| name.starts_with(&format!("fl_head_{kernel}_")))
}

/// No kernel spills, and none declares more shared memory than launches leave.
#[test]
fn no_kernel_spills_on_any_generation() {
    if !compiled() {
        return;
    }
    let ptxas = Path::new(env!("FUSED_LOSS_NVCC")).with_file_name("ptxas");
    let mut jobs = Vec::new();
    for module in modules() {
        let (_, generations) = GENERATIONS.iter().find(|(arch, _)| *arch == module.virtual_arch).unwrap();
        let all = std::env::var("FUSED_LOSS_ALL_GENERATIONS").is_ok_and(|v| v == "1");
        // The oldest of each, unless all are asked for: they take minutes each.
        let count = if all { generations.len() } else { 1 };
        jobs.extend(generations[..count].iter().map(|sm| (module.path.clone(), *sm)));
    }
    let (jobs, found) = (Mutex::new(jobs), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((ptx, sm)) = jobs.lock().unwrap().pop() else { break };
                    let mut command = Command::new(&ptxas);
                    command.args(["-v", "-arch", &format!("sm_{sm}")]).arg(&ptx).args(["-o", "/dev/null"]);
                    let run = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
                    let said = String::from_utf8_lossy(&run.stderr).into_owned();
                    assert!(run.status.success(), "{command:?}:\n{said}");
                    found.lock().unwrap().push((sm, said));
                }
            });
        }
    });
    let (mut bad, mut registers) = (Vec::new(), Registers::new());
    for (sm, said) in found.into_inner().unwrap() {
        let mut kernel = "";
        for line in said.lines() {
            if let Some(rest) = line.split("Compiling entry function '").nth(1) {
                kernel = rest.split('\'').next().unwrap();
            } else if line.contains("bytes stack frame") {
                // 24 bytes, for a third block on an SM.
                let known = *sm == *"120" && kernel.starts_with("fl_head_cross_entropy_");
                if !known && !line.contains(" 0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads") {
                    bad.push(format!("{kernel} on sm_{sm}: {}", line.trim()));
                }
            } else if let Some(rest) = line.split("Used ").nth(1) {
                let most: &mut u32 = registers.entry(kernel.into()).or_default();
                *most = rest.split(' ').next().unwrap().parse::<u32>().unwrap().max(*most);
                let shared = rest.split(", ").find_map(|part| part.strip_suffix(" bytes smem"));
                let shared = shared.map_or(0, |bytes| bytes.parse::<u32>().unwrap());
                // `STATIC_SHARED` of src/cuda/modules.rs, beside which there is what a launch asks for.
                if shared > 4096 && !has_little_dynamic(kernel) {
                    bad.push(format!("{kernel} on sm_{sm}: {shared} bytes of shared memory"));
                }
            }
        }
    }
    let baseline = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/registers.txt");
    if std::env::var_os("FUSED_LOSS_WRITE_REGISTERS").is_some() {
        let lines: String = registers.iter().map(|(kernel, most)| format!("{kernel} {most}\n")).collect();
        std::fs::write(&baseline, lines).unwrap();
    }
    let baseline = std::fs::read_to_string(baseline).unwrap();
    let line = |line: &str| line.split_once(' ').map(|(kernel, most)| (kernel.to_string(), most.parse().unwrap()));
    bad.extend(more_registers(&registers, &baseline.lines().filter_map(line).collect()));
    bad.sort();
    assert!(bad.is_empty(), "{}", bad.join("\n"));
}

/// Kernels that are launched with no dynamic shared memory, or, sums, with 32 KiB.
fn has_little_dynamic(kernel: &str) -> bool {
    kernel.starts_with("fl_combined_f")
        || kernel.starts_with("fl_combined_bf16")
        || kernel.starts_with("fl_combined_general_")
        || kernel.starts_with("fl_lovasz_scatter_")
}

/// The most registers of each kernel, over all generations.
type Registers = BTreeMap<String, u32>;

/// Which kernels need clearly more registers than they did, or are not those of the baseline. (ptxas allots them by eights: a few more
/// may mean fewer blocks at once.)
fn more_registers(now: &Registers, baseline: &Registers) -> Vec<String> {
    let mut bad = Vec::new();
    for (kernel, most) in now {
        match baseline.get(kernel) {
            Some(then) if *most <= then + 4 => {}
            Some(then) => bad.push(format!("{kernel}: {most} registers, {then} before")),
            None => {
                bad.push(format!("{kernel} is not in kernels/registers.txt: FUSED_LOSS_WRITE_REGISTERS=1 writes it"))
            }
        }
    }
    let gone = baseline.keys().filter(|kernel| !now.contains_key(*kernel));
    bad.extend(gone.map(|kernel| format!("{kernel} of kernels/registers.txt is gone")));
    bad
}

#[test]
fn a_kernel_that_needs_more_registers_is_noticed() {
    let registers = |most| Registers::from([("fl_mse_f32".to_string(), most)]);
    assert_eq!(more_registers(&registers(44), &registers(40)), [""; 0]);
    assert_eq!(more_registers(&registers(48), &registers(40)), ["fl_mse_f32: 48 registers, 40 before"]);
    assert_eq!(more_registers(&registers(40), &Registers::new()).len(), 1);
    assert_eq!(more_registers(&Registers::new(), &registers(40)).len(), 1);
}

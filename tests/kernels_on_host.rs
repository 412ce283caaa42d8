//! The CUDA kernels, executed on the host: every loss x option x storage type x reduction at small sizes, against the textbook, by
//! the same battery as the CPU backend. `tests/host_exec` is what executes them.

mod cases;
mod host_exec;
#[path = "kernels_on_host/marshal.rs"]
mod marshal;
#[path = "kernels_on_host/trace.rs"]
mod trace;

use cases::draw::{Dims, Problem};
use cases::oracle::Oracle;
use cases::trial::{Trial, Worst, largest_divisor, settings};
use cases::{Case, Family, table};
use fused_loss::launch::{params, plan};
use fused_loss::parallel::{Communicator, Local};
use fused_loss::{Element, Reduction};

/// Empty, one, one pack and its neighbours, one step of a block and its neighbours, several blocks.
const ELEMENTS: [usize; 10] = [0, 1, 3, 9, 257, 4096, 4100, 8193, 12_289, 33_000];

/// `(outer, classes, inner)`: a thread a row and a warp a row, a block a row, and by a small chip a cluster a row and none of it
/// kept; at last a warp that fetches its rows together, and beside it one whose rows are of two samples or too few.
const ROWS: [(usize, usize, usize); 20] = [
    (0, 3, 1),
    (1, 1, 1),
    (7, 3, 1),
    (300, 2, 1),
    (17, 5, 1),
    (5, 32, 1),
    (3, 33, 1),
    (9, 65, 1),
    (21, 129, 1),
    (2, 1000, 1),
    (1, 1025, 1),
    (3, 2500, 1),
    (1, 9001, 1),
    (0, 3, 4),
    (2, 3, 15),
    (3, 2, 150),
    (1, 33, 17),
    (2, 300, 3),
    (2, 21, 72),
    (3, 3, 160),
];

/// `(samples, channels, positions)`
const REGIONS: [(usize, usize, usize); 14] = [
    (0, 2, 4),
    (2, 2, 0),
    (1, 2, 1),
    (2, 3, 17),
    (3, 2, 129),
    (1, 20, 64),
    (2, 2, 1025),
    (1, 3, 2050),
    (2, 2, 9001),
    (2, 4, 12),
    (2, 3, 1028),
    (1, 35, 40),
    (1, 5, 2051),
    (1, 4, 8196),
];

fn sizes(case: &Case) -> Vec<Dims> {
    let dims = |&(outer, classes, inner): &(usize, usize, usize)| Dims::new(outer, classes, inner);
    match case.family {
        Family::Elements { .. } => ELEMENTS
            .iter()
            .map(|&n| {
                let classes = if case.class_weight { largest_divisor(n, 40) } else { 1 };
                Dims::new(n / classes, classes, 1)
            })
            .collect(),
        Family::Rows { .. } => ROWS.iter().map(dims).map(|dims| case.fit(dims)).collect(),
        Family::Regions { .. } => REGIONS.iter().map(dims).collect(),
    }
}

#[test]
fn the_kernels_are_compiled_for_the_host() {
    if !host_exec::possible() {
        return;
    }
    assert!(host_exec::Host::get().kernels().len() > 150);
}

/// Runs the cases of a family.
fn run_all<T: Element>(of_family: fn(&Family) -> bool) {
    let only = std::env::var("BATTERY_ONLY").unwrap_or_default();
    let turn: usize = T::NAME.bytes().map(usize::from).sum();
    let (mut combinations, mut failures) = (0, Vec::new());
    for case in table().iter().filter(|case| of_family(&case.family)) {
        let c = case.seed();
        if !case.name.contains(&only) {
            continue;
        }
        let mut worst = Worst::default();
        for (s, dims) in sizes(case).into_iter().enumerate() {
            let n = dims.elements();
            // Fibers are slow, and there are many cases: the larger a problem, the fewer of them see it.
            let one_in = if n <= 100 { 2 } else { 3 + n / 1000 };
            if !(c + s + turn).is_multiple_of(one_in) {
                continue;
            }
            let seed = (c * 100 + s) as u64;
            let problem = Problem::<T>::draw(case, dims, seed);
            let oracle = Oracle::new(case, &problem, 2_000, seed);
            let all = settings(oracle.losses.len(), c + s + turn);
            for setting in all.iter().cycle().skip((c + s + turn) % all.len()).take(if n <= 100 { 2 } else { 1 }) {
                let found = Trial::new(case, &problem, &oracle, *setting).by(marshal::run::<T>).check();
                worst.add(found.share, || found.what);
                combinations += 1;
            }
        }
        if worst.share > 1.0 {
            failures.push(format!("{:.1} times the error allowed: {}", worst.share, worst.what));
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
    println!("{}: {combinations} combinations, each called in five ways", T::NAME);
}

/// The storage types share a family's test, for the runtime executes one launch at a time.
macro_rules! family {
    ($name:ident, $pattern:pat) => {
        #[test]
        fn $name() {
            if !host_exec::possible() {
                return;
            }
            run_all::<f32>(|family| matches!(family, $pattern));
            run_all::<half::f16>(|family| matches!(family, $pattern));
            run_all::<half::bf16>(|family| matches!(family, $pattern));
        }
    };
}
family!(every_loss_of_elements_by_kernels_is_its_definition, Family::Elements { .. });
family!(every_loss_of_rows_by_kernels_is_its_definition, Family::Rows { .. });
family!(every_loss_of_regions_by_kernels_is_its_definition, Family::Regions { .. });

fn average<T: Element>(n_high: usize, n_low: usize, of_generator: bool, flags: u32) {
    let mut rng = cases::draw::Rng::new(n_high as u64);
    let mut logits = |n: usize| (0..n).map(|_| T::from_f32(rng.uniform(-4.0, 4.0) as f32)).collect::<Vec<T>>();
    let (high, low) = (logits(n_high), logits(n_low));
    let old = |n: usize| vec![T::from_f32(0.5); n];
    let (mut by_kernel, mut by_cpu) = ([old(n_high), old(n_low)], [old(n_high), old(n_low)]);
    let [h, l] = &mut by_kernel;
    let value = marshal::relativistic_average(&high, &low, [h, l], 64.0, flags);
    let loss = fused_loss::RelativisticAverage::new().grad_output(64.0);
    let loss = if flags & params::ACCUMULATE != 0 { loss.accumulate() } else { loss };
    let [h, l] = &mut by_cpu;
    let want = if of_generator { loss.generator(&low, &high, l, h) } else { loss.discriminator(&high, &low, h, l) };
    let want = want.unwrap();
    assert!((value - want).abs() <= 1e-6 * want || value.is_nan() && want.is_nan(), "{value} {want}");
    for (got, want) in by_kernel.iter().flatten().zip(by_cpu.iter().flatten()) {
        let (got, want) = (f64::from(got.to_f32()), f64::from(want.to_f32()));
        let rounding = 2.0 * cases::tolerance::half_ulp::<T>(want);
        assert!((got - want).abs() <= 1e-6 * want.abs() + rounding, "{got} {want}");
    }
}

#[test]
fn the_relativistic_average_by_kernels_is_that_of_the_cpu() {
    if !host_exec::possible() {
        return;
    }
    for (n_high, n_low) in [(1, 1), (3, 2), (257, 4099), (4097, 33)] {
        for flags in [0, params::ACCUMULATE] {
            average::<f32>(n_high, n_low, flags != 0, flags);
            average::<half::f16>(n_high, n_low, flags == 0, flags);
            average::<half::bf16>(n_high, n_low, flags != 0, flags);
        }
    }
}

/// What the CPU refuses, a GPU sees only when it is there.
#[test]
fn a_class_out_of_range_is_reported_and_hurts_nobody_else() {
    if !host_exec::possible() {
        return;
    }
    for classes in [3, 40, 3000] {
        let input: Vec<f32> = (0..5 * classes).map(|i| (i % 7) as f32 - 3.0).collect();
        let (mut grad, mut values) = (vec![f32::NAN; input.len()], vec![f32::NAN; 5]);
        let (value, bad) = marshal::cross_entropy(&input, &[0, 1, -100, 2, 1], classes, &mut grad, &mut values);
        assert!(value.is_finite() && bad.is_none() && values[2] == 0.0);
        let (sound, sound_values) = (grad.clone(), values.clone());
        for stray in [-1, classes as i64, i64::MIN, i64::MAX] {
            let (value, bad) =
                marshal::cross_entropy(&input, &[0, stray, -100, stray, 1], classes, &mut grad, &mut values);
            assert!(value.is_nan() && values[1].is_nan() && values[3].is_nan());
            assert_eq!(bad, Some(1));
            for row in 0..5 {
                let (got, want) =
                    (&grad[row * classes..(row + 1) * classes], &sound[row * classes..(row + 1) * classes]);
                match row {
                    1 | 3 => assert!(got.iter().all(|&g| g == 0.0)),
                    _ => assert!(got == want && values[row] == sound_values[row]),
                }
            }
        }
    }
}

/// What a row that is left out holds.
#[test]
fn an_ignored_row_is_exactly_zero_whatever_it_holds() {
    if !host_exec::possible() {
        return;
    }
    for classes in [3, 40, 3000] {
        let mut input = vec![0.5f32; 2 * classes];
        input[classes..].fill(f32::NAN);
        input[classes] = f32::INFINITY;
        let (mut grad, mut values) = (vec![f32::NAN; input.len()], vec![f32::NAN; 2]);
        let (value, bad) = marshal::cross_entropy(&input, &[0, -100], classes, &mut grad, &mut values);
        assert!(bad.is_none() && (value - (classes as f32).ln()).abs() < 1e-5 && values[1].to_bits() == 0);
        assert!(grad[classes..].iter().all(|g| g.to_bits() == 0));
        let (value, _) = marshal::cross_entropy(&input, &[-100, -100], classes, &mut grad, &mut values);
        assert!(value.is_nan() && grad.iter().all(|g| g.to_bits() == 0));
        // Minus infinity: at another class, for the whole row, and everywhere but at the end.
        let mut masked = vec![f32::NEG_INFINITY; 2 * classes];
        (masked[0], masked[classes - 1]) = (1.0, 1.0);
        let (_, _) = marshal::cross_entropy(&masked, &[classes as i64 - 1, 0], classes, &mut grad, &mut values);
        assert!((values[0] - 2f32.ln()).abs() < 1e-6 && values[1].is_nan());
        assert!(grad[..classes].iter().all(|g| g.is_finite()) && grad[classes..].iter().all(|g| g.is_nan()));
    }
}

/// Of three ranks, of which this thread is the first: their classes follow one another, and the middle one has few.
fn shared_classes<T: Element>(rows: usize, classes: usize, everything: bool) {
    let mut rng = cases::draw::Rng::new((rows + classes) as u64);
    let logits: Vec<T> = (0..rows * classes).map(|_| T::from_f32(rng.uniform(-6.0, 6.0) as f32)).collect();
    let target: Vec<i64> = (0..rows).map(|r| if r % 5 == 3 { -100 } else { (r * 7 % classes) as i64 }).collect();
    let of_classes: Vec<f32> = (0..classes).map(|k| 0.5 + (k % 3) as f32).collect();
    let of_rows: Vec<f32> = (0..rows).map(|r| 0.5 + (r % 4) as f32).collect();
    let mut loss = fused_loss::CrossEntropy::new();
    if everything {
        loss = loss.label_smoothing(0.1).unwrap().z_loss(1e-3).unwrap().softcap(5.0).unwrap();
    }
    let mut want = vec![T::from_f32(0.0); logits.len()];
    let mut whole = loss.call(&logits, &target, (rows, classes));
    if everything {
        whole = whole.class_weight(&of_classes).weight(&of_rows);
    }
    let value = whole.forward_backward(Reduction::Mean, &mut want).unwrap();
    let borders = [0, classes / 2, classes / 2 + 1, classes];
    let columns = |all: &[T], rank: usize| {
        all.chunks_exact(classes).flat_map(|row| row[borders[rank]..borders[rank + 1]].to_vec()).collect::<Vec<T>>()
    };
    let part = |ranks: Local| {
        let rank = ranks.rank();
        let mut mine = columns(&logits, rank);
        let weights = [&of_classes[borders[rank]..borders[rank + 1]], &of_rows].map(|w| everything.then_some(w));
        let got = marshal::vocab(&loss, &mut mine, &target, [borders[rank], classes], weights, &ranks);
        (got, mine)
    };
    let mut ranks = Local::group(3).into_iter();
    let first = ranks.next().unwrap();
    let part = &part;
    let results = std::thread::scope(|scope| {
        let others: Vec<_> = ranks.map(|rank| scope.spawn(move || part(rank))).collect();
        let mut all = vec![part(first)];
        all.extend(others.into_iter().map(|other| other.join().unwrap()));
        all
    });
    let largest = want.iter().fold(0f64, |a, g| a.max(g.to_f32().abs().into()));
    for (rank, ((got, bad), grad)) in results.into_iter().enumerate() {
        assert!((got - value).abs() <= 2e-6 * value && bad.is_none(), "{got} {value}");
        for (got, want) in grad.iter().zip(columns(&want, rank)) {
            let (got, want) = (f64::from(got.to_f32()), f64::from(want.to_f32()));
            let allowed = 2e-6 * largest + 2.0 * cases::tolerance::half_ulp::<T>(want);
            assert!((got - want).abs() <= allowed, "{got} {want}, {rows} x {classes}, rank {rank}");
        }
    }
}

/// (The rest, and the language-model head, are `tests/parallel`, which wants a GPU.)
#[test]
fn classes_shared_by_ranks_by_kernels_are_those_of_one_device() {
    if !host_exec::possible() {
        return;
    }
    for (rows, classes) in [(1, 3), (9, 7), (300, 3), (13, 40), (5, 300), (3, 9001)] {
        for everything in [false, true] {
            shared_classes::<f32>(rows, classes, everything);
            shared_classes::<half::f16>(rows, classes, everything);
            shared_classes::<half::bf16>(rows, classes, everything);
        }
    }
}

/// (The rest is in `edge_cases/lovasz.rs`, by `by_kernels.rs`.)
#[test]
fn lovasz_by_kernels_is_that_of_the_cpu() {
    if host_exec::possible() {
        marshal::lovasz::<f32>([2, 3, 700]);
        marshal::lovasz::<half::f16>([1, 2, 5000]);
    }
}

/// A small part of the battery, recorded: what the sanitizer builds repeat.
fn records() -> std::path::PathBuf {
    trace::record(|| {
        marshal::few_threads();
        shared_classes::<f32>(9, 7, true);
        shared_classes::<half::bf16>(5, 300, false);
        shared_classes::<f32>(3, 300, true);
        // One tile of several regions, and two tiles of one.
        marshal::lovasz::<f32>([2, 3, 200]);
        marshal::lovasz::<half::bf16>([1, 1, 2100]);
        sample::<f32>(7, true);
        sample::<half::f16>(19, false);
        sample::<half::bf16>(19, false);
    })
}

/// One case in `one_in`, or `each` loss at least once, at a size of its turn.
fn sample<T: Element>(one_in: usize, each: bool) {
    let table = table();
    let loss_of = |case: &Case| case.name.split('[').next().unwrap_or_default().to_string();
    let mut seen: Vec<String> = table.iter().step_by(one_in).map(loss_of).collect();
    for (c, case) in table.iter().enumerate() {
        let first = each && !seen.contains(&loss_of(case));
        if c % one_in != 0 && !first {
            continue;
        }
        seen.push(loss_of(case));
        let sizes = sizes(case);
        let small: Vec<Dims> = sizes.into_iter().filter(|d| (1..=4200).contains(&d.elements())).collect();
        for i in 0..3 {
            // The last has several blocks.
            let dims = if i == 2 { *small.last().unwrap() } else { small[(c / one_in + i * 2) % small.len()] };
            let problem = Problem::<T>::draw(case, dims, c as u64);
            let oracle = Oracle::new(case, &problem, 10, c as u64);
            let all = settings(oracle.losses.len(), c);
            Trial::new(case, &problem, &oracle, all[(c + i) % all.len()]).by(marshal::run::<T>).check();
        }
    }
}

/// A way of finding what tests by themselves do not see.
struct Sanitizer {
    name: &'static str,
    flags: &'static [&'static str],
    kernel_flags: &'static [&'static str],
    runtime_flags: &'static [&'static str],
    /// Orders of threads, and every how many launches.
    orders: usize,
    every: usize,
}

/// Kernels are not optimised: all of them is forced inline, and it would take ten times as long to compile.
const SANITIZERS: [Sanitizer; 3] = [
    Sanitizer {
        name: "asan",
        flags: &["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
        kernel_flags: &[],
        runtime_flags: &["-O2"],
        orders: 3,
        every: 2,
    },
    Sanitizer {
        name: "msan",
        flags: &["-O0", "-fsanitize=memory", "-fno-omit-frame-pointer", "-DHOST_MSAN"],
        kernel_flags: &[],
        runtime_flags: &["-O2"],
        orders: 2,
        every: 3,
    },
    Sanitizer {
        name: "tsan",
        flags: &["-O0"],
        kernel_flags: &["-fsanitize=thread"],
        runtime_flags: &["-O2", "-DHOST_TSAN"],
        orders: 3,
        every: 11,
    },
];

/// Clang, which has all three sanitizers; without one the test is skipped, or fails where it is required.
fn clang() -> Option<String> {
    let names = ["clang++-19", "clang++", "clang++-18", "clang++-17"].map(String::from);
    let named = std::env::var("CLANGXX").ok().into_iter().chain(names);
    let works = |name: &String| std::process::Command::new(name).arg("--version").output().is_ok();
    let found = named.into_iter().find(works);
    if found.is_none() {
        let required = std::env::var("FUSED_LOSS_REQUIRE_SANITIZERS").is_ok_and(|v| v == "1");
        assert!(!required, "FUSED_LOSS_REQUIRE_SANITIZERS is 1 and there is no clang++; CLANGXX may name one");
        eprintln!("skipped: there is no clang++ (CLANGXX may name one)");
    }
    found
}

impl Sanitizer {
    /// Builds these kernels.
    fn build(&self, clang: &str, variant: &str, kernels: &[std::path::PathBuf]) -> std::path::PathBuf {
        let name = format!("{}{variant}", self.name);
        let build = host_exec::Build {
            name: &name,
            compiler: clang,
            flags: self.flags,
            kernel_flags: self.kernel_flags,
            runtime_flags: self.runtime_flags,
            with: &["replay.cpp"],
            library: false,
        };
        build.run(kernels)
    }

    /// Repeats the records whose names contain `only`, every so many of them.
    fn repeat(&self, program: &std::path::Path, [every, first]: [usize; 2], only: &str) -> std::process::Output {
        let mut command = std::process::Command::new(program);
        command.arg(trace::path());
        command.args([self.orders, every, first].map(|n| n.to_string())).arg(only);
        command.env("TSAN_OPTIONS", "halt_on_error=1 report_bugs=1 history_size=4").output().unwrap()
    }
}

#[test]
fn sanitizers_find_nothing_in_the_kernels_and_what_is_planted() {
    if std::env::var_os("FUSED_LOSS_REQUIRE_SANITIZERS").is_none() {
        println!("skipped, for it takes minutes: set FUSED_LOSS_REQUIRE_SANITIZERS=1");
        return;
    }
    let Some(clang) = clang() else { return };
    records();
    let said = |run: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr))
    };
    let sources = host_exec::sources();
    let programs = SANITIZERS.each_ref().map(|sanitizer| (sanitizer, sanitizer.build(&clang, "", &sources)));
    // In parts, for the address sanitizer alone takes longer than the others together.
    const PARTS: usize = 2;
    let parts =
        programs.iter().flat_map(|(sanitizer, program)| (0..PARTS).map(move |part| (*sanitizer, program, part)));
    let parts = std::sync::Mutex::new(parts);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let Some((sanitizer, program, part)) = parts.lock().unwrap().next() else { break };
                    let run = sanitizer.repeat(program, [sanitizer.every * PARTS, sanitizer.every * part], "");
                    assert!(run.status.success(), "{}:\n{}", sanitizer.name, said(&run));
                    println!("{}: {}", sanitizer.name, said(&run).trim());
                }
            });
        }
    });
    for planted in &PLANTED {
        let sanitizer = SANITIZERS.iter().find(|s| s.name == planted.found_by).unwrap();
        let program = sanitizer.build(&clang, &format!("_{}", planted.bug), &[planted.copy()]);
        let run = sanitizer.repeat(&program, [1, 0], planted.kernels[1]);
        assert!(!run.status.success(), "{} does not find a {}", sanitizer.name, planted.bug);
        assert!(said(&run).contains(planted.says), "{}:\n{}", planted.bug, said(&run));
    }
}

/// A bug: what of which file is written instead, who finds it and says what.
struct Planted {
    bug: &'static str,
    /// The file of `kernels/` that is compiled, and which of its kernels are run.
    kernels: [&'static str; 2],
    file: &'static str,
    code: &'static str,
    instead: &'static str,
    found_by: &'static str,
    says: &'static str,
}

const PLANTED: [Planted; 5] = [
    Planted {
        bug: "missing_barrier",
        kernels: ["mse.cu", "fl_mse"],
        file: "device.cuh",
        code: "of_warp[warp] = x;\n    __syncthreads();",
        instead: "of_warp[warp] = x;",
        found_by: "tsan",
        says: "data race",
    },
    Planted {
        bug: "missing_fence",
        // ThreadSanitizer has 256 places for threads, and takes those for one that follow each other in one of them.
        kernels: ["nll.cu", "fl_nll_columns_f32"],
        file: "call.cuh",
        code: "__threadfence();\n        last = atomicInc(",
        instead: "last = atomicInc(",
        found_by: "tsan",
        says: "data race",
    },
    Planted {
        bug: "read_past_the_end",
        kernels: ["mse.cu", "fl_mse"],
        file: "elementwise.cuh",
        code: "pack.v[i] = k + i < end ?",
        instead: "pack.v[i] = k + i <= end ?",
        found_by: "asan",
        says: "heap-buffer-overflow",
    },
    Planted {
        bug: "divergent_barrier",
        kernels: ["mse.cu", "fl_mse"],
        file: "device.cuh",
        code: "of_warp[warp] = x;\n    __syncthreads();",
        instead: "of_warp[warp] = x;\n    if (warp != 2) __syncthreads();",
        found_by: "asan",
        says: "at a barrier",
    },
    Planted {
        bug: "uninitialised_shared_memory",
        kernels: ["mse.cu", "fl_mse"],
        file: "device.cuh",
        code: "if (lane == 0) of_warp[warp] = x;",
        instead: "if (lane == 0 && warp != 3) of_warp[warp] = x;",
        found_by: "msan",
        says: "use-of-uninitialized-value",
    },
];

impl Planted {
    /// A copy of the kernels with the bug in it; the path of the one to compile. All of them are copied: a header that is not here
    /// would be found where the right ones are.
    fn copy(&self) -> std::path::PathBuf {
        let copy = host_exec::out().join(format!("planted_{}", self.bug));
        let mut planted = 0;
        for folder in ["", "skeleton"] {
            std::fs::create_dir_all(copy.join(folder)).unwrap();
            for file in host_exec::root().join("kernels").join(folder).read_dir().unwrap() {
                let file = file.unwrap().path();
                if file.extension().is_some_and(|e| e == "cu" || e == "cuh") {
                    let mut text = std::fs::read_to_string(&file).unwrap();
                    if file.ends_with(self.file) {
                        planted += text.matches(self.code).count();
                        text = text.replace(self.code, self.instead);
                    }
                    std::fs::write(copy.join(folder).join(file.file_name().unwrap()), text).unwrap();
                }
            }
        }
        assert_eq!(planted, 1, "{}: {:?} is not there once", self.file, self.code);
        let [kernel, _] = self.kernels;
        copy.join(kernel)
    }
}

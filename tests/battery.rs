//! The battery: every loss x option x storage type x reduction x size x way of calling it, against the
//! textbook in f64. The table of losses is in `cases`; this file has the sizes.
//!
//! Values come from the definition and gradients from central differences of it. Both see the inputs
//! after rounding to the storage type. How close is close enough is in `cases/tolerance.rs`;
//! `BATTERY_WORST=1 cargo test --test battery -- --nocapture` prints how close each case came;
//! `BATTERY_ONLY=cosine` tries the cases with this in their names, `BATTERY_SEED=7` other numbers, sizes and settings.
//!
//! Optimised builds try more of everything than others, where the crate itself takes most of the time.

mod cases;

use cases::draw::{Dims, Problem, Rng, logit, round};
use cases::guarded::Guarded;
use cases::job::AnyLoss;
use cases::oracle::{Oracle, central};
use cases::tolerance::EXCEPTIONS;
use cases::trial::{Engine, Trial, Worst, largest_divisor, settings};
use cases::{Case, Family, STEP, table, textbook, tolerance};
use fused_loss::{Element, GanLoss, GanMode, Reduction, RelativisticAverage};

/// Looks at one element that the oracle may spend on a problem. Without optimisation everything here is
/// slow, the crate most of all.
const BUDGET: usize = if cfg!(debug_assertions) { 2_000 } else { 60_000 };
/// Reductions and weights that a small problem is tried with; which ones differs from case to case, and
/// larger problems have fewer.
const MOST_SETTINGS: usize = if cfg!(debug_assertions) { 3 } else { 10 };

/// One case in how many sees a problem of this size, another one for every storage type.
fn one_in(elements: usize, family: &Family) -> usize {
    match (elements, family) {
        (0..=2_000, _) => 1,
        (0..=20_000, _) if cfg!(debug_assertions) => 16,
        (0..=1_000_000, _) if cfg!(debug_assertions) => 50,
        (1_000_001.., _) => {
            if cfg!(debug_assertions) {
                usize::MAX
            } else {
                40
            }
        }
        (0..=20_000, _) | (_, Family::Elements { .. }) => 1,
        (_, Family::Rows { .. }) => 3,
        (_, Family::Regions { .. }) => 8,
    }
}

// --- sizes ---

/// Empty, one vector and its neighbours, one block of eight and its neighbours, one tile and its
/// neighbours, more than one thread's worth with a tail, and so many that stores pass the caches.
const ELEMENTS: [usize; 18] =
    [0, 1, 2, 15, 16, 17, 31, 33, 127, 128, 129, 1023, 1025, 16383, 16384, 16385, 70_001, 4_200_003];

/// `(outer, classes, inner)`. The crate does sixteen rows at a time up to 64 classes, or 256 if they do not
/// lie side by side, and keeps up to 8192 between two looks; all this from both sides. No rows at all, few
/// and many; classes around one vector.
const ROWS: [(usize, usize, usize); 38] = [
    (0, 3, 1),
    (1, 1, 1),
    (7, 1, 1),
    (2, 2, 1),
    (7, 3, 1),
    (15, 5, 1),
    (16, 2, 1),
    (17, 5, 1),
    (1, 15, 1),
    (7, 16, 1),
    (2, 17, 1),
    (33, 33, 1),
    (17, 64, 1),
    (17, 65, 1),
    (1, 129, 1),
    (2, 1000, 1),
    (1, 8191, 1),
    (2, 8192, 1),
    (1, 8193, 1),
    (9, 8193, 1),
    (70, 1000, 1),
    (23_334, 3, 1),
    (2_200, 33, 1),
    (500, 8_401, 1),
    (0, 3, 4),
    (1, 2, 2),
    (2, 3, 15),
    (7, 16, 2),
    (2, 17, 16),
    (1, 33, 17),
    (2, 256, 3),
    (1, 257, 19),
    (2, 1000, 3),
    (1, 8192, 2),
    (2, 8193, 2),
    (3, 19, 1_280),
    (2, 21, 1_700),
    (1, 2, 40_001),
];

/// `(samples, channels, positions)`: the same, and regions that are split between threads.
const REGIONS: [(usize, usize, usize); 21] = [
    (0, 2, 4),
    (2, 2, 0),
    (1, 2, 1),
    (2, 2, 2),
    (1, 2, 15),
    (2, 3, 16),
    (3, 2, 17),
    (1, 4, 33),
    (2, 2, 127),
    (2, 3, 129),
    (1, 20, 64),
    (1, 600, 3),
    (1, 9, 1024),
    (1, 100, 170),
    (2, 2, 1025),
    (1, 3, 16_384),
    (2, 2, 16_385),
    (3, 2, 50_003),
    (1, 2, 140_001),
    (40, 2, 4_001),
    (2, 2, 1_050_003),
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

/// Runs all cases of a family.
fn run_all<T: Element>(can: fn(&Case) -> bool, of_family: fn(&Family) -> bool, engine: Engine<T>) {
    // Another selection for every storage type.
    let turn: usize = T::NAME.bytes().map(usize::from).sum();
    let only = std::env::var("BATTERY_ONLY").unwrap_or_default();
    let can = |case: &Case| can(case) && case.name.contains(&only);
    let (mut problems, mut combinations, mut failures) = (0, 0, Vec::new());
    for case in table().iter().filter(|case| of_family(&case.family) && can(case)) {
        let c = case.seed();
        let mut worst = Worst::default();
        for (s, dims) in sizes(case).into_iter().enumerate() {
            let n = dims.elements();
            if !(c + s + turn).is_multiple_of(one_in(n, &case.family)) {
                continue;
            }
            let seed = (c * 100 + s) as u64;
            let problem = Problem::<T>::draw(case, dims, seed);
            let oracle = Oracle::new(case, &problem, BUDGET, seed);
            let all = settings(oracle.losses.len(), c + s + turn);
            let most = match n {
                0..=150 => MOST_SETTINGS,
                151..=2_000 => MOST_SETTINGS.div_ceil(5),
                _ => 1,
            };
            for setting in all.iter().cycle().skip((c + s + turn) % all.len()).take(most) {
                let found = Trial::new(case, &problem, &oracle, *setting).by(engine).check();
                worst.add(found.share, || found.what);
                combinations += 1;
            }
            problems += 1;
        }
        if std::env::var_os("BATTERY_WORST").is_some() {
            println!("WORST {} {} {:.3} {}", T::NAME, case.name, worst.share, worst.what);
        }
        if worst.share > 1.0 {
            failures.push(format!("{:.1} times the error allowed: {}", worst.share, worst.what));
        }
    }
    assert!(failures.is_empty(), "{} cases:\n{}", failures.len(), failures.join("\n"));
    println!("{}: {problems} problems, {combinations} combinations, each called in five ways", T::NAME);
}

macro_rules! battery {
    ($engine:expr, $ready:expr, $can:expr; $($t:ident: $dtype:ty),*) => {$(
        mod $t {
            use super::*;
            #[test]
            fn every_loss_of_elements_is_its_definition() {
                if $ready {
                    run_all::<$dtype>($can, |family| matches!(family, Family::Elements { .. }), $engine);
                }
            }
            #[test]
            fn every_loss_of_rows_is_its_definition() {
                if $ready {
                    run_all::<$dtype>($can, |family| matches!(family, Family::Rows { .. }), $engine);
                }
            }
            #[test]
            fn every_loss_of_regions_is_its_definition() {
                if $ready {
                    run_all::<$dtype>($can, |family| matches!(family, Family::Regions { .. }), $engine);
                }
            }
        }
    )*};
}
battery!(AnyLoss::run, true, |_| true; f32: f32, f16: half::f16, bf16: half::bf16);

/// The same on a GPU, where there is one.
#[cfg(feature = "cuda")]
mod on_a_gpu {
    use super::*;
    battery!(cases::gpu::run, cases::gpu::cuda().is_some(), cases::gpu::can; f32: f32, f16: half::f16, bf16: half::bf16);
}

/// The relativistic average is no call of one input, and has two gradients.
fn check_relativistic_average<T: Element>([n_real, n_fake]: [usize; 2], of_generator: bool, accumulate: bool) {
    let context = format!("{} {n_real} real, {n_fake} fake, of generator {of_generator}", T::NAME);
    let mut rng = Rng::new(n_real as u64);
    let mut logits = |n: usize| (0..n).map(|_| round::<T>(rng.uniform(-4.0, 4.0))).collect::<Vec<f64>>();
    let mut wide = [logits(n_real), logits(n_fake)];
    let (offset, old) = (n_real % 4, if accumulate { 0.5 } else { f64::NAN });
    let storage = |x: &[f64]| Guarded::new(&x.iter().map(|&x| T::from_f32(x as f32)).collect::<Vec<T>>(), offset);
    let [real, fake] = [0, 1].map(|side| storage(&wide[side]));
    let mut grads = [n_real, n_fake].map(|n| storage(&vec![old; n]));

    let loss = RelativisticAverage::new().grad_output(65536.0);
    let loss = if accumulate { loss.accumulate() } else { loss };
    let [grad_real, grad_fake] = &mut grads;
    let outputs = (real.get(), fake.get(), grad_real.get_mut(), grad_fake.get_mut());
    let (value, forward) = if of_generator {
        let value = loss.generator(outputs.0, outputs.1, outputs.2, outputs.3);
        (value.unwrap(), loss.generator_forward(real.get(), fake.get()))
    } else {
        let value = loss.discriminator(outputs.0, outputs.1, outputs.2, outputs.3);
        (value.unwrap(), loss.discriminator_forward(real.get(), fake.get()))
    };
    assert_eq!(value.to_bits(), forward.to_bits(), "{context}: forward");
    assert!(grads.iter().all(Guarded::canaries_live), "{context}: wrote outside a gradient");

    let book = |[real, fake]: &[Vec<f64>; 2]| match of_generator {
        false => textbook::relativistic_average(real, fake),
        true => textbook::relativistic_average(fake, real),
    };
    let want = book(&wide);
    let mut worst = Worst::default();
    worst.add((f64::from(value) - want).abs() / (tolerance::VALUE * want), || format!("expected {want}, got {value}"));
    // Eight elements of each side, the first and the last among them.
    let mut slopes = Vec::new();
    for (side, i) in (0..16).map(|k| (k / 8, k % 8 * ([n_real, n_fake][k / 8] - 1) / 7)) {
        let x = wide[side][i];
        let slope = central(STEP, x, |moved| {
            wide[side][i] = moved;
            vec![book(&wide)]
        });
        wide[side][i] = x;
        slopes.push((slope[0] * 65536.0, f64::from(grads[side].get()[i].to_f32())));
    }
    let largest = slopes.iter().fold(0f64, |a, (want, _)| a.max(want.abs()));
    for (want, got) in slopes {
        let want = if accumulate { want + old } else { want };
        let rounding = tolerance::half_ulp::<T>(want.abs().max(got.abs())) + tolerance::half_ulp::<f32>(want);
        let error = ((got - want).abs() - rounding).max(0.0);
        worst.add(error / (tolerance::GRADIENT * largest), || format!("expected {want}, got {got}, of {largest}"));
    }
    assert!(worst.share <= 1.0, "{context}: {:.1} times the error allowed: {}", worst.share, worst.what);
}

#[test]
fn the_relativistic_average_is_its_definition() {
    let large = [[20_003, 16_385], [3, 70_001]];
    let sizes = [[1, 1], [3, 2], [17, 33], [1025, 1023]];
    for size in sizes.into_iter().chain(large.into_iter().filter(|_| !cfg!(debug_assertions))) {
        for (of_generator, accumulate) in [(false, false), (true, false), (false, true), (true, true)] {
            check_relativistic_average::<f32>(size, of_generator, accumulate);
            check_relativistic_average::<half::f16>(size, of_generator, accumulate);
            check_relativistic_average::<half::bf16>(size, of_generator, accumulate);
        }
    }
}

#[test]
fn a_gan_loss_of_two_batches_is_the_sum_of_its_terms() {
    let mut rng = Rng::new(1);
    let mut batch = |n: usize| (0..n).map(|_| (textbook::sigmoid(logit(&mut rng))) as f32).collect::<Vec<f32>>();
    let (real, fake) = (batch(12), batch(34));
    use GanMode::*;
    for mode in [NonSaturating, Minimax, LeastSquares, Wasserstein, Hinge, Probabilities] {
        let gan = GanLoss::new(mode).grad_output(0.25);
        let (mut grad_real, mut grad_fake) = (vec![0.0; 12], vec![0.0; 34]);
        let (mut want_real, mut want_fake) = (vec![0.0; 12], vec![0.0; 34]);
        for reduction in [Reduction::Mean, Reduction::Sum, Reduction::BatchMean(2), Reduction::SumOver(3.5)] {
            let d = gan.discriminator(&real, &fake, reduction, &mut grad_real, &mut grad_fake).unwrap();
            let on_real = gan.real_term().call(&real).grad_output(0.25).forward_backward(reduction, &mut want_real);
            let on_fake = gan.fake_term().call(&fake).grad_output(0.25).forward_backward(reduction, &mut want_fake);
            assert_eq!((d, &grad_real, &grad_fake), (on_real.unwrap() + on_fake.unwrap(), &want_real, &want_fake));
            assert_eq!(gan.discriminator_forward(&real, &fake, reduction), Ok(d));

            let g = gan.generator(&fake, reduction, &mut grad_fake).unwrap();
            let want = gan.generator_term().call(&fake).grad_output(0.25).forward_backward(reduction, &mut want_fake);
            assert_eq!((Ok(g), &grad_fake), (want, &want_fake));
            assert_eq!(gan.generator_forward(&fake, reduction), Ok(g));
        }
    }
}

#[test]
fn the_table_names_each_case_once_and_every_exception_is_one() {
    let cases = table();
    let names: std::collections::HashSet<&str> = cases.iter().map(|case| &case.name[..]).collect();
    assert_eq!(names.len(), cases.len());
    for e in EXCEPTIONS {
        let used = names.iter().any(|name| name.starts_with(e.case) && name.contains(e.option));
        assert!(used, "no case for the exception {} with {}: {}", e.case, e.option, e.reason);
    }
}

/// A vector instruction that is a call: of a closure, mostly, which is not inlined, and then compiled without the instruction set. One in
/// the remainder of rows took a seventh of the time of a whole loss.
#[cfg(optimized)]
#[test]
fn no_vector_instruction_is_a_call() {
    let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    // As symbols have it, and not paths.
    let before = b"9core_arch3x86";
    let mut calls = Vec::new();
    for at in (0..program.len() - before.len()).filter(|&at| program[at..].starts_with(before)) {
        let name = &program[at + before.len()..];
        let name = &name[..name.iter().position(|&b| !(b.is_ascii_alphanumeric() || b == b'_')).unwrap_or(0)];
        let name = String::from_utf8_lossy(name).into_owned();
        // What the processor can do is asked by calls.
        if name.contains("_mm") {
            calls.push(name);
        }
    }
    assert!(calls.is_empty(), "{calls:#?}");
    assert!(program.windows(10).any(|w| w == b"fused_loss"), "there are no symbols");
}

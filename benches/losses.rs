//! Throughput of every loss: GB/s of the fewest bytes it can move, and its share of a parallel copy.
//!
//! ```text
//! cargo bench                    # everything
//! cargo bench -- f32/mse         # what matches
//! cargo bench -- --test          # everything once: results are checked, nothing is timed
//! ```
//!
//! One fused call, forward + backward with mean reduction into a gradient buffer that is used again, takes turns with
//! the copy of the same input into the same buffer by all threads, so that a machine that slows down slows both. Before
//! a case is timed its value is compared with the textbook's.

#[path = "../tests/cases/mod.rs"]
mod cases;

use std::hint::black_box;
use std::time::{Duration, Instant};

use cases::draw::{Dims, Labels, Problem};
use cases::job::{Job, Verb, Weight};
use cases::oracle::Oracle;
use cases::{Case, Dense, Family, Targets};
use criterion::Criterion;
use fused_loss::{Element, Reduction};
use rayon::prelude::*;

/// The rows of the shared table that are timed, by (the beginning of) their name: element-wise ones at every size, ...
const ELEMENTWISE: [&str; 17] = [
    "mse",
    "mae",
    "huber[delta=1]",
    "smooth_l1[beta=1]",
    "hinge[signed]",
    "squared_hinge[signed]",
    "bce",
    "bce_with_logits",
    "sigmoid_focal[gamma=2",
    "sigmoid_focal[gamma=0.5",
    "kl_div",
    "kl_div[log_target]",
    "kl_div_probs[",
    "gan[NonSaturating+generator]",
    "gan[LeastSquares+real]",
    "gan[Hinge+real]",
    "relativistic_pair",
];
const SIZES: [usize; 4] = [1 << 12, 1 << 16, 1 << 20, 1 << 24];

/// ... and those with classes at these shapes.
const SHAPED: [(&str, &[OuterClassesInner]); 12] = [
    (
        "cross_entropy",
        &[
            (512, 10, 1),
            (16384, 1000, 1),
            (2048, 8192, 1),
            (512, 32768, 1),
            (128, 131_072, 1),
            (4, 21, 512 * 512), // segmentation
        ],
    ),
    ("cross_entropy[dense]", &[(2048, 8192, 1)]),
    ("cross_entropy_probs", &[(16384, 1000, 1)]),
    ("nll", &[(16384, 1000, 1)]),
    ("softmax_focal[gamma=2", &[(16384, 1000, 1)]),
    ("categorical_hinge", &[(16384, 1000, 1)]),
    ("multi_margin", &[(16384, 1000, 1)]),
    ("gradient_penalty[wgan-gp", &[(256, 65536, 1)]),
    ("distillation[T=4", &[(2048, 8192, 1)]),
    ("dice[index+sigmoid", &[(4, 4, 1 << 20)]),
    ("dice[index+softmax", &[(4, 4, 1 << 20)]),
    ("tversky[", &[(4, 4, 1 << 20)]),
];

type OuterClassesInner = (usize, usize, usize);

/// Elements that are drawn and checked; larger problems repeat them.
const DRAWN: usize = 1 << 14;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(11)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    let threads = rayon::current_num_threads();
    println!("{} ({threads} rayon threads)", fused_loss::Device::cpu());
    let table = cases::table();
    let case = |name: &str| {
        // A name without its closing bracket stands for the first that begins so.
        let named = |c: &&Case| c.name == name || name.contains('[') && c.name.starts_with(name);
        table.iter().find(named).unwrap_or_else(|| panic!("no case is named {name}"))
    };
    let mut problems: Vec<(&Case, Dims)> = Vec::new();
    for name in ELEMENTWISE {
        problems.extend(SIZES.iter().map(|&n| (case(name), Dims::new(n, 1, 1))));
    }
    // Dice with a target for every element, as it is most used: in the table the options of a case take turns.
    let Family::Regions { draw, options } = &case("dice[index+sigmoid").family else { panic!("Dice has regions") };
    let family = Family::Regions { draw: *draw, options: *options };
    let dense = Case {
        name: "dice[sigmoid]".into(),
        family,
        targets: Targets::Dense(Dense::Paired),
        loss: case("dice[index+sigmoid").loss,
        ..*case("dice[index+sigmoid")
    };
    problems.push((&dense, Dims::new(4, 4, 1 << 20)));
    for (name, shapes) in SHAPED {
        problems.extend(shapes.iter().map(|&(outer, classes, inner)| (case(name), Dims::new(outer, classes, inner))));
    }
    for (case, dims) in problems {
        bench::<f32>(&mut criterion, case, dims);
        bench::<half::f16>(&mut criterion, case, dims);
        bench::<half::bf16>(&mut criterion, case, dims);
    }
    criterion.final_summary();
}

fn bench<T: Element>(criterion: &mut Criterion, case: &Case, dims: Dims) {
    let name = T::NAME.replace("float", "f");
    let id = match case.family {
        Family::Elements { .. } => format!("{name}/{}/{}", case.name, dims.outer),
        _ => format!("{name}/{}/{}x{}x{}", case.name, dims.outer, dims.classes, dims.inner),
    };
    let (mut loss_time, mut copy_time, mut turns) = (Duration::ZERO, Duration::ZERO, 0u32);
    // Drawn when it is first needed: criterion may have been asked for other cases only.
    let mut drawn: Option<(Problem<T>, Vec<T>)> = None;
    let mut bytes = 0;
    criterion.bench_function(&id, |bencher| {
        let (problem, grad) = drawn.get_or_insert_with(|| {
            let small = Problem::<T>::draw(case, small(dims), 7);
            check(case, &small);
            let large = repeat(small, dims);
            let grad = vec![T::default(); large.input.len()];
            (large, grad)
        });
        bytes = problem.bytes();
        bencher.iter_custom(|iterations| {
            let mut measured = Duration::ZERO;
            for _ in 0..iterations {
                let started = Instant::now();
                black_box(run(case, problem, grad));
                let loss = started.elapsed();
                let started = Instant::now();
                copy(&problem.input, grad);
                copy_time += started.elapsed();
                loss_time += loss;
                measured += loss;
                turns += 1;
            }
            measured
        });
    });
    if let (Some((problem, _)), true) = (&drawn, turns > 1) {
        let gigabytes = |bytes: usize, time: Duration| bytes as f64 * f64::from(turns) / time.as_secs_f64() * 1e-9;
        let (loss, copy) = (gigabytes(bytes, loss_time), gigabytes(2 * size_of_val(&problem.input[..]), copy_time));
        println!("{id:44} {loss:7.1} GB/s, {:5.2} of the copy's {copy:.1}\n", loss / copy);
    }
}

/// One fused call.
fn run<T: Element>(case: &Case, problem: &Problem<T>, grad: &mut [T]) -> f32 {
    let job = Job {
        input: &problem.input,
        target: problem.labels.target(),
        shape: problem.shape(case),
        weight: Weight::None,
        class_weight: problem.class_weight.as_deref(),
        grad_output: 0.5,
        accumulate: false,
        grad_target: None,
        verb: Verb::ForwardBackward(Reduction::Mean, grad),
    };
    case.loss.run(job).expect("the problem fits the loss")
}

/// The copy that the loss is compared with: every thread its share.
fn copy<T: Element>(from: &[T], to: &mut [T]) {
    if from.len() < 1 << 16 {
        return to.copy_from_slice(from);
    }
    let share = from.len().div_ceil(rayon::current_num_threads());
    to.par_chunks_mut(share).zip(from.par_chunks(share)).for_each(|(to, from)| to.copy_from_slice(from));
}

/// Few enough rows to check.
fn small(dims: Dims) -> Dims {
    match dims.inner {
        1 => Dims { outer: dims.outer.min(DRAWN.div_ceil(dims.classes)), ..dims },
        inner => Dims { outer: 1, inner: inner.min(DRAWN), ..dims },
    }
}

/// The value must be the textbook's.
fn check<T: Element>(case: &Case, problem: &Problem<T>) {
    let mut grad = vec![T::default(); problem.input.len()];
    let got = f64::from(run(case, problem, &mut grad));
    let oracle = Oracle::new(case, problem, 0, 1);
    let want = oracle.losses.iter().sum::<f64>() / oracle.counts.iter().sum::<f64>();
    assert!((got - want).abs() <= 1e-6 * want.abs(), "{}: {got} where the textbook says {want}", case.name);
    assert!(grad.iter().all(|g| g.to_f32().is_finite()), "{}: a gradient is not finite", case.name);
}

/// The problem over and over, up to the full shape.
fn repeat<T: Element>(small: Problem<T>, dims: Dims) -> Problem<T> {
    fn grow<U: Copy>(from: &[U], run: usize, full: usize, total: usize) -> Vec<U> {
        // Each run of positions (or the whole, for rows) is repeated within itself.
        let runs: Vec<U> = from.chunks(run).flat_map(|r| r.iter().copied().cycle().take(full)).collect();
        runs.into_iter().cycle().take(total).collect()
    }
    let from = small.dims;
    let (run, full) = if dims.inner == 1 { (from.elements(), from.elements()) } else { (from.inner, dims.inner) };
    let elements = |x: &[T]| grow(x, run, full, dims.elements());
    let (row_run, row_full) = if dims.inner == 1 { (from.rows(), from.rows()) } else { (from.inner, dims.inner) };
    macro_rules! rows {
        ($x:expr) => {
            grow($x, row_run, row_full, dims.rows())
        };
    }
    let labels = match &small.labels {
        Labels::Nothing => Labels::Nothing,
        Labels::Dense(t) => Labels::Dense(elements(t)),
        Labels::I64(t) => Labels::I64(rows!(t)),
        Labels::I32(t) => Labels::I32(rows!(t)),
        Labels::U32(t) => Labels::U32(rows!(t)),
        Labels::U8(t) => Labels::U8(rows!(t)),
    };
    Problem { dims, input: elements(&small.input), labels, class_weight: small.class_weight }
}

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
use fused_loss::Element;
use fused_loss::launch::{params, plan};

/// Empty, one, one pack and its neighbours, one step of a block and its neighbours, several blocks.
const ELEMENTS: [usize; 9] = [0, 1, 3, 9, 257, 4096, 8193, 12_289, 33_000];

/// `(outer, classes, inner)`: a thread a row and a warp a row, a block a row, and by a small chip a cluster a row and none of it
/// kept.
const ROWS: [(usize, usize, usize); 18] = [
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
];

/// `(samples, channels, positions)`
const REGIONS: [(usize, usize, usize); 9] =
    [(0, 2, 4), (2, 2, 0), (1, 2, 1), (2, 3, 17), (3, 2, 129), (1, 20, 64), (2, 2, 1025), (1, 3, 2050), (2, 2, 9001)];

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
        Family::Rows { .. } => ROWS.iter().map(dims).collect(),
        Family::Regions { .. } => REGIONS.iter().map(dims).collect(),
    }
}

/// Runs the cases of a family.
fn run_all<T: Element>(of_family: fn(&Family) -> bool) {
    let only = std::env::var("BATTERY_ONLY").unwrap_or_default();
    let turn: usize = T::NAME.bytes().map(usize::from).sum();
    let (mut combinations, mut failures) = (0, Vec::new());
    for (c, case) in table().iter().enumerate().filter(|(_, case)| of_family(&case.family)) {
        if !case.name.contains(&only) {
            continue;
        }
        let mut worst = Worst::default();
        for (s, dims) in sizes(case).into_iter().enumerate() {
            let n = dims.elements();
            // Fibers are slow, and there are many cases: the larger a problem, the fewer of them see it.
            let one_in = if n <= 100 { 1 } else { 2 + n / 2000 };
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
            run_all::<f32>(|family| matches!(family, $pattern));
            run_all::<half::f16>(|family| matches!(family, $pattern));
            run_all::<half::bf16>(|family| matches!(family, $pattern));
        }
    };
}
family!(every_loss_of_elements_by_kernels_is_its_definition, Family::Elements { .. });
family!(every_loss_of_rows_by_kernels_is_its_definition, Family::Rows { .. });
family!(every_loss_of_regions_by_kernels_is_its_definition, Family::Regions { .. });

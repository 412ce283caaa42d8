//! Cost against size, classes, threads and storage type, of an element-wise loss that is bound by memory, one that is bound by
//! arithmetic, and one with rows.

use fused_loss::Device;

use crate::Error;
use crate::measure::{self, Row, Table, measure};
use crate::options::Options;
use crate::timing::cases::draw::Dims;
use crate::timing::cases::{Case, Family};
use crate::timing::{self, Dtype, list};

const LOSSES: [&str; 3] = ["mse", "bce_with_logits", "cross_entropy"];
/// Of the rows of cross-entropy, but where classes are what changes.
const CLASSES: usize = 1024;
/// Elements, but where these are what changes.
const ELEMENTS: usize = 1 << 24;

/// Rows by what changes in them.
pub type Series = Vec<(&'static str, Vec<Row>)>;

/// What a call adds to a CUDA graph.
#[derive(Clone, Debug)]
pub struct InGraph {
    pub loss: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Of a call, and of a kernel that does nothing.
    pub ns: f64,
    pub empty_ns: f64,
}

/// Small calls inside a CUDA graph; nothing on the CPU.
pub fn in_graph(device: &Device, table: &[Case], out: &mut Table) -> Result<Vec<InGraph>, Error> {
    let mut all = Vec::new();
    for (name, shape) in [
        ("mse", vec![1 << 10]),
        ("mse", vec![1 << 16]),
        ("bce_with_logits", vec![1 << 16]),
        ("sigmoid_focal[gamma=2", vec![1 << 16]),
        ("cross_entropy", vec![64, 1000]),
        ("cross_entropy", vec![512, 128]),
        ("dice[sigmoid]", vec![4, 4, 1 << 12]),
    ] {
        let case = list::find(table, name).expect("a row of the case table");
        let dims = list::fit(case, &shape)?;
        let Some(times) = timing::in_graph(device, case, dims, Dtype::F32) else { break };
        if all.is_empty() {
            out.say("\ninside a CUDA graph, and a kernel that does nothing in its place:")?;
        }
        let [ns, empty_ns] = times?.map(|time| time.as_secs_f64() * 1e9);
        let size = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        out.say(&format!("{name:<36}  f32    {size:>14}  {:>9}  {:>9}", measure::time(ns), measure::time(empty_ns)))?;
        all.push(InGraph { loss: case.name.clone(), dtype: Dtype::F32, shape, ns, empty_ns });
    }
    Ok(all)
}

pub fn run(device: &Device, table: &[Case], options: &Options, out: &mut Table) -> Result<Series, Error> {
    let seconds = options.seconds.min(0.2);
    let cases = LOSSES.map(|name| list::find(table, name).expect("a row of the case table"));
    let dims = |case: &Case, elements: usize| match case.family {
        Family::Elements { .. } => Dims::new(elements, 1, 1),
        _ => Dims::new(elements / CLASSES, CLASSES, 1),
    };
    let sizes = (10..=28).step_by(2).map(|power| 1usize << power);
    let sized: Vec<_> =
        cases.iter().flat_map(|&case| sizes.clone().map(move |n| (case, dims(case, n), Dtype::F32))).collect();
    let powers = (1..=19).step_by(2).chain([20]);
    let rows = |power: usize| Dims::new(ELEMENTS >> power, 1 << power, 1);
    let classed: Vec<_> = powers.map(|power| (cases[2], rows(power), Dtype::F32)).collect();
    let stored: Vec<_> =
        cases.iter().flat_map(|&case| Dtype::ALL.map(move |dtype| (case, dims(case, ELEMENTS), dtype))).collect();

    let mut series: Series = Vec::new();
    for (name, title, problems) in
        [("n", "size", sized), ("classes", "classes", classed), ("dtypes", "storage type", stored)]
    {
        out.say(&format!("\nagainst {title}:"))?;
        out.expect(problems.len());
        let mut rows = Vec::new();
        for (case, dims, dtype) in problems {
            rows.extend(out.measure(device, case, dims, dtype, seconds)?);
        }
        series.push((name, rows));
    }
    if !device.is_cuda() {
        let all = rayon::current_num_threads();
        let mut rows = Vec::new();
        for threads in (0..).map(|power| 1 << power).take_while(|&n| n < all).chain([all]) {
            out.say(&format!("\non {threads} thread{}:", if threads == 1 { "" } else { "s" }))?;
            out.expect(cases.len());
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
            for case in cases {
                let dims = dims(case, ELEMENTS);
                let measure = || pool.install(|| measure(device, case, dims, Dtype::F32, seconds));
                rows.extend(out.row(&case.name, &list::shape(case, dims), Dtype::F32, measure)?);
            }
        }
        // Pictures and readers want the rows of a loss together.
        rows.sort_by_key(|row| LOSSES.iter().position(|&loss| loss == row.loss));
        series.push(("threads", rows));
    }
    Ok(series)
}

//! Throughput of every loss: GB/s of the fewest bytes it can move, and its share of a copy.
//!
//! ```text
//! cargo bench                    # everything, on the CPU and on a GPU where there is one
//! cargo bench -- ^f32/mse        # what matches
//! cargo bench -- ^cuda/          # the GPU alone
//! cargo bench -- --test          # everything once: results are checked, nothing is timed
//! ```
//!
//! What is timed and how: [`timing`].

mod timing;

use std::time::Duration;

use criterion::Criterion;
use fused_loss::Device;
use timing::beyond::Beyond;
use timing::cases::Case;
use timing::cases::draw::Dims;
use timing::{Dtype, Timed, Turn, list};

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(11)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(800))
        .configure_from_args();
    let table = list::table();
    let mut devices = vec![Device::cpu()];
    println!("{}", devices[0]);
    match Device::cuda(0) {
        Ok(gpu) => {
            println!("{gpu}: ids that begin with cuda/");
            devices.push(gpu);
        }
        Err(why) => println!("no GPU: {why}"),
    }
    for device in &devices {
        for (case, dims) in list::everything(&table) {
            for dtype in Dtype::ALL {
                bench(&mut criterion, device, case, dims, dtype);
            }
        }
    }
    for &beyond in Beyond::ALL {
        for dtype in Dtype::ALL {
            let shape: Vec<_> = beyond.shape().iter().map(ToString::to_string).collect();
            let id = format!("{}/{}/{}", dtype.name(), beyond.name(), shape.join("x"));
            let bytes = [beyond.fewest_bytes(dtype.bytes()), beyond.copy_bytes(dtype.bytes())];
            take_turns(&mut criterion, &id, bytes, || beyond.open(dtype));
        }
    }
    criterion.final_summary();
}

fn bench(criterion: &mut Criterion, device: &Device, case: &Case, dims: Dims, dtype: Dtype) {
    let place = if device.is_cuda() { "cuda/" } else { "" };
    let size = match list::shape(case, dims)[..] {
        [n] => n.to_string(),
        _ => format!("{}x{}x{}", dims.outer, dims.classes, dims.inner),
    };
    let id = format!("{place}{}/{}/{size}", dtype.name(), case.name);
    let bytes = [list::fewest_bytes(case, dims, dtype.bytes()), 2 * dims.elements() * dtype.bytes()];
    take_turns(criterion, &id, bytes, || timing::open(device, case, dims, dtype));
}

/// `bytes`: the fewest that a call can move, and what its copy moves.
fn take_turns<'a>(
    criterion: &mut Criterion,
    id: &str,
    bytes: [usize; 2],
    open: impl Fn() -> Result<Box<dyn Timed + 'a>, String>,
) {
    // Drawn when it is first needed: criterion may have been asked for other cases only.
    let mut opened: Option<Box<dyn Timed + 'a>> = None;
    let mut taken: Vec<Turn> = Vec::new();
    criterion.bench_function(id, |bencher| {
        let timed = opened.get_or_insert_with(|| open().unwrap_or_else(|why| panic!("{id}: {why}")));
        bencher.iter_custom(|iterations| {
            let turns = timed.turns(iterations as usize).unwrap_or_else(|why| panic!("{id}: {why}"));
            taken.extend(&turns);
            turns.iter().map(|turn| turn.loss).sum()
        });
    });
    if taken.len() > 1 {
        let gigabytes = |bytes: usize, time: Duration| (bytes * taken.len()) as f64 / time.as_secs_f64() * 1e-9;
        let loss = gigabytes(bytes[0], taken.iter().map(|turn| turn.loss).sum());
        let copy = gigabytes(bytes[1], taken.iter().map(|turn| turn.copy).sum());
        println!("{id:44} {loss:7.1} GB/s, {:5.2} of the copy's {copy:.1}\n", loss / copy);
    }
}

//! A language-model head whose classes are shared by ranks: a classifier of digits of which each rank has some.
//!
//! ```text
//! cargo run --release --features head --example ranks -- --ranks 8           # prints the loss as it falls
//! cargo run --release --features head --example ranks -- --ranks 3 --check   # fails unless it is that of one rank
//! cargo run --release --features head --example ranks -- --gpus              # on all GPUs of this machine, through NCCL
//! ```
//!
//! Ranks are threads here, each with its part of the weight, of the bias and of what trains them; with `--gpus` each has a GPU. Programs on
//! several machines do the same with a `Communicator` over whatever they talk through, or with an `NcclId` that one of them sends to all.

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::parallel::{Communicator, Local, Vocab};
use fused_loss::{CrossEntropy, Reduction, Result};

/// Handwritten digits of 8 x 8 pixels from 0 to 16, each line ending with what it shows.
const DIGITS: &str = include_str!("data/digits.csv");
const PIXELS: usize = 64;
const CLASSES: usize = 10;
const STEPS: usize = 200;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let after = words.iter().skip_while(|word| *word != "--ranks").nth(1);
    let mut ranks = after.and_then(|n| n.parse().ok()).unwrap_or(2).max(1);
    let losses = if words.iter().any(|word| word == "--gpus") {
        ranks = gpus::count()?;
        gpus::train(ranks)?
    } else {
        train(ranks)?
    };
    for (step, loss) in losses.iter().enumerate().step_by(40) {
        println!("step {step:>3}: {loss:.4}");
    }
    println!("after {STEPS} steps, on {ranks} ranks: {:.4}", losses[STEPS - 1]);
    if words.iter().any(|word| word == "--check") {
        let alone = train(1)?;
        assert!(
            losses.iter().zip(&alone).all(|(a, b)| (a - b).abs() <= 1e-4 * b),
            "one rank ends with {}",
            alone[STEPS - 1]
        );
        assert!(losses[STEPS - 1] < 0.4, "has not learnt");
    }
    Ok(())
}

/// The losses of training on so many ranks.
fn train(ranks: usize) -> Result<Vec<f32>> {
    let (images, labels) = digits();
    let mut all = std::thread::scope(|scope| {
        let threads: Vec<_> =
            Local::group(ranks).into_iter().map(|rank| scope.spawn(|| train_rank(rank, &images, &labels))).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("no rank panics"));
        results.collect::<Result<Vec<Vec<f32>>>>()
    })?;
    Ok(all.swap_remove(0))
}

fn train_rank(rank: Local, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
    let here = share(&rank);
    let vocab = Vocab::new(&rank, here)?;
    let (mut weight, mut bias) = (vec![0.0; here * PIXELS], vec![0.0; here]);
    let (mut grad_weight, mut grad_bias) = (weight.clone(), bias.clone());
    let head = LinearCrossEntropy::new(CrossEntropy::new()).budget(64 << 10);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        let grads = LinearGrads { input: None, weight: Some(&mut grad_weight), bias: Some(&mut grad_bias) };
        let call = head.call(images, &weight, labels, (labels.len(), PIXELS, here)).bias(&bias).across(&vocab);
        losses.push(call.forward_backward(Reduction::Mean, grads)?);
        for (x, g) in weight.iter_mut().zip(&grad_weight).chain(bias.iter_mut().zip(&grad_bias)) {
            *x -= 0.5 * g;
        }
    }
    Ok(losses)
}

/// How many classes a rank has: as equal parts as there can be; more ranks than classes leave some with none.
fn share(rank: &dyn Communicator) -> usize {
    CLASSES * (rank.rank() + 1) / rank.size() - CLASSES * rank.rank() / rank.size()
}

/// The same with a GPU for each rank.
#[cfg(feature = "cuda")]
mod gpus {
    use fused_loss::cudarc::driver::{CudaContext, DriverError};
    use fused_loss::head::CudaLinearGrads;
    use fused_loss::parallel::Nccl;
    use fused_loss::{Cuda, Device, Error};

    use super::*;

    fn failed(DriverError(code): DriverError) -> Error {
        Error::Cuda { what: "copying", name: format!("{code:?}") }
    }

    /// The GPUs of this machine, and no more than there are classes.
    pub fn count() -> Result<usize> {
        // An error where there is no driver, which cudarc would make a panic.
        Device::cuda(0)?;
        Ok((CudaContext::device_count().map_err(failed)? as usize).min(CLASSES))
    }

    pub fn train(gpus: usize) -> Result<Vec<f32>> {
        let (images, labels) = digits();
        let stream = |gpu| Ok(CudaContext::new(gpu).map_err(failed)?.default_stream());
        let streams = (0..gpus).map(stream).collect::<Result<Vec<_>>>()?;
        let ranks = Nccl::group(&streams)?;
        let mut all = std::thread::scope(|scope| {
            let (images, labels) = (&images, &labels);
            let run = |(rank, stream)| scope.spawn(move || train_rank(&rank, &Cuda::new(&stream)?, images, labels));
            let threads: Vec<_> = ranks.into_iter().zip(streams).map(run).collect();
            let results = threads.into_iter().map(|thread| thread.join().expect("no rank panics"));
            results.collect::<Result<Vec<Vec<f32>>>>()
        })?;
        Ok(all.swap_remove(0))
    }

    fn train_rank(rank: &Nccl, cuda: &Cuda, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
        let (stream, here) = (cuda.stream(), share(rank));
        let vocab = Vocab::new(rank, here)?;
        let (images, targets) =
            (stream.clone_htod(images).map_err(failed)?, stream.clone_htod(labels).map_err(failed)?);
        // What trains is small, and trained on the host.
        let (mut weight, mut bias) = (vec![0.0; here * PIXELS], vec![0.0; here]);
        let mut value = stream.alloc_zeros::<f32>(1).map_err(failed)?;
        let mut grad_weight = stream.alloc_zeros::<f32>(here * PIXELS).map_err(failed)?;
        let mut grad_bias = stream.alloc_zeros::<f32>(here).map_err(failed)?;
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            let (w, b) = (stream.clone_htod(&weight).map_err(failed)?, stream.clone_htod(&bias).map_err(failed)?);
            let grads = CudaLinearGrads {
                input: None,
                weight: Some((&mut grad_weight).into()),
                bias: Some((&mut grad_bias).into()),
            };
            LinearCrossEntropy::default()
                .on(cuda)
                .call(&images, &w, &targets, (labels.len(), PIXELS, here))
                .bias(&b)
                .across(&vocab)
                .forward_backward(Reduction::Mean, &mut value, grads)?;
            rank.wait()?; // an error, and no endless wait, should a rank be lost
            losses.push(stream.clone_dtoh(&value).map_err(failed)?[0]);
            let of_weight = stream.clone_dtoh(&grad_weight).map_err(failed)?;
            let of_bias = stream.clone_dtoh(&grad_bias).map_err(failed)?;
            for (x, g) in weight.iter_mut().zip(&of_weight).chain(bias.iter_mut().zip(&of_bias)) {
                *x -= 0.5 * g;
            }
        }
        Ok(losses)
    }
}

/// Without the feature there are none.
#[cfg(not(feature = "cuda"))]
mod gpus {
    use super::*;

    pub fn count() -> Result<usize> {
        Err(fused_loss::Error::CudaUnavailable("this example was built without the feature `cuda`"))
    }

    pub fn train(_: usize) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

fn digits() -> (Vec<f32>, Vec<i64>) {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for line in DIGITS.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let numbers: Vec<f32> = line.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        images.extend(numbers[..PIXELS].iter().map(|x| x / 16.0));
        labels.push(numbers[PIXELS] as i64);
    }
    (images, labels)
}

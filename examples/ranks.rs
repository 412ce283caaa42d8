//! A language-model head whose classes are shared by ranks: a classifier of digits of which each rank has some. Or one that all ranks have,
//! and of whose images each has some: the mean over the labelled images of all of them.
//!
//! ```text
//! cargo run --release --features head --example ranks -- --ranks 8           # prints the loss as it falls
//! cargo run --release --features head --example ranks -- --ranks 3 --check   # fails unless it is that of one rank
//! cargo run --release --features head --example ranks -- --gpus              # on all GPUs of this machine, through NCCL
//! cargo run --release --features head --example ranks -- --data-parallel     # images in place of classes; with any of the others
//! ```
//!
//! Ranks are threads here, each with its part of the weight, of the bias and of what trains them; with `--gpus` each has a GPU. Programs on
//! several machines do the same with a `Communicator` over whatever they talk through, or with an `NcclId` that one of them sends to all.

use std::ops::Range;

use fused_loss::head::{LinearCrossEntropy, LinearGrads};
use fused_loss::parallel::{Communicator, Local, ReduceOp, Vocab, sum_over_ranks};
use fused_loss::{CrossEntropy, Reduction, Result};

/// Handwritten digits of 8 x 8 pixels from 0 to 16, each line ending with what it shows.
const DIGITS: &str = include_str!("data/digits.csv");
const PIXELS: usize = 64;
const CLASSES: usize = 10;
const STEPS: usize = 200;
/// The label of an image that has none.
const UNKNOWN: i64 = -100;

/// What ranks have parts of.
#[derive(Clone, Copy)]
enum Shared {
    Classes,
    Images,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().collect();
    let after = words.iter().skip_while(|word| *word != "--ranks").nth(1);
    let mut ranks = after.and_then(|n| n.parse().ok()).unwrap_or(2).max(1);
    let shared = if words.iter().any(|word| word == "--data-parallel") { Shared::Images } else { Shared::Classes };
    let losses = if words.iter().any(|word| word == "--gpus") {
        ranks = gpus::count()?;
        gpus::train(ranks, shared)?
    } else {
        train(ranks, shared)?
    };
    for (step, loss) in losses.iter().enumerate().step_by(40) {
        println!("step {step:>3}: {loss:.4}");
    }
    println!("after {STEPS} steps, on {ranks} ranks: {:.4}", losses[STEPS - 1]);
    if words.iter().any(|word| word == "--check") {
        let alone = train(1, Shared::Classes)?;
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
fn train(ranks: usize, shared: Shared) -> Result<Vec<f32>> {
    let (images, labels) = digits();
    let train_rank = match shared {
        Shared::Classes => train_classes,
        Shared::Images => train_images,
    };
    let mut all = std::thread::scope(|scope| {
        let (images, labels) = (&images, &labels);
        let run = |rank| scope.spawn(move || train_rank(rank, images, labels));
        let threads: Vec<_> = Local::group(ranks).into_iter().map(run).collect();
        let results = threads.into_iter().map(|thread| thread.join().expect("no rank panics"));
        results.collect::<Result<Vec<Vec<f32>>>>()
    })?;
    Ok(all.swap_remove(0))
}

fn train_classes(rank: Local, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
    let here = share(&rank, CLASSES).len();
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

/// Each rank has the whole model and images of its own. Sums of losses are divided by the number of labelled images of all ranks, so that what
/// the ranks have adds up to the mean over all of them, however many of each rank's are labelled.
fn train_images(rank: Local, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
    let here = share(&rank, labels.len());
    let (images, labels) = (&images[PIXELS * here.start..PIXELS * here.end], &labels[here]);
    let (mut weight, mut bias) = (vec![0.0; CLASSES * PIXELS], vec![0.0; CLASSES]);
    let (mut grad_weight, mut grad_bias) = (weight.clone(), bias.clone());
    let head = LinearCrossEntropy::new(CrossEntropy::new()).budget(64 << 10);
    let mut losses = Vec::new();
    for _ in 0..STEPS {
        // In every step, for a batch is another one each time where there are more images.
        let labelled = labels.iter().filter(|&&label| label != UNKNOWN).count();
        let mean = Reduction::SumOver(sum_over_ranks(&rank, labelled as f64)?);
        let grads = LinearGrads { input: None, weight: Some(&mut grad_weight), bias: Some(&mut grad_bias) };
        let call = head.call(images, &weight, labels, (labels.len(), PIXELS, CLASSES)).bias(&bias);
        let mut loss = [call.forward_backward(mean, grads)?];
        for part in [&mut loss[..], &mut grad_weight, &mut grad_bias] {
            rank.all_reduce(part, ReduceOp::Sum)?;
        }
        losses.push(loss[0]);
        for (x, g) in weight.iter_mut().zip(&grad_weight).chain(bias.iter_mut().zip(&grad_bias)) {
            *x -= 0.5 * g;
        }
    }
    Ok(losses)
}

/// Which of so many classes or images a rank has: as equal parts as there can be; more ranks than classes leave some with none.
fn share(rank: &dyn Communicator, of: usize) -> Range<usize> {
    of * rank.rank() / rank.size()..of * (rank.rank() + 1) / rank.size()
}

/// The same with a GPU for each rank.
#[cfg(feature = "cuda")]
mod gpus {
    use fused_loss::cudarc::driver::{CudaContext, DriverError};
    use fused_loss::head::CudaLinearGrads;
    use fused_loss::parallel::{Nccl, sum_over_ranks_on};
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

    pub fn train(gpus: usize, shared: Shared) -> Result<Vec<f32>> {
        let (images, labels) = digits();
        let train_rank = match shared {
            Shared::Classes => train_classes,
            Shared::Images => train_images,
        };
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

    fn train_classes(rank: &Nccl, cuda: &Cuda, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
        let (stream, here) = (cuda.stream(), share(rank, CLASSES).len());
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

    fn train_images(rank: &Nccl, cuda: &Cuda, images: &[f32], labels: &[i64]) -> Result<Vec<f32>> {
        let (stream, here) = (cuda.stream(), share(rank, labels.len()));
        let (images, labels) = (&images[PIXELS * here.start..PIXELS * here.end], &labels[here]);
        let (images, targets) =
            (stream.clone_htod(images).map_err(failed)?, stream.clone_htod(labels).map_err(failed)?);
        let (mut weight, mut bias) = (vec![0.0; CLASSES * PIXELS], vec![0.0; CLASSES]);
        let mut value = stream.alloc_zeros::<f32>(1).map_err(failed)?;
        let mut grad_weight = stream.alloc_zeros::<f32>(CLASSES * PIXELS).map_err(failed)?;
        let mut grad_bias = stream.alloc_zeros::<f32>(CLASSES).map_err(failed)?;
        let mut losses = Vec::new();
        for _ in 0..STEPS {
            let (w, b) = (stream.clone_htod(&weight).map_err(failed)?, stream.clone_htod(&bias).map_err(failed)?);
            // The number comes with the batch, and its sum stays on the GPU: nothing waits for it.
            let labelled = labels.iter().filter(|&&label| label != UNKNOWN).count() as f32;
            let mut labelled = stream.clone_htod(&[labelled]).map_err(failed)?;
            sum_over_ranks_on(rank, cuda, &mut labelled)?;
            let grads = CudaLinearGrads {
                input: None,
                weight: Some((&mut grad_weight).into()),
                bias: Some((&mut grad_bias).into()),
            };
            LinearCrossEntropy::default()
                .on(cuda)
                .call(&images, &w, &targets, (labels.len(), PIXELS, CLASSES))
                .bias(&b)
                .denominator(&labelled)
                .forward_backward(Reduction::Sum, &mut value, grads)?;
            rank.wait()?; // an error, and no endless wait, should a rank be lost
            let summed = |part| -> Result<Vec<f32>> {
                let mut part = stream.clone_dtoh(part).map_err(failed)?;
                rank.all_reduce(&mut part, ReduceOp::Sum)?;
                Ok(part)
            };
            losses.push(summed(&value)?[0]);
            let (of_weight, of_bias) = (summed(&grad_weight)?, summed(&grad_bias)?);
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

    pub fn train(_: usize, _: Shared) -> Result<Vec<f32>> {
        Ok(Vec::new())
    }
}

/// Every other one of the first third has no label, as where nobody has looked yet: the mean is of the others, and ranks have unlike numbers of
/// them.
fn digits() -> (Vec<f32>, Vec<i64>) {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    for line in DIGITS.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())) {
        let numbers: Vec<f32> = line.split(',').filter_map(|number| number.trim().parse().ok()).collect();
        images.extend(numbers[..PIXELS].iter().map(|x| x / 16.0));
        labels.push(if labels.len() < 600 && labels.len() % 2 == 1 { UNKNOWN } else { numbers[PIXELS] as i64 });
    }
    (images, labels)
}

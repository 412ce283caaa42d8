//! The losses that `train` leaves out, each at the job that it is for, on real data and beside a rival.
//!
//! ```text
//! cargo run --release --example more
//! cargo run --release --example more --features head   # InfoNCE too
//! ```
//!
//! The networks are those of the training example. Losses take the slices that they give; a loss of two or
//! three tensors has a gradient for each, and what follows shows where it goes.

mod boxes;
mod classes;
#[cfg(feature = "head")]
mod contrast;
mod counts;
#[allow(dead_code)] // the training example uses all of it
#[path = "../train/data.rs"]
mod data;
mod embed;
#[path = "../train/folds.rs"]
mod folds;
mod gan;
#[path = "../train/nn.rs"]
mod nn;
mod preferences;
mod ranking;
mod regions;
#[allow(dead_code)]
#[path = "../train/report.rs"]
mod report;
mod robust;
mod tasks;

use std::process::ExitCode;
use std::time::Instant;

use fused_loss::{Buffer, Device, Result};

use report::{Context, Outcome};

const USAGE: &str = "\
Trains small networks with the losses that the example train leaves out, and tells how well they do.

    cargo run --release --example more -- [OPTIONS]

    --seed N    another start for the random numbers (default: 0)
    --short     train briefly
    --check     fail if a result is worse than it should be";

/// A loss as [`nn::Trainer::fit`] takes it: of outputs and targets, with room for the gradient.
type Loss<'a, T> = dyn Fn(&Buffer<f32>, &Buffer<T>, &mut Buffer<f32>) -> Result<f32> + 'a;

fn main() -> ExitCode {
    let (mut short, mut check, mut seed) = (false, false, 0);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--short" => short = true,
            "--check" => check = true,
            "--seed" => match args.next().and_then(|seed| seed.parse().ok()) {
                Some(number) => seed = number,
                None => return usage("--seed needs a whole number"),
            },
            "--help" | "-h" => {
                println!("{USAGE}");
                return ExitCode::SUCCESS;
            }
            other => return usage(&format!("unknown option '{other}'")),
        }
    }
    // As the networks are on the CPU, so are the losses. `train` shows how the same is done on a GPU.
    let context = Context { short, seed, device: Device::cpu() };
    match run(&context) {
        Ok(complaints) if check && !complaints.is_empty() => {
            complaints.iter().for_each(|complaint| eprintln!("check failed: {complaint}"));
            ExitCode::FAILURE
        }
        Ok(_) => {
            if check {
                println!("check passed: every result is what it should be");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn usage(error: &str) -> ExitCode {
    eprintln!("error: {error} (--help lists the options)");
    ExitCode::from(2)
}

/// Prints the table, and returns what `--check` has to say.
fn run(context: &Context) -> Result<Vec<String>> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is far slower without --release");
    }
    let started = Instant::now();
    let mut outcomes = robust::run(context)?;
    outcomes.push(counts::run(context)?);
    outcomes.extend(ranking::run(context)?);
    outcomes.extend(classes::run(context)?);
    outcomes.extend(preferences::run(context)?);
    outcomes.extend(embed::run(context)?);
    #[cfg(feature = "head")]
    outcomes.push(contrast::run(context)?);
    outcomes.extend(regions::run(context)?);
    outcomes.extend(boxes::run(context)?);
    outcomes.push(tasks::run(context)?);
    outcomes.push(gan::run(context)?);
    let seconds = started.elapsed().as_secs_f32();

    println!("\n{}", report::table(&outcomes, &context.device));
    println!("first and last loss: the mean of the first and of the last epoch of training");
    println!("on test data: in brackets a rival at the same task");
    let more = if cfg!(feature = "head") { "" } else { "; with --features head there is InfoNCE too" };
    println!("{} losses in {seconds:.1} s{more}", outcomes.len());
    Ok(outcomes.iter().flat_map(Outcome::complaints).collect())
}

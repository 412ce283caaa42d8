//! A loss of each family does the job that it is for: small networks learn real data, and one table says how well.
//!
//! ```text
//! cargo run --release --example train
//! ```
//!
//! [`nn`] is all there is of a deep-learning framework here: the losses take the slices that its
//! networks give, and their gradients go straight back into it.

mod data;
mod digits;
mod folds;
mod gan;
mod nn;
mod plot;
mod regression;
mod report;
mod segment;
mod tumours;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use fused_loss::Device;

use report::{Context, Outcome};

const USAGE: &str = "\
Trains small networks with a loss of each family and tells how well they do.

    cargo run --release --example train -- [OPTIONS]

    --out DIR   where the pictures go (default: out/train)
    --seed N    another start for the random numbers (default: 0)
    --short     train briefly
    --check     fail if a result is worse than it should be";

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(Some(options)) => options,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error} (--help lists the options)");
            return ExitCode::from(2);
        }
    };
    match run(&options) {
        Ok(passed) => {
            if passed {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

struct Options {
    out: PathBuf,
    seed: u64,
    short: bool,
    check: bool,
}

impl Options {
    /// `None` if help is asked for.
    fn parse(mut args: impl Iterator<Item = String>) -> Result<Option<Self>, String> {
        let mut options = Options { out: "out/train".into(), seed: 0, short: false, check: false };
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--out" => options.out = args.next().ok_or("--out needs a directory")?.into(),
                "--seed" => {
                    let seed = args.next().ok_or("--seed needs a number")?;
                    options.seed = seed.parse().map_err(|_| format!("--seed needs a whole number, not '{seed}'"))?;
                }
                "--short" => options.short = true,
                "--check" => options.check = true,
                "--help" | "-h" => return Ok(None),
                other => return Err(format!("unknown option '{other}'")),
            }
        }
        Ok(Some(options))
    }
}

/// Whether the results are what they should be.
fn run(options: &Options) -> Result<bool, Box<dyn Error>> {
    if cfg!(debug_assertions) {
        eprintln!("note: this is far slower without --release");
    }
    // Before the work, so that a directory that cannot be made does not cost it.
    std::fs::create_dir_all(&options.out).map_err(|error| format!("{}: {error}", options.out.display()))?;
    let context = Context { short: options.short, seed: options.seed, device: Device::auto() };

    let started = Instant::now();
    let mut outcomes = regression::run(&context)?;
    outcomes.extend(tumours::run(&context)?);
    outcomes.extend(digits::run(&context)?);
    outcomes.push(segment::run(&context)?);
    outcomes.push(gan::run(&context)?);
    let seconds = started.elapsed().as_secs_f32();

    println!("\n{}: {}\n\n{}", context.device, context.device.reason(), report::table(&outcomes, &context.device));
    println!("first and last loss: the mean of the first and of the last epoch of training; for the GAN that of the");
    println!("discriminator, for which 2 ln 2 = 1.386 is a draw");
    println!("on test data: diabetes and tumours by five-fold cross-validation, digits on every fifth image; in");
    println!("brackets a rival at the same task");
    println!(
        "{} losses in {seconds:.1} s; pictures in {}: {}",
        outcomes.len(),
        options.out.display(),
        draw(&outcomes, &options.out)?
    );

    let complaints: Vec<String> = outcomes.iter().flat_map(Outcome::complaints).collect();
    if options.check {
        for complaint in &complaints {
            eprintln!("check failed: {complaint}");
        }
        if complaints.is_empty() {
            println!("check passed: every result is what it should be");
        }
    }
    Ok(!options.check || complaints.is_empty())
}

/// Writes the pictures, and returns their names.
fn draw(outcomes: &[Outcome], out: &Path) -> Result<String, Box<dyn Error>> {
    let curves = plot::curves(outcomes);
    let pictures = outcomes.iter().flat_map(|outcome| &outcome.pictures).map(|(name, svg)| (*name, svg));
    let mut names = Vec::new();
    for (name, svg) in std::iter::once(("curves.svg", &curves)).chain(pictures) {
        let path = out.join(name);
        std::fs::write(&path, svg).map_err(|error| format!("{}: {error}", path.display()))?;
        names.push(name);
    }
    Ok(names.join(", "))
}

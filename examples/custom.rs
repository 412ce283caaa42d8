//! A loss of one's own: how far will a patient's disease have progressed in a year, at the least, at best guess and at the most? The
//! expectile loss answers, which is squared error that weighs guesses that are too low by `tau` and those that are too high by
//! `1 - tau`. This crate does not have it; here it is, for CPU and GPU.
//!
//! ```sh
//! cargo run --release --example custom
//! ```
//!
//! Prints what linear models with three values of `tau` say of patients that they have not seen; `--check` makes it an error if they
//! do not bracket them.

use std::process::ExitCode;

use fused_loss::{Custom, Device, Reduction, Result};

fn main() -> Result<ExitCode> {
    let expectile = Custom::new("expectile", [("tau", 0.5)], |x, t, [tau]| {
        let e = x - t;
        let w = if e > 0.0 { 1.0 - tau } else { tau };
        (w * e * e, 2.0 * w * e)
    })?
    .cuda(
        "const float e = x - t;
         const float w = e > 0.0f ? 1.0f - tau : tau;
         value = w * e * e;
         grad = 2.0f * w * e;",
    );

    let device = Device::auto();
    println!("{device}: {}", device.reason());
    let (train, test) = diabetes();
    let mut below = Vec::new();
    for tau in [0.05, 0.5, 0.95] {
        let (model, loss) = fit(&expectile.option("tau", tau)?, &train, &device)?;
        let guesses = model.predict(&test.x);
        let share = share(&test.y, &guesses, |truth, guess| truth < guess);
        println!("tau {tau:.2}: loss {loss:7.1}, {:3.0}% of unseen patients are below the guess", 100.0 * share);
        below.push((share, guesses));
    }
    let (low, high) = (&below[0].1, &below[2].1);
    let inside = test.y.iter().zip(low.iter().zip(high)).filter(|(y, (low, high))| *low <= y && y <= high).count();
    println!("{inside} of {} are between the lowest and the highest", test.y.len());

    let ok = below[0].0 < 0.25 && (0.4..0.7).contains(&below[1].0) && below[2].0 > 0.75;
    let ok = ok && inside * 10 > test.y.len() * 6;
    let failed = std::env::args().any(|arg| arg == "--check") && !ok;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Measurements of each patient.
const FEATURES: usize = 10;
type Row = [f32; FEATURES];

/// Patients: their measurements, standardised, and how far the disease has progressed after a year.
struct Patients {
    x: Vec<Row>,
    y: Vec<f32>,
}

/// To learn from, and, every fifth, to test on.
fn diabetes() -> (Patients, Patients) {
    let numbers = |line: &str| line.split(',').map(|n| n.parse().expect("a number")).collect::<Vec<f32>>();
    let rows: Vec<Vec<f32>> = include_str!("data/diabetes.csv").lines().map(numbers).collect();
    let moments: Vec<(f32, f32)> = (0..FEATURES)
        .map(|k| {
            let mean = rows.iter().map(|row| row[k]).sum::<f32>() / rows.len() as f32;
            let variance = rows.iter().map(|row| (row[k] - mean).powi(2)).sum::<f32>() / rows.len() as f32;
            (mean, variance.sqrt())
        })
        .collect();
    let pick = |test: bool| {
        let rows = rows.iter().enumerate().filter(|(i, _)| (i % 5 == 0) == test).map(|(_, row)| row);
        let x = rows.clone().map(|row| std::array::from_fn(|k| (row[k] - moments[k].0) / moments[k].1)).collect();
        Patients { x, y: rows.map(|row| row[FEATURES]).collect() }
    };
    (pick(false), pick(true))
}

struct Linear {
    weights: Row,
    bias: f32,
}

impl Linear {
    fn predict(&self, x: &[Row]) -> Vec<f32> {
        let dot = |row: &Row| row.iter().zip(&self.weights).map(|(x, w)| x * w).sum::<f32>();
        x.iter().map(|row| dot(row) + self.bias).collect()
    }
}

/// Gradient descent; the model and its last loss.
fn fit(loss: &Custom, patients: &Patients, device: &Device) -> Result<(Linear, f32)> {
    let mut model = Linear { weights: [0.0; FEATURES], bias: 150.0 };
    let target = device.buffer(&patients.y)?;
    let mut grad = device.zeros(patients.y.len())?;
    let mut value = 0.0;
    for _ in 0..3000 {
        let guesses = device.buffer(&model.predict(&patients.x))?;
        value = loss.on(device).forward_backward(&guesses, &target, Reduction::Mean, &mut grad)?;
        for (row, g) in patients.x.iter().zip(grad.to_vec()?) {
            model.bias -= 0.2 * g;
            model.weights.iter_mut().zip(row).for_each(|(w, x)| *w -= 0.2 * g * x);
        }
    }
    Ok((model, value))
}

fn share(truths: &[f32], guesses: &[f32], counts: impl Fn(f32, f32) -> bool) -> f32 {
    let n = truths.iter().zip(guesses).filter(|&(&truth, &guess)| counts(truth, guess)).count();
    n as f32 / truths.len() as f32
}

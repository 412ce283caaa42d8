//! What the tasks are given, and what they report: progress while they work, and at the end a line of
//! the table.

use std::fmt;
use std::io::{IsTerminal, Write};
use std::time::Instant;

use fastrand::Rng;
use fused_loss::Device;

/// What every task is given.
pub struct Context {
    /// Train briefly.
    pub short: bool,
    pub seed: u64,
    /// Where the losses are computed.
    pub device: Device,
}

impl Context {
    /// One value for full training, another for short.
    pub fn pick<T>(&self, full: T, short: T) -> T {
        if self.short { short } else { full }
    }

    /// A stream of random numbers, the same in every run.
    pub fn rng(&self, stream: u64) -> Rng {
        Rng::with_seed(self.seed.wrapping_mul(1000) + stream)
    }
}

/// What came of one loss.
pub struct Outcome {
    pub loss: &'static str,
    pub task: &'static str,
    /// The mean loss of each epoch, by name; the table shows the first curve.
    pub curves: Vec<(&'static str, Vec<f32>)>,
    pub metrics: Vec<Metric>,
    pub seconds: f32,
    /// SVG files, by name.
    pub pictures: Vec<(&'static str, String)>,
}

/// A number measured on test data.
pub struct Metric {
    name: &'static str,
    value: f32,
    /// What `--check` asks for.
    bound: Option<Bound>,
    /// The same number for something to compare with.
    versus: Option<(&'static str, f32)>,
}

#[derive(Clone, Copy)]
enum Bound {
    AtLeast(f32),
    AtMost(f32),
}

impl Metric {
    pub fn new(name: &'static str, value: f32) -> Self {
        Metric { name, value, bound: None, versus: None }
    }

    /// `--check` fails below this.
    pub fn at_least(self, bound: f32) -> Self {
        Metric { bound: Some(Bound::AtLeast(bound)), ..self }
    }

    /// `--check` fails above this.
    pub fn at_most(self, bound: f32) -> Self {
        Metric { bound: Some(Bound::AtMost(bound)), ..self }
    }

    /// Shows beside it what something else achieves; `--check` fails if that is better.
    pub fn versus(self, what: &'static str, rival: Metric) -> Self {
        Metric { versus: Some((what, rival.value)), ..self }
    }

    /// What `--check` has to say of it, if anything.
    fn complaint(&self) -> Option<String> {
        let Metric { name, value, .. } = *self;
        let (bound, small) = match self.bound? {
            Bound::AtLeast(bound) => (bound, false),
            Bound::AtMost(bound) => (bound, true),
        };
        // A NaN is not within any bound.
        let within = |bound: f32| if small { value <= bound } else { value >= bound };
        let limit = if small { "at most" } else { "at least" };
        match self.versus {
            _ if !within(bound) => Some(format!("{name} is {value}, expected {limit} {bound}")),
            Some((what, rival)) if !within(rival) => {
                Some(format!("{name} is {value}, expected {limit} the {rival} of {what}"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // 0.974, 43.1, 8
        let digits = |value: f32| {
            if value.fract() == 0.0 && value > 1.0 {
                0
            } else if value < 10.0 {
                3
            } else {
                1
            }
        };
        write!(f, "{} {:.*}", self.name, digits(self.value), self.value)?;
        match self.versus {
            Some((what, value)) => write!(f, " ({what}: {:.*})", digits(value), value),
            None => Ok(()),
        }
    }
}

impl Outcome {
    fn results(&self) -> String {
        self.metrics.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// What `--check` has to say.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        self.metrics.iter().filter_map(|metric| Some(format!("{}: {}", self.loss, metric.complaint()?)))
    }
}

/// A line on stderr that says what is going on. It changes with every epoch if stderr is a terminal.
pub struct Progress {
    loss: &'static str,
    started: Instant,
    terminal: bool,
}

impl Progress {
    pub fn start(loss: &'static str) -> Self {
        Progress { loss, started: Instant::now(), terminal: std::io::stderr().is_terminal() }
    }

    pub fn update(&self, epoch: usize, epochs: usize, loss: f32) {
        if self.terminal {
            eprint!("\r\x1b[2K{:<16} epoch {epoch}/{epochs}, loss {loss:.4}", self.loss);
            let _ = std::io::stderr().flush();
        }
    }

    /// Ends the line with the results.
    pub fn finish(self, task: &'static str, curve: Vec<f32>, metrics: Vec<Metric>) -> Outcome {
        let seconds = self.started.elapsed().as_secs_f32();
        let curves = vec![("training loss", curve)];
        let outcome = Outcome { loss: self.loss, task, curves, metrics, seconds, pictures: Vec::new() };
        let clear = if self.terminal { "\r\x1b[2K" } else { "" };
        eprintln!("{clear}{:<16} {}", outcome.loss, outcome.results());
        outcome
    }
}

/// The table, with columns as wide as they need to be.
pub fn table(outcomes: &[Outcome], device: &Device) -> String {
    let device = if device.is_cuda() { "CUDA" } else { "CPU" };
    let header = ["loss", "task", "device", "first loss", "last loss", "on test data", "seconds"].map(String::from);
    let rows = outcomes.iter().map(|outcome| {
        let curve = &outcome.curves[0].1;
        let [first, last] = [curve.first(), curve.last()].map(|loss| format!("{:.4}", loss.unwrap_or(&f32::NAN)));
        let seconds = format!("{:.1}", outcome.seconds);
        [outcome.loss.into(), outcome.task.into(), device.into(), first, last, outcome.results(), seconds]
    });
    let rows: Vec<[String; 7]> = std::iter::once(header).chain(rows).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0));
    let lines = rows.iter().enumerate().map(|(i, row)| {
        let cells: Vec<String> = row
            .iter()
            .zip(widths)
            .enumerate()
            .map(|(column, (cell, width))| match column {
                3 | 4 | 6 => format!("{cell:>width$}"),
                _ => format!("{cell:<width$}"),
            })
            .collect();
        let rule = widths.map(|width| "-".repeat(width)).join("  ");
        cells.join("  ") + &if i == 0 { format!("\n{rule}\n") } else { "\n".into() }
    });
    lines.collect()
}

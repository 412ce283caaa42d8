//! Measures rows, and shows them as they come.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

use fused_loss::Device;

use crate::timing::beyond::Beyond;
use crate::timing::cases::Case;
use crate::timing::cases::draw::Dims;
use crate::timing::{self, Dtype, Timed, list};

/// What was measured of a loss.
#[derive(Clone, Debug)]
pub struct Row {
    pub loss: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// Threads of the CPU, 0 on a GPU.
    pub threads: usize,
    /// The median call and the median copy.
    pub ns: f64,
    pub copy_ns: f64,
    /// The fewest that the call can move, and what the copy moves.
    pub bytes: usize,
    pub copy_bytes: usize,
    pub launches: Option<usize>,
}

impl Row {
    pub fn gbs(&self) -> f64 {
        self.bytes as f64 / self.ns
    }

    pub fn copy_gbs(&self) -> f64 {
        self.copy_bytes as f64 / self.copy_ns
    }

    pub fn share(&self) -> f64 {
        self.gbs() / self.copy_gbs()
    }

    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// `16384x1000`
    pub fn size(&self) -> String {
        self.shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x")
    }
}

/// At least so many turns make a median.
const FEWEST: usize = 5;

pub fn measure(device: &Device, case: &Case, dims: Dims, dtype: Dtype, seconds: f64) -> Result<Row, String> {
    let bytes = [list::fewest_bytes(case, dims, dtype.bytes()), 2 * dims.elements() * dtype.bytes()];
    let threads = if device.is_cuda() { 0 } else { rayon::current_num_threads() };
    let what = (case.name.as_str(), dtype, list::shape(case, dims));
    take_turns(timing::open(device, case, dims, dtype)?, what, threads, bytes, seconds)
}

/// The same of a call that is not in the case table, which is on the CPU.
pub fn measure_beyond(beyond: Beyond, dtype: Dtype, seconds: f64) -> Result<Row, String> {
    let bytes = [beyond.fewest_bytes(dtype.bytes()), beyond.copy_bytes(dtype.bytes())];
    let what = (beyond.name(), dtype, beyond.shape().to_vec());
    take_turns(beyond.open(dtype)?, what, rayon::current_num_threads(), bytes, seconds)
}

/// Takes turns for so long.
fn take_turns(
    mut timed: Box<dyn Timed + '_>,
    (loss, dtype, shape): (&str, Dtype, Vec<usize>),
    threads: usize,
    [bytes, copy_bytes]: [usize; 2],
    seconds: f64,
) -> Result<Row, String> {
    // The first touches memory and wakes threads.
    timed.turns(1)?;
    let started = Instant::now();
    let mut turns = Vec::new();
    while turns.len() < FEWEST || started.elapsed().as_secs_f64() < seconds {
        turns.extend(timed.turns(4)?);
    }
    Ok(Row {
        loss: loss.into(),
        dtype,
        shape,
        threads,
        ns: median(turns.iter().map(|turn| turn.loss)),
        copy_ns: median(turns.iter().map(|turn| turn.copy)),
        bytes,
        copy_bytes,
        launches: timed.launches(),
    })
}

/// In nanoseconds.
fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    let middle = times.len() / 2;
    let pair = if times.len() % 2 == 1 { [times[middle]; 2] } else { [times[middle - 1], times[middle]] };
    // An event or a clock may see nothing of the shortest calls.
    (pair.iter().sum::<Duration>().as_secs_f64() * 0.5e9).max(0.1)
}

/// The table, a line at a time, and below it on a terminal what is being measured.
pub struct Table {
    out: Box<dyn Write>,
    started: Instant,
    done: usize,
    of: usize,
    terminal: bool,
}

impl Table {
    pub fn new(out: Box<dyn Write>, of: usize) -> Self {
        Table { out, started: Instant::now(), done: 0, of, terminal: io::stderr().is_terminal() }
    }

    pub fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.out, "{line}")?;
        self.out.flush()
    }

    /// More rows will come.
    pub fn expect(&mut self, more: usize) {
        self.of += more;
    }

    pub fn header(&mut self) -> io::Result<()> {
        let names = ["loss", "dtype", "size", "time", "GB/s", "of copy", "bytes", "launches"].map(String::from);
        self.line(&names)?;
        self.line(&[36, 5, 14, 9, 7, 7, 9, 8].map(|width| "-".repeat(width)))
    }

    fn line(&mut self, [loss, dtype, size, time, gbs, share, bytes, launches]: &[String; 8]) -> io::Result<()> {
        self.say(&format!(
            "{loss:<36}  {dtype:<5}  {size:>14}  {time:>9}  {gbs:>7}  {share:>7}  {bytes:>9}  {launches:>8}"
        ))
    }

    /// Measures a row and shows it, or shows why it cannot be measured.
    pub fn measure(
        &mut self,
        device: &Device,
        case: &Case,
        dims: Dims,
        dtype: Dtype,
        seconds: f64,
    ) -> io::Result<Option<Row>> {
        let shape = list::shape(case, dims);
        self.row(&case.name, &shape, dtype, || measure(device, case, dims, dtype, seconds))
    }

    /// Shows what comes of a measurement.
    pub fn row(
        &mut self,
        loss: &str,
        shape: &[usize],
        dtype: Dtype,
        measure: impl FnOnce() -> Result<Row, String>,
    ) -> io::Result<Option<Row>> {
        self.done += 1;
        let size = shape.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
        if self.terminal {
            let (done, of, seconds) = (self.done, self.of, self.started.elapsed().as_secs());
            eprint!("\r\x1b[2K[{done}/{of}, {seconds} s] {loss} {} {size} ...", dtype.name());
            let _ = io::stderr().flush();
        }
        let row = measure();
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        match row {
            Ok(row) => {
                let launches = row.launches.map_or("-".into(), |n| n.to_string());
                let (gbs, share) = (format!("{:.1}", row.gbs()), format!("{:.2}", row.share()));
                let (time, bytes) = (time(row.ns), bytes(row.bytes));
                self.line(&[row.loss.clone(), dtype.name().into(), size, time, gbs, share, bytes, launches])?;
                Ok(Some(row))
            }
            Err(why) => {
                self.say(&format!("{loss:<36}  {:<5}  {size:>14}  left out: {why}", dtype.name()))?;
                Ok(None)
            }
        }
    }

    pub fn end(&mut self) -> io::Result<()> {
        let (done, seconds) = (self.done, self.started.elapsed().as_secs_f64());
        self.say(&format!("\n{done} row{} in {seconds:.0} s", if done == 1 { "" } else { "s" }))
    }
}

/// Three digits and a unit.
pub fn time(ns: f64) -> String {
    let (value, unit) = match ns {
        ns if ns < 1e3 => (ns, "ns"),
        ns if ns < 1e6 => (ns / 1e3, "us"),
        ns if ns < 1e9 => (ns / 1e6, "ms"),
        ns => (ns / 1e9, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

fn bytes(bytes: usize) -> String {
    match bytes as f64 {
        b if b < 1e3 => format!("{b} B"),
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.2} GB", b / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        assert_eq!(
            [0.5, 12.34, 999.0, 1500.0, 4.7e6, 1.25e9].map(time),
            ["0.50 ns", "12.3 ns", "999 ns", "1.50 us", "4.70 ms", "1.25 s"]
        );
        assert_eq!([12, 1500, 201_326_592, 3 << 30].map(bytes), ["12 B", "1.5 kB", "201.3 MB", "3.22 GB"]);
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |ms: &[u64]| median(ms.iter().map(|&ms| Duration::from_millis(ms)));
        assert_eq!((of(&[9, 1, 2]), of(&[4, 1, 2, 9])), (2e6, 3e6));
    }
}

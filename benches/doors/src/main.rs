//! Times one call of fused-loss through each of its doors: mean squared error with its gradient, of 2^20 elements of f32.
//!
//! ```text
//! cargo run --release -p doors [-- ELEMENTS ROUNDS]
//! ```
//!
//! In every round each door is called once, so that a machine that slows down slows all of them. What is printed is the median of
//! their times, and the median over the rounds of each time through the time of the Rust call in the same round.

mod burn;
mod c;
mod candle;
mod rust;

use std::process::ExitCode;
use std::time::Instant;

type Door = Box<dyn FnMut()>;

fn main() -> ExitCode {
    let numbers: Result<Vec<usize>, _> = std::env::args().skip(1).map(|arg| arg.parse()).collect();
    let (n, rounds) = match numbers.as_deref() {
        Ok([]) => (1 << 20, 400),
        Ok([n]) => (*n, 400),
        Ok([n, rounds]) if *rounds > 0 => (*n, *rounds),
        _ => {
            eprintln!("usage: doors [ELEMENTS [ROUNDS]]");
            return ExitCode::from(2);
        }
    };
    let mut doors: Vec<(&str, Door)> = vec![
        ("Rust", Box::new(rust::call(n))),
        ("Rust, a new gradient each time", Box::new(rust::fresh(n))),
        ("C", Box::new(c::call(n))),
        ("candle, `forward_backward`", Box::new(candle::call(n))),
        ("candle, `forward` and candle's `backward`", Box::new(candle::autograd(n))),
        ("burn, `forward_backward`", Box::new(burn::call(n))),
        ("burn, `forward` and burn's `backward`", Box::new(burn::autograd(n))),
    ];
    let mut times = vec![Vec::with_capacity(rounds); doors.len()];
    for round in 0..rounds + rounds.div_ceil(10) {
        // Nobody is always the one after the same neighbour.
        for turn in 0..doors.len() {
            let i = (turn + round) % doors.len();
            let started = Instant::now();
            doors[i].1();
            let took = started.elapsed().as_secs_f64();
            // The first rounds are for caches, clocks and allocators.
            if round >= rounds.div_ceil(10) {
                times[i].push(took);
            }
        }
    }
    println!("door\tmicroseconds\tover the Rust call");
    for ((name, _), took) in doors.iter().zip(&times) {
        let over = median(took.iter().zip(&times[0]).map(|(took, rust)| took / rust));
        println!("{name}\t{:.1}\t{over:.3}", median(took.iter().copied()) * 1e6);
    }
    ExitCode::SUCCESS
}

fn median(of: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = of.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// The same numbers for every door.
fn draw(n: usize, step: usize) -> Vec<f32> {
    (0..n).map(|i| (i * step % 97) as f32 / 48.0 - 1.0).collect()
}

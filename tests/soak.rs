//! Load: many threads that call every loss at once, for as long as `FUSED_LOSS_SOAK` seconds say, get the bits of the quiet run; and what
//! calls allocate, counted, is little and is given back.

#[path = "edge_cases/support.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Mutex;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fused_loss::*;
use support::*;

/// Counts.
struct Counting;

static LIVE: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

// SAFETY: the system's, counted.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size() as isize, Relaxed) + layout.size() as isize;
        MOST.fetch_max(live, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as isize, Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The tests take turns: bytes are of the whole process.
static TURN: Mutex<()> = Mutex::new(());

/// Below and above what wakes the thread pool.
const SMALL: [usize; 3] = [5, 9, 11];
const LARGE: [usize; 3] = [2, 34, 2000];

/// Without optimisation a large one takes a while: those that between them use the pool in every way.
const USE_THREADS: [&str; 5] = ["MSE", "cross-entropy", "Dice, sigmoid", "Dice, softmax, batch", "distillation"];

/// What a loss writes, as bits, into memory that is there.
fn run(loss: &AnyLoss<f32>, data: &Data<f32>, grad: &mut [f32]) -> u32 {
    let verb = Verb::ForwardBackward(Reduction::Mean, grad);
    (loss.run)(data.job(verb)).unwrap_or_else(|e| panic!("{}: {e}", loss.name)).to_bits()
}

/// Of three tensors this table makes the third for each call.
fn allocates_itself(loss: &AnyLoss<f32>) -> bool {
    ["Gaussian", "margin ranking", "DPO"].iter().any(|name| loss.name.starts_with(name))
}

#[test]
fn a_call_takes_little_memory_and_gives_it_back() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut random = Random(1);
    for loss in losses::<f32>().iter().filter(|loss| !allocates_itself(loss)) {
        for dims in [SMALL, LARGE].into_iter().take(1 + usize::from(USE_THREADS.contains(&loss.name))) {
            let data = loss.data(&mut random, dims);
            let mut grad = vec![0.0; data.input.len()];
            // The first may start threads.
            run(loss, &data, &mut grad);
            let before = LIVE.load(Relaxed);
            MOST.store(before, Relaxed);
            run(loss, &data, &mut grad);
            let (most, left) = (MOST.load(Relaxed) - before, LIVE.load(Relaxed) - before);
            // Partial sums, and what rayon's queues grow by.
            assert!(most <= 64 << 10, "{} {dims:?}: {most} bytes", loss.name);
            assert!(left <= 4 << 10, "{} {dims:?}: {left} bytes are left", loss.name);
        }
    }
}

#[test]
fn under_load_every_answer_is_that_of_the_quiet_run_and_nothing_leaks() {
    let _turn = TURN.lock().unwrap_or_else(|e| e.into_inner());
    let mut random = Random(2);
    let seconds = std::env::var("FUSED_LOSS_SOAK").ok().and_then(|s| s.parse().ok()).unwrap_or(4);
    let all = losses::<f32>();
    let mut work: Vec<(&AnyLoss<f32>, Data<f32>)> =
        all.iter().map(|loss| (loss, loss.data(&mut random, SMALL))).collect();
    work.extend(all.iter().filter(|l| USE_THREADS.contains(&l.name)).map(|loss| (loss, loss.data(&mut random, LARGE))));
    let quiet: Vec<(u32, Vec<u32>)> = work
        .iter()
        .map(|(loss, data)| {
            let mut grad = vec![0.0; data.input.len()];
            (run(loss, data, &mut grad), bits(&grad))
        })
        .collect();

    // Bytes after each of so many rounds of all threads.
    const ROUNDS: u32 = 4;
    let mut live = Vec::new();
    let mut calls = 0;
    for round in 0..ROUNDS {
        let deadline = Instant::now() + Duration::from_secs(seconds) / ROUNDS;
        let done = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..6)
                .map(|thread| {
                    let (work, quiet) = (&work, &quiet);
                    scope.spawn(move || {
                        let (mut random, mut done) = (Random(u64::from(round) << 8 | thread), 0);
                        while Instant::now() < deadline || done == 0 {
                            let i = random.below(work.len());
                            let (loss, data) = &work[i];
                            let mut grad = vec![0.0; data.input.len()];
                            let value = run(loss, data, &mut grad);
                            let same = (value, bits(&grad)) == quiet[i];
                            assert!(same, "{} {:?}: another answer under load", loss.name, data.dims);
                            done += 1;
                        }
                        done
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum::<u64>()
        });
        calls += done;
        live.push(LIVE.load(Relaxed));
    }
    println!("{calls} calls; bytes after each round: {live:?}");
    // What is started once is there after the first.
    let growth = live[ROUNDS as usize - 1] - live[0];
    assert!(growth <= 16 << 10, "{growth} bytes in {calls} calls: {live:?}");
}

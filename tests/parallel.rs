//! Classes and tokens shared by ranks, which are threads here: the same as on one device, and no rank that hangs.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fused_loss::parallel::{Communicator, Local, ReduceOp, Vocab, VocabCall, sum_over_ranks};
use fused_loss::{CrossEntropy, Element, Error, Reduction, Result};
use half::{bf16, f16};

mod cases;
#[cfg(feature = "cuda")]
#[path = "parallel/gpu.rs"]
mod gpu;
#[cfg(feature = "head")]
#[path = "parallel/head.rs"]
mod head;
#[cfg(all(feature = "cuda", feature = "head"))]
#[path = "parallel/head_gpu.rs"]
mod head_gpu;

use cases::draw::Rng;
use cases::textbook::{self, CrossEntropyOptions};
use cases::tolerance::half_ulp;

/// Runs every rank of a group in a thread of its own; what they return, in their order.
fn on_ranks<R: Send>(size: usize, run: impl Fn(&Local) -> R + Sync) -> Vec<R> {
    let run = &run;
    std::thread::scope(|scope| {
        let threads: Vec<_> = Local::group(size).into_iter().map(|rank| scope.spawn(move || run(&rank))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A rank that dies instead of coming to a collective, once it has come to so many; or just counts them.
#[derive(Debug)]
struct Dies<'r> {
    rank: &'r dyn Communicator,
    after: usize,
    come: AtomicUsize,
}

impl<'r> Dies<'r> {
    fn new(rank: &'r dyn Communicator, after: usize) -> Self {
        Dies { rank, after, come: AtomicUsize::new(0) }
    }

    fn comes(&self) {
        if self.come.fetch_add(1, Ordering::Relaxed) == self.after {
            // Without a message on the terminal.
            resume_unwind(Box::new("the test wants it"));
        }
    }

    /// What comes of it, none if it dies, and to how many collectives it came.
    fn runs<R>(self, run: impl FnOnce(&Self) -> R) -> (Option<R>, usize) {
        let outcome = catch_unwind(AssertUnwindSafe(|| run(&self))).ok();
        (outcome, self.come.into_inner())
    }
}

impl Communicator for Dies<'_> {
    fn rank(&self) -> usize {
        self.rank.rank()
    }

    fn size(&self) -> usize {
        self.rank.size()
    }

    fn all_reduce(&self, data: &mut [f32], op: ReduceOp) -> Result<()> {
        self.comes();
        self.rank.all_reduce(data, op)
    }

    fn leave(&self, why: &Error) {
        self.rank.leave(why);
    }

    #[cfg(feature = "cuda")]
    unsafe fn all_reduce_on(
        &self,
        stream: &std::sync::Arc<fused_loss::cudarc::driver::CudaStream>,
        address: u64,
        len: usize,
        op: ReduceOp,
    ) -> Result<()> {
        self.comes();
        // SAFETY: the caller's promise.
        unsafe { self.rank.all_reduce_on(stream, address, len, op) }
    }

    #[cfg(feature = "cuda")]
    unsafe fn agree_on(
        &self,
        stream: &std::sync::Arc<fused_loss::cudarc::driver::CudaStream>,
        address: u64,
        own: [f32; 4],
        known: bool,
        look: &dyn Fn(&[f32]) -> Result<()>,
    ) -> Result<()> {
        self.comes();
        // SAFETY: as above.
        unsafe { self.rank.agree_on(stream, address, own, known, look) }
    }
}

/// Where the classes of each rank begin, and where the last ends: unequal parts, and where there are many, some of nothing.
fn borders(classes: usize, ranks: usize) -> Vec<usize> {
    let mut borders: Vec<usize> = (0..ranks).map(|r| (classes * r * r / (ranks * ranks)).min(classes)).collect();
    borders.push(classes);
    borders
}

struct Problem<T> {
    rows: usize,
    classes: usize,
    logits: Vec<T>,
    target: Vec<i64>,
    weight: Option<Vec<f32>>,
    class_weight: Option<Vec<f32>>,
    options: CrossEntropyOptions,
}

impl<T: Element> Problem<T> {
    fn new(rows: usize, classes: usize, everything: bool) -> Self {
        let mut rng = Rng::new((rows + classes) as u64);
        let logits = (0..rows * classes).map(|_| T::from_f32(rng.uniform(-6.0, 6.0) as f32)).collect();
        let target = (0..rows).map(|i| if i % 5 == 3 { -100 } else { (i * 7 % classes) as i64 }).collect();
        let mut weights = |n: usize| (0..n).map(|_| rng.uniform(0.5, 1.5) as f32).collect::<Vec<f32>>();
        let (weight, class_weight) = (weights(rows), weights(classes));
        let [smoothing, z_loss, softcap] = if everything { [0.1f32, 1e-3, 4.0].map(f64::from) } else { [0.0; 3] };
        let options = CrossEntropyOptions { smoothing, z_loss, softcap: everything.then_some(softcap) };
        let (weight, class_weight) = (everything.then_some(weight), everything.then_some(class_weight));
        Problem { rows, classes, logits, target, weight, class_weight, options }
    }

    fn loss(&self) -> CrossEntropy {
        let CrossEntropyOptions { smoothing, z_loss, softcap } = self.options;
        let loss = CrossEntropy::new().label_smoothing(smoothing as f32).unwrap().z_loss(z_loss as f32).unwrap();
        loss.softcap(softcap.map(|cap| cap as f32)).unwrap()
    }

    /// Of one device: the value, the loss of each row, and the gradient.
    fn whole(&self, reduction: Reduction) -> (f32, Vec<f32>, Vec<T>) {
        let call = || {
            let mut call = self.loss().call(&self.logits, &self.target, (self.rows, self.classes)).grad_output(2.0);
            call = if let Some(w) = &self.weight { call.weight(w) } else { call };
            if let Some(w) = &self.class_weight { call.class_weight(w) } else { call }
        };
        let (mut losses, mut grad) = (vec![f32::NAN; self.rows], vec![T::default(); self.logits.len()]);
        call().forward_unreduced(&mut losses).unwrap();
        (call().forward_backward(reduction, &mut grad).unwrap(), losses, grad)
    }

    /// Columns `from..to`.
    fn columns(&self, all: &[T], from: usize, to: usize) -> Vec<T> {
        all.chunks_exact(self.classes).flat_map(|row| row[from..to].to_vec()).collect()
    }

    /// A part of the classes.
    fn call<'a>(&'a self, vocab: &'a Vocab<'a>, logits: &'a [T]) -> VocabCall<'a, T> {
        let mut call = self.loss().across(vocab).call(logits, &self.target).grad_output(2.0);
        call = if let Some(w) = &self.weight { call.weight(w) } else { call };
        let here = vocab.first()..vocab.first() + vocab.here();
        if let Some(w) = &self.class_weight { call.class_weight(&w[here]) } else { call }
    }
}

/// To one rounding, to a share of the largest of the row, and to this.
fn close<T: Element>(want: &[T], got: &[T], columns: usize, besides: f64) {
    for (want, got) in want.chunks_exact(columns.max(1)).zip(got.chunks_exact(columns.max(1))) {
        let largest = want.iter().fold(0f64, |a, x| a.max(x.to_f32().abs().into()));
        for (want, got) in want.iter().zip(got) {
            let (want, got) = (f64::from(want.to_f32()), f64::from(got.to_f32()));
            let allowed = besides + 2e-6 * largest + 2.0 * half_ulp::<T>(want);
            assert!((want - got).abs() <= allowed, "{got}, of one device {want}, of {largest}");
        }
    }
}

fn check<T: Element>(rounding: f32) {
    for everything in [false, true] {
        for (rows, classes) in [(0, 7), (1, 1), (5, 7), (13, 40), (4, 9001)] {
            let problem = Problem::<T>::new(rows, classes, everything);
            let reductions = [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::SumOver(3.5)];
            for (ranks, reduction) in [1, 2, 3, 8].into_iter().zip(reductions.into_iter().cycle().skip(rows % 3)) {
                let (value, losses, grad) = problem.whole(reduction);
                let borders = borders(classes, ranks);
                let results = on_ranks(ranks, |rank| {
                    let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
                    let logits = problem.columns(&problem.logits, from, to);
                    let vocab = Vocab::new(rank, to - from).unwrap();
                    assert_eq!((vocab.first(), vocab.here(), vocab.classes()), (from, to - from, classes));
                    let (mut got, mut of_rows) = (vec![T::from_f32(f32::NAN); logits.len()], vec![f32::NAN; rows]);
                    let call = || problem.call(&vocab, &logits);
                    let got_value = call().forward_backward(reduction, &mut got).unwrap();
                    assert_eq!(call().forward(reduction).unwrap().to_bits(), got_value.to_bits());
                    call().forward_unreduced(&mut of_rows).unwrap();
                    close(&problem.columns(&grad, from, to), &got, to - from, 0.0);
                    let ones = vec![T::from_f32(1.0); got.len()];
                    let mut twice = ones.clone();
                    call().accumulate().forward_backward(reduction, &mut twice).unwrap();
                    for (once, twice) in got.iter().zip(&twice) {
                        assert!(
                            (1.0 + once.to_f32() - twice.to_f32()).abs()
                                <= (1e-6 + 2.0 * rounding) * (1.0 + once.to_f32().abs())
                        );
                    }
                    (got_value, of_rows)
                });
                for (got, of_rows) in &results {
                    assert!(
                        (got - value).abs() <= 2e-6 * value.abs() || got.is_nan() && value.is_nan(),
                        "{got} {value}"
                    );
                    assert_eq!((got.to_bits(), of_rows), (results[0].0.to_bits(), &results[0].1), "ranks differ");
                    for (got, want) in of_rows.iter().zip(&losses) {
                        assert!((got - want).abs() <= 2e-6 * want.abs(), "{got} {want}");
                    }
                }
            }
        }
    }
}

#[test]
fn f32_is_that_of_one_device() {
    check::<f32>(0.0);
}

#[test]
fn f16_is_that_of_one_device() {
    check::<f16>(f32::powi(2.0, -10));
}

#[test]
fn bf16_is_that_of_one_device() {
    check::<bf16>(f32::powi(2.0, -7));
}

#[test]
fn losses_are_the_definition() {
    let problem = Problem::<f32>::new(11, 33, true);
    let class_weight: Vec<f64> = problem.class_weight.iter().flatten().map(|&w| w.into()).collect();
    let results = on_ranks(3, |rank| {
        let logits = problem.columns(&problem.logits, rank.rank() * 11, rank.rank() * 11 + 11);
        let vocab = Vocab::new(rank, 11).unwrap();
        let mut losses = vec![0.0; 11];
        problem.call(&vocab, &logits).forward_unreduced(&mut losses).unwrap();
        losses
    });
    for (r, row) in problem.logits.chunks_exact(33).enumerate().filter(|(r, _)| problem.target[*r] != -100) {
        let z: Vec<f64> = row.iter().map(|&z| z.into()).collect();
        let mut q = vec![0.0; 33];
        q[problem.target[r] as usize] = 1.0;
        let of_row = f64::from(problem.weight.as_ref().unwrap()[r]);
        let want = of_row * textbook::cross_entropy(&z, &q, &class_weight, problem.options);
        assert!((want - f64::from(results[1][r])).abs() <= 1e-6 * want);
    }
}

/// Rows of six classes at the edges of f32, with their targets.
fn edges() -> [([f32; 6], i64); 9] {
    let (inf, nan) = (f32::INFINITY, f32::NAN);
    [
        ([nan; 6], -100),
        // A rank where all is masked, with the target elsewhere, and there.
        ([-inf, -inf, 1.0, 2.0, 0.5, -1.0], 3),
        ([-inf, -inf, 1.0, 2.0, 0.5, -1.0], 0),
        // NaN beside nothing but masks.
        ([-inf, nan, 1.0, 2.0, 0.5, -1.0], 3),
        ([-inf; 6], 1),
        ([0.0, inf, 1.0, 2.0, 0.5, -1.0], 4),
        // One class has all but 1e-9 of the probability.
        ([0.0, 1.0, 24.0, 2.0, 0.5, -1.0], 2),
        ([1e30, 1e30, -1e30, 0.0, 1e30, 1e30], 0),
        ([3e4, 3e4 + 1.0, 3e4, 3e4, 3e4, 3e4], 5),
    ]
}

/// What is not a number, or not finite, does what it does on one device.
#[test]
fn numbers_at_the_edge_are_those_of_one_device() {
    for (r, (logits, target)) in edges().into_iter().enumerate() {
        let target = [target];
        let mut want = [9.0; 6];
        let value = CrossEntropy::new().forward_backward(&logits, &target, (1, 6), Reduction::Sum, &mut want).unwrap();
        let results = on_ranks(3, |rank| {
            let vocab = Vocab::new(rank, 2).unwrap();
            let mut grad = logits[2 * rank.rank()..][..2].to_vec();
            let call = CrossEntropy::new().across(&vocab).call_in_place(&mut grad, &target);
            (call.forward_backward(Reduction::Sum).unwrap(), grad)
        });
        let same = |got: f32, want: f32| {
            got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= 1e-6 * want.abs()
        };
        let grads: Vec<f32> = results.iter().flat_map(|(_, grad)| grad.clone()).collect();
        assert!(results.iter().all(|&(got, _)| same(got, value)), "row {r}: {results:?}, of one device {value}");
        assert!(
            grads.iter().zip(&want).all(|(&got, &want)| same(got, want)),
            "row {r}: {grads:?}, of one device {want:?}"
        );
    }
}

#[test]
fn repeated_calls_give_the_same_bits() {
    let problem = Problem::<f32>::new(40, 3000, true);
    let run = || {
        on_ranks(3, |rank| {
            let logits = problem.columns(&problem.logits, rank.rank() * 1000, rank.rank() * 1000 + 1000);
            let vocab = Vocab::new(rank, 1000).unwrap();
            let mut grad = vec![0.0; logits.len()];
            let value = problem.call(&vocab, &logits).forward_backward(Reduction::Mean, &mut grad).unwrap();
            (value, grad)
        })
    };
    assert!(run() == run());
}

/// Ranks with tokens of their own: the sum of their values, and their gradients, are those of one device.
#[test]
fn a_mean_over_the_tokens_of_all_ranks_is_that_of_one_device() {
    let problem = Problem::<f32>::new(20, 9, false);
    let (value, _, grad) = problem.whole(Reduction::Mean);
    let results = on_ranks(3, |rank| {
        let rows = [0..4, 4..15, 15..20][rank.rank()].clone();
        let target = &problem.target[rows.clone()];
        let counted = target.iter().filter(|&&t| t != -100).count();
        let over = sum_over_ranks(rank, counted as f64).unwrap();
        let mut got = vec![0.0; 9 * rows.len()];
        let logits = &problem.logits[9 * rows.start..9 * rows.end];
        let call = CrossEntropy::new().call(logits, target, (rows.len(), 9)).grad_output(2.0);
        (call.forward_backward(Reduction::SumOver(over), &mut got).unwrap(), got)
    });
    let sum: f32 = results.iter().map(|(value, _)| value).sum();
    assert!((sum - value).abs() <= 1e-6 * value);
    close(&grad, &results.into_iter().flat_map(|(_, grad)| grad).collect::<Vec<_>>(), 9, 0.0);
}

#[test]
fn a_rank_that_ends_is_an_error_of_all_others_and_nobody_hangs() {
    let begin = Instant::now();
    // It panics, returns early, or is refused its call.
    for how in 0..3 {
        let ranks = Local::group(3);
        let results: Vec<Option<Result<f32>>> = std::thread::scope(|scope| {
            let threads: Vec<_> = ranks
                .into_iter()
                .map(|rank| {
                    scope.spawn(move || {
                        let vocab = Vocab::new(&rank, 2).unwrap();
                        let logits = [0.5f32, 1.0, 2.0, 0.0];
                        let short = if how == 2 && rank.rank() == 1 { 3 } else { 4 };
                        match (how, rank.rank()) {
                            (0, 1) => std::panic::resume_unwind(Box::new("the test wants it")),
                            (1, 1) => Ok(0.0),
                            _ => CrossEntropy::new()
                                .across(&vocab)
                                .call(&logits[..short], &[0i64, 1])
                                .forward(Reduction::Mean),
                        }
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().ok()).collect()
        });
        assert_eq!(results[0], Some(Err(Error::RankLost { rank: 1 })), "{how}");
        assert_eq!(results[2], Some(Err(Error::RankLost { rank: 1 })), "{how}");
        if how == 2 {
            assert_eq!(results[1], Some(Err(Error::Length { what: "logits", expected: 4, got: 3 })));
        }
    }
    assert!(begin.elapsed() < Duration::from_secs(30));

    // One that is there and does not come.
    let mut ranks = Local::group_with_timeout(2, Duration::from_millis(50));
    let late = ranks.pop().unwrap();
    assert_eq!(ranks[0].all_reduce(&mut [1.0], ReduceOp::Sum), Err(Error::RankLost { rank: 1 }));
    assert_eq!(late.all_reduce(&mut [1.0], ReduceOp::Sum), Err(Error::RankLost { rank: 1 }), "the group has ended");
}

/// Whichever collective of a call it is to which a rank does not come.
#[test]
fn a_rank_that_dies_within_a_call_is_an_error_of_all_others() {
    let problem = Problem::<f32>::new(8, 6, true);
    // Saying what is called, the weights of the targets, maxima, sums.
    for after in 0..=4 {
        let results = on_ranks(3, |rank| {
            let logits = problem.columns(&problem.logits, 2 * rank.rank(), 2 * rank.rank() + 2);
            // Behind the one in which ranks say how many classes they have.
            let dies = Dies::new(rank, if rank.rank() == 1 { 1 + after } else { usize::MAX });
            dies.runs(|rank| {
                let vocab = Vocab::new(rank, 2).unwrap();
                problem.call(&vocab, &logits).forward_backward(Reduction::Mean, &mut [0.0; 16])
            })
        });
        for (rank, (outcome, come)) in results.into_iter().enumerate() {
            assert_eq!(come, 1 + if after == 4 { 4 } else { after + 1 });
            match outcome {
                None => assert!(rank == 1 && after < 4),
                Some(outcome) if after < 4 => assert_eq!(outcome, Err(Error::RankLost { rank: 1 })),
                Some(outcome) => assert!(outcome.is_ok(), "{outcome:?}"),
            }
        }
    }
}

/// A rank that cannot go on with a call says so, and does not come to the collectives of others in the wrong one.
#[test]
fn a_rank_that_leaves_a_call_is_lost_to_all() {
    let ranks = Local::group(2);
    ranks[1].leave(&Error::OutOfMemory { bytes: 1 });
    for rank in &ranks {
        assert_eq!(rank.all_reduce(&mut [1.0], ReduceOp::Sum), Err(Error::RankLost { rank: 1 }));
    }
}

#[test]
fn ranks_that_disagree_are_told_so() {
    let results = on_ranks(3, |rank| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let targets = [0i64; 3];
        let rows = if rank.rank() == 2 { 3 } else { 2 };
        CrossEntropy::new().across(&vocab).call(&[0.0f32; 6][..2 * rows], &targets[..rows]).forward(Reduction::Sum)
    });
    assert!(results.iter().all(|r| *r == Err(Error::RanksDisagree { rank: 2, expected: 2, got: 3 })), "{results:?}");
    // With as many rows, but options, weights, outputs or a reduction of its own.
    let results = on_ranks(3, |rank| {
        let (vocab, odd) = (Vocab::new(rank, 2).unwrap(), rank.rank() == 1);
        let (logits, targets, mut grad) = ([0.0f32; 4], [0i64; 2], [0.0; 4]);
        let smooth = CrossEntropy::new().label_smoothing(if odd { 0.1 } else { 0.2 }).unwrap();
        let plain = CrossEntropy::new().across(&vocab);
        let call = || plain.call(&logits, &targets);
        let mut results = [
            smooth.across(&vocab).call(&logits, &targets).forward(Reduction::Mean),
            CrossEntropy::new()
                .ignore_index(odd.then_some(7))
                .across(&vocab)
                .call(&logits, &targets)
                .forward(Reduction::Mean),
            call().forward(if odd { Reduction::Sum } else { Reduction::Mean }),
            if odd { call().class_weight(&[1.0; 2]) } else { call() }.forward(Reduction::Mean),
            if odd { call().weight(&[1.0; 2]) } else { call() }.forward(Reduction::Mean),
            if odd { call().forward(Reduction::Mean) } else { call().forward_backward(Reduction::Mean, &mut grad) },
            if odd { call().forward_unreduced(&mut [0.0; 2]).map(|()| 0.0) } else { call().forward(Reduction::Mean) },
        ]
        .to_vec();
        // What may differ: what a sum is divided by, and the gradient from above.
        results.push(call().grad_output(rank.rank() as f32).forward(Reduction::SumOver(1.0 + rank.rank() as f64)));
        results
    });
    for results in &results {
        let (last, others) = results.split_last().unwrap();
        assert!(others.iter().all(|r| *r == Err(Error::RanksDiffer { rank: 1 })), "{results:?}");
        assert!(last.is_ok(), "the group goes on: {last:?}");
    }
    let results = on_ranks(2, |rank| {
        let op = if rank.rank() == 0 { ReduceOp::Sum } else { ReduceOp::Max };
        let first = rank.all_reduce(&mut [1.0], op);
        // The group goes on.
        let mut data = [rank.rank() as f32];
        rank.all_reduce(&mut data, ReduceOp::Max).unwrap();
        (first, data)
    });
    assert!(results.iter().all(|r| *r == (Err(Error::RanksDisagree { rank: 1, expected: 1, got: 1 }), [1.0])));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    on_ranks(2, |rank| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let (on, logits, mut grad) = (CrossEntropy::new().across(&vocab), [0.0f32; 4], [9.0; 4]);
        let length = |what, expected, got| Err(Error::Length { what, expected, got });
        let call = || on.call(&logits, &[0i64, 3]);
        assert_eq!(on.call(&logits, &[0i64; 3]).forward(Reduction::Sum), length("logits", 6, 4));
        assert_eq!(call().weight(&[1.0]).forward(Reduction::Sum), length("weight", 2, 1));
        assert_eq!(call().class_weight(&[1.0; 4]).forward(Reduction::Sum), length("class_weight", 2, 4));
        assert_eq!(call().forward_backward(Reduction::Sum, &mut grad[..3]), length("grad_input", 4, 3));
        assert_eq!(call().forward_unreduced(&mut [0.0]), Err(Error::Length { what: "losses", expected: 2, got: 1 }));
        let stray = on.call(&logits, &[0i64, 4]).forward_backward(Reduction::Sum, &mut grad);
        assert_eq!(stray, Err(Error::ClassIndex { row: 1, index: 4, classes: 4 }));
        assert!(on.call(&logits, &logits).forward(Reduction::Sum).is_err());
        assert!(call().forward(Reduction::SumOver(0.0)).is_err());
        assert_eq!(grad, [9.0; 4]);
        // Nobody has come to a collective, so that the next goes well.
        assert!(call().forward(Reduction::Mean).is_ok());
    });
}

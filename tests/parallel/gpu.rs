//! The same on GPUs: ranks that are threads, each with a stream of the first GPU and what it reduces going by way of the host; and, where
//! there are enough GPUs, or a pretended one, ranks that talk through NCCL.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fused_loss::cudarc::driver::{CudaContext, CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits, sys};
use fused_loss::parallel::{
    Communicator, CudaVocabCall, Local, Nccl, NcclId, ReduceOp, Vocab, VocabCrossEntropy, sum_over_ranks,
    sum_over_ranks_on,
};
use fused_loss::{CrossEntropy, Cuda, Element, Error, OnCuda, Reduction, Target};
use half::{bf16, f16};

use super::cases::gpu::{Copied, Targets, cuda};
use super::cases::tolerance::half_ulp;
use super::{Dies, Problem, borders, close, edges};

pub trait Number: Element + DeviceRepr + ValidAsZeroBits + Default {}
impl<T: Element + DeviceRepr + ValidAsZeroBits + Default> Number for T {}

/// What ranks talk through.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Through {
    Host,
    Nccl,
}

/// A stream of each of so many GPUs, or of one that is pretended; none where there are too few.
fn streams(size: usize, through: Through) -> Option<Vec<Arc<CudaStream>>> {
    cuda()?;
    let pretended = std::env::var_os("PRETEND_KERNELS").is_some();
    let gpus = CudaContext::device_count().unwrap() as usize;
    if through == Through::Nccl && !pretended && gpus < size {
        eprintln!("SKIPPED, {size} ranks through NCCL: there are {gpus} GPUs");
        return None;
    }
    let ordinal = |rank| if through == Through::Nccl && !pretended { rank } else { 0 };
    Some((0..size).map(|rank| CudaContext::new(ordinal(rank)).unwrap().new_stream().unwrap()).collect())
}

/// Runs every rank of a group in a thread of its own; what they return, in their order.
pub fn on_gpus<R: Send>(
    size: usize,
    through: Through,
    run: impl Fn(&dyn Communicator, &Cuda) -> R + Sync,
) -> Option<Vec<R>> {
    let streams = streams(size, through)?;
    let ranks: Vec<Box<dyn Communicator + Send>> = match through {
        Through::Host => Local::group(size).into_iter().map(|rank| Box::new(rank) as _).collect(),
        Through::Nccl => Nccl::group(&streams).unwrap().into_iter().map(|rank| Box::new(rank) as _).collect(),
    };
    let run = &run;
    Some(std::thread::scope(|scope| {
        let threads: Vec<_> = ranks
            .into_iter()
            .zip(streams)
            .map(|(rank, stream)| scope.spawn(move || run(&*rank, &Cuda::new(&stream).unwrap())))
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }))
}

/// The same of ranks that talk through NCCL and wait for one another no longer than `LATE`.
pub fn through_nccl<R: Send>(size: usize, run: impl Fn(&Nccl, &Cuda) -> R + Sync) -> Option<Vec<R>> {
    let streams = streams(size, Through::Nccl)?;
    let (ranks, run) = (Nccl::group_with_timeout(&streams, LATE).unwrap(), &run);
    Some(std::thread::scope(|scope| {
        let of_rank = |(rank, stream)| scope.spawn(move || run(&rank, &Cuda::new(&stream).unwrap()));
        let threads: Vec<_> = ranks.into_iter().zip(streams).map(of_rank).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    }))
}

/// Long enough for the calls of these tests.
const LATE: Duration = Duration::from_secs(3);

/// The error of a rank that waited for others in vain.
pub fn late() -> Error {
    Error::RanksLate { seconds: LATE.as_secs_f64() }
}

/// The buffers of a rank.
struct Buffers<T: Element> {
    logits: Copied<T>,
    target: Targets<T>,
    weight: Option<Copied<f32>>,
    class_weight: Option<Copied<f32>>,
    value: Copied<f32>,
}

impl<T: Number> Buffers<T> {
    fn new(cuda: &Cuda, problem: &Problem<T>, vocab: &Vocab<'_>) -> Self {
        let (from, to) = (vocab.first(), vocab.first() + vocab.here());
        Buffers {
            logits: Copied::new(cuda, &problem.columns(&problem.logits, from, to)),
            target: Targets::new(cuda, Target::I64(&problem.target)),
            weight: problem.weight.as_ref().map(|w| Copied::new(cuda, w)),
            class_weight: problem.class_weight.as_ref().map(|w| Copied::new(cuda, &w[from..to])),
            value: Copied::new(cuda, &[f32::NAN]),
        }
    }
}

fn extended<'a, T: Element, I>(
    mut call: CudaVocabCall<'a, T, I>,
    weight: &'a Option<Copied<f32>>,
    class_weight: &'a Option<Copied<f32>>,
) -> CudaVocabCall<'a, T, I> {
    call = call.grad_output(2.0);
    call = if let Some(w) = weight { call.weight(w.get()) } else { call };
    if let Some(w) = class_weight { call.class_weight(w.get()) } else { call }
}

fn check<T: Number>(through: Through) {
    for everything in [false, true] {
        for (rows, classes) in [(0, 7), (1, 1), (5, 7), (13, 40), (600, 3), (4, 9001)] {
            let problem = Problem::<T>::new(rows, classes, everything);
            let reductions = [Reduction::Mean, Reduction::Sum, Reduction::WeightedMean, Reduction::SumOver(3.5)];
            for (ranks, reduction) in [1, 2, 3, 8].into_iter().zip(reductions.into_iter().cycle().skip(rows % 3)) {
                let (value, losses, grad) = problem.whole(reduction);
                let borders = borders(classes, ranks);
                let results = on_gpus(ranks, through, |rank, cuda| {
                    let (from, to) = (borders[rank.rank()], borders[rank.rank() + 1]);
                    let vocab = Vocab::new(rank, to - from).unwrap();
                    let on = problem.loss().across(&vocab).on(cuda);
                    let Buffers { mut logits, target, weight, class_weight, mut value } =
                        Buffers::new(cuda, &problem, &vocab);
                    let n = rows * (to - from);
                    let (mut back, mut got, mut of_rows) = ([0.0], vec![T::default(); n], vec![0.0; rows]);
                    let mut losses = Copied::new(cuda, &vec![f32::NAN; rows]);
                    let mut apart = Copied::new(cuda, &vec![T::from_f32(f32::NAN); n]);
                    macro_rules! call {
                        () => {
                            extended(on.call(logits.get(), target.get()), &weight, &class_weight)
                        };
                    }
                    call!().forward_backward(reduction, value.get_mut(), apart.get_mut()).unwrap();
                    value.back(cuda, &mut back);
                    apart.back(cuda, &mut got);
                    let got_value = back[0];
                    // Gradients are differences of numbers that are f32 here, and made of a soft-cap that is off by some units in the last place.
                    let largest = grad.iter().fold(0f64, |a, g| a.max(g.to_f32().abs().into()));
                    close(&problem.columns(&grad, from, to), &got, to - from, 5e-7 * largest);

                    call!().forward(reduction, value.get_mut()).unwrap();
                    value.back(cuda, &mut back);
                    assert_eq!(back[0].to_bits(), got_value.to_bits());
                    call!().forward_unreduced(losses.get_mut()).unwrap();
                    losses.back(cuda, &mut of_rows);

                    // Added to what is there, and over the logits.
                    call!().accumulate().forward_backward(reduction, value.get_mut(), apart.get_mut()).unwrap();
                    let mut twice = got.clone();
                    apart.back(cuda, &mut twice);
                    for (once, twice) in got.iter().zip(&twice) {
                        let (want, got) = (2.0 * f64::from(once.to_f32()), f64::from(twice.to_f32()));
                        assert!((want - got).abs() <= 1e-6 * want.abs() + 3.0 * half_ulp::<T>(want), "{got} {want}");
                    }
                    let call = extended(on.call_in_place(logits.get_mut(), target.get()), &weight, &class_weight);
                    call.forward_backward(reduction, value.get_mut()).unwrap();
                    logits.back(cuda, &mut twice);
                    assert!(got.iter().zip(&twice).all(|(a, b)| a.to_f32() == b.to_f32()), "in place");
                    cuda.check().unwrap();
                    (got_value, of_rows)
                });
                for (got, of_rows) in results.iter().flatten() {
                    assert!(
                        (got - value).abs() <= 2e-6 * value.abs() || got.is_nan() && value.is_nan(),
                        "{got} {value}, {rows} x {classes}"
                    );
                    for (got, want) in of_rows.iter().zip(&losses) {
                        assert!((got - want).abs() <= 2e-6 * want.abs(), "{got} {want}");
                    }
                }
                let values = results.iter().flatten().map(|(got, of_rows)| (got.to_bits(), of_rows));
                assert!(values.clone().all(|of| Some(of) == values.clone().next()), "ranks differ");
            }
        }
    }
}

#[test]
fn f32_is_that_of_one_device() {
    check::<f32>(Through::Host);
}

#[test]
fn f16_is_that_of_one_device() {
    check::<f16>(Through::Host);
}

#[test]
fn bf16_is_that_of_one_device() {
    check::<bf16>(Through::Host);
}

#[test]
fn through_nccl_it_is_the_same() {
    check::<f32>(Through::Nccl);
    check::<bf16>(Through::Nccl);
}

/// Ranks with tokens of their own: the sum of their values, and their gradients, are those of one device; whether the host knows how many
/// tokens count or only the GPUs do.
#[test]
fn a_mean_over_the_tokens_of_all_ranks_is_that_of_one_device() {
    let problem = Problem::<f32>::new(20, 9, false);
    let (value, _, grad) = problem.whole(Reduction::Mean);
    for through in [Through::Host, Through::Nccl] {
        for on_device in [false, true] {
            let results = on_gpus(3, through, |rank, cuda| {
                let rows = [0..4, 4..15, 15..20][rank.rank()].clone();
                let target = &problem.target[rows.clone()];
                let counted = target.iter().filter(|&&t| t != -100).count();
                let logits = Copied::new(cuda, &problem.logits[9 * rows.start..9 * rows.end]);
                let target = Copied::new(cuda, target);
                let (mut sum, mut apart) =
                    (Copied::new(cuda, &[f32::NAN]), Copied::new(cuda, &vec![9.0; 9 * rows.len()]));
                let on = CrossEntropy::new().on(cuda);
                let call = on.call(logits.get(), target.get(), (rows.len(), 9)).grad_output(2.0);
                if on_device {
                    let mut over = Copied::new(cuda, &[counted as f32]);
                    sum_over_ranks_on(rank, cuda, over.get_mut()).unwrap();
                    let call = call.denominator(over.get());
                    call.forward_backward(Reduction::Sum, sum.get_mut(), apart.get_mut()).unwrap();
                } else {
                    let over = Reduction::SumOver(sum_over_ranks(rank, counted as f64).unwrap());
                    call.forward_backward(over, sum.get_mut(), apart.get_mut()).unwrap();
                }
                sum_over_ranks_on(rank, cuda, sum.get_mut()).unwrap();
                let (mut got, mut grad) = ([0.0], vec![0.0; 9 * rows.len()]);
                sum.back(cuda, &mut got);
                apart.back(cuda, &mut grad);
                let two = sum_over_ranks_on(rank, cuda, Copied::new(cuda, &[1.0; 2]).get_mut());
                assert_eq!(two, Err(Error::Length { what: "number", expected: 1, got: 2 }));
                (got[0], grad)
            });
            let Some(results) = results else { return };
            assert!(results.iter().all(|(got, _)| (got - value).abs() <= 1e-6 * value), "{results:?}, of one {value}");
            close(&grad, &results.into_iter().flat_map(|(_, grad)| grad).collect::<Vec<_>>(), 9, 0.0);
        }
    }
}

/// What is not a number, or not finite, does what it does on one device, and so does a class that is none.
#[test]
fn numbers_at_the_edge_are_those_of_one_device() {
    let stray = ([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], 6);
    for (r, (logits, target)) in edges().into_iter().chain([stray]).enumerate() {
        let target = [target];
        let mut want = [9.0; 6];
        let one = CrossEntropy::new().forward_backward(&logits, &target, (1, 6), Reduction::Sum, &mut want);
        // A class index that is none is not known before, here.
        let value = one.clone().unwrap_or(f32::NAN);
        if one.is_err() {
            want = [0.0; 6];
        }
        let results = on_gpus(3, Through::Host, |rank, cuda| {
            let vocab = Vocab::new(rank, 2).unwrap();
            let mut buffer = Copied::new(cuda, &logits[2 * rank.rank()..][..2]);
            let (target, mut value) = (Copied::new(cuda, &target), Copied::new(cuda, &[0.0]));
            let on: OnCuda<'_, VocabCrossEntropy<'_>> = CrossEntropy::new().across(&vocab).on(cuda);
            on.call_in_place(buffer.get_mut(), target.get()).forward_backward(Reduction::Sum, value.get_mut()).unwrap();
            let (mut got, mut grad) = ([0.0], [0.0; 2]);
            value.back(cuda, &mut got);
            buffer.back(cuda, &mut grad);
            assert_eq!(cuda.check(), if r == 9 { Err(Error::ClassIndexOnDevice { row: 0 }) } else { Ok(()) });
            (got[0], grad)
        });
        let Some(results) = results else { return };
        let same = |got: f32, want: f32| {
            got == want || got.is_nan() && want.is_nan() || (got - want).abs() <= 1e-6 * want.abs()
        };
        let grads: Vec<f32> = results.iter().flat_map(|(_, grad)| *grad).collect();
        assert!(results.iter().all(|&(got, _)| same(got, value)), "row {r}: {results:?}, of one device {value}");
        assert!(
            grads.iter().zip(&want).all(|(&got, &want)| same(got, want)),
            "row {r}: {grads:?}, of one device {want:?}"
        );
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_written() {
    on_gpus(2, Through::Host, |rank, cuda| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let logits = Copied::new(cuda, &[0.0f32; 4]);
        let (target, short) = (Copied::new(cuda, &[0i64, 3]), Copied::new(cuda, &[0i64; 3]));
        let (mut value, one, four) =
            (Copied::new(cuda, &[7.0]), Copied::new(cuda, &[1.0f32]), Copied::new(cuda, &[1.0f32; 4]));
        let mut grad = Copied::new(cuda, &[9.0f32; 3]);
        let on = CrossEntropy::new().across(&vocab).on(cuda);
        let call = || on.call(logits.get(), target.get());
        let length = |what, expected, got| Err(Error::Length { what, expected, got });
        assert_eq!(on.call(logits.get(), short.get()).forward(Reduction::Sum, value.get_mut()), length("logits", 6, 4));
        assert_eq!(call().weight(one.get()).forward(Reduction::Sum, value.get_mut()), length("weight", 2, 1));
        let weighed = call().class_weight(four.get());
        assert_eq!(weighed.forward(Reduction::Sum, value.get_mut()), length("class_weight", 2, 4));
        let mut losses = Copied::new(cuda, &[9.0]);
        assert_eq!(call().forward_unreduced(losses.get_mut()), length("losses", 2, 1));
        assert_eq!(
            call().forward_backward(Reduction::Sum, value.get_mut(), grad.get_mut()),
            length("grad_input", 4, 3)
        );
        assert!(on.call(logits.get(), logits.get()).forward(Reduction::Sum, value.get_mut()).is_err());
        assert!(call().forward(Reduction::SumOver(0.0), value.get_mut()).is_err());
        let mut back = [0.0];
        value.back(cuda, &mut back);
        assert_eq!(back, [7.0]);
        // Nobody has come to a collective, so that the next goes well.
        call().forward(Reduction::Mean, value.get_mut()).unwrap();
    });
}

#[test]
fn ranks_that_disagree_are_told_so() {
    for through in [Through::Host, Through::Nccl] {
        let results = on_gpus(3, through, |rank, cuda| {
            let vocab = Vocab::new(rank, 2).unwrap();
            let rows = if rank.rank() == 2 { 3 } else { 2 };
            let (logits, target) = (Copied::new(cuda, &vec![0.0f32; 2 * rows]), Copied::new(cuda, &vec![0i64; rows]));
            let mut value = Copied::new(cuda, &[0.0]);
            let call = CrossEntropy::new().across(&vocab).on(cuda).call(logits.get(), target.get());
            call.forward(Reduction::Sum, value.get_mut())
        });
        let told = Err(Error::RanksDisagree { rank: 2, expected: 2, got: 3 });
        assert!(results.iter().flatten().all(|r| *r == told), "{results:?}");
    }
}

/// A rank that has had calls of 8 and of 16 rows calls with 8, and another with 16. What is through the host is looked at there, always. On
/// GPUs the rank for which that is nothing new has not looked: it waits for the other, which has left.
#[test]
fn ranks_that_disagree_on_what_they_have_agreed_on_before_are_told_so() {
    let steps = |rank: &dyn Communicator, cuda: &Cuda, wait: &dyn Fn() -> Result<(), Error>| {
        let vocab = Vocab::new(rank, 2).unwrap();
        let (logits, targets) = ([0.5f32; 32], [1i64; 16]);
        let mut value = Copied::new(cuda, &[0.0]);
        let mut call = |rows: usize| {
            let (logits, target) = (Copied::new(cuda, &logits[..2 * rows]), Copied::new(cuda, &targets[..rows]));
            let call = CrossEntropy::new().across(&vocab).on(cuda).call(logits.get(), target.get());
            call.forward(Reduction::Sum, value.get_mut()).and_then(|()| wait())
        };
        for rows in [8, 8, 16, 8, 16, 16] {
            call(rows).unwrap();
        }
        let outcome = call(if rank.rank() == 0 { 8 } else { 16 });
        (outcome, call(16))
    };
    let told = Err(Error::RanksDisagree { rank: 1, expected: 8, got: 16 });
    let results = on_gpus(3, Through::Host, |rank, cuda| steps(rank, cuda, &|| Ok(())));
    for (outcome, next) in results.iter().flatten() {
        assert_eq!((outcome, next), (&told, &Ok(())), "and the group goes on");
    }
    let in_vain = Err(late());
    let results = through_nccl(3, |rank, cuda| steps(rank, cuda, &|| rank.wait()));
    for (rank, (outcome, next)) in results.iter().flatten().enumerate() {
        assert_eq!((outcome == next, outcome), (true, if rank == 0 { &told } else { &in_vain }), "rank {rank}");
    }
}

/// The same, of something else than rows.
#[test]
fn ranks_that_differ_in_options_weights_or_outputs_are_told_so() {
    let results = on_gpus(3, Through::Host, |rank, cuda| {
        let (vocab, odd) = (Vocab::new(rank, 2).unwrap(), rank.rank() == 2);
        let (logits, target) = (Copied::new(cuda, &[0.5f32; 4]), Copied::new(cuda, &[1i64; 2]));
        let (one, ones, mut value, mut grad) = (
            Copied::new(cuda, &[1.0f32]),
            Copied::new(cuda, &[1.0f32; 2]),
            Copied::new(cuda, &[0.0]),
            Copied::new(cuda, &[0.0f32; 4]),
        );
        let smooth = CrossEntropy::new().label_smoothing(if odd { 0.1 } else { 0.2 }).unwrap();
        let of = |loss: CrossEntropy| loss.across(&vocab).on(cuda);
        let (smooth, plain) = (of(smooth), of(CrossEntropy::new()));
        let call = || plain.call(logits.get(), target.get());
        let results = [
            smooth.call(logits.get(), target.get()).forward(Reduction::Mean, value.get_mut()),
            call().forward(if odd { Reduction::Sum } else { Reduction::Mean }, value.get_mut()),
            if odd { call().class_weight(ones.get()) } else { call() }.forward(Reduction::Mean, value.get_mut()),
            if odd { call().weight(ones.get()) } else { call() }.forward(Reduction::Mean, value.get_mut()),
            match odd {
                true => call().forward(Reduction::Mean, value.get_mut()),
                false => call().forward_backward(Reduction::Mean, value.get_mut(), grad.get_mut()),
            },
        ];
        // What a sum is divided by may differ, and be on the device.
        let over = match odd {
            true => call().denominator(one.get()).forward(Reduction::Sum, value.get_mut()),
            false => call().forward(Reduction::Sum, value.get_mut()),
        };
        over.unwrap();
        results
    });
    assert!(results.iter().flatten().flatten().all(|r| *r == Err(Error::RanksDiffer { rank: 2 })), "{results:?}");
}

/// Whichever collective of a call it is to which a rank does not come: the others do not wait for ever.
#[test]
fn a_rank_that_dies_within_a_call_is_an_error_of_all_others_on_gpus() {
    let problem = Problem::<f32>::new(8, 6, true);
    let call = |rank: &dyn Communicator, cuda: &Cuda, wait: &dyn Fn() -> Result<(), Error>| {
        let vocab = Vocab::new(rank, 2)?;
        let Buffers { logits, target, weight, class_weight, mut value } = Buffers::new(cuda, &problem, &vocab);
        let mut grad = Copied::new(cuda, &[0.0f32; 16]);
        let call = problem.loss().across(&vocab).on(cuda).call(logits.get(), target.get());
        let call = extended(call, &weight, &class_weight);
        call.forward_backward(Reduction::Mean, value.get_mut(), grad.get_mut())?;
        wait()
    };
    for through in [Through::Host, Through::Nccl] {
        // Saying how many classes there are, saying what is called, maxima, sums.
        for after in 0..=4 {
            let when = |rank: &dyn Communicator| if rank.rank() == 1 { after } else { usize::MAX };
            let results = match through {
                Through::Host => on_gpus(3, through, |rank, cuda| {
                    Dies::new(rank, when(rank)).runs(|rank| call(rank, cuda, &|| Ok(()))).0
                }),
                Through::Nccl => through_nccl(3, |own, cuda| {
                    Dies::new(own, when(own)).runs(|rank| call(rank, cuda, &|| own.wait())).0
                }),
            };
            let lost = if through == Through::Host { Error::RankLost { rank: 1 } } else { late() };
            for (rank, outcome) in results.into_iter().flatten().enumerate() {
                let want = if after == 4 { Some(Ok(())) } else { (rank != 1).then(|| Err(lost.clone())) };
                assert_eq!(outcome, want, "{through:?}, rank {rank}, after {after}");
            }
        }
    }
}

#[test]
fn an_nccl_rank_that_does_not_come_is_an_error_and_the_group_has_ended() {
    let Some(streams) = streams(2, Through::Nccl) else { return };
    let timeout = Duration::from_millis(300);
    let late = Error::RanksLate { seconds: 0.3 };
    let begin = Instant::now();
    let id = NcclId::from_bytes(NcclId::new().unwrap().to_bytes());
    let stray = Nccl::new(&streams[0], &id, 2, 2);
    assert!(matches!(stray, Err(Error::Option { name: "rank", .. })));
    // One does not come to make the group.
    let alone = Nccl::new_with_timeout(&streams[0], &id, 0, 2, timeout);
    assert_eq!(alone.map(drop), Err(late.clone()));
    let mut ranks = Nccl::group(&streams).unwrap();
    assert_eq!((ranks[1].rank(), ranks[1].size()), (1, 2));
    std::thread::scope(|scope| {
        let both: Vec<_> = ranks
            .iter()
            .map(|rank| {
                scope.spawn(|| {
                    let mut data = [rank.rank() as f32, 1.0];
                    rank.all_reduce(&mut data, ReduceOp::Sum).unwrap();
                    assert_eq!(data, [1.0, 2.0]);
                    let mut data = [rank.rank() as f32, 1.0];
                    rank.all_reduce(&mut data, ReduceOp::Max).unwrap();
                    assert_eq!(data, [1.0, 1.0]);
                })
            })
            .collect();
        both.into_iter().for_each(|rank| rank.join().unwrap());
    });
    let gone = ranks.pop().unwrap();
    let ranks = [ranks.pop().unwrap().timeout(timeout)];
    assert_eq!(ranks[0].all_reduce(&mut [1.0], ReduceOp::Sum), Err(late.clone()));
    assert_eq!(ranks[0].all_reduce(&mut [1.0], ReduceOp::Sum), Err(late.clone()), "the group has ended");
    assert_eq!(ranks[0].wait(), Err(late));
    drop((gone, ranks));
    assert!(begin.elapsed() < Duration::from_secs(50), "it has waited for a minute");
    // And the GPU goes on.
    let cuda = Cuda::new(&streams[0]).unwrap();
    cuda.check().unwrap();
}

/// The first call waits for what the other ranks say of theirs; after it there is nothing that a capture forbids, but for a
/// communicator that goes by way of the host.
#[test]
fn calls_are_captured_in_a_graph_and_replayed() {
    for through in [Through::Nccl, Through::Host] {
        on_gpus(1, through, |rank, cuda| {
            let stream = cuda.stream();
            let vocab = Vocab::new(rank, 3).unwrap();
            let mut logits = stream.clone_htod(&[0.5f32, -1.0, 2.0]).unwrap();
            let target = stream.clone_htod(&[1i64]).unwrap();
            let (mut value, mut grad) = (stream.alloc_zeros::<f32>(1).unwrap(), stream.alloc_zeros::<f32>(3).unwrap());
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            let mut call = |logits: &CudaSlice<f32>| {
                let call = CrossEntropy::new().across(&vocab).on(cuda).call(logits, &target);
                call.forward_backward(Reduction::Mean, &mut value, &mut grad)
            };
            stream.begin_capture(mode).unwrap();
            let early = call(&logits);
            let flags = sys::CUgraphInstantiate_flags_enum::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
            let _ = stream.end_capture(flags);
            assert!(matches!(early, Err(Error::Capturing { .. })), "{early:?}");

            call(&logits).unwrap();
            stream.synchronize().unwrap();
            stream.begin_capture(mode).unwrap();
            let captured = call(&logits);
            let graph = stream.end_capture(flags).unwrap();
            if through == Through::Host {
                assert_eq!(captured, Err(Error::Capturing { what: "ranks that reduce on the host" }));
                call(&logits).expect("the group goes on");
                return;
            }
            captured.unwrap();
            stream.memcpy_htod(&[1.0f32, 2.0, 3.0], &mut logits).unwrap();
            graph.expect("something was captured").launch().unwrap();
            stream.synchronize().unwrap();
            let mut want = [0.0; 3];
            let of_cpu =
                CrossEntropy::new().forward_backward(&[1.0, 2.0, 3.0], &[1i64], (1, 3), Reduction::Mean, &mut want);
            let near = |a: f32, b: f32| (a - b).abs() <= 1e-6;
            assert!(near(stream.clone_dtoh(&value).unwrap()[0], of_cpu.unwrap()));
            assert!(stream.clone_dtoh(&grad).unwrap().into_iter().zip(want).all(|(a, b)| near(a, b)));
        });
    }
}

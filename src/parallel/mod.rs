//! Many ranks: cross-entropy and the language-model head over classes that several devices or processes share, and the mean over the
//! tokens of all of them.
//!
//! **Vocabulary-parallel.** Each rank holds the logits (or the head's weight) of some of the classes, and all hold the same targets. One
//! look at its logits gives each rank the maximum of each row, the sum of its exponentials and what the target weighs there; two small
//! all-reduces put those together; and one more look turns the logits into their gradient. The result is that of one device, but for
//! the order of f32 sums.
//!
//! ```
//! use fused_loss::parallel::{Local, Vocab};
//! use fused_loss::{CrossEntropy, Reduction};
//!
//! # fn main() -> fused_loss::Result<()> {
//! // Two rows of five classes, of which the first rank has two and the second three.
//! let targets = [3i64, 0];
//! let logits = [vec![0.5, -1.0, 2.0, 0.0], vec![1.0, 2.0, 0.25, -0.5, 0.0, 1.5]];
//! let ranks = Local::group(2);
//! let values = std::thread::scope(|scope| {
//!     let run = ranks.into_iter().zip(&logits).map(|(rank, logits)| {
//!         scope.spawn(move || {
//!             let vocab = Vocab::new(&rank, logits.len() / 2)?;
//!             let mut grad = vec![0.0; logits.len()];
//!             let call = CrossEntropy::new().across(&vocab).call(logits, &targets);
//!             call.forward_backward(Reduction::Mean, &mut grad)
//!         })
//!     });
//!     let run: Vec<_> = run.collect();
//!     run.into_iter().map(|rank| rank.join().expect("no rank panics")).collect::<fused_loss::Result<Vec<f32>>>()
//! })?;
//! let whole = [0.5, -1.0, 1.0, 2.0, 0.25, 2.0, 0.0, -0.5, 0.0, 1.5];
//! let value = CrossEntropy::new().forward(&whole, &targets, (2, 5), Reduction::Mean)?;
//! assert!(values.iter().all(|v| (v - value).abs() < 1e-6));
//! # Ok(()) }
//! ```
//!
//! The head, of the feature `head`, does the same with `LinearCall::across`.
//!
//! **On GPUs** each rank has a [`Cuda`](crate::Cuda) handle, on a GPU of its own, and what ranks reduce stays there: `across(&vocab).on(&cuda)`
//! for logits, `on(&cuda)` and then `across` for the head. `Nccl` is the communicator for that, of threads of one process or of
//! processes that have an `NcclId` from one of them; with any other communicator, such as [`Local`], numbers go by way of the host, and
//! every verb waits. `cargo run --release --features head --example ranks -- --gpus` trains on all GPUs of a node.
//!
//! Calls only enqueue, but for those that are not what the call before was, with the same [`Vocab`]: the first, and those of other rows,
//! options, weights or outputs. These wait for what the other ranks say of theirs (see below); a CUDA graph can be captured after such a
//! call. Where calls of two kinds take turns, a `Vocab` for each spares them that. A GPU waits for ranks that do not come, for ever, if
//! nobody looks: `Nccl::wait` is the way to wait for results, and ends such a wait with an error.
//!
//! **Ranks that disagree.** Each call begins with a collective in which all ranks say what they have been called for: 16 bytes for each
//! rank on GPUs, which take what the smallest all-reduce takes, some tens of microseconds. What has to agree: rows; the options of the
//! loss, the kind of reduction, and which weights there are; whether there is a gradient of the logits; of a head, its hidden numbers,
//! whether the gradient of its input is asked for, and how many tokens count; on GPUs the storage type too, and of a head how many tokens
//! it does at once. (What a sum is divided by, the gradient from above and gradients that a rank has for itself may differ.)
//!
//! If anything does not agree, all ranks get [`RanksDisagree`](crate::Error::RanksDisagree) or
//! [`RanksDiffer`](crate::Error::RanksDiffer), and may go on with other calls. Over `Nccl` those ranks get it whose call is not what
//! their last one was, of which there is at least one where ranks disagree, and the group has ended for them. A rank that calls what it
//! had called before has not waited: it has gone ahead to collectives that the others do not come to, and gets
//! [`RanksLate`](crate::Error::RanksLate) from whatever waits. Of calls with one `Vocab` collectives of unequal length never
//! meet. Nobody notices calls that are alike and not meant for each other; and nothing keeps ranks from replaying the graph of one call
//! beside another call, from taking vocabularies in another order, or from being in `Vocab::new`, [`sum_over_ranks`] or a verb of the CPU
//! while others are in a call on GPUs: over `Nccl`, all that is undefined.
//!
//! **Data-parallel.** Ranks that have different tokens divide by the number that all of them count, which [`sum_over_ranks`] finds:
//! `Reduction::SumOver(sum_over_ranks(&rank, counted)?)` makes the sum of the ranks' values, and of their gradients, those of one
//! device. It waits; on GPUs `sum_over_ranks_on` does not, which sums a number on the device for `Reduction::Sum` with `denominator`. Where
//! gradients are averaged over ranks, as PyTorch's DDP does, multiply `grad_output` by the number of ranks.
//!
//! # Traffic and time, on paper
//!
//! Of `n` tokens and `h` hidden numbers, ranks reduce `20 n` bytes for the loss (`24 n` on GPUs) and some to agree, whatever the
//! vocabulary, and with the head `4 n h` bytes for the gradient of the input; a ring of `P` ranks moves `2 (P - 1) / P` times that through
//! each. What a rank computes falls with the number of ranks, what it sends does not. For 8192 tokens, 4096 hidden numbers and 262144
//! classes in bf16, were each GPU to multiply at 600 TFLOP/s, to move 3 TB/s in its memory (6 bytes a logit for the loss, 10 where it is looked at twice), 400 GB/s within its node of
//! 8 and 40 GB/s to other nodes, and a collective to start in 20 us and 20 us more for every doubling of nodes:
//!
//! | GPUs | classes of each | products | loss | agreeing, reducing the loss | and the input's gradient | sum |
//! |---|---|---|---|---|---|---|
//! | 1 | 262144 | 88 ms | 4.3 ms | - | - | 92 ms |
//! | 8 | 32768 | 11 ms | 0.9 ms | 0.06 ms | 0.6 ms | 12.6 ms |
//! | 16 | 16384 | 5.5 ms | 0.4 ms | 0.13 ms | 6.3 ms | 12.4 ms |
//! | 64 | 4096 | 1.4 ms | 0.1 ms | 0.25 ms | 6.7 ms | 8.4 ms |
//! | 1024 | 256 | 0.1 ms | 0.01 ms | 0.5 ms | 6.9 ms | 7.4 ms |
//!
//! So: split the vocabulary within a node, where 8 GPUs are 7 times as fast as one, and the tokens between nodes (data-parallel, which
//! sends one number, and what training reduces anyway). Beyond a node the input's gradient takes longer than the products that it
//! saves. These are sums on paper, not measurements.

mod cross_entropy;
mod local;

#[cfg(feature = "cuda")]
pub use crate::cuda::{CudaVocabCall, Nccl, NcclId, sum_over_ranks_on};

#[cfg(feature = "head")]
pub(crate) use cross_entropy::{Rows, run as run_rows};
pub use cross_entropy::{VocabCall, VocabCrossEntropy};
pub use local::Local;

use std::hash::{Hash, Hasher};
#[cfg(feature = "cuda")]
use std::sync::{Mutex, PoisonError};

use crate::error::{Error, Result};
use crate::params::CrossEntropyParams;
use crate::reduction::Reduction;

/// What is done to the numbers of all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReduceOp {
    /// Added.
    Sum,
    /// The largest; NaN does not occur.
    Max,
}

/// What ranks talk through. All of a group call the same collectives in the same order.
///
/// [`Local`] is one for threads of a process, `Nccl` for GPUs; anything else that can reduce a slice of f32, as MPI or gloo can, is a few
/// lines.
pub trait Communicator: std::fmt::Debug + Sync {
    /// Which rank this is, from 0.
    fn rank(&self) -> usize;

    /// How many there are.
    fn size(&self) -> usize;

    /// Replaces the numbers by what comes of those of all ranks, which bring equally many. All get the same bits. A rank that does not
    /// come must become an error, such as [`RankLost`](crate::Error::RankLost), and after an error the numbers may be anything.
    fn all_reduce(&self, data: &mut [f32], op: ReduceOp) -> Result<()>;

    /// Says that this rank will not come to the collectives of a call that it has begun, because of this error. An implementation that can
    /// lets all others know, and gives an error to every later collective of this rank, which would meet them in the wrong one.
    fn leave(&self, why: &Error) {
        let _ = why;
    }

    /// The same as `all_reduce`, of `len` numbers at a device address, enqueued on a stream. Unless an implementation knows better, it
    /// copies them to the host, waits, has them reduced there, and copies them back.
    ///
    /// # Safety
    /// Until the stream is done with it, the address is of so many `f32` of the stream's context, which nobody else uses.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    unsafe fn all_reduce_on(
        &self,
        stream: &std::sync::Arc<cudarc::driver::CudaStream>,
        address: u64,
        len: usize,
        op: ReduceOp,
    ) -> Result<()> {
        // SAFETY: the caller's promise.
        unsafe { crate::cuda::reduce_on_host(|data| self.all_reduce(data, op), stream, address, len) }
    }

    /// How each call on a GPU begins, before ranks reduce what is as long as their calls say: a rank brings four numbers that say what
    /// its call is of, and `look` is given those of all ranks, in their order, and is an error where they differ.
    ///
    /// Unless an implementation knows better, the numbers are reduced on the host, and a stream that is captured is refused. One that
    /// reduces on the GPU need not wait if this rank brings the same as the last time (`known`), but reduces all the same, for others may
    /// bring something else; where `look` is an error it has to end the group, for others may not have looked.
    ///
    /// # Safety
    /// Until the stream is done with it, the address is of four `f32` for each rank, of the stream's context, which nobody else uses.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    unsafe fn agree_on(
        &self,
        stream: &std::sync::Arc<cudarc::driver::CudaStream>,
        address: u64,
        own: [f32; 4],
        known: bool,
        look: &dyn Fn(&[f32]) -> Result<()>,
    ) -> Result<()> {
        let _ = (address, known);
        // Before anybody comes, so that the group goes on.
        crate::cuda::not_captured(stream)?;
        let mut all = vec![0.0; 4 * self.size()];
        all[4 * self.rank()..][..4].copy_from_slice(&own);
        self.all_reduce(&mut all, ReduceOp::Sum)?;
        look(&all)
    }
}

/// A number as ranks bring it: two f32, exact for numbers of 48 bits.
fn halves(number: f64) -> [f32; 2] {
    let high = number as f32;
    [high, (number - f64::from(high)) as f32]
}

/// The numbers in what has been added up.
fn numbers<const N: usize>(slots: &[f32]) -> Vec<[f64; N]> {
    let of_rank = |slots: &[f32]| std::array::from_fn(|i| f64::from(slots[2 * i]) + f64::from(slots[2 * i + 1]));
    slots.chunks_exact(2 * N).map(of_rank).collect()
}

/// The numbers that all ranks bring, in their order.
fn gather<const N: usize>(ranks: &dyn Communicator, own: [f64; N]) -> Result<Vec<[f64; N]>> {
    let mut slots = vec![0.0; 2 * N * ranks.size()];
    let here = slots[2 * N * ranks.rank()..].iter_mut();
    here.zip(own.into_iter().flat_map(halves)).for_each(|(slot, half)| *slot = half);
    ranks.all_reduce(&mut slots, ReduceOp::Sum)?;
    Ok(numbers(&slots))
}

/// The sum of a number of each rank, such as of the tokens that count. A collective that waits, over `Nccl` for the GPU too.
pub fn sum_over_ranks(ranks: &dyn Communicator, number: f64) -> Result<f64> {
    Ok(gather(ranks, [number])?.iter().map(|[number]| number).sum())
}

/// What must be the same in a call of all ranks: its rows, and a hash of all else that decides what ranks reduce and what comes of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Same {
    rows: f64,
    rest: f64,
}

impl Same {
    /// Of a loss with these options; `rest` is what there is beside them and the reduction.
    pub(crate) fn new(
        rows: usize,
        (options, ignore): (CrossEntropyParams, Option<i64>),
        reduction: Option<Reduction>,
        rest: impl Hash,
    ) -> Self {
        let CrossEntropyParams { smoothing, z_loss, softcap } = options;
        let mut hasher = Fnv::new();
        // What a sum is divided by changes with every call, and is not known on the host if it is a number on the device.
        let reduction = reduction.as_ref().map(std::mem::discriminant);
        ([smoothing, z_loss, softcap].map(f32::to_bits), ignore, reduction, rest).hash(&mut hasher);
        Same { rows: rows as f64, rest: (hasher.finish() >> 16) as f64 }
    }

    /// An error unless all are the same.
    fn check(all: impl IntoIterator<Item = Same>) -> Result<()> {
        let mut all = all.into_iter().enumerate();
        let first = all.next().map(|(_, first)| first);
        match all.find(|(_, other)| Some(*other) != first).zip(first) {
            Some(((rank, Same { rows, .. }), first)) if rows != first.rows => {
                Err(Error::RanksDisagree { rank, expected: first.rows as usize, got: rows as usize })
            }
            Some(((rank, _), _)) => Err(Error::RanksDiffer { rank }),
            None => Ok(()),
        }
    }
}

/// FNV-1a: the same in all processes of a program, as std's need not be.
struct Fnv(u64);

impl Fnv {
    fn new() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Fnv {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Which classes a rank has: those of the ranks follow one another.
#[derive(Debug)]
pub struct Vocab<'c> {
    pub(crate) ranks: &'c dyn Communicator,
    first: usize,
    here: usize,
    classes: usize,
    /// The fewest and the most that a rank has.
    #[cfg_attr(not(all(feature = "cuda", feature = "head")), allow(dead_code))]
    pub(crate) least_and_most: (usize, usize),
    /// What the last call on a GPU was of, if all said the same.
    #[cfg(feature = "cuda")]
    last: Mutex<Option<Same>>,
}

impl<'c> Vocab<'c> {
    /// Of so many classes on this rank, perhaps none. A collective: all ranks say how many they have.
    pub fn new(ranks: &'c dyn Communicator, here: usize) -> Result<Self> {
        let all: Vec<usize> = gather(ranks, [here as f64])?.iter().map(|&[n]| n as usize).collect();
        let first = all[..ranks.rank()].iter().sum();
        let most = all.iter().fold(0, |a, &n| a.max(n));
        let least_and_most = (all.iter().fold(most, |a, &n| a.min(n)), most);
        Ok(Vocab {
            ranks,
            first,
            here,
            classes: all.iter().sum(),
            least_and_most,
            #[cfg(feature = "cuda")]
            last: Mutex::default(),
        })
    }

    /// The first class of this rank.
    pub fn first(&self) -> usize {
        self.first
    }

    /// How many this rank has.
    pub fn here(&self) -> usize {
        self.here
    }

    /// How many all ranks have together.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// An error unless all ranks call the same; the smallest of a number of each, of tokens at once. A collective, and the first of a call.
    pub(crate) fn agree(&self, call: Same, at_once: usize) -> Result<usize> {
        let all = gather(self.ranks, [call.rows, call.rest, at_once as f64])?;
        Same::check(all.iter().map(|&[rows, rest, _]| Same { rows, rest }))?;
        Ok(all.iter().fold(f64::INFINITY, |least, &[.., of]| least.min(of)) as usize)
    }

    /// The same on a GPU.
    ///
    /// Nothing that is of another length on another rank may ever be reduced: NCCL would hang, or worse. And to look at what the others
    /// say is to wait for the GPU. So each call begins with a small collective, always the same one; and a rank waits for it where the
    /// call is not what the last one was, on which all had agreed. If any rank calls something else than another, then at least one of
    /// them is such a rank: it finds out, and comes to no further collective, so that those that did not wait are left alone with
    /// what they have enqueued, which ends like any wait for a rank that has gone.
    ///
    /// # Safety
    /// `scratch` is the address of [`scratch_to_agree`](Self::scratch_to_agree) bytes of the handle, which nobody else uses until its stream
    /// is done with them.
    #[cfg(feature = "cuda")]
    #[allow(unsafe_code)]
    pub(crate) unsafe fn agree_on(&self, call: Same, cuda: &crate::Cuda, scratch: u64) -> Result<()> {
        // Nothing panics while it is held.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let known = *last == Some(call);
        if !known {
            cuda.may_wait("the first call of ranks, or one of other rows, options or outputs than the call before")?;
        }
        *last = None;
        let ([a, b], [c, d]) = (halves(call.rows), halves(call.rest));
        let look = |all: &[f32]| Same::check(numbers(all).into_iter().map(|[rows, rest]| Same { rows, rest }));
        // SAFETY: the caller's promise.
        unsafe { self.ranks.agree_on(cuda.stream(), scratch, [a, b, c, d], known, &look)? };
        *last = Some(call);
        Ok(())
    }

    /// Bytes of scratch memory for that.
    #[cfg(feature = "cuda")]
    pub(crate) fn scratch_to_agree(&self) -> u64 {
        16 * self.ranks.size() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_48_bits_are_brought_as_they_are() {
        for number in [0u64, 1, (1 << 24) + 1, 0xabcd_ef98_7654, (1 << 48) - 1] {
            let number = number as f64;
            assert_eq!(numbers(&halves(number)), [[number]]);
        }
    }

    /// By its published values.
    #[test]
    fn the_hash_is_fnv_1a() {
        for (text, want) in
            [("", 0xcbf2_9ce4_8422_2325), ("a", 0xaf63_dc4c_8601_ec8c), ("foobar", 0x8594_4171_f739_67e8)]
        {
            let mut hasher = Fnv::new();
            hasher.write(text.as_bytes());
            assert_eq!(hasher.finish(), want, "{text}");
        }
    }
}

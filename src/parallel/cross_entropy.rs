//! Cross-entropy of logits that ranks share.

use std::hash::Hash;

use super::{ReduceOp, Same, Vocab, sum_over_ranks};
use crate::call::Loss;
use crate::cpu::mem::{Dst, Src};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::scan::Scan;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::CrossEntropy;
use crate::loss::cross_entropy::sharded::{ELSEWHERE, IGNORED, Shard};
use crate::reduction::Reduction;
use crate::target::{Indices, Target};

/// [`CrossEntropy`] whose classes are shared by ranks: made by [`CrossEntropy::across`].
///
/// Each rank brings the logits of its classes, row after row, and the same targets, which are indices among all classes; each gets the
/// value of the whole, and the gradient of its logits. Everything else is as for [`CrossEntropy`], of shape `(rows, classes)`: options,
/// ignored rows, NaN, infinities, reductions. Options, reductions, weights and verbs must be the same on all ranks.
///
/// Logits are read twice and their gradient is written once; ranks reduce some numbers that say what is called (and are all told where
/// they disagree: [`RanksDisagree`](Error::RanksDisagree), [`RanksDiffer`](Error::RanksDiffer)), `4 rows` bytes (maxima) and then
/// `16 rows` (sums).
#[derive(Clone, Copy, Debug)]
pub struct VocabCrossEntropy<'v> {
    pub(crate) loss: CrossEntropy,
    pub(crate) vocab: &'v Vocab<'v>,
}

impl CrossEntropy {
    /// The same with the classes shared by ranks.
    pub fn across<'v>(&self, vocab: &'v Vocab<'v>) -> VocabCrossEntropy<'v> {
        VocabCrossEntropy { loss: *self, vocab }
    }
}

impl<'v> VocabCrossEntropy<'v> {
    /// A call: the logits of this rank's classes, and a class index (`i64`, `i32`, `u32` or `u8`), among all classes, for each row.
    pub fn call<'a, T: Element>(&self, logits: &'a [T], target: impl Into<Target<'a, T>>) -> VocabCall<'a, T>
    where
        'v: 'a,
    {
        VocabCall::new(*self, logits, target.into())
    }

    /// The same with the gradient written over the logits.
    pub fn call_in_place<'a, T: Element>(
        &self,
        logits: &'a mut [T],
        target: impl Into<Target<'a, T>>,
    ) -> VocabCall<'a, T, &'a mut [T]>
    where
        'v: 'a,
    {
        VocabCall::new(*self, logits, target.into())
    }
}

/// A call of [`VocabCrossEntropy`], to which weights and so on are added before one of the verbs runs it. Every verb is a collective.
#[must_use = "a call does nothing until one of its verbs runs it"]
#[derive(Debug)]
pub struct VocabCall<'a, T, I = &'a [T]> {
    on: VocabCrossEntropy<'a>,
    logits: I,
    target: Target<'a, T>,
    weight: Option<&'a [f32]>,
    class_weight: Option<&'a [f32]>,
    grad_output: f32,
    accumulate: bool,
}

impl<'a, T: Element, I> VocabCall<'a, T, I> {
    fn new(on: VocabCrossEntropy<'a>, logits: I, target: Target<'a, T>) -> Self {
        VocabCall { on, logits, target, weight: None, class_weight: None, grad_output: 1.0, accumulate: false }
    }

    /// One weight for each row: it multiplies value and gradient. Only [`Reduction::WeightedMean`] divides by it.
    pub fn weight(mut self, weight: &'a [f32]) -> Self {
        self.weight = Some(weight);
        self
    }

    /// One weight for each of this rank's classes: PyTorch's `weight` of cross-entropy. On all ranks or on none.
    pub fn class_weight(mut self, weight: &'a [f32]) -> Self {
        self.class_weight = Some(weight);
        self
    }

    /// The gradient that comes from above. Defaults to 1.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// The value; and the gradient, where there is somewhere for it to go.
    fn run(
        self,
        logits: Src<'_, T>,
        grad: Option<Dst<'_, T>>,
        in_place: bool,
        reduction: Option<Reduction>,
        losses: Option<&mut [f32]>,
    ) -> Result<f32> {
        let VocabCall { on: VocabCrossEntropy { loss, vocab }, target, weight, class_weight, .. } = self;
        let unsupported = |what| Error::Unsupported { loss: <CrossEntropy as Loss>::NAME, what };
        let indices = target.indices().ok_or(unsupported("a target of anything but class indices, across ranks,"))?;
        let rows = Rows { loss, vocab, indices, weight, class_weight };
        let n = indices.len();
        check_len("logits", n.checked_mul(vocab.here).ok_or(Error::ShapeOverflow)?, logits.len())?;
        grad.map_or(Ok(()), |grad| check_len("grad_input", logits.len(), grad.len()))?;
        losses.as_ref().map_or(Ok(()), |losses| check_len("losses", n, losses.len()))?;
        let counted = rows.check(reduction)?;
        vocab.agree(rows.same(reduction, grad.is_some()), 0)?;
        let end = |error: &Error| vocab.ranks.leave(error);
        let denominator = rows.denominator(reduction, counted).inspect_err(end)?;
        let scale = (f64::from(self.grad_output) / denominator) as f32;
        let classes = rows.classes(0..n);
        let shard = rows.shard(&classes, weight);
        let grad = grad.map(|grad| (grad, in_place, self.accumulate, scale));
        Ok((run(&shard, vocab, logits, grad, losses).inspect_err(end)? / denominator) as f32)
    }
}

impl<T: Element> VocabCall<'_, T> {
    /// Adds to the gradient instead of overwriting it.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// The value, the same on all ranks.
    pub fn forward(self, reduction: Reduction) -> Result<f32> {
        let logits = Src::new(self.logits);
        self.run(logits, None, false, Some(reduction), None)
    }

    /// The value of each row into `losses`, the same on all ranks.
    pub fn forward_unreduced(self, losses: &mut [f32]) -> Result<()> {
        let logits = Src::new(self.logits);
        self.run(logits, None, false, None, Some(losses)).map(drop)
    }

    /// The value, the same on all ranks, and its gradient for this rank's logits into `grad_input`.
    pub fn forward_backward(self, reduction: Reduction, grad_input: &mut [T]) -> Result<f32> {
        let logits = Src::new(self.logits);
        self.run(logits, Some(Dst::new(grad_input)), false, Some(reduction), None)
    }
}

impl<T: Element> VocabCall<'_, T, &mut [T]> {
    /// The value, the same on all ranks, and its gradient over this rank's logits.
    pub fn forward_backward(mut self, reduction: Reduction) -> Result<f32> {
        let logits = Dst::new(std::mem::take(&mut self.logits));
        self.run(logits.src(), Some(logits), true, Some(reduction), None)
    }
}

/// The rows of a call.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    pub(crate) loss: CrossEntropy,
    pub(crate) vocab: &'a Vocab<'a>,
    pub(crate) indices: Indices<'a>,
    pub(crate) weight: Option<&'a [f32]>,
    pub(crate) class_weight: Option<&'a [f32]>,
}

impl<'a> Rows<'a> {
    /// All that can be checked here; how many rows count.
    pub(crate) fn check(&self, reduction: Option<Reduction>) -> Result<usize> {
        let Rows { vocab, indices, weight, class_weight, .. } = *self;
        let n = indices.len();
        class_weight.map_or(Ok(()), |w| check_len("class_weight", vocab.here, w.len()))?;
        weight.map_or(Ok(()), |w| check_len("weight", n, w.len()))?;
        reduction.map_or(Ok(()), |reduction| reduction.check(n))?;
        self.scan().check()
    }

    /// What all ranks must call alike; `rest`, beside what is known here.
    pub(crate) fn same(&self, reduction: Option<Reduction>, rest: impl Hash) -> Same {
        let options = (self.loss.params(), Rowwise::ignore_index(&self.loss));
        Same::new(self.indices.len(), options, reduction, (self.weight.is_some(), self.class_weight.is_some(), rest))
    }

    fn scan(&self) -> Scan<'a> {
        Scan { indices: self.indices, classes: self.vocab.classes, ignore: Rowwise::ignore_index(&self.loss) }
    }

    /// What the sum of the losses is divided by. A collective where classes have weights.
    pub(crate) fn denominator(&self, reduction: Option<Reduction>, counted: usize) -> Result<f64> {
        let Rows { vocab, weight, class_weight, .. } = *self;
        let (scan, counted) = (self.scan(), counted as f64);
        let row_weight = |row: usize| weight.map_or(1.0, |w| f64::from(w[row]));
        let by_class = |of_row: &(dyn Fn(usize) -> f64 + Sync)| match class_weight {
            Some(w) => {
                let here =
                    |class: usize| class.checked_sub(vocab.first).and_then(|c| w.get(c)).map_or(0.0, |&w| w.into());
                sum_over_ranks(vocab.ranks, scan.sum(|row, class| of_row(row) * here(class)))
            }
            None => Ok(scan.sum(|row, _| of_row(row))),
        };
        match reduction {
            None => Ok(1.0),
            Some(Reduction::Mean) if class_weight.is_some() => by_class(&|_| 1.0),
            Some(Reduction::WeightedMean) if class_weight.is_some() || weight.is_some() => by_class(&row_weight),
            Some(reduction) => Ok(reduction.denominator(|| counted, || counted)),
        }
    }

    /// Where the classes of some rows are.
    pub(crate) fn classes(&self, rows: impl Iterator<Item = usize>) -> Vec<usize> {
        let (ignore, vocab) = (Rowwise::ignore_index(&self.loss), self.vocab);
        let class = |row| match self.indices.get(row) {
            index if Some(index) == ignore => IGNORED,
            index => (index as usize).checked_sub(vocab.first).filter(|&class| class < vocab.here).unwrap_or(ELSEWHERE),
        };
        rows.map(class).collect()
    }

    /// Of rows with these classes and weights.
    pub(crate) fn shard<'s>(&self, classes: &'s [usize], weight: Option<&'s [f32]>) -> Shard<'s>
    where
        'a: 's,
    {
        Shard { loss: self.loss, classes, total: self.vocab.classes, class_weight: self.class_weight, weight }
    }
}

/// The sum of the losses of some rows; their gradients, where they go: whether that is over the logits, whether they are added, times
/// what. A collective.
pub(crate) fn run<T: Element>(
    shard: &Shard<'_>,
    vocab: &Vocab<'_>,
    logits: Src<'_, T>,
    grad: Option<(Dst<'_, T>, bool, bool, f32)>,
    losses: Option<&mut [f32]>,
) -> Result<f64> {
    let mut parts = shard.fold(logits)?;
    let mut max = parts.max.clone();
    vocab.ranks.all_reduce(&mut max, ReduceOp::Max)?;
    parts.move_to(&max);
    vocab.ranks.all_reduce(&mut parts.sums, ReduceOp::Sum)?;
    if let Some((grad, in_place, accumulate, scale)) = grad {
        shard.unfold(&parts, logits, grad, (in_place, accumulate), scale)?;
    }
    let values = (0..max.len()).map(|row| shard.value(&parts, row));
    Ok(match losses {
        Some(losses) => losses
            .iter_mut()
            .zip(values)
            .map(|(loss, value)| {
                *loss = value as f32;
                value
            })
            .sum(),
        None => values.sum(),
    })
}

//! How many losses become one number.

use crate::error::{Error, Result};

/// How the per-element (or per-row) losses become one number, and with it the factor that every
/// gradient carries.
///
/// | variant | PyTorch | divides the weighted sum by |
/// |---|---|---|
/// | [`Mean`](Self::Mean) | `mean` | the number of elements; for cross-entropy, NLL and softmax focal the rows that are not ignored (class-index targets: the sum of their class weights) |
/// | [`Sum`](Self::Sum) | `sum` | 1 |
/// | [`BatchMean`](Self::BatchMean) | `batchmean` | the given batch size |
/// | [`WeightedMean`](Self::WeightedMean) | `weight=` of `mse_loss` | the sum of the weights |
/// | [`SumOver`](Self::SumOver) | - | the given number, such as Hugging Face's `num_items_in_batch` or a number of boxes |
///
/// The unreduced form (`reduction="none"`) gives a slice and not a number, so it has methods of its
/// own: `forward_unreduced` and `forward_backward_unreduced` of [`Call`](crate::Call).
///
/// A mean of nothing is NaN, as in PyTorch, and its gradients are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Reduction {
    /// Divide by the number of losses.
    #[default]
    Mean,
    /// Do not divide.
    Sum,
    /// Divide by the size of the first axis, which is given here and must divide the number of
    /// losses.
    BatchMean(usize),
    /// Divide by the sum of the weights (per element, per sample and per class, whichever are given);
    /// the same as `Mean` without weights.
    WeightedMean,
    /// Divide by this number, which must be finite and above zero.
    SumOver(f64),
}

impl Reduction {
    /// Checks what does not depend on the data.
    pub(crate) fn check(self, losses: usize) -> Result<()> {
        match self {
            Reduction::BatchMean(batch)
                if (batch == 0 && losses != 0) || (batch != 0 && !losses.is_multiple_of(batch)) =>
            {
                Err(Error::Samples { what: "BatchMean", samples: batch, elements: losses })
            }
            Reduction::SumOver(d) if !(d.is_finite() && d > 0.0) => {
                Err(Error::Option { name: "SumOver", expected: "a finite number above zero", got: d })
            }
            _ => Ok(()),
        }
    }

    /// The divisor; those of the mean and of the weighted mean are counted when they are needed.
    pub(crate) fn denominator(self, mean: impl FnOnce() -> f64, weighted: impl FnOnce() -> f64) -> f64 {
        match self {
            Reduction::Mean => mean(),
            Reduction::Sum => 1.0,
            Reduction::BatchMean(batch) => batch as f64,
            Reduction::WeightedMean => weighted(),
            Reduction::SumOver(d) => d,
        }
    }
}

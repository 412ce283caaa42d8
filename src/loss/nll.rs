use crate::call::class_methods;
use crate::cpu::row::{Row, RowTarget, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::Machine;
use crate::element::Element;
use crate::loss::rowwise_loss;

/// Negative log-likelihood on log-probabilities.
///
/// | | |
/// |---|---|
/// | value | `l = -w_t x_t` |
/// | gradient | `dl/dx_t = -w_t`, 0 for every other class |
/// | shapes | log-probabilities of a [`Shape`](crate::Shape); targets one index a row |
/// | mean | divides by the sum of `w_t` over the rows that are not ignored |
/// | default | `ignore_index = -100` |
/// | PyTorch | `F.nll_loss` |
///
/// Edge cases: as [`CrossEntropy`](crate::CrossEntropy), which does the log-softmax too and has no reason not to be used.
///
/// ```
/// use fused_loss::{Nll, Reduction};
/// # fn main() -> fused_loss::Result<()> {
/// let mut grad = [0.0; 3];
/// let loss = Nll::new().forward_backward(&[-0.5f32, -1.0, -2.0], &[1i32], (1, 3), Reduction::Mean, &mut grad)?;
/// assert_eq!((loss, grad), (1.0, [0.0, -1.0, 0.0]));
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Nll {
    ignore_index: Option<i64>,
}

impl Nll {
    /// PyTorch's defaults.
    pub fn new() -> Self {
        Nll { ignore_index: Some(-100) }
    }

    /// Rows with this index are left out; it may be a class. `None` leaves out none. Defaults to -100.
    pub fn ignore_index(mut self, index: impl Into<Option<i64>>) -> Self {
        self.ignore_index = index.into();
        self
    }
}

impl Default for Nll {
    fn default() -> Self {
        Nll::new()
    }
}

impl Rowwise for Nll {
    const NAME: &'static str = "NLL";
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;
    const MEAN_BY_CLASS_WEIGHT: bool = true;

    fn ignore_index(&self) -> Option<i64> {
        self.ignore_index
    }

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let RowTarget::Class(t) = row.target else { return 0.0 };
        let weight = row.class_weight_at(t);
        let value = -f64::from(weight) * f64::from(row.input_at(t));
        for_chunks!(row, |k, p| {
            row.put(s, k, p, s.only(t.wrapping_sub(k)).pick(-weight * row.scale, 0.0));
        });
        value
    }
}

rowwise_loss!(Nll);
class_methods!(Nll);

crate::cuda::kernel::kernel!(Nll, |l| Kernel::rows(l, "nll", "nll", NO_PARAMS));

use crate::cpu::row::{Row, for_chunks};
use crate::cpu::rowwise::Rowwise;
use crate::cpu::simd::{F32s, Machine, Span};
use crate::element::Element;
use crate::error::{Result, check_option};
use crate::loss::rowwise_loss;
use crate::params::TripletMarginParams;
use crate::third::{ThirdOf, row_methods_of_three};

/// Triplet margin: an anchor is nearer to a positive than to a negative, by a margin.
///
/// Of a row each of the anchors (input), positives (target) and negatives (third tensor), with `u = a - p + eps`, `v = a - n + eps`:
///
/// | | |
/// |---|---|
/// | value | `l = max(0, \|u\| - \|v\| + margin)` |
/// | gradients | where that is positive `dl/da = u / \|u\| - v / \|v\|`, `dl/dp = -u / \|u\|`, `dl/dn = v / \|v\|`; else 0 |
/// | [`swap`](Self::swap) | with `w = p - n + eps`: where `\|w\| < \|v\|`, the first takes the place of the second |
/// | shapes | all three of one [`Shape`](crate::Shape), `(rows, features)` |
/// | mean | divides by the rows |
/// | defaults | `margin = 1`, `eps = 1e-6`, no swap |
/// | PyTorch | `F.triplet_margin_loss(anchor, positive, negative)`, of `p = 2` |
///
/// Source: Schroff et al. 2015 (FaceNet), of squared distances there; the swap Balntas et al. 2016. Edge cases: `eps` is added to
/// differences and not to distances, as in PyTorch; a distance of zero, which without it two equal rows have, has the gradient 0. The
/// gradient at the margin is the subgradient 0. Where both distances of a swap are equal the negative's from the anchor counts (PyTorch:
/// half of each gradient). NaN stays NaN in value and gradients. On a GPU squares are summed in f32: rows further apart than 1e19 are
/// infinitely far there.
///
/// ```
/// use fused_loss::{Reduction, TripletMargin};
/// # fn main() -> fused_loss::Result<()> {
/// let (anchor, positive, negative) = ([0.0, 0.0], [0.0, 3.0], [2.0, 0.0]); // one row: the positive is further away
/// let (mut on_anchor, mut on_positive, mut on_negative) = ([0.0; 2], [0.0; 2], [0.0; 2]);
/// let loss = TripletMargin::new().forward_backward(
///     &anchor, &positive, &negative, (1, 2), Reduction::Mean, &mut on_anchor, &mut on_positive, &mut on_negative)?;
/// assert!((loss - 2.0_f32).abs() < 1e-5);
/// assert!((on_positive[1] - 1.0).abs() < 1e-5 && (on_negative[0] + 1.0).abs() < 1e-5);
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TripletMargin(TripletMarginParams);

impl TripletMargin {
    /// `margin = 1`, `eps = 1e-6`, no swap.
    pub fn new() -> Self {
        TripletMargin(TripletMarginParams { margin: 1.0, eps: 1e-6, swap: 0 })
    }

    /// By how much further away the negative has to be; finite and above zero. Defaults to 1.
    pub fn margin(mut self, margin: f32) -> Result<Self> {
        let ok = margin.is_finite() && margin > 0.0;
        self.0.margin = check_option("margin", "a finite number above zero", margin, ok)?;
        Ok(self)
    }

    /// Added to differences; finite, zero or above. Defaults to 1e-6.
    pub fn eps(mut self, eps: f32) -> Result<Self> {
        self.0.eps = check_option("eps", "a finite number, zero or above", eps, eps.is_finite() && eps >= 0.0)?;
        Ok(self)
    }

    /// Whether the negative is as far as it is from the anchor or from the positive, whichever is nearer. Defaults to false.
    pub fn swap(mut self, swap: bool) -> Self {
        self.0.swap = swap.into();
        self
    }
}

impl Default for TripletMargin {
    fn default() -> Self {
        TripletMargin::new()
    }
}

/// `u`, `v` and `w` of sixteen features, zero past the last.
#[cfg_attr(optimized, inline(always))]
fn differences<S: Machine, T: Element, P: Span>(s: S, row: &Row<'_, T>, k: usize, p: P, eps: f32) -> [F32s<S>; 3] {
    let (anchor, positive, negative) = (row.input(s, k, p, 0.0), row.dense(s, k, p, 0.0), row.third(s, k, p, 0.0));
    let there = s.first(p.count());
    let (u, v, w) = ((anchor - positive) + eps, (anchor - negative) + eps, (positive - negative) + eps);
    [there.pick(u, 0.0), there.pick(v, 0.0), there.pick(w, 0.0)]
}

impl Rowwise for TripletMargin {
    const NAME: &'static str = "triplet margin";
    const INDEX: bool = false;
    const GRAD_TARGET: bool = true;
    const THIRD: Option<ThirdOf> = Some(ThirdOf::Elements);
    const GRAD_THIRD: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let TripletMarginParams { margin, eps, swap } = self.0;
        let (mut uu, mut vv, mut ww) = (s.zero_wide(), s.zero_wide(), s.zero_wide());
        for_chunks!(row, |k, p| {
            let [u, v, w] = differences(s, row, k, p, eps);
            let (u, v, w) = (u.widen(), v.widen(), w.widen());
            uu = uu + u * u;
            vv = vv + v * v;
            ww = ww + w * w;
        });
        let (near, from_anchor, from_positive) = (uu.sum().sqrt(), vv.sum().sqrt(), ww.sum().sqrt());
        let swapped = swap != 0 && from_positive < from_anchor;
        let far = if swapped { from_positive } else { from_anchor };
        let short = (near - far) + f64::from(margin);
        // Written so that NaN takes neither of the two numbers.
        let value = if short <= 0.0 { 0.0 } else { short };
        let slope = if short > 0.0 { 1.0 } else { value };
        if slope == 0.0 {
            // Exactly zero, whatever the row holds.
            for_chunks!(row, |k, p| {
                row.put_third(s, k, p, s.zero());
                row.put_target(s, k, p, s.zero());
                row.put(s, k, p, s.zero());
            });
        } else if row.wants_grad() {
            let scale = f64::from(row.scale) * slope;
            let per = |distance: f64| if distance == 0.0 { 0.0 } else { (scale / distance) as f32 };
            let (pull, push) = (per(near), per(far));
            for_chunks!(row, |k, p| {
                let [u, v, w] = differences(s, row, k, p, eps);
                let (pulled, pushed) = (u * pull, if swapped { w * push } else { v * push });
                row.put_third(s, k, p, pushed);
                row.put_target(s, k, p, if swapped { -pulled - pushed } else { -pulled });
                row.put(s, k, p, if swapped { pulled } else { pulled - pushed });
            });
        }
        value
    }
}

rowwise_loss!(TripletMargin);
row_methods_of_three!(TripletMargin, positive, negative, grad_target(grad_positive), grad_third(grad_negative));

crate::cuda::kernel::kernel!(TripletMargin, |l| Kernel::rows(l, "triplet_margin", "triplet_margin", l.0));

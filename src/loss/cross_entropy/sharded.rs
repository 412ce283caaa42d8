//! Cross-entropy of rows of which only some classes are here: what is known of those, and the gradient once all is known of all.

use super::{Capped, CrossEntropy, Slopes, TargetSums};
use crate::call::{AnyRequest, Extras, Output, Request, Weight, for_request};
use crate::cpu::mem::{Dst, Src};
use crate::cpu::row::{Beside, Row, for_chunks};
use crate::cpu::rowwise::{self, Rowwise};
use crate::cpu::simd::Machine;
use crate::cpu::softmax::{BlockSum, Logits, Softmax};
use crate::element::Element;
use crate::error::Result;
use crate::loss::target_weights::TargetWeights;
use crate::reduction::Reduction;
use crate::target::Target;

/// Numbers of a row in `Part::sums`.
pub(crate) const SUMS: usize = 4;

/// What a part of the classes says of each row; put together, what all of them say.
pub(crate) struct Parts {
    /// The largest logit.
    pub(crate) max: Vec<f32>,
    /// Of each row: how many exponentials are 1, the sum of the others, the sum of `a`, and that of `a (max - z)`.
    pub(crate) sums: Vec<f32>,
}

/// The rows of a part.
#[derive(Clone, Copy)]
pub(crate) struct Shard<'a> {
    pub(crate) loss: CrossEntropy,
    /// Of each row its class among those that are here, `ELSEWHERE` or `IGNORED`.
    pub(crate) classes: &'a [usize],
    /// How many classes there are in all.
    pub(crate) total: usize,
    /// Of those that are here.
    pub(crate) class_weight: Option<&'a [f32]>,
    /// Of the rows.
    pub(crate) weight: Option<&'a [f32]>,
}

/// The target is a class of another part.
pub(crate) const ELSEWHERE: usize = usize::MAX;
/// The row counts for nothing.
pub(crate) const IGNORED: usize = usize::MAX - 1;

impl Shard<'_> {
    /// What these classes say of each row.
    pub(crate) fn fold<T: Element>(&self, logits: Src<'_, T>) -> Result<Parts> {
        let rows = self.classes.len();
        let mut parts = Parts { max: vec![f32::NEG_INFINITY; rows], sums: vec![0.0; SUMS * rows] };
        if logits.len() != 0 {
            let fold = Fold { shard: *self, max: Beside::new(&mut parts.max), sums: Beside::new(&mut parts.sums) };
            run_fold(fold, T::erase(self.request(logits)))?;
        }
        Ok(parts)
    }

    /// The gradient of the sum of the losses, times `scale`; `whole` is put together of the parts of all classes.
    pub(crate) fn unfold<T: Element>(
        &self,
        whole: &Parts,
        logits: Src<'_, T>,
        grad: Dst<'_, T>,
        (in_place, accumulate): (bool, bool),
        scale: f32,
    ) -> Result<()> {
        if logits.len() == 0 {
            return Ok(());
        }
        let mut request = self.request(logits);
        (request.grad_input, request.in_place, request.extras.accumulate) = (Some(grad), in_place, accumulate);
        request.extras.grad_output = scale;
        run_unfold(Unfold { shard: *self, whole }, T::erase(request)).map(drop)
    }

    /// The loss of a row, times its weight.
    pub(crate) fn value(&self, whole: &Parts, row: usize) -> f64 {
        if self.classes[row] == IGNORED {
            return 0.0;
        }
        let (softmax, [mass, cost]) = whole.of(row);
        let weight = self.weight.map_or(1.0, |w| f64::from(w[row]));
        weight * CrossEntropy::value(&softmax, mass, cost, self.loss.params.z_loss)
    }

    fn request<'r, T: Element>(&'r self, input: Src<'r, T>) -> Request<'r, T> {
        let rows = self.classes.len();
        let extras = Extras {
            target: Target::Nothing,
            shape: Some((rows, input.len() / rows.max(1)).into()),
            weight: self.weight.map(Weight::PerElement),
            class_weight: self.class_weight,
            grad_output: 1.0,
            accumulate: false,
            grad_target: None,
            terms: None,
            third: crate::third::Third::none(),
            report: Default::default(),
        };
        Request { input, extras, grad_input: None, in_place: false, output: Output::Reduced(Reduction::Sum) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn weights<'t, T: Element>(&self, class: usize, row: &Row<'_, T>) -> TargetWeights<'t, T> {
        let smoothing = self.loss.params.smoothing;
        let of_class = if class == ELSEWHERE { 1.0 } else { row.class_weight_at(class) };
        TargetWeights::of_class(class, (1.0 - smoothing) * of_class, smoothing / self.total as f32)
    }
}

impl Parts {
    /// The sums as they are of another maximum, at least as large as that of this part.
    pub(crate) fn move_to(&mut self, max: &[f32]) {
        for (r, (&here, &max)) in self.max.iter().zip(max).enumerate() {
            let [ones, rest, mass, cost] = &mut self.sums[r * SUMS..][..SUMS] else { unreachable!("four sums") };
            if here == max {
                continue;
            }
            if here == f32::NEG_INFINITY {
                // All are masked here, and some elsewhere are not. (But NaN stays.)
                (*ones, *rest) = (0.0, if rest.is_nan() { f32::NAN } else { 0.0 });
                *cost = if *mass == 0.0 { 0.0 } else { *mass * f32::INFINITY };
                continue;
            }
            let shift = f64::from(max) - f64::from(here);
            (*ones, *rest) = (0.0, ((f64::from(*ones) + f64::from(*rest)) * (-shift).exp()) as f32);
            *cost += if *mass == 0.0 { 0.0 } else { (f64::from(*mass) * shift) as f32 };
        }
        self.max.copy_from_slice(max);
    }

    /// The softmax of a row, the sum of `a` and that of `a (max - z)`.
    #[cfg_attr(optimized, inline(always))]
    fn of(&self, row: usize) -> (Softmax, [f64; 2]) {
        let sums = &self.sums[row * SUMS..][..SUMS];
        let [ones, rest, mass, cost] = [0, 1, 2, 3].map(|i| f64::from(sums[i]));
        (Softmax { max: self.max[row], ones, rest }, [mass, cost])
    }
}

/// The first look at the rows.
#[derive(Clone, Copy)]
struct Fold<'a> {
    shard: Shard<'a>,
    max: Beside<'a, 1>,
    sums: Beside<'a, SUMS>,
}

/// The second.
#[derive(Clone, Copy)]
struct Unfold<'a> {
    shard: Shard<'a>,
    whole: &'a Parts,
}

// Not generic over the element, so that they are compiled with this crate.
fn run_fold(fold: Fold<'_>, request: AnyRequest<'_>) -> Result<f32> {
    for_request!(request, |r| rowwise::run(fold, r))
}

fn run_unfold(unfold: Unfold<'_>, request: AnyRequest<'_>) -> Result<f32> {
    for_request!(request, |r| rowwise::run(unfold, r))
}

impl Rowwise for Fold<'_> {
    const NAME: &'static str = <CrossEntropy as Rowwise>::NAME;
    const INDEX: bool = false;
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let (r, shard) = (row.number(), self.shard);
        let class = shard.classes[r];
        if class == IGNORED {
            return 0.0;
        }
        let weights = shard.weights(class, row);
        let mut sums = TargetSums::<S, T, false> { weights, mass: BlockSum::new(s), cost: BlockSum::new(s) };
        let softmax = Softmax::new(s, row, 0, Capped::new(shard.loss.params.softcap), &mut sums);
        let mut rest = softmax.rest;
        if softmax.max == f32::NEG_INFINITY {
            // Every exponential is NaN now, whether or not a logit is.
            let mut nan = false;
            for_chunks!(row, |k, p| { nan |= row.input(s, k, p, 0.0).is_nan().any() });
            rest = if nan { f64::NAN } else { 0.0 };
        }
        let sums = [softmax.ones, rest, sums.mass.sum(), sums.cost.sum()];
        row.put_beside(self.max, [softmax.max]);
        row.put_beside(self.sums, sums.map(|sum| sum as f32));
        0.0
    }
}

impl Rowwise for Unfold<'_> {
    const NAME: &'static str = <CrossEntropy as Rowwise>::NAME;
    const INDEX: bool = false;
    const DENSE: bool = false;
    const CLASS_WEIGHT: bool = true;

    #[cfg_attr(optimized, inline(always))]
    fn row<S: Machine, T: Element>(&self, s: S, row: &mut Row<'_, T>) -> f64 {
        let (r, shard) = (row.number(), self.shard);
        let class = shard.classes[r];
        if class == IGNORED {
            for_chunks!(row, |k, p| { row.put(s, k, p, s.zero()) });
            return 0.0;
        }
        let (softmax, [mass, _]) = self.whole.of(r);
        let (weights, logits) = (shard.weights(class, row), Capped::new(shard.loss.params.softcap));
        let slopes = Slopes::new(&softmax, mass, shard.loss.params.z_loss, row.scale);
        for_chunks!(row, |k, p| {
            let e = (logits.at(s, row, k, p) - softmax.max).exp_neg();
            row.put(s, k, p, logits.chain(row, k, p, slopes.at(e, weights.at(s, row, k, p))));
        });
        0.0
    }
}

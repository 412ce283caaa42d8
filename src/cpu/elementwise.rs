//! The element-wise skeleton: one pass over input and target.

use super::mem::{Dst, Mode, Src, fence};
use super::simd::{F32s, Isa, Kernel, LANES, Lanes, Machine, Pair, Simd};
use super::tiles::{Tiles, sum_weights};
use crate::call::{Output, Request, Weight};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::target::Target;

/// Values and gradients of sixteen elements.
#[derive(Clone, Copy)]
pub(crate) struct Point<S: Simd> {
    pub(crate) value: F32s<S>,
    pub(crate) grad: F32s<S>,
}

/// An element-wise loss, of sixteen elements at a time. The functions must be `#[cfg_attr(optimized, inline(always))]`.
pub(crate) trait Pointwise: Copy + Send + Sync {
    const NAME: &'static str;
    /// It has a gradient for the target.
    const GRAD_TARGET: bool = false;
    /// It takes class weights: `aux` is the weight of the element's class, 1 without.
    const CLASS_WEIGHT: bool = false;
    /// It takes a target.
    const TARGET: bool = true;
    /// It takes a third tensor of the input's shape, which is its `aux`.
    const THIRD: bool = false;
    /// It has a gradient for that.
    const GRAD_THIRD: bool = false;
    /// Its gradients may be so small that, scaled, they are denormal numbers, with which processors take a hundred cycles.
    const FAINT: bool = false;

    /// Value and gradient for the input.
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Point<S>;

    /// Gradient for the target.
    #[cfg_attr(optimized, inline(always))]
    fn grad_target<S: Simd>(&self, x: F32s<S>, _t: F32s<S>, _aux: F32s<S>) -> F32s<S> {
        x.simd().zero()
    }

    /// Gradient for the third tensor.
    #[cfg_attr(optimized, inline(always))]
    fn grad_third<S: Simd>(&self, x: F32s<S>, _t: F32s<S>, _third: F32s<S>) -> F32s<S> {
        x.simd().zero()
    }
}

/// What a tile needs to know; the same for every tile.
struct Plan<'a, T> {
    input: Src<'a, T>,
    target: Option<Src<'a, T>>,
    third: Option<Src<'a, T>>,
    class_weight: Option<&'a [f32]>,
    /// Weights, and how many consecutive elements share one.
    weight: Option<(&'a [f32], usize)>,
    losses: Option<Dst<'a, f32>>,
    grad_output: Option<&'a [f32]>,
    grad_input: Option<Dst<'a, T>>,
    grad_target: Option<Dst<'a, T>>,
    grad_third: Option<Dst<'a, T>>,
    scale: f32,
    mode: Mode,
    target_mode: Mode,
}

/// Runs the loss.
pub(crate) fn run<T: Element, F: Pointwise>(loss: F, request: Request<'_, T>) -> Result<f32> {
    let n = request.input.len();
    let extras = request.extras;
    let unsupported = |what| Error::Unsupported { loss: F::NAME, what };
    let target = match (extras.target, F::TARGET) {
        (Target::Dense(t), true) => {
            check_len("target", n, t.len())?;
            Some(Src::new(t))
        }
        (Target::Nothing, false) => None,
        _ => return Err(unsupported("a target of this kind")),
    };
    extras.report.check((F::NAME, false), true, n, (|to| to.len(), |to| to.indices()))?;
    let third = extras.third.check(F::NAME, F::THIRD.then_some(n), F::GRAD_THIRD)?;
    let class_weight = extras.class_weight;
    if let Some(w) = class_weight {
        if !F::CLASS_WEIGHT {
            return Err(unsupported("a class weight"));
        }
        if w.is_empty() || !n.is_multiple_of(w.len()) {
            return Err(Error::Samples { what: "class_weight", samples: w.len(), elements: n });
        }
    }
    let weight = extras.weight.map(|w| w.per_loss(n)).transpose()?;
    if let Some(grad) = &extras.grad_target {
        if !F::GRAD_TARGET {
            return Err(unsupported("a gradient for the targets"));
        }
        check_len("grad_target", n, grad.len())?;
    }
    let (mut losses, mut grad_output, mut denominator) = (None, None, 1.0);
    match request.output {
        Output::Reduced(reduction) => {
            reduction.check(n)?;
            let weighted = || weight.map_or(n as f64, |(w, each)| sum_weights(w) * each as f64);
            denominator = reduction.denominator(|| n as f64, weighted);
        }
        Output::Unreduced { losses: l, grad_output: g } => {
            if let Some(l) = l {
                check_len("losses", n, l.len())?;
            }
            if let Some(g) = g {
                check_len("grad_output", n, g.len())?;
            }
            (losses, grad_output) = (l, g);
        }
    }
    let plan = Plan {
        input: request.input,
        target,
        third,
        class_weight,
        weight,
        losses,
        grad_output,
        grad_input: request.grad_input,
        grad_target: extras.grad_target,
        grad_third: extras.third.grad,
        scale: (f64::from(extras.grad_output) / denominator) as f32,
        mode: Mode::new(extras.accumulate, request.in_place, n * size_of::<T>()),
        target_mode: Mode::new(extras.accumulate, false, n * size_of::<T>()),
    };
    let isa = Isa::detect();
    let total = Tiles::new(n, BLOCK).sum(n, &|start, end| isa.run(Tile { loss, plan, start, end }));
    Ok((total / denominator) as f32)
}

/// Elements summed in f32 before the sum goes to f64: eight additions a lane, so that the rounding
/// of even a sum of equal values stays below 5e-7.
const BLOCK: usize = 8 * LANES;

impl<T> Clone for Plan<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Plan<'_, T> {}

struct Tile<'a, T, F> {
    loss: F,
    /// A copy, so that LLVM keeps it in registers: behind a reference it might change with every store.
    plan: Plan<'a, T>,
    start: usize,
    end: usize,
}

impl<T, F: Copy> Clone for Tile<'_, T, F> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, F: Copy> Copy for Tile<'_, T, F> {}

impl<T: Element, F: Pointwise> Kernel for Tile<'_, T, F> {
    type Output = f64;

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> f64 {
        let plan = self.plan;
        let plain = plan.class_weight.is_none()
            && plan.third.is_none()
            && plan.weight.is_none()
            && plan.grad_output.is_none()
            && plan.losses.is_none()
            && plan.grad_target.is_none()
            && !plan.mode.accumulate;
        // Input, target and gradient of a call with nothing else.
        let fast = match (plan.grad_input, plan.target) {
            (Some(grad), Some(target)) if plain => Some((plan.input, target, grad)),
            (Some(grad), None) if plain => Some((plan.input, plan.input, grad)),
            _ => None,
        };
        let mode = plan.grad_input.map_or(Mode::PLAIN, |grad| plan.mode.at(grad, self.start));
        let pair = Pair(s);
        // What is smaller would be denormal after scaling.
        let least = f32::MIN_POSITIVE / plan.scale.abs();
        let mut total = s.zero_wide();
        for block in (self.start..self.end).step_by(BLOCK) {
            let stop = self.end.min(block + BLOCK);
            // The even vectors and the odd ones, whichever way they come.
            let (mut even, mut odd) = (s.zero(), s.zero());
            let mut i = block;
            if let Some((input, target, grad)) = fast {
                let mode = Mode { accumulate: false, ..mode };
                while stop - i >= 2 * LANES {
                    // SAFETY: tiles do not overlap, and a tile belongs to one task.
                    unsafe {
                        if mode.stream {
                            input.prefetch(s, i);
                            if F::TARGET {
                                target.prefetch(s, i);
                            }
                        }
                        let x = pair.join(input.load(s, i), input.load(s, i + LANES));
                        let t = pair.join(target.load(s, i), target.load(s, i + LANES));
                        let point = self.loss.eval(x, t, pair.splat(1.0));
                        let mut grads = point.grad;
                        if F::FAINT {
                            grads = grads.abs().lt(least).pick(0.0, grads);
                        }
                        let (low, high) = pair.split(grads * plan.scale);
                        grad.store(s, i, low, mode);
                        grad.store(s, i + LANES, high, mode);
                        let (v0, v1) = pair.split(point.value);
                        (even, odd) = (even + v0, odd + v1);
                    }
                    i += 2 * LANES;
                }
            }
            while i < stop {
                let value = self.general(s, i, LANES.min(stop - i), mode);
                if (i - block).is_multiple_of(2 * LANES) {
                    even = even + value;
                } else {
                    odd = odd + value;
                }
                i += LANES;
            }
            total = total + (even + odd).widen();
        }
        fence();
        total.sum()
    }
}

impl<T: Element, F: Pointwise> Tile<'_, T, F> {
    /// Elements `i..i + count` of any call.
    #[cfg_attr(optimized, inline(always))]
    fn general<S: Machine>(&self, s: S, i: usize, count: usize, mode: Mode) -> F32s<S> {
        let plan = self.plan;
        // SAFETY (all loads and stores): tiles do not overlap, and a tile belongs to one task.
        let x = unsafe { plan.input.load_upto(s, i, count, 0.0) };
        let t = match plan.target {
            Some(target) => unsafe { target.load_upto(s, i, count, 0.0) },
            None => s.zero(),
        };
        let mut aux: Lanes = [1.0; LANES];
        if let Some(w) = plan.class_weight {
            for (l, aux) in aux[..count].iter_mut().enumerate() {
                *aux = w[(i + l) % w.len()];
            }
        }
        let mut weight: Lanes = [1.0; LANES];
        if let Some((w, each)) = plan.weight {
            for (l, weight) in weight[..count].iter_mut().enumerate() {
                *weight = if each == 1 { w[i + l] } else { w[(i + l) / each] };
            }
        }
        let weight = s.lanes(&weight);
        let aux = match plan.third {
            Some(third) => unsafe { third.load_upto(s, i, count, 0.0) },
            None => s.lanes(&aux),
        };
        let mut scale = weight * plan.scale;
        if let Some(g) = plan.grad_output {
            scale = scale * unsafe { Src::new(g).load_upto(s, i, count, 0.0) };
        }
        let point = self.loss.eval(x, t, aux);
        let value = point.value * weight;
        if let Some(losses) = plan.losses {
            unsafe { losses.store_upto(s, i, count, value, Mode::PLAIN) };
        }
        if let Some(out) = plan.grad_target {
            let grad = self.loss.grad_target(x, t, aux) * scale;
            unsafe { out.store_upto(s, i, count, grad, plan.target_mode.at(out, i)) };
        }
        if let Some(out) = plan.grad_third {
            let grad = self.loss.grad_third(x, t, aux) * scale;
            unsafe { out.store_upto(s, i, count, grad, plan.target_mode.at(out, i)) };
        }
        if let Some(out) = plan.grad_input {
            let mut grad = point.grad;
            if F::FAINT {
                // As above: whatever else is asked for, the gradient has the same bits.
                grad = grad.abs().lt(f32::MIN_POSITIVE / scale.abs()).pick(0.0, grad);
            }
            unsafe { out.store_upto(s, i, count, grad * scale, mode) };
        }
        // The padding has a value too.
        s.first(count).pick(value, 0.0)
    }
}

impl<'a> Weight<'a> {
    /// The weights, and how many consecutive losses of `n` share one.
    pub(crate) fn per_loss(self, n: usize) -> Result<(&'a [f32], usize)> {
        match self {
            Weight::PerElement(w) => {
                check_len("weight", n, w.len())?;
                Ok((w, 1))
            }
            Weight::PerSample(w) => {
                if n != 0 && (w.is_empty() || !n.is_multiple_of(w.len())) {
                    return Err(Error::Samples { what: "sample_weight", samples: w.len(), elements: n });
                }
                Ok((w, n.checked_div(w.len()).unwrap_or(1)))
            }
        }
    }
}

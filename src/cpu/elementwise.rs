//! The element-wise skeleton: one pass over input and target.

use super::mem::{Dst, Mode, Src, fence};
use super::simd::{F32s, Isa, Kernel, LANES, Lanes, Machine, Pair, Simd};
use super::tiles::{Tiles, sum_weights};
use crate::call::{Output, Request, Weight};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::Logistic;
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

    /// It is made of the logistic function of its input, which the terms of a combined loss share.
    const LOGISTIC: bool = false;

    /// Value and gradient for the input.
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Point<S>;

    /// The same, given the logistic function of the input if it is made of that.
    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, _l: &Logistic<S>, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Point<S> {
        self.eval(x, t, aux)
    }

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

/// The values of up to `N` terms and the gradient of their sum, of sixteen elements.
#[derive(Clone, Copy)]
pub(crate) struct Points<S: Simd, const N: usize> {
    pub(crate) values: [F32s<S>; N],
    pub(crate) grad: F32s<S>,
}

/// What the skeleton runs: a loss, or a sum of up to `N`.
pub(crate) trait Terms<const N: usize>: Copy + Send + Sync {
    const NAME: &'static str;
    const TARGET: bool;
    const THIRD: bool = false;
    const GRAD_THIRD: bool = false;
    const FAINT: bool;

    /// How many terms there are.
    fn terms(&self) -> usize;
    fn takes_class_weight(&self) -> bool;
    fn has_grad_target(&self) -> bool;
    fn points<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Points<S, N>;
    fn grad_for_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S>;
    #[cfg_attr(optimized, inline(always))]
    fn grad_for_third<S: Simd>(&self, x: F32s<S>, _t: F32s<S>, _third: F32s<S>) -> F32s<S> {
        x.simd().zero()
    }
    /// The value of the whole.
    fn whole<S: Simd>(&self, values: [F32s<S>; N]) -> F32s<S>;
    /// The same of sums of values.
    fn whole_of_sums(&self, sums: [f64; N]) -> f64;
}

impl<F: Pointwise> Terms<1> for F {
    const NAME: &'static str = <F as Pointwise>::NAME;
    const TARGET: bool = <F as Pointwise>::TARGET;
    const THIRD: bool = <F as Pointwise>::THIRD;
    const GRAD_THIRD: bool = <F as Pointwise>::GRAD_THIRD;
    const FAINT: bool = <F as Pointwise>::FAINT;

    fn terms(&self) -> usize {
        1
    }

    fn takes_class_weight(&self) -> bool {
        F::CLASS_WEIGHT
    }

    fn has_grad_target(&self) -> bool {
        F::GRAD_TARGET
    }

    #[cfg_attr(optimized, inline(always))]
    fn points<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Points<S, 1> {
        let Point { value, grad } = self.eval(x, t, aux);
        Points { values: [value], grad }
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_for_target<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> F32s<S> {
        self.grad_target(x, t, aux)
    }

    #[cfg_attr(optimized, inline(always))]
    fn grad_for_third<S: Simd>(&self, x: F32s<S>, t: F32s<S>, third: F32s<S>) -> F32s<S> {
        self.grad_third(x, t, third)
    }

    #[cfg_attr(optimized, inline(always))]
    fn whole<S: Simd>(&self, [value]: [F32s<S>; 1]) -> F32s<S> {
        value
    }

    fn whole_of_sums(&self, [sum]: [f64; 1]) -> f64 {
        sum
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
pub(crate) fn run<T: Element, F: Terms<N>, const N: usize>(loss: F, request: Request<'_, T>) -> Result<f32> {
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
        if !loss.takes_class_weight() {
            return Err(unsupported("a class weight"));
        }
        if w.is_empty() || !n.is_multiple_of(w.len()) {
            return Err(Error::Samples { what: "class_weight", samples: w.len(), elements: n });
        }
    }
    let weight = extras.weight.map(|w| w.per_loss(n)).transpose()?;
    if let Some(grad) = &extras.grad_target {
        if !loss.has_grad_target() {
            return Err(unsupported("a gradient for the targets"));
        }
        check_len("grad_target", n, grad.len())?;
    }
    if let Some(terms) = &extras.terms {
        check_len("terms", loss.terms(), terms.len())?;
    }
    let (mut losses, mut grad_output, mut denominator) = (None, None, 1.0);
    match request.output {
        Output::Reduced(reduction) => {
            reduction.check(n)?;
            let weighted = || weight.map_or(n as f64, |(w, each)| sum_weights(w) * each as f64);
            denominator = reduction.denominator(|| n as f64, weighted);
        }
        Output::Unreduced { .. } if extras.terms.is_some() => {
            return Err(unsupported("asking for terms without a reduction"));
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
    let sums = Tiles::new(n, BLOCK).sums(n, n, &|start, end| isa.run(Tile { loss, plan, start, end }));
    if let Some(terms) = extras.terms {
        // SAFETY: there are as many, and this is the only task.
        (0..terms.len()).for_each(|j| unsafe { terms.set(j, (sums[j] / denominator) as f32) });
    }
    Ok((loss.whole_of_sums(sums) / denominator) as f32)
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

struct Tile<'a, T, F, const N: usize> {
    loss: F,
    /// A copy, so that LLVM keeps it in registers: behind a reference it might change with every store.
    plan: Plan<'a, T>,
    start: usize,
    end: usize,
}

impl<T, F: Copy, const N: usize> Clone for Tile<'_, T, F, N> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T, F: Copy, const N: usize> Copy for Tile<'_, T, F, N> {}

impl<T: Element, F: Terms<N>, const N: usize> Kernel for Tile<'_, T, F, N> {
    type Output = [f64; N];

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> [f64; N] {
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
        let mut total = [s.zero_wide(); N];
        for block in (self.start..self.end).step_by(BLOCK) {
            let stop = self.end.min(block + BLOCK);
            // The even vectors and the odd ones, whichever way they come.
            let (mut even, mut odd) = ([s.zero(); N], [s.zero(); N]);
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
                        let Points { values, grad: mut grads } = self.loss.points(x, t, pair.splat(1.0));
                        if F::FAINT {
                            grads = grads.abs().lt(least).pick(0.0, grads);
                        }
                        let (low, high) = pair.split(grads * plan.scale);
                        grad.store(s, i, low, mode);
                        grad.store(s, i + LANES, high, mode);
                        for j in 0..N {
                            let (v0, v1) = pair.split(values[j]);
                            (even[j], odd[j]) = (even[j] + v0, odd[j] + v1);
                        }
                    }
                    i += 2 * LANES;
                }
            }
            while i < stop {
                let values = self.general(s, i, LANES.min(stop - i), mode);
                let sums = if (i - block).is_multiple_of(2 * LANES) { &mut even } else { &mut odd };
                for j in 0..N {
                    sums[j] = sums[j] + values[j];
                }
                i += LANES;
            }
            for j in 0..N {
                total[j] = total[j] + (even[j] + odd[j]).widen();
            }
        }
        fence();
        let mut sums = [0.0; N];
        for j in 0..N {
            sums[j] = total[j].sum();
        }
        sums
    }
}

impl<T: Element, F: Terms<N>, const N: usize> Tile<'_, T, F, N> {
    /// Elements `i..i + count` of any call.
    #[cfg_attr(optimized, inline(always))]
    fn general<S: Machine>(&self, s: S, i: usize, count: usize, mode: Mode) -> [F32s<S>; N] {
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
        let Points { mut values, mut grad } = self.loss.points(x, t, aux);
        for value in &mut values {
            *value = *value * weight;
        }
        if let Some(losses) = plan.losses {
            unsafe { losses.store_upto(s, i, count, self.loss.whole(values), Mode::PLAIN) };
        }
        if let Some(out) = plan.grad_target {
            let grad = self.loss.grad_for_target(x, t, aux) * scale;
            unsafe { out.store_upto(s, i, count, grad, plan.target_mode.at(out, i)) };
        }
        if let Some(out) = plan.grad_third {
            let grad = self.loss.grad_for_third(x, t, aux) * scale;
            unsafe { out.store_upto(s, i, count, grad, plan.target_mode.at(out, i)) };
        }
        if let Some(out) = plan.grad_input {
            if F::FAINT {
                // As above: whatever else is asked for, the gradient has the same bits.
                grad = grad.abs().lt(f32::MIN_POSITIVE / scale.abs()).pick(0.0, grad);
            }
            unsafe { out.store_upto(s, i, count, grad * scale, mode) };
        }
        // The padding has values too.
        for value in &mut values {
            *value = s.first(count).pick(*value, 0.0);
        }
        values
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

//! The element-wise skeleton: one pass over input and target.

use super::mem::{Dst, Mode, Src, fence};
use super::simd::{Isa, Kernel, LANES, Lanes, Simd};
use super::tiles::{Tiles, sum_weights};
use crate::call::{Output, Request, Weight};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::reduction::Denominators;
use crate::target::Target;

/// Value and gradient at one element.
#[derive(Clone, Copy)]
pub(crate) struct Point {
    pub(crate) value: f32,
    pub(crate) grad: f32,
}

/// An element-wise loss. The functions must be `#[inline(always)]` and free of branches that LLVM
/// cannot turn into selects, for sixteen of them side by side become vector instructions.
pub(crate) trait Pointwise: Copy + Send + Sync {
    const NAME: &'static str;
    /// It has a gradient for the target.
    const GRAD_TARGET: bool = false;
    /// It takes class weights: `aux` is the weight of the element's class, 1 without.
    const CLASS_WEIGHT: bool = false;
    /// It takes a target.
    const TARGET: bool = true;

    /// Value and gradient for the input.
    fn eval<S: Simd>(&self, s: S, x: f32, t: f32, aux: f32) -> Point;

    /// Gradient for the target.
    fn grad_target<S: Simd>(&self, _s: S, _x: f32, _t: f32, _aux: f32) -> f32 {
        0.0
    }
}

/// What a tile needs to know; the same for every tile.
struct Plan<'a, T> {
    input: Src<'a, T>,
    target: Option<Src<'a, T>>,
    class_weight: Option<&'a [f32]>,
    /// Weights, and how many consecutive elements share one.
    weight: Option<(&'a [f32], usize)>,
    losses: Option<Dst<'a, f32>>,
    grad_output: Option<&'a [f32]>,
    grad_input: Option<Dst<'a, T>>,
    grad_target: Option<Dst<'a, T>>,
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
            let weighted = weight.map_or(n as f64, |(w, each)| sum_weights(w) * each as f64);
            denominator = reduction.denominator(&Denominators { mean: n as f64, weighted });
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
        class_weight,
        weight,
        losses,
        grad_output,
        grad_input: request.grad_input,
        grad_target: extras.grad_target,
        scale: (f64::from(extras.grad_output) / denominator) as f32,
        mode: Mode::new(extras.accumulate, request.in_place, n * size_of::<T>()),
        target_mode: Mode::new(extras.accumulate, false, n * size_of::<T>()),
    };
    let isa = Isa::detect();
    let total = Tiles::new(n, BLOCK).sum(n, |start, end| isa.run(Tile { loss, plan, start, end }));
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

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> f64 {
        let plan = self.plan;
        let plain = plan.class_weight.is_none()
            && plan.weight.is_none()
            && plan.grad_output.is_none()
            && plan.losses.is_none()
            && plan.grad_target.is_none();
        let mut total = [0f64; LANES];
        for block in (self.start..self.end).step_by(BLOCK) {
            let stop = self.end.min(block + BLOCK);
            let mut sum: Lanes = [0.0; LANES];
            let mut i = block;
            if plain {
                while stop - i >= LANES {
                    self.plain(s, i, &mut sum);
                    i += LANES;
                }
            }
            while i < stop {
                self.general(s, i, LANES.min(stop - i), &mut sum);
                i += LANES;
            }
            s.add_wide(&mut total, &sum);
        }
        fence();
        total.iter().sum()
    }
}

impl<T: Element, F: Pointwise> Tile<'_, T, F> {
    /// Elements `i..i + 16` of a call without extras.
    #[inline(always)]
    fn plain<S: Simd>(&self, s: S, i: usize, sum: &mut Lanes) {
        let plan = self.plan;
        // SAFETY (loads and stores): tiles do not overlap, and a tile belongs to one task.
        let x = unsafe { plan.input.load(s, i) };
        let t = match plan.target {
            Some(target) if F::TARGET => unsafe { target.load(s, i) },
            _ => [0.0; LANES],
        };
        let (mut value, mut grad): (Lanes, Lanes) = Default::default();
        for l in 0..LANES {
            let point = self.loss.eval(s, x[l], t[l], 1.0);
            value[l] = point.value;
            grad[l] = point.grad * plan.scale;
        }
        s.add(sum, &value);
        if let Some(out) = plan.grad_input {
            unsafe { out.store(s, i, grad, plan.mode) };
        }
    }

    /// Elements `i..i + count` of any call.
    #[inline(always)]
    fn general<S: Simd>(&self, s: S, i: usize, count: usize, sum: &mut Lanes) {
        let plan = self.plan;
        // SAFETY (all loads and stores): tiles do not overlap, and a tile belongs to one task.
        let load = |src: Src<'_, T>| unsafe { src.load_upto(s, i, count, 0.0) };
        let x = load(plan.input);
        let t = plan.target.map_or([0.0; LANES], load);
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
        let mut scale = weight.map(|w| w * plan.scale);
        if let Some(g) = plan.grad_output {
            for (scale, g) in scale.iter_mut().zip(&g[i..i + count]) {
                *scale *= g;
            }
        }
        let (mut value, mut grad, mut grad_target): (Lanes, Lanes, Lanes) = Default::default();
        for l in 0..LANES {
            let point = self.loss.eval(s, x[l], t[l], aux[l]);
            value[l] = point.value * weight[l];
            grad[l] = point.grad * scale[l];
            // The padding has a value too.
            sum[l] += if l < count { value[l] } else { 0.0 };
        }
        let plain = Mode { accumulate: false, stream: false };
        if let Some(losses) = plan.losses {
            unsafe { losses.store_upto(s, i, count, value, plain) };
        }
        if let Some(out) = plan.grad_target {
            for l in 0..LANES {
                grad_target[l] = self.loss.grad_target(s, x[l], t[l], aux[l]) * scale[l];
            }
            unsafe { out.store_upto(s, i, count, grad_target, plan.target_mode) };
        }
        if let Some(out) = plan.grad_input {
            unsafe { out.store_upto(s, i, count, grad, plan.mode) };
        }
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

//! The element-wise skeleton: one pass over input and target.

mod stage;

pub(crate) use stage::Stage;

use super::mem::{Dst, Lines, Mode, Src, fence};
use super::simd::{Chains, F32s, Isa, Kernel, LANES, Lanes, Machine, Pair, Simd};
use super::tiles::{Tiles, sum_weights};
use crate::call::{Output, Request, Weight};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::{Logistic, logistic};
use crate::target::Target;
use stage::{Gather, Scatter};

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

    /// Its chain of operations is so long that a processor's window holds few of them: the usual calls take as many elements together as
    /// an instruction set has registers for. 0.75 to 0.9 of the time with AVX-512; 1.05 to 1.2 times it where memory decides.
    const LONG: bool = Self::LOGISTIC;

    /// Value and gradient for the input. A loss has this, or [`eval_with`](Self::eval_with) if it is `LOGISTIC`.
    #[cfg_attr(optimized, inline(always))]
    fn eval<S: Simd>(&self, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Point<S> {
        const { assert!(Self::LOGISTIC, "neither eval nor eval_with") };
        self.eval_with(&logistic(x), x, t, aux)
    }

    /// The same, given the logistic function of the input if it is made of that.
    #[cfg_attr(optimized, inline(always))]
    fn eval_with<S: Simd>(&self, _l: &Logistic<S>, x: F32s<S>, t: F32s<S>, aux: F32s<S>) -> Point<S> {
        const { assert!(!Self::LOGISTIC, "neither eval nor eval_with") };
        self.eval(x, t, aux)
    }

    /// A usual call. What usual options leave out of [`eval`](Self::eval) can be left out here.
    #[cfg_attr(optimized, inline(always))]
    fn usual<T: Element, S: Machine>(&self, s: S, run: UsualRun<'_, '_, T>) -> Begun<1> {
        run.of(s, *self)
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

/// What the skeleton runs: a loss, or a sum of up to `N`.
pub(crate) trait Terms<const N: usize>: Copy + Send + Sync {
    const NAME: &'static str;
    const TARGET: bool;
    const THIRD: bool = false;
    const GRAD_THIRD: bool = false;

    /// See [`Pointwise::FAINT`].
    fn faint(&self) -> bool;
    /// How many terms there are.
    fn terms(&self) -> usize;
    fn takes_class_weight(&self) -> bool;
    fn has_grad_target(&self) -> bool;

    /// A usual call.
    fn usual<T: Element, S: Machine>(&self, s: S, run: UsualRun<'_, '_, T>) -> Begun<N>;

    /// What is staged, applied to all terms; adds to the first sums of each, and puts the others.
    fn apply<S: Machine>(&self, s: S, stage: &mut Stage, sums: &mut [BlockSums; N]);

    /// The value of the whole, of sums of values.
    fn whole_of_sums(&self, sums: [f64; N]) -> f64;
}

impl<F: Pointwise> Terms<1> for F {
    const NAME: &'static str = <F as Pointwise>::NAME;
    const TARGET: bool = <F as Pointwise>::TARGET;
    const THIRD: bool = <F as Pointwise>::THIRD;
    const GRAD_THIRD: bool = <F as Pointwise>::GRAD_THIRD;

    fn faint(&self) -> bool {
        F::FAINT
    }

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
    fn usual<T: Element, S: Machine>(&self, s: S, run: UsualRun<'_, '_, T>) -> Begun<1> {
        Pointwise::usual(self, s, run)
    }

    #[cfg_attr(optimized, inline(always))]
    fn apply<S: Machine>(&self, s: S, stage: &mut Stage, [sums]: &mut [BlockSums; 1]) {
        if F::LOGISTIC {
            stage.logistic(s);
        }
        stage.apply(s, *self, 1.0, true, sums);
    }

    fn whole_of_sums(&self, [sum]: [f64; 1]) -> f64 {
        sum
    }
}

/// A call with nothing but input, target and gradient, which goes without a stop between memory and registers.
#[derive(Clone, Copy)]
struct Usual<'a, T> {
    input: Src<'a, T>,
    /// The input, where there is no target.
    target: Src<'a, T>,
    grad: Dst<'a, T>,
    scale: f32,
    /// A smaller gradient would be denormal after scaling.
    least: f32,
    mode: Mode,
}

impl<T: Element> Usual<'_, T> {
    /// Asks for what follows elements `i..i + 32`.
    #[cfg_attr(optimized, inline(always))]
    fn prefetch<S: Machine, F: Points<N>, const N: usize>(&self, s: S, i: usize) {
        self.input.prefetch(s, i);
        if F::TARGET {
            self.target.prefetch(s, i);
        }
    }

    /// Input and target of elements `i..i + 32`.
    ///
    /// # Safety
    /// As for [`Src::load`].
    #[cfg_attr(optimized, inline(always))]
    unsafe fn load<S: Machine>(&self, pair: Pair<S>, i: usize) -> (F32s<Pair<S>>, F32s<Pair<S>>) {
        // SAFETY: the caller's promise.
        unsafe {
            let x = pair.join(self.input.load(pair.0, i), self.input.load(pair.0, i + LANES));
            (x, pair.join(self.target.load(pair.0, i), self.target.load(pair.0, i + LANES)))
        }
    }
}

/// Adds an even vector and an odd one.
#[cfg_attr(optimized, inline(always))]
fn add<S: Machine>(pair: Pair<S>, x: F32s<Pair<S>>, sums: &mut [F32s<S>; 2]) {
    let (even, odd) = pair.split(x);
    *sums = [sums[0] + even, sums[1] + odd];
}

/// What is computed of the vectors of a usual call. The functions must be `#[cfg_attr(optimized, inline(always))]`.
pub(crate) trait Points<const N: usize>: Copy {
    const TARGET: bool;
    /// See [`Pointwise::FAINT`].
    const FAINT: bool;
    /// See [`Pointwise::LONG`].
    const LONG: bool;

    /// How many terms there are.
    fn terms(&self) -> usize;

    /// The gradient, and the values of each term.
    fn points<V: Simd>(&self, x: F32s<V>, t: F32s<V>) -> (F32s<V>, [F32s<V>; N]);
}

impl<F: Pointwise> Points<1> for F {
    const TARGET: bool = <F as Pointwise>::TARGET;
    const FAINT: bool = <F as Pointwise>::FAINT;
    const LONG: bool = <F as Pointwise>::LONG;

    #[cfg_attr(optimized, inline(always))]
    fn terms(&self) -> usize {
        1
    }

    #[cfg_attr(optimized, inline(always))]
    fn points<V: Simd>(&self, x: F32s<V>, t: F32s<V>) -> (F32s<V>, [F32s<V>; 1]) {
        let Point { value, grad } = self.eval(x, t, x.simd().splat(1.0));
        (grad, [value])
    }
}

/// Elements `i..stop` of a usual call.
pub(crate) struct UsualRun<'a, 'u, T> {
    call: Usual<'u, T>,
    lines: &'a mut Lines,
    i: usize,
    stop: usize,
}

/// How far a tile has come.
pub(crate) struct Begun<const N: usize> {
    /// The element that is next.
    next: usize,
    /// The sums of the values of whole blocks, lane by lane.
    total: [[f64; LANES]; N],
    /// Those of the even vectors and of the odd ones of a block that has begun.
    block: [[Lanes; 2]; N],
}

impl<T: Element> UsualRun<'_, '_, T> {
    /// As many as there are steps of. In a function of its own: what [`Tile`] holds would keep registers from it.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn of<S: Machine, F: Points<N>, const N: usize>(self, s: S, loss: F) -> Begun<N> {
        s.run(UsualBlocks { run: self, loss })
    }

    /// As many of one block as there are steps of; returns the next.
    #[cfg_attr(optimized, inline(always))]
    fn steps<S: Machine, C: Chains<S>, F: Points<N>, const N: usize>(
        self,
        s: S,
        chains: C,
        loss: F,
        sums: &mut [[F32s<S>; 2]; N],
    ) -> usize {
        let UsualRun { call, lines, mut i, stop } = self;
        let (pair, step) = (Pair(s), C::PAIRS * STEP);
        while stop - i >= step {
            // SAFETY: tiles do not overlap, and a tile belongs to one task.
            unsafe {
                if call.mode.stream {
                    call.prefetch::<S, F, N>(s, i);
                    if C::PAIRS == 2 {
                        call.prefetch::<S, F, N>(s, i + STEP);
                    }
                }
                let first = call.load(pair, i);
                let second = if C::PAIRS == 2 { call.load(pair, i + STEP) } else { first };
                let (x, t) = (chains.of_pairs(first.0, second.0), chains.of_pairs(first.1, second.1));
                let (mut grad, values) = loss.points(x, t);
                for j in 0..loss.terms().min(N) {
                    let (first, second) = chains.pairs(values[j]);
                    add(pair, first, &mut sums[j]);
                    if C::PAIRS == 2 {
                        add(pair, second, &mut sums[j]);
                    }
                }
                if F::FAINT {
                    grad = grad.abs().not_lt(call.least).pick(grad, 0.0);
                }
                grad = grad * call.scale;
                if C::PAIRS == 2 {
                    // Else LLVM moves the arithmetic of the second pair behind the branches of the first one's store.
                    grad = grad.opaque();
                }
                let (first, second) = chains.pairs(grad);
                call.grad.store_pair(s, lines, i, pair.split(first).into(), call.mode);
                if C::PAIRS == 2 {
                    call.grad.store_pair(s, lines, i + STEP, pair.split(second).into(), call.mode);
                }
            }
            i += step;
        }
        i
    }
}

struct UsualBlocks<'a, 'u, T, F, const N: usize> {
    run: UsualRun<'a, 'u, T>,
    loss: F,
}

impl<T: Element, F: Points<N>, const N: usize> Kernel for UsualBlocks<'_, '_, T, F, N> {
    type Output = Begun<N>;

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> Begun<N> {
        let UsualBlocks { run: UsualRun { call, lines, i: mut next, stop }, loss } = self;
        let (mut total, mut sums) = ([s.zero_wide(); N], [[s.zero(); 2]; N]);
        let terms = loss.terms().min(N);
        while next < stop {
            let end = stop.min(next + BLOCK);
            let run = UsualRun { call, lines: &mut *lines, i: next, stop: end };
            next = if F::LONG {
                run.steps(s, s.chains(), loss, &mut sums)
            } else {
                run.steps(s, Pair(s), loss, &mut sums)
            };
            if next < end {
                break;
            }
            for j in 0..terms {
                total[j] = total[j] + (sums[j][0] + sums[j][1]).widen();
                sums[j] = [s.zero(); 2];
            }
        }
        let mut begun = Begun::at(next);
        for j in 0..terms {
            begun.total[j] = total[j].to_array();
            begun.block[j] = [sums[j][0].to_array(), sums[j][1].to_array()];
        }
        begun
    }
}

impl<const N: usize> Begun<N> {
    /// A tile that begins at this element.
    #[cfg_attr(optimized, inline(always))]
    fn at(next: usize) -> Self {
        Begun { next, total: [[0.0; LANES]; N], block: [[[0.0; LANES]; 2]; N] }
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

/// What of a block is taken together.
const STEP: usize = 2 * LANES;

/// Elements that are staged at once: several blocks, for to begin with one takes as long as thirty of its elements.
const ROOM: usize = 4 * BLOCK;

/// The sums of the values of even vectors and of odd ones, of each block that is staged.
pub(crate) type BlockSums = [[Lanes; 2]; ROOM / BLOCK];

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
        let Tile { loss, plan, start, end } = self;
        let mut lines = [
            Lines::of(s, plan.grad_input, start, plan.mode),
            Lines::of(s, plan.grad_target, start, plan.target_mode),
            Lines::of(s, plan.grad_third, start, plan.target_mode),
        ];
        let begun = match plan.usual() {
            Some(call) if S::LOOPS => loss.usual(s, UsualRun { call, lines: &mut lines[0], i: start, stop: end }),
            _ => Begun::at(start),
        };
        // Known to be 1 where there is one.
        let terms = if N == 1 { 1 } else { loss.terms().min(N) };
        let mut total = [s.zero_wide(); N];
        for j in 0..terms {
            total[j] = s.wide_lanes(&begun.total[j]);
        }
        let mut i = begun.next;
        if i < end {
            let mut stage = Stage::new(&plan);
            let mut staged = [[[[0.0; LANES]; 2]; ROOM / BLOCK]; N];
            for j in 0..terms {
                staged[j][0] = begun.block[j];
            }
            while i < end {
                let count = ROOM.min(end - i);
                s.run(Gather { stage: &mut stage, plan: &plan, i, count });
                loss.apply(s, &mut stage, &mut staged);
                s.run(Scatter { stage: &stage, plan: &plan, lines: &mut lines, i, faint: loss.faint() });
                for j in 0..terms {
                    for [even, odd] in &staged[j][..count.div_ceil(BLOCK)] {
                        total[j] = total[j] + (s.lanes(even) + s.lanes(odd)).widen();
                    }
                    staged[j][0] = [[0.0; LANES]; 2];
                }
                i += count;
            }
        }
        lines.iter_mut().for_each(Lines::finish);
        fence();
        let mut all = [0.0; N];
        for j in 0..N {
            all[j] = total[j].sum();
        }
        all
    }
}

impl<'a, T: Element> Plan<'a, T> {
    /// Asks for what follows elements `i..i + 32`, in calls that memory bounds.
    #[cfg_attr(optimized, inline(always))]
    fn prefetch<S: Machine>(&self, s: S, i: usize) {
        if self.mode.stream {
            self.input.prefetch(s, i);
            if let Some(target) = self.target {
                target.prefetch(s, i);
            }
        }
    }

    /// The call, if nothing else is asked for.
    #[cfg_attr(optimized, inline(always))]
    fn usual(&self) -> Option<Usual<'a, T>> {
        let more = self.class_weight.is_some()
            || self.third.is_some()
            || self.weight.is_some()
            || self.grad_output.is_some()
            || self.losses.is_some()
            || self.grad_target.is_some()
            || self.mode.accumulate;
        let grad = self.grad_input.filter(|_| !more)?;
        let (input, scale) = (self.input, self.scale);
        let least = f32::MIN_POSITIVE / scale.abs();
        // What is known here is known in the loops.
        let mode = Mode { accumulate: false, ..self.mode };
        Some(Usual { input, target: self.target.unwrap_or(input), grad, scale, least, mode })
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

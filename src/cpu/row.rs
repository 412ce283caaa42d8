//! Rows as the row-wise losses see them: one at a time, classes in the lanes, or sixteen at a time, a row in each
//! lane.

use std::mem::MaybeUninit;

use super::mem::{Dst, Mode, Src};
use super::simd::{F32s, Kernel, LANES, Lanes, Machine, Mask, Span};
use crate::element::Element;
use crate::element::storage::Storage;
use crate::report::Reported;

/// Terms of a sum of row-wise losses.
pub(crate) const ROW_TERMS: usize = 3;

/// Classes up to which a row stays in the buffer: 32 KiB of f32.
pub(crate) const KEEP: usize = 8192;

/// Classes up to which the next row is asked for in advance.
const PREFETCH_MAX: usize = 1 << 17;

/// One row, and where its gradients go.
pub(crate) struct Row<'a, T> {
    pub(crate) classes: usize,
    pub(super) input: Strided<Src<'a, T>>,
    pub(crate) target: RowTarget<'a, T>,
    pub(super) third: Option<Src<'a, T>>,
    /// The number that the third tensor has for the row, of a loss with such.
    pub(crate) label: f32,
    /// The weight of every class.
    pub(crate) class_weight: Option<&'a [f32]>,
    /// What every gradient is multiplied by.
    pub(crate) scale: f32,
    pub(super) grad_input: Option<(Dst<'a, T>, Mode)>,
    pub(super) grad_target: Option<(Dst<'a, T>, Mode)>,
    pub(super) grad_third: Option<(Dst<'a, T>, Mode)>,
    /// Room for three rows.
    pub(crate) keep: &'a mut [Kept; 3],
    /// What else the row tells, of a loss that reports.
    pub(crate) report: Reported,
    /// The values of its terms, of a sum.
    pub(crate) terms: &'a mut [f64; ROW_TERMS],
}

/// A row between two looks at it. Not zeroed: for short rows that would take longer than the loss.
#[repr(align(64))] // no vector in two cache lines
pub(crate) struct Kept([MaybeUninit<f32>; KEEP]);

impl Kept {
    pub(crate) fn new() -> Self {
        Kept([MaybeUninit::uninit(); KEEP])
    }

    /// Keeps elements `k..k + 16`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put<S: Machine>(&mut self, k: usize, x: F32s<S>) {
        assert!(k <= KEEP - LANES);
        // SAFETY: in bounds.
        unsafe { f32::store(self.0.as_mut_ptr().add(k).cast(), x) }
    }

    /// Elements `k..k + 16`.
    ///
    /// # Safety
    /// They have been put.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) unsafe fn get<S: Machine>(&self, s: S, k: usize) -> F32s<S> {
        assert!(k <= KEEP - LANES);
        // SAFETY: in bounds, and the caller's promise.
        unsafe { f32::load(s, self.0.as_ptr().add(k).cast()) }
    }
}

/// Where the elements of a row are.
#[derive(Clone, Copy)]
pub(super) struct Strided<B> {
    pub(super) buffer: B,
    pub(super) base: usize,
    pub(super) stride: usize,
}

/// Numbers beside a tensor: `N` of each of its rows.
#[derive(Clone, Copy)]
pub(crate) struct Beside<'a, const N: usize>(Dst<'a, f32>);

impl<'a, const N: usize> Beside<'a, N> {
    pub(crate) fn new(x: &'a mut [f32]) -> Self {
        Beside(Dst::new(x))
    }
}

/// The target of one row.
#[derive(Clone, Copy)]
pub(crate) enum RowTarget<'a, T> {
    Nothing,
    Class(usize),
    Dense(Src<'a, T>),
}

impl<T: Element> Row<'_, T> {
    /// Whether the row fits the buffer.
    pub(crate) fn fits(&self) -> bool {
        self.classes <= KEEP
    }

    /// Asks for classes `k..k + 32` of the next row, if rows are short enough for two of them in a cache. While
    /// exponentials are computed, memory has nothing else to do.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn prefetch_next<S: Machine>(&self, s: S, k: usize) {
        if self.input.stride == 1 && self.classes <= PREFETCH_MAX {
            self.input.buffer.prefetch_later(s, self.input.base + self.classes + k);
            if let RowTarget::Dense(target) = self.target {
                target.prefetch_later(s, self.input.base + self.classes + k);
            }
            if let Some(third) = self.third {
                third.prefetch_later(s, self.input.base + self.classes + k);
            }
        }
    }

    /// Which row of its tensor it is; of contiguous rows.
    pub(crate) fn number(&self) -> usize {
        self.input.base / self.classes
    }

    /// Writes the numbers of this row.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put_beside<const N: usize>(&self, to: Beside<'_, N>, x: [f32; N]) {
        let start = self.number() * N;
        assert!(start + N <= to.0.len());
        // SAFETY: they are there; rows do not overlap, and a row belongs to one task.
        (0..N).for_each(|i| unsafe { to.0.set(start + i, x[i]) });
    }

    /// Whether there is a gradient to compute.
    pub(crate) fn wants_grad(&self) -> bool {
        self.grad_input.is_some()
    }

    /// Whether there is a gradient for the targets to compute.
    pub(crate) fn wants_grad_target(&self) -> bool {
        self.grad_target.is_some()
    }

    /// Input elements `k..k + 16`, then `pad` past the last class.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn input<S: Machine, P: Span>(&self, s: S, k: usize, p: P, pad: f32) -> F32s<S> {
        self.load(s, self.input.buffer, k, p, pad)
    }

    /// One input element.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn input_at(&self, k: usize) -> f32 {
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe { self.input.buffer.get(self.input.base + k * self.input.stride) }
    }

    /// Dense targets of classes `k..k + 16`, then `pad`; zeros if the targets are not dense.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn dense<S: Machine, P: Span>(&self, s: S, k: usize, p: P, pad: f32) -> F32s<S> {
        match self.target {
            RowTarget::Dense(target) => self.load(s, target, k, p, pad),
            _ => s.zero(),
        }
    }

    /// Elements `k..k + 16` of the third tensor, of a loss that has one of the input's shape.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn third<S: Machine, P: Span>(&self, s: S, k: usize, p: P, pad: f32) -> F32s<S> {
        match self.third {
            Some(third) => self.load(s, third, k, p, pad),
            None => s.zero(),
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn load<S: Machine, P: Span>(&self, s: S, src: Src<'_, T>, k: usize, p: P, pad: f32) -> F32s<S> {
        let Strided { base, stride, .. } = self.input;
        let load = Load { src, at: base + k * stride, stride, count: p.count(), pad };
        if P::WHOLE {
            // SAFETY: rows do not overlap, and a row belongs to one task.
            unsafe { src.load(s, base + k) }
        } else {
            load.few(s)
        }
    }

    /// Class weights of classes `k..k + 16`; 1 without, zero past the last class.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn class_weights<S: Machine, P: Span>(&self, s: S, k: usize, p: P) -> F32s<S> {
        match self.class_weight {
            // SAFETY: nobody writes the weights.
            Some(w) => unsafe { Src::new(w).load_upto(s, k, p.count(), 0.0) },
            None if P::WHOLE => s.splat(1.0),
            None => s.first(p.count()).pick(1.0, 0.0),
        }
    }

    /// The class weight of one class.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn class_weight_at(&self, k: usize) -> f32 {
        self.class_weight.map_or(1.0, |w| w[k])
    }

    /// Writes the gradient of classes `k..k + 16`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put<S: Machine, P: Span>(&self, s: S, k: usize, p: P, grad: F32s<S>) {
        self.store(s, self.grad_input, k, p, grad);
    }

    /// Writes the gradient for the targets of classes `k..k + 16`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put_target<S: Machine, P: Span>(&self, s: S, k: usize, p: P, grad: F32s<S>) {
        self.store(s, self.grad_target, k, p, grad);
    }

    /// Writes the gradient for elements `k..k + 16` of the third tensor.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put_third<S: Machine, P: Span>(&self, s: S, k: usize, p: P, grad: F32s<S>) {
        self.store(s, self.grad_third, k, p, grad);
    }

    #[cfg_attr(optimized, inline(always))]
    fn store<S: Machine, P: Span>(&self, s: S, out: Option<(Dst<'_, T>, Mode)>, k: usize, p: P, grad: F32s<S>) {
        let Some((dst, mode)) = out else { return };
        let Strided { base, stride, .. } = self.input;
        let store = Store { dst, at: base + k * stride, stride, count: p.count(), mode };
        if P::WHOLE {
            // SAFETY: rows do not overlap, and a row belongs to one task.
            unsafe { dst.store(s, base + k, grad, mode) };
        } else {
            store.few(s, grad);
        }
    }

    /// Classes that are handled as whole chunks: none of a strided row.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn whole(&self) -> usize {
        if self.input.stride == 1 { self.classes - self.classes % LANES } else { 0 }
    }
}

/// Where elements come from that are fewer than sixteen, or apart from each other. Where that is more than an instruction, it is a
/// function apart from the losses, as in [`outline`](super::simd::outline).
pub(super) struct Load<'a, T> {
    pub(super) src: Src<'a, T>,
    pub(super) at: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) pad: f32,
}

impl<T: Element> Load<'_, T> {
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn few<S: Machine>(self, s: S) -> F32s<S> {
        if S::PARTS { self.now(s) } else { s.lanes(&s.run(self)) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn now<S: Machine>(&self, s: S) -> F32s<S> {
        let &Load { src, at, stride, count, pad } = self;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe { if stride == 1 { src.load_upto(s, at, count, pad) } else { src.gather(s, at, stride, count, pad) } }
    }
}

impl<T: Element> Kernel for Load<'_, T> {
    type Output = Lanes;

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) -> Lanes {
        self.now(s).to_array()
    }
}

/// Where such elements go.
pub(super) struct Store<'a, T> {
    pub(super) dst: Dst<'a, T>,
    pub(super) at: usize,
    pub(super) stride: usize,
    pub(super) count: usize,
    pub(super) mode: Mode,
}

impl<T: Element> Store<'_, T> {
    #[cfg_attr(optimized, inline(always))]
    pub(super) fn few<S: Machine>(self, s: S, x: F32s<S>) {
        if S::PARTS { self.now(s, x) } else { s.run(Stored(self, x.to_array())) }
    }

    #[cfg_attr(optimized, inline(always))]
    fn now<S: Machine>(&self, s: S, x: F32s<S>) {
        let &Store { dst, at, stride, count, mode } = self;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            if stride == 1 {
                dst.store_upto(s, at, count, x, mode);
            } else {
                dst.scatter(s, at, stride, count, x, mode);
            }
        }
    }
}

/// And what goes there.
struct Stored<'a, T>(Store<'a, T>, Lanes);

impl<T: Element> Kernel for Stored<'_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        self.0.now(s, s.lanes(&self.1));
    }
}

/// Runs the body for all classes of a row, sixteen at a time from `k`, `p` being their [`Span`].
macro_rules! for_chunks {
    ($row:expr, |$k:ident, $p:ident| $body:block) => {
        $crate::cpu::row::for_chunks!($row, 0..$row.classes, |$k, $p| $body)
    };
    ($row:expr, $range:expr, |$k:ident, $p:ident| $body:block) => {{
        let range: std::ops::Range<usize> = $range;
        let (whole, mut $k) = ($row.whole().min(range.end), range.start);
        while $k < whole {
            let $p = $crate::cpu::simd::Whole;
            $body
            $k += $crate::cpu::simd::LANES;
        }
        while $k < range.end {
            let $p = $crate::cpu::simd::Part($crate::cpu::simd::LANES.min(range.end - $k));
            $body
            $k += $crate::cpu::simd::LANES;
        }
    }};
}
pub(crate) use for_chunks;

/// Some rows, whose logits lie side by side in a buffer: class `c` of row `l` at `c * width + l`. Their gradients
/// take the place of the logits there. So all of a class is read and written together, far apart as the classes of
/// an image are.
#[derive(Clone, Copy)]
pub(super) struct Block<'a, T> {
    pub(super) classes: usize,
    pub(super) input: Src<'a, T>,
    pub(super) target: RowTarget<'a, T>,
    pub(super) grad_input: Option<(Dst<'a, T>, Mode)>,
    pub(super) grad_target: Option<(Dst<'a, T>, Mode)>,
    /// Where class 0 of the first row is, how far the next row and the next class are.
    pub(super) base: usize,
    pub(super) row_stride: usize,
    pub(super) class_stride: usize,
    /// Rows, and room for rows.
    pub(super) count: usize,
    pub(super) width: usize,
}

/// Rows of a block, at most.
pub(super) const WIDTH: usize = 512;

impl<T: Element> Block<'_, T> {
    /// The rows of a block of so many classes: a multiple of sixteen.
    pub(super) fn width(classes: usize, class_stride: usize) -> usize {
        // Rows that follow one another gain nothing by being many.
        let most = if class_stride == 1 { LANES } else { WIDTH };
        (KEEP / classes.max(1) / LANES * LANES).clamp(LANES, most)
    }

    /// Class `c` of rows `o..o + 16`, zero past the last.
    #[cfg_attr(optimized, inline(always))]
    fn load<S: Machine>(&self, s: S, src: Src<'_, T>, c: usize, o: usize) -> F32s<S> {
        let at = self.base + c * self.class_stride + o * self.row_stride;
        let count = LANES.min(self.count - o);
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            match self.row_stride {
                1 => src.load_upto(s, at, count, 0.0),
                stride => src.gather(s, at, stride, count, 0.0),
            }
        }
    }

    #[cfg_attr(optimized, inline(always))]
    fn store<S: Machine>(&self, out: Option<(Dst<'_, T>, Mode)>, c: usize, o: usize, grad: F32s<S>) {
        let Some((dst, mode)) = out else { return };
        let at = self.base + c * self.class_stride + o * self.row_stride;
        let (s, count) = (grad.simd(), LANES.min(self.count - o));
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            match self.row_stride {
                1 => dst.store_upto(s, at, count, grad, mode.at(dst, at)),
                stride => dst.scatter(s, at, stride, count, grad, mode),
            }
        }
    }
}

/// Reads the logits of a block, and asks for those of the next. (Apart from the losses, which it is the same for.)
pub(super) struct Fill<'b, 'a, T>(pub(super) Block<'a, T>, pub(super) &'b mut Kept);

impl<T: Element> Kernel for Fill<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Fill(block, keep) = self;
        for c in 0..block.classes {
            for o in (0..block.count).step_by(LANES) {
                keep.put(c * block.width + o, block.load(s, block.input, c, o));
                if block.row_stride == 1 && o % (2 * LANES) == 0 {
                    block.input.prefetch_later(s, block.base + c * block.class_stride + block.width + o);
                }
            }
        }
    }
}

/// Writes the gradients of a block.
pub(super) struct Empty<'b, 'a, T>(pub(super) Block<'a, T>, pub(super) &'b Kept);

impl<T: Element> Kernel for Empty<'_, '_, T> {
    type Output = ();

    #[cfg_attr(optimized, inline(always))]
    fn run<S: Machine>(self, s: S) {
        let Empty(block, keep) = self;
        for c in 0..block.classes {
            for o in (0..block.count).step_by(LANES) {
                // SAFETY: all of them have been put.
                block.store(block.grad_input, c, o, unsafe { keep.get(s, c * block.width + o) });
            }
        }
    }
}

/// Sixteen rows, one in each lane.
pub(crate) struct Rows<'b, 'a, S: Machine, T> {
    pub(crate) s: S,
    pub(crate) classes: usize,
    pub(super) block: Block<'a, T>,
    /// The first of them in the block.
    pub(super) offset: usize,
    pub(super) keep: &'b mut Kept,
    /// The class of each row, [`NO_CLASS`](crate::target::NO_CLASS) where it has none.
    pub(crate) index: [u32; LANES],
    pub(super) ignored: Mask<S>,
    pub(crate) class_weight: Option<&'a [f32]>,
    /// What the gradients of each row are multiplied by.
    pub(crate) scale: F32s<S>,
}

impl<S: Machine, T: Element> Rows<'_, '_, S, T> {
    pub(crate) fn wants_grad(&self) -> bool {
        self.block.grad_input.is_some()
    }

    pub(crate) fn wants_grad_target(&self) -> bool {
        self.block.grad_target.is_some()
    }

    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.block.target, RowTarget::Dense(_))
    }

    /// Input of class `c`, from memory.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn input(&self, c: usize) -> F32s<S> {
        self.block.load(self.s, self.block.input, c, self.offset)
    }

    /// Dense targets of class `c`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn dense(&self, c: usize) -> F32s<S> {
        match self.block.target {
            RowTarget::Dense(target) => self.block.load(self.s, target, c, self.offset),
            _ => self.s.zero(),
        }
    }

    /// The rows whose class is `c`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn has_class(&self, c: usize) -> Mask<S> {
        self.s.bits_of(&self.index).eq(c as u32)
    }

    /// What is kept of class `c`: at first the input.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn kept(&self, c: usize) -> F32s<S> {
        // SAFETY: the block has been filled.
        unsafe { self.keep.get(self.s, c * self.block.width + self.offset) }
    }

    /// Keeps something of class `c` instead.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn keep(&mut self, c: usize, x: F32s<S>) {
        self.keep.put(c * self.block.width + self.offset, x);
    }

    /// The class weight of each row's class; 1 where it has none.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn class_weights_of_targets(&self) -> F32s<S> {
        let Some(w) = self.class_weight else { return self.s.splat(1.0) };
        /// Not inlined, as in [`outline`](crate::cpu::simd::outline).
        #[inline(never)]
        fn of(w: &[f32], index: &[u32; LANES]) -> Lanes {
            let mut lanes = [1.0; LANES];
            for l in 0..LANES {
                lanes[l] = w.get(index[l] as usize).copied().unwrap_or(1.0);
            }
            lanes
        }
        self.s.lanes(&of(w, &self.index))
    }

    /// The gradients of class `c`, the last that is kept of it; those of ignored rows are zero.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put(&mut self, c: usize, grad: F32s<S>) {
        self.keep(c, self.ignored.pick(0.0, grad));
    }

    /// Writes the gradients for the targets of class `c`.
    #[cfg_attr(optimized, inline(always))]
    pub(crate) fn put_target(&self, c: usize, grad: F32s<S>) {
        self.block.store(self.block.grad_target, c, self.offset, self.ignored.pick(0.0, grad));
    }
}

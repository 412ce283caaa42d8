//! Rows as the row-wise losses see them: one at a time, classes in the lanes, or sixteen at a time, a row in each
//! lane.

use std::mem::MaybeUninit;

use super::mem::{Dst, Mode, Src};
use super::simd::{LANES, Lanes, Simd, Span};
use crate::element::Element;

/// Classes up to which a row stays in the buffer: 32 KiB of f32.
pub(crate) const KEEP: usize = 8192;

/// One row, and where its gradients go.
pub(crate) struct Row<'a, T> {
    pub(crate) classes: usize,
    pub(super) input: Strided<Src<'a, T>>,
    pub(crate) target: RowTarget<'a, T>,
    /// The weight of every class.
    pub(crate) class_weight: Option<&'a [f32]>,
    /// What every gradient is multiplied by.
    pub(crate) scale: f32,
    pub(super) grad_input: Option<(Dst<'a, T>, Mode)>,
    pub(super) grad_target: Option<(Dst<'a, T>, Mode)>,
    /// Room for two rows.
    pub(crate) keep: &'a mut [Kept; 2],
}

/// A row between two looks at it. Not zeroed: for short rows that would take longer than the loss.
pub(crate) struct Kept([MaybeUninit<Lanes>; KEEP / LANES]);

impl Kept {
    pub(crate) fn new() -> Self {
        Kept([MaybeUninit::uninit(); KEEP / LANES])
    }

    /// Keeps elements `k..k + 16`, `k` being a multiple of sixteen.
    #[inline(always)]
    pub(crate) fn put(&mut self, k: usize, x: Lanes) {
        self.0[k / LANES].write(x);
    }

    /// Elements `k..k + 16`.
    ///
    /// # Safety
    /// They have been put.
    #[inline(always)]
    pub(crate) unsafe fn get(&self, k: usize) -> Lanes {
        // SAFETY: the caller's promise.
        unsafe { self.0[k / LANES].assume_init() }
    }
}

/// Where the elements of a row are.
#[derive(Clone, Copy)]
pub(super) struct Strided<B> {
    pub(super) buffer: B,
    pub(super) base: usize,
    pub(super) stride: usize,
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

    /// Whether there is a gradient to compute.
    pub(crate) fn wants_grad(&self) -> bool {
        self.grad_input.is_some()
    }

    /// Whether there is a gradient for the targets to compute.
    pub(crate) fn wants_grad_target(&self) -> bool {
        self.grad_target.is_some()
    }

    /// Input elements `k..k + 16`, then `pad` past the last class.
    #[inline(always)]
    pub(crate) fn input<S: Simd, P: Span>(&self, s: S, k: usize, p: P, pad: f32) -> Lanes {
        self.load(s, self.input.buffer, k, p, pad)
    }

    /// One input element.
    #[inline(always)]
    pub(crate) fn input_at(&self, k: usize) -> f32 {
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe { self.input.buffer.get(self.input.base + k * self.input.stride) }
    }

    /// Dense targets of classes `k..k + 16`, then `pad`; zeros if the targets are not dense.
    #[inline(always)]
    pub(crate) fn dense<S: Simd, P: Span>(&self, s: S, k: usize, p: P, pad: f32) -> Lanes {
        match self.target {
            RowTarget::Dense(target) => self.load(s, target, k, p, pad),
            _ => [0.0; LANES],
        }
    }

    #[inline(always)]
    fn load<S: Simd, P: Span>(&self, s: S, src: Src<'_, T>, k: usize, p: P, pad: f32) -> Lanes {
        let Strided { base, stride, .. } = self.input;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            if P::WHOLE {
                src.load(s, base + k)
            } else if stride == 1 {
                src.load_upto(s, base + k, p.count(), pad)
            } else {
                src.gather(s, base + k * stride, stride, p.count(), pad)
            }
        }
    }

    /// Class weights of classes `k..k + 16`; 1 without, zero past the last class.
    #[inline(always)]
    pub(crate) fn class_weights<P: Span>(&self, k: usize, p: P) -> Lanes {
        let mut out = [1.0; LANES];
        if let Some(w) = self.class_weight {
            out[..p.count()].copy_from_slice(&w[k..k + p.count()]);
        }
        out[p.count()..].fill(0.0);
        out
    }

    /// The class weight of one class.
    #[inline(always)]
    pub(crate) fn class_weight_at(&self, k: usize) -> f32 {
        self.class_weight.map_or(1.0, |w| w[k])
    }

    /// Writes the gradient of classes `k..k + 16`.
    #[inline(always)]
    pub(crate) fn put<S: Simd, P: Span>(&self, s: S, k: usize, p: P, grad: Lanes) {
        self.store(s, self.grad_input, k, p, grad);
    }

    /// Writes the gradient for the targets of classes `k..k + 16`.
    #[inline(always)]
    pub(crate) fn put_target<S: Simd, P: Span>(&self, s: S, k: usize, p: P, grad: Lanes) {
        self.store(s, self.grad_target, k, p, grad);
    }

    #[inline(always)]
    fn store<S: Simd, P: Span>(&self, s: S, out: Option<(Dst<'_, T>, Mode)>, k: usize, p: P, grad: Lanes) {
        let Some((dst, mode)) = out else { return };
        let Strided { base, stride, .. } = self.input;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            if P::WHOLE {
                dst.store(s, base + k, grad, mode);
            } else {
                dst.scatter(s, base + k * stride, stride, p.count(), grad, mode);
            }
        }
    }

    /// Classes that are handled as whole chunks: none of a strided row.
    #[inline(always)]
    pub(crate) fn whole(&self) -> usize {
        if self.input.stride == 1 { self.classes - self.classes % LANES } else { 0 }
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

/// Sixteen rows, one in each lane.
pub(crate) struct Rows<'a, T> {
    pub(crate) classes: usize,
    pub(super) input: Src<'a, T>,
    pub(super) target: RowTarget<'a, T>,
    /// The class of each row, -1 where it has none.
    pub(crate) index: [i32; LANES],
    pub(super) ignored: [bool; LANES],
    pub(crate) class_weight: Option<&'a [f32]>,
    /// What the gradients of each row are multiplied by.
    pub(crate) scale: Lanes,
    pub(super) grad_input: Option<(Dst<'a, T>, Mode)>,
    pub(super) grad_target: Option<(Dst<'a, T>, Mode)>,
    /// Room for them all.
    pub(crate) keep: &'a mut Kept,
    /// Where class 0 of the first row is, how far the next row and the next class are.
    pub(super) base: usize,
    pub(super) row_stride: usize,
    pub(super) class_stride: usize,
    pub(super) count: usize,
}

impl<T: Element> Rows<'_, T> {
    pub(crate) fn wants_grad(&self) -> bool {
        self.grad_input.is_some()
    }

    pub(crate) fn wants_grad_target(&self) -> bool {
        self.grad_target.is_some()
    }

    pub(crate) fn is_dense(&self) -> bool {
        matches!(self.target, RowTarget::Dense(_))
    }

    /// Input of class `c`.
    #[inline(always)]
    pub(crate) fn input<S: Simd>(&self, s: S, c: usize) -> Lanes {
        self.load(s, self.input, c)
    }

    /// Dense targets of class `c`.
    #[inline(always)]
    pub(crate) fn dense<S: Simd>(&self, s: S, c: usize) -> Lanes {
        match self.target {
            RowTarget::Dense(target) => self.load(s, target, c),
            _ => [0.0; LANES],
        }
    }

    /// What was kept of class `c`.
    #[inline(always)]
    pub(crate) fn kept(&self, c: usize) -> Lanes {
        // SAFETY: every loss keeps every class in its first look.
        unsafe { self.keep.get(c * LANES) }
    }

    /// The class weight of an index; 1 where it is no class.
    #[inline(always)]
    pub(crate) fn class_weight_of(&self, index: i32) -> f32 {
        self.class_weight.map_or(1.0, |w| w.get(index as usize).copied().unwrap_or(1.0))
    }

    /// Writes the gradients of class `c`; those of ignored rows are zero.
    #[inline(always)]
    pub(crate) fn put<S: Simd>(&self, s: S, c: usize, grad: Lanes) {
        self.store(s, self.grad_input, c, grad);
    }

    /// Writes the gradients for the targets of class `c`.
    #[inline(always)]
    pub(crate) fn put_target<S: Simd>(&self, s: S, c: usize, grad: Lanes) {
        self.store(s, self.grad_target, c, grad);
    }

    #[inline(always)]
    fn load<S: Simd>(&self, s: S, src: Src<'_, T>, c: usize) -> Lanes {
        let at = self.base + c * self.class_stride;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            match self.row_stride {
                1 => src.load_upto(s, at, self.count, 0.0),
                stride => src.gather(s, at, stride, self.count, 0.0),
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd>(&self, s: S, out: Option<(Dst<'_, T>, Mode)>, c: usize, mut grad: Lanes) {
        let Some((dst, mode)) = out else { return };
        for l in 0..LANES {
            grad[l] = if self.ignored[l] { 0.0 } else { grad[l] };
        }
        let at = self.base + c * self.class_stride;
        // SAFETY: rows do not overlap, and a row belongs to one task.
        unsafe {
            match self.row_stride {
                1 => dst.store_upto(s, at, self.count, grad, mode),
                stride => dst.scatter(s, at, stride, self.count, grad, mode),
            }
        }
    }
}

//! InfoNCE through the head: the similarities of a batch are logits that are never held.

use super::{LinearCrossEntropy, LinearGrads, LinearShape, Scale, matrix, product};
use crate::cpu::mem::zeros;
use crate::element::Element;
use crate::error::{Error, Result, check_len, check_option};
use crate::loss::CrossEntropy;
use crate::on::Place;
use crate::reduction::Reduction;

/// InfoNCE of two batches of embeddings, without their matrix of similarities: what trained CLIP, and [`one_way`](Self::one_way), with
/// more candidates than pairs, what MoCo and retrievers are trained with.
///
/// With `x` the rows of the first batch, `y` those of the second, `s` the scale (an inverse temperature), `z_ij = s x_i . y_j`, and `n`
/// pairs of which `i` belongs to `i`:
///
/// | | |
/// |---|---|
/// | value | `1/2n sum_i (lse_j z_ij - z_ii) + 1/2n sum_j (lse_i z_ij - z_jj)`, or with [`one_way`](Self::one_way) `1/n sum_i (lse_j z_ij - z_ii)` |
/// | gradients | with `g = dl/dz`: `s g y` for `x`, `s g^T x` for `y`, `sum_ij g_ij x_i . y_j` for `s` |
/// | shapes | `(pairs, hidden)` both; one way also `(pairs, candidates, hidden)`: the second batch has `candidates` rows, of which those after the pairs are negatives of every row |
/// | default | both ways, a scale of 1, no label smoothing |
/// | PyTorch | `z = s * x @ y.T; (F.cross_entropy(z, labels) + F.cross_entropy(z.T, labels)) / 2` with `labels = arange(n)`: open_clip's `ClipLoss` |
///
/// Rows are taken as they are; normalise them first, as CLIP does. A learned scale is often `exp(log_s)`: the gradient of `log_s` is `s`
/// times that of `s`.
///
/// **Precision.** Products, similarities and sums are f32 whatever the storage; each gradient is rounded once to it.
///
/// **Memory.** Each way is a pass of [`LinearCrossEntropy`], within the [`budget`](Self::budget). For f16 and
/// bf16 both batches and their gradients are held in f32 besides, which is little where rows are shorter than there are of them.
///
/// **Speed.** Three matrix products each way.
///
/// **On a GPU**, bound to a `Cuda` by `on`, as [`LinearCrossEntropy`] is there: calls only enqueue, the scale
/// may be on the device, gradients are f32 for every storage type, and the gradient of 16-bit similarities is rounded once before it is
/// multiplied. A scale there that is not finite makes everything NaN.
///
/// ```
/// use fused_loss::head::{InfoNce, InfoNceGrads};
/// # fn main() -> fused_loss::Result<()> {
/// let (images, texts) = ([1.0, 0.0, 0.0, 1.0], [0.8, 0.6, -0.6, 0.8]); // two pairs of vectors of length one
/// let (mut of_images, mut of_texts, mut of_scale) = ([0.0; 4], [0.0; 4], 0.0);
/// let grads = InfoNceGrads {
///     first: Some(&mut of_images),
///     second: Some(&mut of_texts),
///     scale: Some(&mut of_scale),
/// };
/// let loss = InfoNce::new().call(&images, &texts, (2, 2)).scale(10.0).forward_backward(grads)?;
/// assert!((loss - 0.063_464_4_f32).abs() < 1e-6, "{loss}");
/// assert!(of_scale < 0.0); // a larger one would separate them more
/// # Ok(()) }
/// ```
///
/// Errors: a scale that is not finite; buffers of other lengths; fewer candidates than pairs; both ways with more candidates than pairs,
/// which belong to nothing. Without any pairs the value is NaN, as a mean of nothing is; on a GPU that is an error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InfoNce {
    head: LinearCrossEntropy,
    both: bool,
}

/// The lengths of the buffers of a call.
pub(crate) struct InfoNceLens {
    pub(crate) first: usize,
    pub(crate) second: usize,
    pub(crate) grad_first: Option<usize>,
    pub(crate) grad_second: Option<usize>,
}

impl InfoNce {
    pub(crate) const NAME: &'static str = "InfoNCE";

    /// Both ways, as CLIP: which of the second belongs to each of the first, and which of the first to each of the second.
    pub fn new() -> Self {
        InfoNce { head: LinearCrossEntropy::new(CrossEntropy::new().ignore_index(None)), both: true }
    }

    /// The first way alone.
    pub fn one_way() -> Self {
        InfoNce { both: false, ..InfoNce::new() }
    }

    /// Spreads this part of each target over all candidates. Defaults to 0.
    pub fn label_smoothing(mut self, smoothing: f32) -> Result<Self> {
        self.head.loss = self.head.loss.label_smoothing(smoothing)?;
        Ok(self)
    }

    /// As [`LinearCrossEntropy::budget`].
    pub fn budget(mut self, bytes: usize) -> Self {
        self.head = self.head.budget(bytes);
        self
    }

    /// The same on a device: a [`Device`](crate::Device), or a `Cuda` handle.
    pub fn on<'d, P: Place>(&self, place: &'d P) -> P::On<'d, Self> {
        place.bind(*self)
    }

    /// The head of a way, and whether there are two.
    #[cfg(feature = "cuda")]
    pub(crate) fn parts(&self) -> (LinearCrossEntropy, bool) {
        (self.head, self.both)
    }

    pub(crate) fn check_scale(scale: f32) -> Result<()> {
        check_option("scale", "a finite number", scale, scale.is_finite()).map(drop)
    }

    pub(crate) fn check(&self, shape: InfoNceShape, lens: &InfoNceLens) -> Result<()> {
        let InfoNceShape { pairs, candidates, hidden } = shape;
        let unsupported = |what| Err(Error::Unsupported { loss: Self::NAME, what });
        if candidates < pairs {
            return unsupported("fewer candidates than pairs");
        }
        if self.both && candidates != pairs {
            return unsupported("candidates without a pair, both ways,");
        }
        check_len("first", product(pairs, hidden)?, lens.first)?;
        check_len("second", product(candidates, hidden)?, lens.second)?;
        let of = |what, expected, got: Option<usize>| got.map_or(Ok(()), |got| check_len(what, expected, got));
        of("grad_first", lens.first, lens.grad_first)?;
        of("grad_second", lens.second, lens.grad_second)
    }

    /// A call. The shape is made from `(pairs, hidden)` or `(pairs, candidates, hidden)`.
    pub fn call<'a, T: Element>(
        &self,
        first: &'a [T],
        second: &'a [T],
        shape: impl Into<InfoNceShape>,
    ) -> InfoNceCall<'a, T> {
        InfoNceCall { loss: *self, first, second, shape: shape.into(), scale: 1.0, grad_output: 1.0, accumulate: false }
    }
}

impl Default for InfoNce {
    fn default() -> Self {
        InfoNce::new()
    }
}

/// The sizes of an [`InfoNce`]; made from `(pairs, hidden)` or `(pairs, candidates, hidden)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoNceShape {
    /// Rows of the first batch.
    pub pairs: usize,
    /// Rows of the second.
    pub candidates: usize,
    /// Columns of both.
    pub hidden: usize,
}

impl From<(usize, usize)> for InfoNceShape {
    fn from((pairs, hidden): (usize, usize)) -> Self {
        InfoNceShape { pairs, candidates: pairs, hidden }
    }
}

impl From<(usize, usize, usize)> for InfoNceShape {
    fn from((pairs, candidates, hidden): (usize, usize, usize)) -> Self {
        InfoNceShape { pairs, candidates, hidden }
    }
}

/// Where the gradients go. What is `None` is not computed.
#[derive(Debug, Default)]
pub struct InfoNceGrads<'a, T> {
    /// `(pairs, hidden)`
    pub first: Option<&'a mut [T]>,
    /// `(candidates, hidden)`
    pub second: Option<&'a mut [T]>,
    /// Of the scale.
    pub scale: Option<&'a mut f32>,
}

/// A call of [`InfoNce`].
#[must_use = "a call does nothing until one of its verbs runs it"]
#[derive(Clone, Copy, Debug)]
pub struct InfoNceCall<'a, T> {
    loss: InfoNce,
    first: &'a [T],
    second: &'a [T],
    shape: InfoNceShape,
    scale: f32,
    grad_output: f32,
    accumulate: bool,
}

impl<T: Element> InfoNceCall<'_, T> {
    /// What similarities are multiplied by: one over the temperature. Defaults to 1.
    pub fn scale(mut self, scale: f32) -> Self {
        self.scale = scale;
        self
    }

    /// The gradient that comes from above. Defaults to 1.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradients, that of the scale too, instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// The value.
    pub fn forward(self) -> Result<f32> {
        self.forward_backward(InfoNceGrads { first: None, second: None, scale: None })
    }

    /// The value, and its gradients into `grads`.
    pub fn forward_backward(self, grads: InfoNceGrads<'_, T>) -> Result<f32> {
        let InfoNceGrads { first, second, scale } = grads;
        if matrix::as_f32(self.first).is_some() {
            return self.wide(first.map(matrix::as_f32_mut), second.map(matrix::as_f32_mut), scale);
        }
        // In f32, so that what both ways add to a gradient is rounded once.
        let own = |grad: &Option<&mut [T]>| grad.as_ref().map(|g| zeros(g.len())).transpose();
        let (mut of_first, mut of_second) = (own(&first)?, own(&second)?);
        let value = self.wide(of_first.as_deref_mut(), of_second.as_deref_mut(), scale)?;
        for (from, to) in [(of_first, first), (of_second, second)] {
            if let (Some(from), Some(to)) = (from, to) {
                matrix::narrow(&from, to, self.accumulate);
            }
        }
        Ok(value)
    }

    /// The same with gradients in f32 whatever the storage, as GPUs have them.
    pub(crate) fn wide(
        &self,
        of_first: Option<&mut [f32]>,
        of_second: Option<&mut [f32]>,
        of_scale: Option<&mut f32>,
    ) -> Result<f32> {
        InfoNce::check_scale(self.scale)?;
        let lens = InfoNceLens {
            first: self.first.len(),
            second: self.second.len(),
            grad_first: of_first.as_ref().map(|g| g.len()),
            grad_second: of_second.as_ref().map(|g| g.len()),
        };
        self.loss.check(self.shape, &lens)?;
        let mut sum = 0.0;
        let (to, to_scale) = ([of_first, of_second], of_scale.is_some().then_some(&mut sum));
        let value = if let (Some(first), Some(second)) = (matrix::as_f32(self.first), matrix::as_f32(self.second)) {
            self.both_ways([first, second], to, to_scale)?
        } else {
            let mut wide = [zeros(self.first.len())?, zeros(self.second.len())?];
            matrix::widen(self.first, &mut wide[0]);
            matrix::widen(self.second, &mut wide[1]);
            self.both_ways([&wide[0], &wide[1]], to, to_scale)?
        };
        if let Some(to) = of_scale {
            *to = if self.accumulate { *to + sum as f32 } else { sum as f32 };
        }
        Ok(value)
    }

    fn both_ways(
        &self,
        [first, second]: [&[f32]; 2],
        [mut of_first, mut of_second]: [Option<&mut [f32]>; 2],
        mut of_scale: Option<&mut f64>,
    ) -> Result<f32> {
        let InfoNceShape { pairs, candidates, hidden } = self.shape;
        let own: Vec<i64> = (0..pairs as i64).collect();
        let part = if self.loss.both { 0.5 } else { 1.0 };
        let shape = LinearShape { tokens: pairs, hidden, classes: candidates };
        // A way: the gradients of its input and of its weight.
        let mut way = |input, weight, grads: LinearGrads<'_, f32>, add: bool| {
            let mut call = self.loss.head.call::<f32>(input, weight, &own, shape).grad_output(part * self.grad_output);
            if add {
                call = call.accumulate();
            }
            call.run_scaled(Some(Reduction::Mean), None, grads, Scale { by: self.scale, grad: of_scale.as_deref_mut() })
        };
        let grads = LinearGrads { input: of_first.as_deref_mut(), weight: of_second.as_deref_mut(), bias: None };
        let value = way(first, second, grads, self.accumulate)?;
        if !self.loss.both {
            return Ok(value);
        }
        let grads = LinearGrads { input: of_second, weight: of_first, bias: None };
        Ok(0.5 * (value + way(second, first, grads, true)?))
    }
}

//! The language-model head: a linear layer and the cross-entropy of what comes out of it, without holding what comes out of it.
//!
//! Logits of 128k classes are the largest tensor of many a training run: 8192 tokens of them are 4 GiB of f32, and their gradient as
//! much again. [`LinearCrossEntropy`] computes them for a few hundred tokens at a time, turns them into their gradient in place, and
//! multiplies that into the gradients of input and weight before the next few hundred.
//!
//! ```
//! use fused_loss::head::{LinearCrossEntropy, LinearGrads};
//! use fused_loss::{CrossEntropy, Reduction};
//!
//! # fn main() -> fused_loss::Result<()> {
//! let (tokens, hidden, classes) = (2, 2, 3);
//! let input = [1.0, -1.0, 0.5, 2.0]; // tokens of `hidden` numbers
//! let weight = [0.5, 0.0, -1.0, 1.0, 0.0, 0.25]; // classes of `hidden` numbers
//! let (mut grad_input, mut grad_weight) = ([0.0; 4], [0.0; 6]);
//!
//! let head = LinearCrossEntropy::new(CrossEntropy::new().label_smoothing(0.1)?);
//! let grads = LinearGrads { input: Some(&mut grad_input), weight: Some(&mut grad_weight), bias: None };
//! let loss = head
//!     .call(&input, &weight, &[0i64, 1], (tokens, hidden, classes))
//!     .forward_backward(Reduction::Mean, grads)?;
//! assert!((loss - 0.5639).abs() < 1e-4);
//! # Ok(()) }
//! ```

use crate::call::{Call, Output, Request, Weight};
use crate::cpu::mem::Dst;
use crate::cpu::rowwise::{Counted, Rowwise};
use crate::cpu::scan::Scan;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::CrossEntropy;
use crate::reduction::Reduction;
use crate::shape::Shape;
use crate::target::{Indices, Target};

#[allow(unsafe_code)] // calls of gemm, and loads and stores; each with its contract
mod matrix;

use matrix::View;

#[cfg(feature = "cuda")]
pub use crate::cuda::{CudaLinearCall, CudaLinearGrads};

/// A linear layer and [`CrossEntropy`] on its outputs in one, as Liger's `LinearCrossEntropy` and Apple's cut cross-entropy.
///
/// | | |
/// |---|---|
/// | value | `CrossEntropy(logits, target)`, with `logits = input weight^T + bias` |
/// | gradients | `g = d(value)/d(logits)`; `g weight` for the input, `g^T input` for the weight, the sum of the rows of `g` for the bias |
/// | shapes | input `(tokens, hidden)`, weight `(classes, hidden)` as in `torch.nn.Linear`, bias `(classes)`, one class index a token |
/// | options | all of the cross-entropy; class weights and token weights by the call |
/// | PyTorch | `F.cross_entropy(F.linear(input, weight, bias), target)` |
///
/// **Precision.** Input, weight and bias are f32, f16 or bf16; products, logits and their gradient are f32 whatever the storage, which
/// is more than `torch.autocast` keeps. Gradients of weight and bias are f32, so that the chunks add up in f32; the gradient of the
/// input is rounded once to the input's type.
///
/// **Memory.** A call allocates no more than its [`budget`](Self::budget) and gives it back; beside that, gemm packs panels of a few
/// MiB a thread. For each token of a chunk it holds `classes` logits and twice `hidden` numbers of f32; for f16 and bf16, also as
/// much of the weight in f32 as fits an eighth of the budget.
///
/// **Speed.** Three matrix products and a cross-entropy. Tokens whose target is ignored are left out before the first product.
///
/// The result has the same bits for any number of threads; with another budget sums are split elsewhere, and last bits differ.
///
/// Edge cases: as [`CrossEntropy`]. An ignored token may hold NaN; its gradient is 0. On the CPU only: no GPU is used yet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCrossEntropy {
    pub(crate) loss: CrossEntropy,
    pub(crate) budget: usize,
}

impl LinearCrossEntropy {
    /// Of this cross-entropy, with a budget of 256 MiB.
    pub fn new(loss: CrossEntropy) -> Self {
        LinearCrossEntropy { loss, budget: 256 << 20 }
    }

    /// The memory, in bytes, that a call may take beyond inputs and gradients. Defaults to 256 MiB: of 128k classes, 500 tokens at a
    /// time. More gives larger products, which gain little beyond a few hundred tokens. A call that cannot do with so little as this
    /// is [`Error::Budget`].
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = bytes;
        self
    }

    /// The same on a GPU.
    #[cfg(feature = "cuda")]
    pub fn on<'d>(&self, cuda: &'d crate::Cuda) -> crate::OnCuda<'d, Self> {
        crate::OnCuda { loss: *self, cuda }
    }

    /// A call: `input` of `tokens` rows, `weight` of `classes` rows, both `hidden` wide, and a class index (`i64`, `i32`, `u32` or
    /// `u8`) for each token.
    pub fn call<'a, T: Element>(
        &self,
        input: &'a [T],
        weight: &'a [T],
        target: impl Into<Target<'a, T>>,
        shape: impl Into<LinearShape>,
    ) -> LinearCall<'a, T> {
        LinearCall {
            head: *self,
            input,
            weight,
            target: target.into(),
            shape: shape.into(),
            bias: None,
            class_weight: None,
            token_weight: None,
            grad_output: 1.0,
            accumulate: false,
        }
    }
}

impl Default for LinearCrossEntropy {
    fn default() -> Self {
        LinearCrossEntropy::new(CrossEntropy::new())
    }
}

/// The sizes of a head; made from `(tokens, hidden, classes)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearShape {
    /// Rows of the input.
    pub tokens: usize,
    /// Columns of input and weight.
    pub hidden: usize,
    /// Rows of the weight.
    pub classes: usize,
}

impl From<(usize, usize, usize)> for LinearShape {
    fn from((tokens, hidden, classes): (usize, usize, usize)) -> Self {
        LinearShape { tokens, hidden, classes }
    }
}

/// Where the gradients go. What is `None` is not computed: a frozen weight costs one product less.
#[derive(Debug, Default)]
pub struct LinearGrads<'a, T> {
    /// `(tokens, hidden)`
    pub input: Option<&'a mut [T]>,
    /// `(classes, hidden)`
    pub weight: Option<&'a mut [f32]>,
    /// `(classes)`
    pub bias: Option<&'a mut [f32]>,
}

/// A call of [`LinearCrossEntropy`], to which a bias, weights and so on are added before one of the verbs runs it.
#[must_use = "a call does nothing until one of its verbs runs it"]
#[derive(Clone, Copy, Debug)]
pub struct LinearCall<'a, T> {
    head: LinearCrossEntropy,
    input: &'a [T],
    weight: &'a [T],
    target: Target<'a, T>,
    shape: LinearShape,
    bias: Option<&'a [T]>,
    class_weight: Option<&'a [f32]>,
    token_weight: Option<&'a [f32]>,
    grad_output: f32,
    accumulate: bool,
}

impl<'a, T: Element> LinearCall<'a, T> {
    /// Adds one number to each class's logits.
    pub fn bias(mut self, bias: &'a [T]) -> Self {
        self.bias = Some(bias);
        self
    }

    /// One weight for each class: PyTorch's `weight` of cross-entropy.
    pub fn class_weight(mut self, weight: &'a [f32]) -> Self {
        self.class_weight = Some(weight);
        self
    }

    /// One weight for each token: it multiplies value and gradient, as an advantage does in policy gradients. Only
    /// [`Reduction::WeightedMean`] divides by it.
    pub fn token_weight(mut self, weight: &'a [f32]) -> Self {
        self.token_weight = Some(weight);
        self
    }

    /// The gradient that comes from above. Defaults to 1.
    pub fn grad_output(mut self, grad_output: f32) -> Self {
        self.grad_output = grad_output;
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// The value.
    pub fn forward(self, reduction: Reduction) -> Result<f32> {
        self.run(Some(reduction), None, LinearGrads::default())
    }

    /// The value of each token into `losses`: of plain cross-entropy, minus the log-probability of its target.
    pub fn forward_unreduced(self, losses: &mut [f32]) -> Result<()> {
        self.run(None, Some(losses), LinearGrads::default()).map(drop)
    }

    /// The value, and its gradients into `grads`.
    pub fn forward_backward(self, reduction: Reduction, grads: LinearGrads<'_, T>) -> Result<f32> {
        self.run(Some(reduction), None, grads)
    }

    /// `losses`, where there is no reduction, are of the tokens.
    fn run(self, reduction: Option<Reduction>, losses: Option<&mut [f32]>, grads: LinearGrads<'_, T>) -> Result<f32> {
        let LinearShape { tokens, classes, .. } = self.shape;
        let lens = Lens {
            input: self.input.len(),
            weight: self.weight.len(),
            bias: self.bias.map(<[_]>::len),
            class_weight: self.class_weight.map(<[_]>::len),
            token_weight: self.token_weight.map(<[_]>::len),
            losses: losses.as_ref().map(|l| l.len()),
            grad_input: grads.input.as_ref().map(|g| g.len()),
            grad_weight: grads.weight.as_ref().map(|g| g.len()),
            grad_bias: grads.bias.as_ref().map(|g| g.len()),
        };
        lens.check(self.shape)?;
        let indices = self.target.indices().ok_or(NOT_INDICES)?;
        check_len("target", tokens, indices.len())?;
        reduction.map_or(Ok(()), |r| r.check(tokens))?;
        let ignore = Rowwise::ignore_index(&self.head.loss);
        let scan = Scan { indices, classes, ignore };
        let counted = scan.check()?;
        let weight = self.token_weight.map(|w| (w, 1));
        let rows = Counted { scan: Some(&scan), counted, class_weight: self.class_weight, weight };
        let denominator = reduction.map_or(1.0, |r| rows.denominator(r, CrossEntropy::MEAN_BY_CLASS_WEIGHT));
        let chunks = Chunks::new::<T>(self.head.budget, self.shape, counted)?;
        let scale = (f64::from(self.grad_output) / denominator) as f32;
        let total = Pass { call: &self, indices, ignore, scale, chunks }.run(losses, grads)?;
        Ok((total / denominator) as f32)
    }
}

pub(crate) const NOT_INDICES: Error =
    Error::Unsupported { loss: "linear cross-entropy", what: "a target of anything but class indices" };

/// The lengths of the buffers of a call.
pub(crate) struct Lens {
    pub(crate) input: usize,
    pub(crate) weight: usize,
    pub(crate) bias: Option<usize>,
    pub(crate) class_weight: Option<usize>,
    pub(crate) token_weight: Option<usize>,
    pub(crate) losses: Option<usize>,
    pub(crate) grad_input: Option<usize>,
    pub(crate) grad_weight: Option<usize>,
    pub(crate) grad_bias: Option<usize>,
}

impl Lens {
    pub(crate) fn check(&self, LinearShape { tokens, hidden, classes }: LinearShape) -> Result<()> {
        let product = |a: usize, b: usize| {
            let n = a.checked_mul(b).filter(|&n| n <= isize::MAX as usize / 4);
            n.ok_or(Error::ShapeOverflow)
        };
        check_len("input", product(tokens, hidden)?, self.input)?;
        check_len("weight", product(classes, hidden)?, self.weight)?;
        let of = |what, expected, got: Option<usize>| got.map_or(Ok(()), |got| check_len(what, expected, got));
        of("bias", classes, self.bias)?;
        of("class_weight", classes, self.class_weight)?;
        of("token_weight", tokens, self.token_weight)?;
        of("losses", tokens, self.losses)?;
        of("grad_input", self.input, self.grad_input)?;
        of("grad_weight", self.weight, self.grad_weight)?;
        of("grad_bias", classes, self.grad_bias)
    }
}

/// How many tokens are done at once, and how many classes of the weight are widened at once.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Chunks {
    tokens: usize,
    classes: usize,
}

impl Chunks {
    fn new<T>(budget: usize, shape: LinearShape, counted: usize) -> Result<Self> {
        let LinearShape { hidden, classes, .. } = shape;
        // Its logits; its input and the gradient of that, widened; its number, target, weight and loss.
        let token = 4 * classes as u128 + 8 * hidden as u128 + 24;
        let class = if is_f32::<T>() { 0 } else { 4 * hidden as u128 };
        let (needed, all) = (token + class, budget as u128);
        if needed > all {
            return Err(Error::Budget { needed, budget });
        }
        // Where the weight is f32 it is taken as it is.
        let at_once = (all / 8).min(all - token).checked_div(class).unwrap_or(u128::MAX);
        let at_once = at_once.clamp(1, classes.max(1) as u128);
        let most = ((all - at_once * class) / token) as usize;
        // Chunks of equal size.
        let tokens = counted.div_ceil(counted.div_ceil(most).max(1));
        Ok(Chunks { tokens, classes: at_once as usize })
    }
}

/// The storage types are f32 and two of two bytes.
fn is_f32<T>() -> bool {
    size_of::<T>() == size_of::<f32>()
}

/// A call that has been checked.
struct Pass<'p, 'a, T> {
    call: &'p LinearCall<'a, T>,
    indices: Indices<'a>,
    ignore: Option<i64>,
    /// Of the gradients.
    scale: f32,
    chunks: Chunks,
}

impl<T: Element> Pass<'_, '_, T> {
    /// The sum of the losses.
    fn run(&self, mut losses: Option<&mut [f32]>, grads: LinearGrads<'_, T>) -> Result<f64> {
        let LinearCall { input, shape: LinearShape { tokens, hidden, classes }, accumulate, .. } = *self.call;
        let LinearGrads { input: mut grad_input, weight: mut grad_weight, bias: mut grad_bias } = grads;
        let backward = grad_input.is_some() || grad_weight.is_some() || grad_bias.is_some();
        let size = self.chunks.tokens;
        let mut logits = matrix::zeros(size * classes)?;
        let mut inputs = matrix::zeros(size * hidden)?;
        let mut grad_inputs = matrix::zeros(if grad_input.is_some() { size * hidden } else { 0 })?;
        let mut tile = matrix::zeros(if is_f32::<T>() { 0 } else { self.chunks.classes * hidden })?;
        // Those of a chunk.
        let (mut rows, mut targets, mut weights) =
            (Vec::with_capacity(size), Vec::with_capacity(size), Vec::with_capacity(size));
        if !accumulate {
            // What is written below is of the tokens that count. (The first product overwrites the weight's.)
            for g in [grad_bias.as_deref_mut(), grad_weight.as_deref_mut().filter(|_| size == 0)].into_iter().flatten()
            {
                g.fill(0.0);
            }
        }
        if let Some(losses) = losses.as_deref_mut() {
            losses.fill(0.0);
        }
        let (mut total, mut first, mut next) = (0.0, true, 0);
        loop {
            rows.clear();
            let from = next;
            while rows.len() < size && next < tokens {
                if Some(self.indices.get(next)) != self.ignore {
                    rows.push(next);
                }
                next += 1;
            }
            // The ignored ones up to the next chunk too.
            while next < tokens && Some(self.indices.get(next)) == self.ignore {
                next += 1;
            }
            if let Some(grad) = grad_input.as_deref_mut().filter(|_| !accumulate && rows.len() < next - from) {
                let mut left_out = rows.iter().copied().peekable();
                for r in from..next {
                    if left_out.next_if_eq(&r).is_none() {
                        grad[r * hidden..][..hidden].fill(T::default());
                    }
                }
            }
            if rows.is_empty() {
                break;
            }
            let n = rows.len();
            targets.clear();
            targets.extend(rows.iter().map(|&r| self.indices.get(r)));
            weights.clear();
            weights.extend(self.call.token_weight.into_iter().flat_map(|w| rows.iter().map(|&r| w[r])));
            matrix::gather(input, hidden, &rows, &mut inputs[..n * hidden]);
            let (inputs, logits) = (View::new(&inputs, n, hidden), &mut logits[..n * classes]);
            self.logits(inputs, logits, &mut tile);
            total += self.losses(logits, &targets, &weights, &rows, losses.as_deref_mut(), backward)?;
            if let Some(grad) = grad_bias.as_deref_mut() {
                matrix::add_columns(logits, n, grad);
            }
            let logits = View::new(logits, n, classes);
            if let Some(grad) = grad_weight.as_deref_mut() {
                matrix::product(grad, hidden, accumulate || !first, logits.transposed(), inputs);
            }
            if let Some(grad) = grad_input.as_deref_mut() {
                self.grad_inputs(logits, &mut grad_inputs, &mut tile);
                matrix::scatter(&grad_inputs, hidden, &rows, grad, accumulate);
            }
            first = false;
        }
        Ok(total)
    }

    /// Some classes of the weight, widened if need be.
    fn some_classes<'t>(&'t self, start: usize, count: usize, tile: &'t mut [f32]) -> View<'t> {
        let hidden = self.call.shape.hidden;
        let part = &self.call.weight[start * hidden..][..count * hidden];
        if let Some(part) = matrix::as_f32(part) {
            return View::new(part, count, hidden);
        }
        let tile = &mut tile[..count * hidden];
        matrix::widen(part, tile);
        View::new(tile, count, hidden)
    }

    /// The first class of each tile, and how many it has.
    fn tiles(&self) -> impl Iterator<Item = (usize, usize)> {
        let (classes, each) = (self.call.shape.classes, self.chunks.classes);
        (0..classes).step_by(each).map(move |start| (start, each.min(classes - start)))
    }

    fn logits(&self, inputs: View<'_>, logits: &mut [f32], tile: &mut [f32]) {
        let classes = self.call.shape.classes;
        if let Some(bias) = self.call.bias {
            let (first, rest) = logits.split_at_mut(classes);
            matrix::widen(bias, first);
            rest.chunks_exact_mut(classes).for_each(|row| row.copy_from_slice(first));
        }
        for (start, count) in self.tiles() {
            let weight = self.some_classes(start, count, tile).transposed();
            matrix::product(&mut logits[start..], classes, self.call.bias.is_some(), inputs, weight);
        }
    }

    fn grad_inputs(&self, logits: View<'_>, grads: &mut [f32], tile: &mut [f32]) {
        for (start, count) in self.tiles() {
            let weight = self.some_classes(start, count, tile);
            matrix::product(grads, self.call.shape.hidden, start != 0, logits.columns(start, count), weight);
        }
    }

    /// The sum of the losses of a chunk; its logits become their gradient.
    fn losses(
        &self,
        logits: &mut [f32],
        targets: &[i64],
        weights: &[f32],
        rows: &[usize],
        losses: Option<&mut [f32]>,
        backward: bool,
    ) -> Result<f64> {
        let LinearCall { head, class_weight, token_weight, shape, .. } = *self.call;
        let shape = Shape::from((rows.len(), shape.classes));
        let call = Call::new(head.loss, (), Target::<f32>::I64(targets), Some(shape));
        let mut extras = call.extras;
        extras.weight = token_weight.map(|_| Weight::PerElement(weights));
        extras.class_weight = class_weight;
        extras.grad_output = self.scale;
        let mut chunk = losses.as_ref().map(|_| matrix::zeros(rows.len())).transpose()?;
        let output = match chunk.as_deref_mut() {
            Some(losses) => Output::Unreduced { losses: Some(Dst::new(losses)), grad_output: None },
            None => Output::Reduced(Reduction::Sum),
        };
        let logits = Dst::new(logits);
        let grad_input = backward.then_some(logits);
        let request = Request { input: logits.src(), extras, grad_input, in_place: backward, output };
        let sum = request.run(&head.loss)?;
        for (losses, chunk) in losses.into_iter().zip(&chunk) {
            rows.iter().zip(chunk).for_each(|(&r, &loss)| losses[r] = loss);
        }
        Ok(f64::from(sum))
    }
}

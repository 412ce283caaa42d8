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
//!
//! On a GPU it is the same with `on(&cuda)`; with `across` the classes are shared by ranks, see [`parallel`](crate::parallel).

use crate::cpu::rowwise::{Counted, Rowwise};
use crate::cpu::scan::Scan;
use crate::cpu::threads::shared;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::CrossEntropy;
use crate::on::Place;
use crate::parallel::{Rows, Vocab};
use crate::reduction::Reduction;
use crate::target::Target;

mod contrastive;
#[allow(unsafe_code)] // calls of gemm, and loads and stores; each with its contract
mod matrix;
mod pass;

pub use crate::on::head::{BufferInfoNceCall, BufferInfoNceGrads, BufferLinearCall, BufferLinearGrads};
#[cfg(feature = "cuda")]
pub(crate) use contrastive::InfoNceLens;
pub use contrastive::{InfoNce, InfoNceCall, InfoNceGrads, InfoNceShape};
use pass::{Chunks, Pass};

#[cfg(feature = "cuda")]
pub use crate::cuda::{CudaInfoNceCall, CudaInfoNceGrads, CudaLinearCall, CudaLinearGrads};

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
/// **On a GPU**, bound to a `Cuda` by `on`, the products are cuBLAS's, which is looked for when the first call is made (`Error::NoCublas`
/// says how to get it). Calls only enqueue. What else is different:
///
/// * The memory is allocated by the first call, stays with the handle, and grows only where a later call needs more; cuBLAS itself
///   takes some dozen MiB besides. Of each token that counts there are, at once, 4 bytes of logit a class for f32, and for f16 and bf16 a
///   gradient of 2 bytes a class, with logits of 4 bytes for a fourth of the tokens.
/// * Logits are f32 for every storage type, as on the CPU; but tensor cores multiply f16 by f16 and bf16 by bf16, so that with such
///   storage the gradient of the logits is rounded once before it is multiplied. (In f16 it is scaled by a power of two first, so that
///   nothing vanishes or overflows.) Sums are f32. Logits of f32 cost, beside 16-bit ones, 4 bytes of traffic a logit.
/// * The weight gradient is read and written once for every block of tokens that the budget has room for. Small blocks make that slower
///   than the products.
/// * Which tokens are ignored only the GPU knows, and to ask would be to wait. They are never multiplied, but save time only where
///   `counted` says how many others there are.
/// * `allow_tf32` lets products of f32 use tensor cores.
/// * Up to 2^31 tokens, hidden numbers and classes, and at least one class.
///
/// Edge cases: as [`CrossEntropy`]. An ignored token may hold NaN; its gradient is 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearCrossEntropy {
    pub(crate) loss: CrossEntropy,
    /// The caller's, if he has one.
    budget: Option<usize>,
}

impl LinearCrossEntropy {
    /// Of this cross-entropy, with the default budget.
    pub fn new(loss: CrossEntropy) -> Self {
        LinearCrossEntropy { loss, budget: None }
    }

    /// The most memory, in bytes, that a call may take beyond inputs and gradients. Defaults to 256 MiB on the CPU: of 128k classes, 500
    /// tokens at a time; more gives larger products, which gain little beyond a few hundred tokens. On a GPU the default is 1 GiB: of
    /// 8192 tokens and 128k classes in bf16 an H200 took 1.11 times its products and the loss with that, 1.20 times with 512 MiB and
    /// 2.07 times with 256 MiB. A call that cannot do with so little as this is [`Error::Budget`].
    pub fn budget(mut self, bytes: usize) -> Self {
        self.budget = Some(bytes);
        self
    }

    /// On the CPU.
    fn budget_here(&self) -> usize {
        self.budget.unwrap_or(256 << 20)
    }

    #[cfg(feature = "cuda")]
    pub(crate) fn budget_on_gpus(&self) -> usize {
        self.budget.unwrap_or(1 << 30)
    }

    /// The same on a device: a [`Device`](crate::Device), or a `Cuda` handle.
    pub fn on<'d, P: Place>(&self, place: &'d P) -> P::On<'d, Self> {
        place.bind(*self)
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
            vocab: None,
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
    vocab: Option<&'a Vocab<'a>>,
}

impl<'a, T: Element> LinearCall<'a, T> {
    /// Shares the classes among ranks: weight, bias and class weights are those of the classes that are here, `classes` of the shape is
    /// their number, and target classes are those of all ranks. Every rank has the whole input, and gets the whole gradient of it, which
    /// the ranks add up. Verbs are collectives then, and options, reductions, which weights there are and whether the input's gradient
    /// is asked for must be the same on all ranks, which say so first of all: [`RanksDisagree`](Error::RanksDisagree) where their
    /// tokens differ, [`RanksDiffer`](Error::RanksDiffer) where anything else does.
    pub fn across(mut self, vocab: &'a Vocab<'a>) -> Self {
        self.vocab = Some(vocab);
        self
    }

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
        self.run_scaled(reduction, losses, grads, Scale { by: 1.0, grad: None })
    }

    fn run_scaled(
        self,
        reduction: Option<Reduction>,
        losses: Option<&mut [f32]>,
        grads: LinearGrads<'_, T>,
        logit_scale: Scale<'_>,
    ) -> Result<f32> {
        let LinearShape { tokens, hidden, classes } = self.shape;
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
        let loss = self.head.loss;
        let ignore = Rowwise::ignore_index(&loss);
        let scan = Scan { indices, classes: self.vocab.map_or(classes, Vocab::classes), ignore };
        let rows = |vocab| Rows { loss, vocab, indices, weight: self.token_weight, class_weight: self.class_weight };
        let chunks = |counted| Chunks::new::<T>(self.head.budget_here(), self.shape, counted);
        let end = |error: &Error| self.vocab.iter().for_each(|vocab| vocab.ranks.leave(error));
        let (chunks, denominator) = match self.vocab {
            Some(vocab) => {
                check_len("weight", product(vocab.here(), hidden)?, self.weight.len())?;
                let counted = rows(vocab).check(reduction)?;
                let mut chunks = chunks(counted)?;
                let call = rows(vocab).same(reduction, (hidden, counted, grads.input.is_some()));
                chunks.tokens = vocab.agree(call, chunks.tokens)?;
                (chunks, rows(vocab).denominator(reduction, counted).inspect_err(end)?)
            }
            None => {
                let counted = scan.check()?;
                let weight = self.token_weight.map(|w| (w, 1));
                let rows = Counted { scan: Some(&scan), counted, class_weight: self.class_weight, weight };
                let of_all = |r: Reduction| rows.denominator(r, CrossEntropy::MEAN_BY_CLASS_WEIGHT);
                (chunks(counted)?, reduction.map_or(1.0, of_all))
            }
        };
        let scale = (f64::from(self.grad_output) / denominator) as f32;
        let pass = Pass { call: &self, indices, ignore, scale, chunks, rows: self.vocab.map(rows) };
        let total = shared(|| pass.run(losses, grads, logit_scale)).inspect_err(end)?;
        Ok((total / denominator) as f32)
    }
}

/// What logits, but for their bias, are multiplied by; and where its gradient is added.
struct Scale<'s> {
    by: f32,
    grad: Option<&'s mut f64>,
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

/// Numbers of a matrix.
fn product(a: usize, b: usize) -> Result<usize> {
    a.checked_mul(b).filter(|&n| n <= isize::MAX as usize / 4).ok_or(Error::ShapeOverflow)
}

impl Lens {
    pub(crate) fn check(&self, LinearShape { tokens, hidden, classes }: LinearShape) -> Result<()> {
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

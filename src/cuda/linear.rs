//! The language-model head on a GPU: the builder and the verbs of `head::LinearCall`, with device memory.

use super::buffers::{DeviceMut, DeviceRef, DeviceScalar, DeviceTarget, Lender};
use super::call::{OnCuda, Outputs};
use super::handle::Cuda;
use super::head::{self, HeadRequest};
use super::kernel::HasKernel;
use super::request::{Dtype, Scalar};
use super::vocab::Looks;
use crate::element::Element;
use crate::error::{Result, check_len};
use crate::head::{Lens, LinearCrossEntropy, LinearShape, NOT_INDICES};
use crate::parallel::Vocab;
use crate::reduction::Reduction;

/// Where the gradients go on a GPU. What is `None` is not computed: a frozen weight costs one product less.
#[derive(Debug)]
pub struct CudaLinearGrads<'a, T> {
    /// `(tokens, hidden)`
    pub input: Option<DeviceMut<'a, T>>,
    /// `(classes, hidden)`
    pub weight: Option<DeviceMut<'a, f32>>,
    /// `(classes)`
    pub bias: Option<DeviceMut<'a, f32>>,
}

impl<T> Default for CudaLinearGrads<'_, T> {
    fn default() -> Self {
        CudaLinearGrads { input: None, weight: None, bias: None }
    }
}

/// A call of [`LinearCrossEntropy`] with its input, weight and targets on a GPU, to which a bias, weights and so on are added before one
/// of the verbs enqueues it. Every buffer is device memory of the handle's GPU, and the verbs write the value to one f32 there.
///
/// ```no_run
/// # use fused_loss::head::{CudaLinearGrads, LinearCrossEntropy};
/// # use fused_loss::{CrossEntropy, Cuda, Reduction, cudarc::driver::CudaContext};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let stream = CudaContext::new(0)?.default_stream();
/// # let cuda = Cuda::new(&stream)?;
/// # let (tokens, hidden, classes) = (2, 2, 3);
/// # let input = stream.alloc_zeros::<half::bf16>(4)?;
/// # let weight = stream.alloc_zeros::<half::bf16>(6)?;
/// # let targets = stream.alloc_zeros::<i64>(2)?;
/// # let (mut grad_input, mut grad_weight) = (stream.alloc_zeros::<half::bf16>(4)?, stream.alloc_zeros::<f32>(6)?);
/// # let mut loss = stream.alloc_zeros::<f32>(1)?;
/// let grads = CudaLinearGrads {
///     input: Some((&mut grad_input).into()),
///     weight: Some((&mut grad_weight).into()),
///     ..CudaLinearGrads::default()
/// };
/// LinearCrossEntropy::new(CrossEntropy::new())
///     .budget(1 << 30)
///     .on(&cuda)
///     .call(&input, &weight, &targets, (tokens, hidden, classes))
///     .forward_backward(Reduction::Mean, &mut loss, grads)?;
/// cuda.check()?; // waits; were all class indices classes?
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct CudaLinearCall<'a, T> {
    head: LinearCrossEntropy,
    cuda: &'a Cuda,
    input: DeviceRef<'a, T>,
    weight: DeviceRef<'a, T>,
    target: DeviceTarget<'a, T>,
    shape: LinearShape,
    bias: Option<DeviceRef<'a, T>>,
    class_weight: Option<DeviceRef<'a, f32>>,
    token_weight: Option<DeviceRef<'a, f32>>,
    grad_output: DeviceScalar<'a>,
    denominator: Option<DeviceRef<'a, f32>>,
    accumulate: bool,
    counted: usize,
    tf32: bool,
    vocab: Option<&'a Vocab<'a>>,
}

impl<'d> OnCuda<'d, LinearCrossEntropy> {
    /// A call: `input` of `tokens` rows, `weight` of `classes` rows, both `hidden` wide, and a class index (`i64`, `i32`, `u32` or
    /// `u8`) for each token.
    pub fn call<'a, T: Element>(
        &self,
        input: impl Into<DeviceRef<'a, T>>,
        weight: impl Into<DeviceRef<'a, T>>,
        target: impl Into<DeviceTarget<'a, T>>,
        shape: impl Into<LinearShape>,
    ) -> CudaLinearCall<'a, T>
    where
        'd: 'a,
    {
        CudaLinearCall {
            head: self.loss,
            cuda: self.cuda,
            input: input.into(),
            weight: weight.into(),
            target: target.into(),
            shape: shape.into(),
            bias: None,
            class_weight: None,
            token_weight: None,
            grad_output: DeviceScalar::Host(1.0),
            denominator: None,
            accumulate: false,
            counted: usize::MAX,
            tf32: false,
            vocab: None,
        }
    }
}

impl<'a, T: Element> CudaLinearCall<'a, T> {
    /// Shares the classes among ranks, see [`LinearCall::across`](crate::head::LinearCall::across); every rank has at least one class, and
    /// all have the same budget. Verbs are collectives: one in which ranks say what they call, two all-reduces a chunk, one of the input's
    /// gradient a block, and one number for a mean with class weights. A call that is not what the last one with this [`Vocab`] was waits
    /// for the first of them, see [`parallel`](crate::parallel).
    pub fn across(mut self, vocab: &'a Vocab<'a>) -> Self {
        self.vocab = Some(vocab);
        self
    }

    /// Adds one number to each class's logits.
    pub fn bias(mut self, bias: impl Into<DeviceRef<'a, T>>) -> Self {
        self.bias = Some(bias.into());
        self
    }

    /// One weight for each class: PyTorch's `weight` of cross-entropy.
    pub fn class_weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.class_weight = Some(weight.into());
        self
    }

    /// One weight for each token: it multiplies value and gradient, as an advantage does in policy gradients. Only
    /// [`Reduction::WeightedMean`] divides by it.
    pub fn token_weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.token_weight = Some(weight.into());
        self
    }

    /// The gradient that comes from above: a number, or one f32 on the device. Defaults to 1.
    pub fn grad_output(mut self, grad_output: impl Into<DeviceScalar<'a>>) -> Self {
        self.grad_output = grad_output.into();
        self
    }

    /// Divides the sum by one f32 on the device, which must be above zero, such as `num_items_in_batch`. For [`Reduction::Sum`].
    pub fn denominator(mut self, denominator: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.denominator = Some(denominator.into());
        self
    }

    /// Adds to the gradient buffers instead of overwriting them.
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// Says that no more than so many tokens count: are of a class that is not ignored. Which ones they are only the GPU knows, and to
    /// ask it would be to wait; so ignored tokens save products only where this says how many there are. If more count, the value is
    /// NaN, gradients are those of the first so many, and [`Cuda::check`] fails with [`TooManyOnDevice`](crate::Error::TooManyOnDevice).
    pub fn counted(mut self, tokens: usize) -> Self {
        self.counted = tokens;
        self
    }

    /// Lets products round factors of f32 to TF32, which has the 10 bits of f16: PyTorch's `allow_tf32`. Changes nothing for f16 and
    /// bf16.
    pub fn allow_tf32(mut self) -> Self {
        self.tf32 = true;
        self
    }

    /// The value into `value`.
    pub fn forward(self, reduction: Reduction, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.enqueue(Outputs::Reduced(reduction, Some(value.into())), CudaLinearGrads::default())
    }

    /// The value of each token into `losses`: of plain cross-entropy, minus the log-probability of its target.
    pub fn forward_unreduced(self, losses: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        let outputs = Outputs::Unreduced { losses: Some(losses.into()), grad_output: None };
        self.enqueue(outputs, CudaLinearGrads::default())
    }

    /// The value into `value`, and its gradients into `grads`.
    pub fn forward_backward(
        self,
        reduction: Reduction,
        value: impl Into<DeviceMut<'a, f32>>,
        grads: CudaLinearGrads<'a, T>,
    ) -> Result<()> {
        self.enqueue(Outputs::Reduced(reduction, Some(value.into())), grads)
    }

    fn enqueue(self, mut outputs: Outputs<'a>, mut grads: CudaLinearGrads<'a, T>) -> Result<()> {
        let lens = Lens {
            input: self.input.len(),
            weight: self.weight.len(),
            bias: self.bias.as_ref().map(DeviceRef::len),
            class_weight: self.class_weight.as_ref().map(DeviceRef::len),
            token_weight: self.token_weight.as_ref().map(DeviceRef::len),
            losses: match &outputs {
                Outputs::Unreduced { losses, .. } => losses.as_ref().map(DeviceMut::len),
                Outputs::Reduced(..) => None,
            },
            grad_input: grads.input.as_ref().map(DeviceMut::len),
            grad_weight: grads.weight.as_ref().map(DeviceMut::len),
            grad_bias: grads.bias.as_ref().map(DeviceMut::len),
        };
        lens.check(self.shape)?;
        let mut lender = Lender::new(self.cuda)?;
        let targets = lender.targets(&self.target)?;
        check_len("target", self.shape.tokens, targets.indices().ok_or(NOT_INDICES)?.len)?;
        if let Outputs::Reduced(reduction, Some(value)) = &outputs {
            reduction.check(self.shape.tokens)?;
            check_len("value", 1, value.len())?;
        }
        let reduce = |address, len, op| match self.vocab {
            // SAFETY: it is memory of the handle that this call has, and no other call comes between.
            Some(vocab) => unsafe { vocab.ranks.all_reduce_on(&self.cuda.stream, address, len, op) },
            None => Ok(()),
        };
        let looks = self.vocab.map(|vocab| {
            check_len("weight", vocab.here().saturating_mul(self.shape.hidden), self.weight.len())?;
            let classes = [vocab.first(), vocab.classes()];
            let kernels = ("head_vocab", Dtype::of::<T>());
            Ok((vocab, Looks::new(&self.head.loss, classes, self.class_weight.is_some(), kernels, &reduce)?))
        });
        let looks = looks.transpose()?;
        let request = HeadRequest {
            dtype: Dtype::of::<T>(),
            shape: self.shape,
            input: lender.read(&self.input)?,
            weight: lender.read(&self.weight)?,
            bias: self.bias.as_ref().map(|b| lender.read(b)).transpose()?,
            targets,
            class_weight: self.class_weight.as_ref().map(|w| lender.read(w)).transpose()?,
            token_weight: self.token_weight.as_ref().map(|w| lender.read(w)).transpose()?,
            grad_output: lender.scalar(&self.grad_output)?,
            accumulate: self.accumulate,
            output: outputs.lend(&mut lender, &self.denominator, "linear cross-entropy")?,
            grad_input: grads.input.as_mut().map(|g| lender.write(g)).transpose()?,
            grad_weight: grads.weight.as_mut().map(|g| lender.write(g)).transpose()?,
            grad_bias: grads.bias.as_mut().map(|g| lender.write(g)).transpose()?,
            counted: self.counted,
            budget: self.head.budget_on_gpus(),
            tf32: self.tf32,
            z_loss: self.head.loss.params().z_loss,
            logit_scale: Scalar::Host(1.0),
            grad_scale: None,
            wide: false,
            part: 1.0,
            adds: false,
            looks,
        };
        // SAFETY: as in `CudaCall::enqueue`; lengths have been checked.
        unsafe { head::run(&self.head.loss.kernel(), &request, self.cuda) }
    }
}

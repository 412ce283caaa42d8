//! Calls on GPUs of cross-entropy whose classes ranks share.

use std::sync::Arc;

use cudarc::driver::{CudaStream, result, sys};

use super::buffers::{DeviceMut, DeviceRef, DeviceScalar, DeviceTarget, Lender};
use super::call::{CudaCall, Input, OnCuda, Outputs};
use super::driver::failed;
use super::handle::Cuda;
use super::marshal::Launch;
use super::vocab;
use crate::call::Loss;
use crate::cpu::rowwise::Rowwise;
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::loss::CrossEntropy;
use crate::parallel::{Communicator, ReduceOp, Same, Vocab, VocabCrossEntropy};
use crate::reduction::Reduction;

/// What a communicator does that knows nothing of GPUs.
///
/// # Safety
/// The address is of so many f32 of the stream's context, which nobody else uses.
pub(crate) unsafe fn reduce_on_host(
    reduce: impl FnOnce(&mut [f32]) -> Result<()>,
    stream: &Arc<CudaStream>,
    address: u64,
    len: usize,
) -> Result<()> {
    let refused = |e| failed("copying what ranks reduce", e);
    not_captured(stream)?;
    stream.context().bind_to_thread().map_err(refused)?;
    let mut data = vec![0f32; len];
    // SAFETY: the caller's promise; and the stream has done with the host's memory when this returns.
    unsafe { result::memcpy_dtoh_async(&mut data, address, stream.cu_stream()) }.map_err(refused)?;
    stream.synchronize().map_err(refused)?;
    reduce(&mut data)?;
    unsafe { result::memcpy_htod_async(address, &data, stream.cu_stream()) }.map_err(refused)?;
    stream.synchronize().map_err(refused)
}

/// An error if the stream is captured, for what goes by way of the host.
pub(crate) fn not_captured(stream: &CudaStream) -> Result<()> {
    let idle = sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE;
    match stream.capture_status() {
        Ok(status) if status != idle => Err(Error::Capturing { what: "ranks that reduce on the host" }),
        _ => Ok(()),
    }
}

/// The same as [`sum_over_ranks`](crate::parallel::sum_over_ranks) of one f32 on the device, in place: what a sum is divided by
/// (`denominator` of the calls on GPUs), such as the number of tokens that count, with which the batch came from the host. A collective;
/// over [`Nccl`](super::Nccl) it is enqueued, and nothing waits. Whole numbers are exact up to 2^24, and beyond lose at most a part in 2^24
/// a rank.
pub fn sum_over_ranks_on<'a>(
    ranks: &dyn Communicator,
    cuda: &Cuda,
    number: impl Into<DeviceMut<'a, f32>>,
) -> Result<()> {
    let mut number = number.into();
    check_len("number", 1, number.len())?;
    let mut lender = Lender::new(cuda)?;
    let address = lender.write(&mut number)?.address;
    // SAFETY: it is one f32 of the handle's GPU, and lent to its stream.
    unsafe { ranks.all_reduce_on(&cuda.stream, address, 1, ReduceOp::Sum) }
}

impl<'v> VocabCrossEntropy<'v> {
    /// The same on a GPU, each rank on its own. Everything is as for [`CrossEntropy`] there, and on all ranks alike.
    pub fn on<'d>(&self, cuda: &'d Cuda) -> OnCuda<'d, VocabCrossEntropy<'v>> {
        OnCuda { loss: *self, cuda }
    }
}

impl<'d> OnCuda<'d, VocabCrossEntropy<'d>> {
    /// A call: the logits of this rank's classes, and a class index (`i64`, `i32`, `u32` or `u8`), among all classes, for each row.
    pub fn call<'a, T: Element>(
        &self,
        logits: impl Into<DeviceRef<'a, T>>,
        target: impl Into<DeviceTarget<'a, T>>,
    ) -> CudaVocabCall<'a, T>
    where
        'd: 'a,
    {
        CudaVocabCall::new(*self, logits.into(), target.into())
    }

    /// The same with the gradient written over the logits.
    pub fn call_in_place<'a, T: Element>(
        &self,
        logits: impl Into<DeviceMut<'a, T>>,
        target: impl Into<DeviceTarget<'a, T>>,
    ) -> CudaVocabCall<'a, T, DeviceMut<'a, T>>
    where
        'd: 'a,
    {
        CudaVocabCall::new(*self, logits.into(), target.into())
    }
}

/// A call of [`VocabCrossEntropy`] on a GPU, to which weights and so on are added before one of the verbs enqueues it. Every verb is a
/// collective, and waits if it is not what the last one with this [`Vocab`] was (see [`parallel`](crate::parallel)); every buffer is device
/// memory of the handle's GPU, and the verbs write the value to one f32 there.
///
/// ```no_run
/// use fused_loss::parallel::{Nccl, Vocab};
/// use fused_loss::{CrossEntropy, Cuda, Reduction, cudarc::driver::CudaContext};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // Two GPUs of this machine, of a thread each; both have 1000 of 2000 classes, and the same 16 targets.
/// let streams = [CudaContext::new(0)?.default_stream(), CudaContext::new(1)?.default_stream()];
/// std::thread::scope(|scope| {
///     for (ranks, stream) in Nccl::group(&streams)?.into_iter().zip(streams) {
///         scope.spawn(move || -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///             let (cuda, vocab) = (Cuda::new(&stream)?, Vocab::new(&ranks, 1000)?);
///             let logits = stream.alloc_zeros::<half::bf16>(16 * 1000)?;
///             let targets = stream.alloc_zeros::<i64>(16)?;
///             let (mut loss, mut grad) = (stream.alloc_zeros::<f32>(1)?, stream.alloc_zeros::<half::bf16>(16 * 1000)?);
///             let call = CrossEntropy::new().across(&vocab).on(&cuda).call(&logits, &targets);
///             call.forward_backward(Reduction::Mean, &mut loss, &mut grad)?;
///             ranks.wait()?; // an error, and no endless wait, if the other does not come
///             Ok(())
///         });
///     }
///     Ok(())
/// })
/// # }
/// ```
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct CudaVocabCall<'a, T, I = DeviceRef<'a, T>> {
    vocab: &'a Vocab<'a>,
    call: CudaCall<'a, CrossEntropy, T, I>,
}

impl<'a, T: Element, I> CudaVocabCall<'a, T, I> {
    fn new(on: OnCuda<'a, VocabCrossEntropy<'a>>, logits: I, target: DeviceTarget<'a, T>) -> Self {
        let OnCuda { loss: VocabCrossEntropy { loss, vocab }, cuda } = on;
        CudaVocabCall { vocab, call: CudaCall::new(OnCuda { loss, cuda }, logits, target, None) }
    }

    /// One weight for each row: it multiplies value and gradient. Only [`Reduction::WeightedMean`] divides by it.
    pub fn weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.call = self.call.weight(weight);
        self
    }

    /// One weight for each of this rank's classes: PyTorch's `weight` of cross-entropy. On all ranks or on none.
    pub fn class_weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.call = self.call.class_weight(weight);
        self
    }

    /// The gradient that comes from above: a number, or one f32 on the device. Defaults to 1.
    pub fn grad_output(mut self, grad_output: impl Into<DeviceScalar<'a>>) -> Self {
        self.call = self.call.grad_output(grad_output);
        self
    }

    /// Divides the sum by one f32 on the device, which must be above zero, such as `num_items_in_batch`. For [`Reduction::Sum`].
    pub fn denominator(mut self, denominator: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.call = self.call.denominator(denominator);
        self
    }

    fn enqueue(self, input: fn(I) -> Input<'a, T>, grad: Option<DeviceMut<'a, T>>, outputs: Outputs<'a>) -> Result<()> {
        let (vocab, cuda) = (self.vocab, self.call.cuda());
        self.call.lend(input, grad, outputs, |loss, mut request| {
            let what = "a target of anything but class indices, across ranks,";
            let indices = request.targets.indices();
            let rows = indices.ok_or(Error::Unsupported { loss: <CrossEntropy as Loss>::NAME, what })?.len;
            check_len("logits", rows.checked_mul(vocab.here()).ok_or(Error::ShapeOverflow)?, request.input.len)?;
            request.shape = Some((rows, vocab.here()).into());
            let sizes = vocab::check(&request, rows)?;
            let options = (loss.params(), Rowwise::ignore_index(loss));
            let has = [request.grad_input.is_some(), request.weight.is_some(), request.class_weight.is_some()];
            // Kernels of another type may not be loaded yet, and a captured call must not find that out when it has begun.
            let same = Same::new(rows, options, request.output.reduction(), (has, request.dtype.name));
            let reduce = |address, len, op| {
                // SAFETY: it is scratch memory of the handle, and no other call comes between.
                unsafe { vocab.ranks.all_reduce_on(&cuda.stream, address, len, op) }
            };
            // SAFETY: as in `CudaCall::enqueue`; lengths have been checked.
            unsafe {
                let (mut on, classes) = (cuda.launcher(), [vocab.first(), vocab.classes()]);
                let scratch = on.scratch(vocab::scratch(rows).max(vocab.scratch_to_agree()))?;
                vocab.agree_on(same, cuda, scratch)?;
                vocab::run(loss, &request, &sizes, classes, &mut on, &reduce)
                    .inspect_err(|error| vocab.ranks.leave(error))
            }
        })
    }
}

impl<'a, T: Element> CudaVocabCall<'a, T> {
    /// Adds to the gradient instead of overwriting it.
    pub fn accumulate(mut self) -> Self {
        self.call = self.call.accumulate();
        self
    }

    /// The value, the same on all ranks, into `value`.
    pub fn forward(self, reduction: Reduction, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.enqueue(Input::Read, None, Outputs::Reduced(reduction, Some(value.into())))
    }

    /// The value of each row, the same on all ranks, into `losses`.
    pub fn forward_unreduced(self, losses: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.enqueue(Input::Read, None, Outputs::Unreduced { losses: Some(losses.into()), grad_output: None })
    }

    /// The value, the same on all ranks, into `value`, and its gradient for this rank's logits into `grad_input`.
    pub fn forward_backward(
        self,
        reduction: Reduction,
        value: impl Into<DeviceMut<'a, f32>>,
        grad_input: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        self.enqueue(Input::Read, Some(grad_input.into()), Outputs::Reduced(reduction, Some(value.into())))
    }
}

impl<'a, T: Element> CudaVocabCall<'a, T, DeviceMut<'a, T>> {
    /// The value, the same on all ranks, into `value`, and its gradient over this rank's logits.
    pub fn forward_backward(self, reduction: Reduction, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.enqueue(Input::InPlace, None, Outputs::Reduced(reduction, Some(value.into())))
    }
}

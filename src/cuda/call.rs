//! A call on a GPU: the builder and the verbs of [`Call`](crate::Call), with device memory.

use super::buffers::{DeviceMut, DeviceRef, DeviceScalar, DeviceTarget, Lender};
use super::handle::Cuda;
use super::marshal;
use super::request::{self, Memory, Output, Request};
use crate::call::Loss;
use crate::element::Element;
use crate::error::{Error, Result};
use crate::loss::{Combination, CrossEntropy};
use crate::reduction::Reduction;
use crate::report::{Report, report_methods};
use crate::shape::Shape;

/// A loss bound to a [`Cuda`] handle by its `on` method.
///
/// It has the loss's `forward`, `forward_backward` and `forward_backward_in_place`, which take device memory and write the value to
/// one f32 on the device; `call` and `call_in_place` make a [`CudaCall`] for everything else.
#[derive(Clone, Copy, Debug)]
pub struct OnCuda<'d, L> {
    pub(crate) loss: L,
    pub(crate) cuda: &'d Cuda,
}

/// A call with its input and targets on a GPU, to which weights, an upstream gradient and so on are added before one of the verbs
/// enqueues it. The words are those of [`Call`](crate::Call); every buffer is device memory of the handle's GPU, and the verbs write
/// the value to one f32 there.
///
/// A verb returns when the call is enqueued. Lengths, shapes and options are checked before; a class index out of range, which only
/// the GPU sees, gives its row a gradient of zero and the value NaN, and is what [`Cuda::check`] reports.
///
/// ```no_run
/// # use fused_loss::{CrossEntropy, Cuda, Reduction, cudarc::driver::CudaContext};
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let stream = CudaContext::new(0)?.default_stream();
/// # let cuda = Cuda::new(&stream)?;
/// # let (rows, classes) = (2, 3);
/// # let logits = stream.alloc_zeros::<half::bf16>(6)?;
/// # let targets = stream.alloc_zeros::<i64>(2)?;
/// # let (scale, tokens) = (stream.alloc_zeros::<f32>(1)?, stream.alloc_zeros::<f32>(1)?);
/// # let (mut loss, mut grad) = (stream.alloc_zeros::<f32>(1)?, stream.alloc_zeros::<half::bf16>(6)?);
/// CrossEntropy::new()
///     .on(&cuda)
///     .call(&logits, &targets, (rows, classes))
///     .grad_output(&scale) // a number on the device, such as AMP's loss scale
///     .denominator(&tokens) // another: the sum is divided by it
///     .forward_backward(Reduction::Sum, &mut loss, &mut grad)?;
/// cuda.check()?; // waits; were all class indices classes?
/// # Ok(()) }
/// ```
#[must_use = "a call does nothing until one of its verbs runs it"]
pub struct CudaCall<'a, L, T, I = DeviceRef<'a, T>> {
    cuda: &'a Cuda,
    loss: L,
    input: I,
    target: DeviceTarget<'a, T>,
    shape: Option<Shape>,
    weight: Option<(DeviceRef<'a, f32>, Kind)>,
    class_weight: Option<DeviceRef<'a, f32>>,
    grad_output: DeviceScalar<'a>,
    denominator: Option<DeviceRef<'a, f32>>,
    accumulate: bool,
    grad_target: Option<DeviceMut<'a, T>>,
    terms: Option<DeviceMut<'a, f32>>,
    third: Option<DeviceRef<'a, T>>,
    grad_third: Option<DeviceMut<'a, T>>,
    report: Report<DeviceMut<'a, f32>, DeviceMut<'a, i64>>,
}

/// Per element or per sample.
type Kind = fn(Memory) -> request::Weight;

/// What becomes of the losses.
pub(super) enum Outputs<'a> {
    Reduced(Reduction, Option<DeviceMut<'a, f32>>),
    Unreduced { losses: Option<DeviceMut<'a, f32>>, grad_output: Option<DeviceRef<'a, f32>> },
}

impl Outputs<'_> {
    /// The same as addresses; `denominator` divides a sum.
    pub(super) fn lend<'l>(
        &'l mut self,
        lender: &mut Lender<'l>,
        denominator: &'l Option<DeviceRef<'_, f32>>,
        loss: &'static str,
    ) -> Result<Output> {
        let denominator = denominator.as_ref().map(|d| lender.read_one("denominator", d)).transpose()?;
        Ok(match (self, denominator) {
            (Outputs::Reduced(reduction, value), None) => {
                Output::Reduced(*reduction, value.as_mut().map(|v| lender.write(v)).transpose()?)
            }
            (Outputs::Reduced(Reduction::Sum, value), Some(divisor)) => {
                Output::Over(divisor, value.as_mut().map(|v| lender.write(v)).transpose()?)
            }
            (_, Some(_)) => {
                return Err(Error::Unsupported { loss, what: "a denominator on the device with anything but a sum" });
            }
            (Outputs::Unreduced { losses, grad_output }, None) => Output::Unreduced {
                losses: losses.as_mut().map(|l| lender.write(l)).transpose()?,
                grad_output: grad_output.as_ref().map(|g| lender.read(g)).transpose()?,
            },
        })
    }
}

impl<'a, L: Loss, T: Element, I> CudaCall<'a, L, T, I> {
    pub(crate) fn new(on: OnCuda<'a, L>, input: I, target: DeviceTarget<'a, T>, shape: Option<Shape>) -> Self {
        CudaCall {
            cuda: on.cuda,
            loss: on.loss,
            input,
            target,
            shape,
            weight: None,
            class_weight: None,
            grad_output: DeviceScalar::Host(1.0),
            denominator: None,
            accumulate: false,
            grad_target: None,
            terms: None,
            third: None,
            grad_third: None,
            report: Report::default(),
        }
    }

    pub(super) fn cuda(&self) -> &'a Cuda {
        self.cuda
    }

    pub(crate) fn with_report(mut self, report: Report<DeviceMut<'a, f32>, DeviceMut<'a, i64>>) -> Self {
        self.report = report;
        self
    }

    pub(crate) fn with_terms(mut self, values: DeviceMut<'a, f32>) -> Self {
        self.terms = Some(values);
        self
    }

    /// See [`Call::weight`](crate::Call::weight).
    pub fn weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.weight = Some((weight.into(), request::Weight::PerElement));
        self
    }

    /// See [`Call::sample_weight`](crate::Call::sample_weight).
    pub fn sample_weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.weight = Some((weight.into(), request::Weight::PerSample));
        self
    }

    /// See [`Call::class_weight`](crate::Call::class_weight).
    pub fn class_weight(mut self, weight: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.class_weight = Some(weight.into());
        self
    }

    /// See [`Call::grad_output`](crate::Call::grad_output): a number, or one f32 on the device.
    pub fn grad_output(mut self, grad_output: impl Into<DeviceScalar<'a>>) -> Self {
        self.grad_output = grad_output.into();
        self
    }

    /// Divides the sum by one f32 on the device, which must be above zero, such as `num_items_in_batch`. For [`Reduction::Sum`];
    /// a number that the host knows is [`Reduction::SumOver`].
    pub fn denominator(mut self, denominator: impl Into<DeviceRef<'a, f32>>) -> Self {
        self.denominator = Some(denominator.into());
        self
    }

    /// See [`Call::accumulate`](crate::Call::accumulate).
    pub fn accumulate(mut self) -> Self {
        self.accumulate = true;
        self
    }

    /// See [`Call::grad_target`](crate::Call::grad_target).
    pub fn grad_target(mut self, grad: impl Into<DeviceMut<'a, T>>) -> Self {
        self.grad_target = Some(grad.into());
        self
    }

    /// See [`Call::third`](crate::Call::third).
    pub fn third(mut self, third: impl Into<DeviceRef<'a, T>>) -> Self {
        self.third = Some(third.into());
        self
    }

    /// See [`Call::grad_third`](crate::Call::grad_third).
    pub fn grad_third(mut self, grad: impl Into<DeviceMut<'a, T>>) -> Self {
        self.grad_third = Some(grad.into());
        self
    }
}

impl<'a, L: Combination, T: Element, I> CudaCall<'a, L, T, I> {
    /// See [`Call::terms`](crate::Call::terms).
    pub fn terms(self, values: impl Into<DeviceMut<'a, f32>>) -> Self {
        self.with_terms(values.into())
    }
}

/// The input of a call, which in place becomes the gradient.
pub(super) enum Input<'a, T> {
    Read(DeviceRef<'a, T>),
    InPlace(DeviceMut<'a, T>),
}

impl<'a, L: Loss, T: Element> CudaCall<'a, L, T, DeviceRef<'a, T>> {
    /// The value into `value`.
    pub fn forward(self, reduction: Reduction, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.apart(None, Outputs::Reduced(reduction, Some(value.into())))
    }

    /// The value into `value`, and its gradient into `grad_input`.
    pub fn forward_backward(
        self,
        reduction: Reduction,
        value: impl Into<DeviceMut<'a, f32>>,
        grad_input: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        self.apart(Some(grad_input.into()), Outputs::Reduced(reduction, Some(value.into())))
    }

    /// The gradient alone.
    pub fn backward(self, reduction: Reduction, grad_input: impl Into<DeviceMut<'a, T>>) -> Result<()> {
        self.apart(Some(grad_input.into()), Outputs::Reduced(reduction, None))
    }

    /// The value of each element or row into `losses`.
    pub fn forward_unreduced(self, losses: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.apart(None, Outputs::Unreduced { losses: Some(losses.into()), grad_output: None })
    }

    /// The value of each element or row into `losses`, and their gradients, each times its own `grad_output`, into `grad_input`.
    pub fn forward_backward_unreduced(
        self,
        grad_output: impl Into<DeviceRef<'a, f32>>,
        losses: impl Into<DeviceMut<'a, f32>>,
        grad_input: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        let outputs = Outputs::Unreduced { losses: Some(losses.into()), grad_output: Some(grad_output.into()) };
        self.apart(Some(grad_input.into()), outputs)
    }

    /// The gradients of the unreduced form alone.
    pub fn backward_unreduced(
        self,
        grad_output: impl Into<DeviceRef<'a, f32>>,
        grad_input: impl Into<DeviceMut<'a, T>>,
    ) -> Result<()> {
        let outputs = Outputs::Unreduced { losses: None, grad_output: Some(grad_output.into()) };
        self.apart(Some(grad_input.into()), outputs)
    }

    fn apart(self, grad_input: Option<DeviceMut<'a, T>>, outputs: Outputs<'a>) -> Result<()> {
        self.enqueue(Input::Read, grad_input, outputs)
    }
}

impl<'a, L: Loss, T: Element> CudaCall<'a, L, T, DeviceMut<'a, T>> {
    /// The value into `value`, and its gradient over the input.
    pub fn forward_backward(self, reduction: Reduction, value: impl Into<DeviceMut<'a, f32>>) -> Result<()> {
        self.enqueue(Input::InPlace, None, Outputs::Reduced(reduction, Some(value.into())))
    }

    /// The gradient alone, over the input.
    pub fn backward(self, reduction: Reduction) -> Result<()> {
        self.enqueue(Input::InPlace, None, Outputs::Reduced(reduction, None))
    }

    /// The value of each element or row into `losses`, and over the input their gradients, each times its own `grad_output`.
    pub fn forward_backward_unreduced(
        self,
        grad_output: impl Into<DeviceRef<'a, f32>>,
        losses: impl Into<DeviceMut<'a, f32>>,
    ) -> Result<()> {
        let outputs = Outputs::Unreduced { losses: Some(losses.into()), grad_output: Some(grad_output.into()) };
        self.enqueue(Input::InPlace, None, outputs)
    }
}

impl<'a, L: Loss, T: Element, I> CudaCall<'a, L, T, I> {
    fn enqueue(self, input: fn(I) -> Input<'a, T>, grad: Option<DeviceMut<'a, T>>, outputs: Outputs<'a>) -> Result<()> {
        let cuda = self.cuda;
        self.lend(input, grad, outputs, |loss, request| {
            // SAFETY: the lender has these addresses from buffers that the call has borrowed, of their lengths and of this context; cudarc
            // orders what is done to them by the events that it has taken and given, or the one who made them from an address has promised
            // it. Launches of one handle are on one stream.
            unsafe { marshal::run(&loss.kernel(), &request, &mut cuda.launcher()) }
        })
    }

    /// Has something done with the call as addresses, while they are lent.
    pub(super) fn lend(
        self,
        input: fn(I) -> Input<'a, T>,
        mut grad: Option<DeviceMut<'a, T>>,
        mut outputs: Outputs<'a>,
        then: impl FnOnce(&L, Request) -> Result<()>,
    ) -> Result<()> {
        let CudaCall { cuda, loss, target, shape, weight, class_weight, denominator, accumulate, .. } = self;
        let (mut input, grad_output) = (input(self.input), self.grad_output);
        let (mut grad_target, mut terms) = (self.grad_target, self.terms);
        let (third, mut grad_third, mut report) = (self.third, self.grad_third, self.report);
        let mut lender = Lender::new(cuda)?;
        let (input, in_place) = match &mut input {
            Input::Read(x) => (lender.read(x)?, false),
            Input::InPlace(x) => (lender.write(x)?, true),
        };
        let mut request = Request::new::<T>(input, lender.targets(&target)?, shape);
        request.grad_input = if in_place { Some(input) } else { grad.as_mut().map(|g| lender.write(g)).transpose()? };
        request.in_place = in_place;
        request.weight = weight.as_ref().map(|(w, kind)| lender.read(w).map(kind)).transpose()?;
        request.class_weight = class_weight.as_ref().map(|w| lender.read(w)).transpose()?;
        request.grad_target = grad_target.as_mut().map(|g| lender.write(g)).transpose()?;
        request.terms = terms.as_mut().map(|t| lender.write(t)).transpose()?;
        request.third = third.as_ref().map(|x| lender.read(x)).transpose()?;
        request.grad_third = grad_third.as_mut().map(|g| lender.write(g)).transpose()?;
        request.report = Report {
            log_prob: report.log_prob.as_mut().map(|x| lender.write(x)).transpose()?,
            entropy: report.entropy.as_mut().map(|x| lender.write(x)).transpose()?,
            lse: report.lse.as_mut().map(|x| lender.write(x)).transpose()?,
            hit: report.hit.as_mut().map(|x| lender.write(x)).transpose()?,
            argmax: report.argmax.as_mut().map(|x| lender.write(x)).transpose()?,
        };
        request.accumulate = accumulate;
        request.grad_output = lender.scalar(&grad_output)?;
        request.output = outputs.lend(&mut lender, &denominator, L::NAME)?;
        then(&loss, request)
    }
}

impl<'a, T: Element, I> CudaCall<'a, CrossEntropy, T, I> {
    report_methods!(impl Into<DeviceMut<'a, f32>>, impl Into<DeviceMut<'a, i64>>);

    fn report(&mut self) -> &mut Report<DeviceMut<'a, f32>, DeviceMut<'a, i64>> {
        &mut self.report
    }
}

impl<'d> OnCuda<'d, CrossEntropy> {
    /// The log-probability of each row's target into `log_prob`, and nothing else. See
    /// [`CrossEntropy::log_probs`](crate::CrossEntropy::log_probs).
    pub fn log_probs<'a, T: Element>(
        &self,
        input: impl Into<DeviceRef<'a, T>>,
        target: impl Into<DeviceTarget<'a, T>>,
        shape: impl Into<Shape>,
        log_prob: impl Into<DeviceMut<'a, f32>>,
    ) -> Result<()>
    where
        'd: 'a,
    {
        let call = self.call(input, target, shape).log_prob(log_prob);
        call.apart(None, Outputs::Unreduced { losses: None, grad_output: None })
    }
}

//! A call of the case table on a GPU: buffers are copied there and back, at the alignment that they have here, between canaries.

use std::io::Write;
use std::sync::OnceLock;

use fused_loss::cudarc::driver::{CudaSlice, DeviceRepr, ValidAsZeroBits};
use fused_loss::{Cuda, DeviceMut, DeviceRef, DeviceTarget, Element, Loss, Reduction, Result, Target, launch};

use super::Case;
use super::job::{AnyLoss, Apply, Job, Verb, Weight};

/// The handle of the first GPU. Where it cannot be had this says so, once, or fails if there must be one.
pub fn cuda() -> Option<&'static Cuda> {
    static CUDA: OnceLock<Option<Cuda>> = OnceLock::new();
    let cuda = CUDA.get_or_init(|| match Cuda::device(0) {
        Ok(cuda) => Some(cuda),
        Err(why) => {
            // Not by a macro, whose output passing tests keep to themselves.
            let _ = writeln!(std::io::stderr(), "\nSKIPPED, the tests on a GPU: {why}");
            None
        }
    });
    let required = std::env::var("FUSED_LOSS_REQUIRE_GPU").is_ok_and(|v| v == "1");
    assert!(cuda.is_some() || !required, "FUSED_LOSS_REQUIRE_GPU is 1: {}", Cuda::device(0).unwrap_err());
    cuda.as_ref()
}

/// Whether a GPU can run a case: for a loss that the user wrote it takes NVRTC. Where that is missing this says so, once, or fails if
/// there must be one.
pub fn can(case: &Case) -> bool {
    !case.name.starts_with("custom") || nvrtc()
}

/// Whether there is NVRTC.
pub fn nvrtc() -> bool {
    static NVRTC: OnceLock<bool> = OnceLock::new();
    *NVRTC.get_or_init(|| {
        let version = launch::nvrtc();
        if let Err(why) = &version {
            let required = std::env::var("FUSED_LOSS_REQUIRE_NVRTC").is_ok_and(|v| v == "1");
            assert!(!required, "FUSED_LOSS_REQUIRE_NVRTC is 1: {why}");
            let _ = writeln!(std::io::stderr(), "\nSKIPPED, custom losses on a GPU: {why}");
        }
        version.is_ok()
    })
}

/// Elements behind a buffer that nobody may write.
const AFTER: usize = 9;

/// A copy of a host buffer, at the same place between two 16-byte boundaries.
pub struct Copied<X> {
    data: CudaSlice<X>,
    before: usize,
    len: usize,
}

impl<X: DeviceRepr + ValidAsZeroBits + Copy + Default> Copied<X> {
    pub fn new(cuda: &Cuda, x: &[X]) -> Self {
        let before = x.as_ptr() as usize % 16 / size_of::<X>();
        let mut data = cuda.stream().alloc_zeros(before + x.len() + AFTER).unwrap();
        if !x.is_empty() {
            cuda.stream().memcpy_htod(x, &mut data.slice_mut(before..before + x.len())).unwrap();
        }
        Copied { data, before, len: x.len() }
    }

    pub fn get(&self) -> DeviceRef<'_, X> {
        self.data.slice(self.before..self.before + self.len).into()
    }

    pub fn get_mut(&mut self) -> DeviceMut<'_, X> {
        self.data.slice_mut(self.before..self.before + self.len).into()
    }

    /// Copies it back; nothing around it may have changed.
    pub fn back(&self, cuda: &Cuda, x: &mut [X]) {
        let all = cuda.stream().clone_dtoh(&self.data).unwrap();
        cuda.stream().synchronize().unwrap();
        let bytes = |x: &X| {
            // SAFETY: a number is bytes.
            unsafe { std::slice::from_raw_parts((&raw const *x).cast::<u8>(), size_of::<X>()) }.to_vec()
        };
        let (before, rest) = all.split_at(self.before);
        let (here, after) = rest.split_at(self.len);
        let live = before.iter().chain(after).all(|x| bytes(x).iter().all(|&b| b == 0));
        assert!(live, "wrote outside a buffer");
        x.copy_from_slice(here);
    }
}

/// Owned targets on the GPU.
pub enum Targets<T> {
    Nothing,
    Dense(Copied<T>),
    I64(Copied<i64>),
    I32(Copied<i32>),
    U32(Copied<u32>),
    U8(Copied<u8>),
}

impl<T: Element> Targets<T> {
    pub fn new(cuda: &Cuda, target: Target<'_, T>) -> Self {
        match target {
            Target::Nothing => Targets::Nothing,
            Target::Dense(t) => Targets::Dense(Copied::new(cuda, t)),
            Target::I64(t) => Targets::I64(Copied::new(cuda, t)),
            Target::I32(t) => Targets::I32(Copied::new(cuda, t)),
            Target::U32(t) => Targets::U32(Copied::new(cuda, t)),
            Target::U8(t) => Targets::U8(Copied::new(cuda, t)),
            _ => unreachable!(),
        }
    }

    pub fn get(&self) -> DeviceTarget<'_, T> {
        match self {
            Targets::Nothing => DeviceTarget::Nothing,
            Targets::Dense(t) => t.get().into(),
            Targets::I64(t) => t.get().into(),
            Targets::I32(t) => t.get().into(),
            Targets::U32(t) => t.get().into(),
            Targets::U8(t) => t.get().into(),
        }
    }
}

/// Runs a call on the first GPU.
pub fn run<T: Element>(loss: AnyLoss, job: Job<'_, T>) -> Result<f32> {
    loss.apply(OnGpu(job))
}

struct OnGpu<'a, T>(Job<'a, T>);

impl<T: Element> Apply for OnGpu<'_, T> {
    fn to<L: Loss>(self, loss: L) -> Result<f32> {
        let cuda = cuda().expect("whoever comes here has asked");
        let Job { input, target, shape, weight, class_weight, grad_output, accumulate, grad_target, .. } = self.0;
        let Job { third, grad_third, verb, .. } = self.0;
        let target = Targets::new(cuda, target);
        let (weights, per_sample) = match weight {
            Weight::None => (None, false),
            Weight::PerElement(w) => (Some(Copied::new(cuda, w)), false),
            Weight::PerSample(w) => (Some(Copied::new(cuda, w)), true),
        };
        let class_weight = class_weight.map(|w| Copied::new(cuda, w));
        let mut target_grad = grad_target.as_deref().map(|g| Copied::new(cuda, g));
        let third = third.map(|x| Copied::new(cuda, x));
        let mut third_grad = grad_third.as_deref().map(|g| Copied::new(cuda, g));
        let scale = Copied::new(cuda, &[grad_output]);
        let asked = match &verb {
            Verb::Forward(r) | Verb::ForwardBackward(r, _) | Verb::Backward(r, _) | Verb::InPlace(r, _) => Some(*r),
            _ => None,
        };
        let has_value = asked.is_some() && !matches!(verb, Verb::Backward(..));
        let mut value = Copied::new(cuda, &[if has_value { f32::NAN } else { 0.0 }]);
        // A number is the host's or the device's, alike in all ways of calling, which must give the same bits.
        let elements = match &verb {
            Verb::InPlace(_, buffer) | Verb::InPlaceUnreduced { buffer, .. } => buffer.len(),
            _ => input.len(),
        };
        let on_device = elements % 2 == 1;
        let (divisor, reduction) = match asked {
            Some(Reduction::SumOver(d)) if on_device => (Some(Copied::new(cuda, &[d as f32])), Reduction::Sum),
            asked => (None, asked.unwrap_or_default()),
        };
        macro_rules! extended {
            ($call:expr) => {{
                let mut call = $call;
                call = if on_device { call.grad_output(scale.get()) } else { call.grad_output(grad_output) };
                if let Some(w) = &weights {
                    call = if per_sample { call.sample_weight(w.get()) } else { call.weight(w.get()) };
                }
                if let Some(w) = &class_weight {
                    call = call.class_weight(w.get());
                }
                if accumulate {
                    call = call.accumulate();
                }
                if let Some(d) = &divisor {
                    call = call.denominator(d.get());
                }
                if let Some(g) = &mut target_grad {
                    call = call.grad_target(g.get_mut());
                }
                if let Some(x) = &third {
                    call = call.third(x.get());
                }
                if let Some(g) = &mut third_grad {
                    call = call.grad_third(g.get_mut());
                }
                call
            }};
        }
        let (mut losses_back, mut grad_back) = (None, None);
        match verb {
            Verb::InPlace(_, buffer) => {
                let mut both = Copied::new(cuda, buffer);
                let call = launch::call_in_place(cuda, loss, both.get_mut(), target.get(), shape);
                extended!(call).forward_backward(reduction, value.get_mut())?;
                grad_back = Some((both, buffer));
            }
            Verb::InPlaceUnreduced { grad_output, losses, buffer } => {
                let (mut both, mut values) = (Copied::new(cuda, buffer), Copied::new(cuda, losses));
                let above = Copied::new(cuda, grad_output);
                let call = launch::call_in_place(cuda, loss, both.get_mut(), target.get(), shape);
                extended!(call).forward_backward_unreduced(above.get(), values.get_mut())?;
                (grad_back, losses_back) = (Some((both, buffer)), Some((values, losses)));
            }
            verb => {
                let input = Copied::new(cuda, input);
                let call = extended!(launch::call(cuda, loss, input.get(), target.get(), shape));
                match verb {
                    Verb::Forward(_) => call.forward(reduction, value.get_mut())?,
                    Verb::ForwardBackward(_, grad) => {
                        let mut written = Copied::new(cuda, grad);
                        call.forward_backward(reduction, value.get_mut(), written.get_mut())?;
                        grad_back = Some((written, grad));
                    }
                    Verb::Backward(_, grad) => {
                        let mut written = Copied::new(cuda, grad);
                        call.backward(reduction, written.get_mut())?;
                        grad_back = Some((written, grad));
                    }
                    Verb::ForwardUnreduced { losses } => {
                        let mut values = Copied::new(cuda, losses);
                        call.forward_unreduced(values.get_mut())?;
                        losses_back = Some((values, losses));
                    }
                    Verb::ForwardBackwardUnreduced { grad_output, losses, grad } => {
                        let (mut values, mut written) = (Copied::new(cuda, losses), Copied::new(cuda, grad));
                        let above = Copied::new(cuda, grad_output);
                        call.forward_backward_unreduced(above.get(), values.get_mut(), written.get_mut())?;
                        (grad_back, losses_back) = (Some((written, grad)), Some((values, losses)));
                    }
                    Verb::BackwardUnreduced { grad_output, grad } => {
                        let (above, mut written) = (Copied::new(cuda, grad_output), Copied::new(cuda, grad));
                        call.backward_unreduced(above.get(), written.get_mut())?;
                        grad_back = Some((written, grad));
                    }
                    Verb::InPlace(..) | Verb::InPlaceUnreduced { .. } => unreachable!("they have been run"),
                }
            }
        }
        cuda.check()?;
        if let Some((from, to)) = losses_back {
            from.back(cuda, to);
        }
        if let Some((from, to)) = grad_back {
            from.back(cuda, to);
        }
        if let (Some(from), Some(to)) = (target_grad, grad_target) {
            from.back(cuda, to);
        }
        if let (Some(from), Some(to)) = (third_grad, grad_third) {
            from.back(cuda, to);
        }
        let mut read = [0.0];
        value.back(cuda, &mut read);
        Ok(read[0])
    }
}

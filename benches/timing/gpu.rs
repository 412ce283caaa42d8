//! Turns on a GPU, by events on the stream: the host's clock would also count how long a launch takes to get there.
//!
//! Before each half of a turn a buffer twice as large as the L2 cache is written, so that the numbers come from memory, as they do
//! between the layers of a network. While the GPU does that, the host has time to enqueue what follows, so that no launch is waited for
//! between two events.

use std::time::Duration;

use fused_loss::cudarc::driver::sys::{CUdevice_attribute, CUevent_flags};
use fused_loss::cudarc::driver::{CudaEvent, CudaSlice, DeviceRepr, DriverError, ValidAsZeroBits};
use fused_loss::launch::{self, Launch, Memory, Output, Params, Request, params::LaunchArgs, plan};
use fused_loss::{Cuda, Element, Loss, Reduction, Result as LossResult, Shape};

use super::cases::Case;
use super::cases::draw::{Labels, Problem};
use super::cases::gpu::{Copied, Targets};
use super::cases::job::Apply;
use super::{Timed, Turn, memory};

/// Turns that are enqueued before the host waits.
const AT_ONCE: usize = 8;

pub struct Gpu<'a, T> {
    cuda: &'a Cuda,
    case: &'a Case,
    shape: Option<Shape>,
    input: CudaSlice<T>,
    targets: Targets<T>,
    class_weight: Option<Copied<f32>>,
    grad: CudaSlice<T>,
    value: CudaSlice<f32>,
    flush: CudaSlice<u8>,
    /// The two ends of each half of a turn.
    events: Vec<[CudaEvent; 4]>,
    needs: Needs,
}

/// As cudarc's errors print themselves by asking the driver.
fn failed(error: DriverError) -> String {
    format!("{:?}", error.0)
}

impl<'a, T: Element + DeviceRepr + ValidAsZeroBits> Gpu<'a, T> {
    pub fn new(cuda: &'a Cuda, case: &'a Case, problem: &Problem<T>) -> Result<Self, String> {
        let (stream, context) = (cuda.stream(), cuda.stream().context());
        let l2 = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(failed)?;
        let flush = 2 * l2.max(1 << 20) as usize;
        let targets = match &problem.labels {
            Labels::Nothing => 0,
            Labels::Dense(t) => size_of_val(&t[..]),
            Labels::I64(t) => size_of_val(&t[..]),
            _ => unreachable!("indices have been made i64"),
        };
        let (free, _) = context.mem_get_info().map_err(failed)?;
        let bytes = 2 * size_of_val(&problem.input[..]) + targets + flush + (64 << 20);
        memory::check(bytes, Some(free), "the GPU's memory")?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let events = (0..AT_ONCE).map(|_| Ok([event()?, event()?, event()?, event()?]));
        let shape = problem.shape(case);
        Ok(Gpu {
            cuda,
            case,
            shape,
            input: stream.clone_htod(&problem.input).map_err(failed)?,
            targets: Targets::new(cuda, problem.labels.target()),
            class_weight: problem.class_weight.as_deref().map(|w| Copied::new(cuda, w)),
            grad: stream.alloc_zeros(problem.input.len()).map_err(failed)?,
            value: stream.alloc_zeros(1).map_err(failed)?,
            flush: stream.alloc_zeros(flush).map_err(failed)?,
            events: events.collect::<Result<_, _>>().map_err(failed)?,
            needs: Needs::of(case, problem).map_err(|error| format!("{}: {error}", case.name))?,
        })
    }

    /// Enqueues a call.
    fn call(&mut self) -> Result<(), String> {
        let (case, loss) = (self.case, self.case.loss);
        loss.apply(OneCall(self)).map(|_| ()).map_err(|error| format!("{}: {error}", case.name))
    }

    /// Value and gradient.
    pub fn answer(&mut self) -> Result<(f32, Vec<T>), String> {
        self.call()?;
        self.cuda.check().map_err(|error| error.to_string())?;
        let value = self.cuda.stream().clone_dtoh(&self.value).map_err(failed)?;
        let grad = self.cuda.stream().clone_dtoh(&self.grad).map_err(failed)?;
        self.cuda.stream().synchronize().map_err(failed)?;
        Ok((value[0], grad))
    }

    fn enqueue(&mut self, turn: usize) -> Result<(), String> {
        let cuda = self.cuda;
        let stream = cuda.stream();
        let record = |gpu: &Self, event: usize| gpu.events[turn][event].record(stream).map_err(failed);
        stream.memset_zeros(&mut self.flush).map_err(failed)?;
        record(self, 0)?;
        self.call()?;
        record(self, 1)?;
        stream.memset_zeros(&mut self.flush).map_err(failed)?;
        record(self, 2)?;
        stream.memcpy_dtod(&self.input, &mut self.grad).map_err(failed)?;
        record(self, 3)
    }
}

impl<T: Element + DeviceRepr + ValidAsZeroBits> Timed for Gpu<'_, T> {
    fn turns(&mut self, turns: usize) -> Result<Vec<Turn>, String> {
        let mut taken = Vec::with_capacity(turns);
        while taken.len() < turns {
            let now = AT_ONCE.min(turns - taken.len());
            for turn in 0..now {
                self.enqueue(turn)?;
            }
            for [start, end, copy_start, copy_end] in &self.events[..now] {
                // This waits for both.
                let between = |a: &CudaEvent, b| a.elapsed_ms(b).map(|ms| Duration::from_secs_f64(f64::from(ms) / 1e3));
                let loss = between(start, end).map_err(failed)?;
                taken.push(Turn { loss, copy: between(copy_start, copy_end).map_err(failed)? });
            }
        }
        Ok(taken)
    }

    fn memory(&mut self) -> Result<usize, String> {
        Ok(plan::WORKSPACE_BYTES + self.needs.scratch)
    }

    fn launches(&self) -> Option<usize> {
        Some(self.needs.launches)
    }
}

struct OneCall<'g, 'a, T>(&'g mut Gpu<'a, T>);

impl<T: Element + DeviceRepr + ValidAsZeroBits> Apply for OneCall<'_, '_, T> {
    fn to<L: Loss>(self, loss: L) -> LossResult<f32> {
        let Gpu { cuda, shape, input, targets, class_weight, grad, value, .. } = self.0;
        let mut call = launch::call(cuda, loss, (&*input).into(), targets.get(), *shape).grad_output(0.5);
        if let Some(weight) = class_weight {
            call = call.class_weight(weight.get());
        }
        call.forward_backward(Reduction::Mean, value, grad).map(|()| 0.0)
    }
}

/// What a call launches and the scratch memory that it asks for, found out by a launcher that only counts.
#[derive(Default)]
struct Needs {
    launches: usize,
    scratch: usize,
}

impl Needs {
    fn of<T: Element>(case: &Case, problem: &Problem<T>) -> LossResult<Self> {
        let mut needs = Needs::default();
        case.loss.apply(Counted { case, problem, needs: &mut needs })?;
        Ok(needs)
    }
}

impl Launch for Needs {
    fn limits(&self) -> plan::Limits {
        plan::Limits { shared: 48 << 10, cluster: 1 }
    }

    fn workspace(&self) -> u64 {
        0
    }

    fn scratch(&mut self, bytes: u64) -> LossResult<u64> {
        self.scratch = self.scratch.max(bytes as usize);
        Ok(0)
    }

    unsafe fn launch(&mut self, _: &str, _: &str, _: &plan::Plan, _: &LaunchArgs, _: &Params) -> LossResult<()> {
        self.launches += 1;
        Ok(())
    }
}

struct Counted<'a, T> {
    case: &'a Case,
    problem: &'a Problem<T>,
    needs: &'a mut Needs,
}

impl<T: Element> Apply for Counted<'_, T> {
    fn to<L: Loss>(self, loss: L) -> LossResult<f32> {
        let Counted { case, problem, needs } = self;
        let input = Memory { address: problem.input.as_ptr() as u64, len: problem.input.len() };
        let targets = match &problem.labels {
            Labels::Dense(t) => launch::Targets::Dense(Memory { address: t.as_ptr() as u64, len: t.len() }),
            Labels::I64(t) => launch::Targets::I64(Memory { address: t.as_ptr() as u64, len: t.len() }),
            _ => launch::Targets::Nothing,
        };
        let mut request = Request::new::<T>(input, targets, problem.shape(case));
        let weight = problem.class_weight.as_deref();
        request.class_weight = weight.map(|w| Memory { address: w.as_ptr() as u64, len: w.len() });
        request.grad_input = Some(input);
        request.output = Output::Reduced(Reduction::Mean, None);
        // SAFETY: nothing is launched.
        unsafe { launch::run(&loss, &request, needs) }.map(|()| 0.0)
    }
}

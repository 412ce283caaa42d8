//! Turns on a GPU, by events on the stream: the host's clock would also count how long a launch takes to get there.
//!
//! Before each half of a turn a buffer twice as large as the L2 cache is written, so that the numbers come from memory, as they do
//! between the layers of a network. While the GPU does that, the host has time to enqueue what follows, so that no launch is waited for
//! between two events.

use std::sync::Arc;
use std::time::Duration;

use fused_loss::cudarc::driver::sys::{
    CUdevice_attribute, CUevent_flags, CUgraphInstantiate_flags, CUstreamCaptureMode,
};
use fused_loss::cudarc::driver::{
    CudaEvent, CudaSlice, CudaStream, DeviceRepr, DriverError, LaunchConfig, ValidAsZeroBits,
};
use fused_loss::cudarc::nvrtc::Ptx;
use fused_loss::launch::{self, Launch, Memory, Output, Params, Request, params::LaunchArgs, plan};
use fused_loss::{CrossEntropy, Cuda, DeviceTarget, Element, Loss, Reduction, Result as LossResult, Shape};

use super::cases::Case;
use super::cases::draw::{Dims, Labels, Problem};
use super::cases::job::{AnyLoss, Apply};
use super::problem::Repeat;
use super::{Timed, Turn, list, memory};

/// Turns that are enqueued before the host waits.
const AT_ONCE: usize = 8;

pub struct Gpu<'a, T> {
    cuda: &'a Cuda,
    case: &'a Case,
    shape: Option<Shape>,
    input: CudaSlice<T>,
    targets: Targets<T>,
    class_weight: Option<CudaSlice<f32>>,
    third: Option<CudaSlice<T>>,
    grad: CudaSlice<T>,
    value: CudaSlice<f32>,
    /// Log-probability, entropy, log-sum-exp and hit of each row one after the other, and its class, of a call that reports.
    reported: Option<(CudaSlice<f32>, CudaSlice<i64>)>,
    flush: CudaSlice<u8>,
    /// The two ends of each half of a turn.
    events: Vec<[CudaEvent; 4]>,
    needs: Needs,
}

enum Targets<T> {
    Nothing,
    Dense(CudaSlice<T>),
    I64(CudaSlice<i64>),
}

/// As cudarc's errors print themselves by asking the driver.
fn failed(error: DriverError) -> String {
    format!("{:?}", error.0)
}

/// What is repeated, over and over on the GPU: gigabytes need not come from the host.
fn repeated<X: DeviceRepr + ValidAsZeroBits>(
    stream: &Arc<CudaStream>,
    small: &[X],
    repeat: Repeat,
) -> Result<CudaSlice<X>, DriverError> {
    let mut to = stream.alloc_zeros(repeat.total)?;
    let runs: Vec<&[X]> = small.chunks(repeat.run.max(1)).collect();
    for (start, run) in (0..repeat.total).step_by(repeat.full.max(1)).zip(runs.iter().cycle()) {
        let full = repeat.full.min(repeat.total - start);
        let mut there = run.len().min(full);
        stream.memcpy_htod(&run[..there], &mut to.slice_mut(start..start + there))?;
        while there < full {
            let more = there.min(full - there);
            let (before, mut after) = to.split_at_mut(start + there);
            stream.memcpy_dtod(&before.slice(start..start + more), &mut after.slice_mut(..more))?;
            there += more;
        }
    }
    Ok(to)
}

impl<'a, T: Element + DeviceRepr + ValidAsZeroBits> Gpu<'a, T> {
    /// The problem repeated up to the full size.
    pub fn new(cuda: &'a Cuda, case: &'a Case, small: &Problem<T>, dims: Dims) -> Result<Self, String> {
        let (stream, context) = (cuda.stream(), cuda.stream().context());
        let l2 = context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE).map_err(failed)?;
        let flush = 2 * l2.max(1 << 20) as usize;
        let (free, _) = context.mem_get_info().map_err(failed)?;
        let bytes = list::fewest_bytes(case, dims, size_of::<T>()) + flush + (64 << 20);
        memory::check(bytes, Some(free), "the GPU's memory")?;
        let event = || context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        let events = (0..AT_ONCE).map(|_| Ok([event()?, event()?, event()?, event()?]));
        let (elements, rows) = (Repeat::of_elements(small.dims, dims), Repeat::of_rows(small.dims, dims));
        let targets = match &small.labels {
            Labels::Nothing => Ok(Targets::Nothing),
            Labels::Dense(t) => repeated(stream, t, elements).map(Targets::Dense),
            Labels::I64(t) => repeated(stream, t, rows).map(Targets::I64),
            _ => unreachable!("indices have been made i64"),
        };
        let class_weight = small.class_weight.as_deref().map(|w| stream.clone_htod(w)).transpose();
        let of_third = |len| Repeat::of_third(len, small.dims, dims);
        let third = small.third.as_deref().map(|x| repeated(stream, x, of_third(x.len()))).transpose();
        Ok(Gpu {
            cuda,
            case,
            shape: small.shape(case).map(|_| dims.shape()),
            input: repeated(stream, &small.input, elements).map_err(failed)?,
            targets: targets.map_err(failed)?,
            class_weight: class_weight.map_err(failed)?,
            third: third.map_err(failed)?,
            grad: stream.alloc_zeros(dims.elements()).map_err(failed)?,
            value: stream.alloc_zeros(1).map_err(failed)?,
            reported: match list::reported(case) {
                0 => None,
                _ => {
                    let floats = stream.alloc_zeros(4 * dims.rows()).map_err(failed)?;
                    Some((floats, stream.alloc_zeros(dims.rows()).map_err(failed)?))
                }
            },
            flush: stream.alloc_zeros(flush).map_err(failed)?,
            events: events.collect::<Result<_, _>>().map_err(failed)?,
            needs: Needs::of(case, small, dims).map_err(|error| format!("{}: {error}", case.name))?,
        })
    }

    /// Enqueues a call.
    fn call(&mut self) -> Result<(), String> {
        let (case, loss) = (self.case, self.case.loss);
        let called = match loss {
            AnyLoss::CrossEntropy(loss) if self.reported.is_some() => self.reporting(loss),
            _ => loss.apply(OneCall(self)).map(|_| ()),
        };
        called.map_err(|error| format!("{}: {error}", case.name))
    }

    fn reporting(&mut self, loss: CrossEntropy) -> LossResult<()> {
        let Gpu { cuda, shape, input, targets, grad, value, reported, .. } = self;
        let (Targets::I64(target), Some((floats, argmax))) = (&*targets, reported) else {
            unreachable!("what reports has class indices");
        };
        let rows = argmax.len();
        let (mut half, mut rest) = floats.split_at_mut(2 * rows);
        let (mut log_prob, mut entropy) = half.split_at_mut(rows);
        let (mut lse, mut hit) = rest.split_at_mut(rows);
        let call = launch::call(cuda, loss, (&*input).into(), target.into(), *shape).grad_output(0.5);
        let call = call.log_prob(&mut log_prob).entropy(&mut entropy).lse(&mut lse).hit(&mut hit);
        call.argmax(argmax).forward_backward(Reduction::Mean, value, grad)
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

/// Calls of a graph.
const CAPTURED: usize = 256;
/// A kernel that does nothing.
const EMPTY: &str = ".version 6.3\n.target sm_75\n.address_size 64\n.visible .entry empty()\n{\nret;\n}\n";

/// How long a call takes inside a CUDA graph of many, and how long a kernel that does nothing takes in its place.
pub fn in_graph<T: Element + DeviceRepr + ValidAsZeroBits>(
    cuda: &Cuda,
    case: &Case,
    small: &Problem<T>,
    dims: Dims,
) -> Result<[Duration; 2], String> {
    let context = cuda.stream().context();
    // The default stream cannot be captured.
    let stream = context.new_stream().map_err(failed)?;
    let cuda = Cuda::new(&stream).map_err(|error| error.to_string())?;
    let mut gpu = Gpu::new(&cuda, case, small, dims)?;
    let module = context.load_module(Ptx::from_src(EMPTY)).map_err(failed)?;
    let empty = module.load_function("empty").map_err(failed)?;
    let config = LaunchConfig { grid_dim: (1, 1, 1), block_dim: (32, 1, 1), shared_mem_bytes: 0 };
    // SAFETY: it takes no arguments and touches nothing.
    let nothing = || unsafe { stream.launch_builder(&empty).launch(config) }.map(drop).map_err(failed);
    // Loads what is to be loaded.
    gpu.call()?;
    nothing()?;
    stream.synchronize().map_err(failed)?;
    let time = |call: &mut dyn FnMut() -> Result<(), String>| {
        let mode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        stream.begin_capture(mode).map_err(failed)?;
        (0..CAPTURED).try_for_each(|_| call())?;
        let flags = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
        let graph = stream.end_capture(flags).map_err(failed)?.ok_or("nothing was captured")?;
        let [start, end] = &mut [(); 2].map(|()| context.new_event(Some(CUevent_flags::CU_EVENT_DEFAULT)));
        let (start, end) = (start.as_ref().map_err(|e| failed(*e))?, end.as_ref().map_err(|e| failed(*e))?);
        let mut taken = Vec::new();
        for _ in 0..11 {
            start.record(&stream).map_err(failed)?;
            graph.launch().map_err(failed)?;
            end.record(&stream).map_err(failed)?;
            taken.push(start.elapsed_ms(end).map_err(failed)?);
        }
        taken.sort_by(f32::total_cmp);
        Ok::<_, String>(Duration::from_secs_f64(f64::from(taken[5]) / 1e3 / CAPTURED as f64))
    };
    Ok([time(&mut || gpu.call())?, time(&mut || nothing())?])
}

struct OneCall<'g, 'a, T>(&'g mut Gpu<'a, T>);

impl<T: Element + DeviceRepr + ValidAsZeroBits> Apply for OneCall<'_, '_, T> {
    fn to<L: Loss>(self, loss: L) -> LossResult<f32> {
        let Gpu { cuda, shape, input, targets, class_weight, third, grad, value, .. } = self.0;
        let target = match targets {
            Targets::Nothing => DeviceTarget::Nothing,
            Targets::Dense(t) => (&*t).into(),
            Targets::I64(t) => (&*t).into(),
        };
        let mut call = launch::call(cuda, loss, (&*input).into(), target, *shape).grad_output(0.5);
        if let Some(weight) = class_weight {
            call = call.class_weight(&*weight);
        }
        if let Some(third) = third {
            call = call.third(&*third);
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
    fn of<T: Element>(case: &Case, small: &Problem<T>, dims: Dims) -> LossResult<Self> {
        let mut needs = Needs::default();
        case.loss.apply(Counted { case, small, dims, needs: &mut needs })?;
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
    small: &'a Problem<T>,
    dims: Dims,
    needs: &'a mut Needs,
}

impl<T: Element> Apply for Counted<'_, T> {
    fn to<L: Loss>(self, loss: L) -> LossResult<f32> {
        let Counted { case, small, dims, needs } = self;
        // Nothing looks at what is there.
        let memory = |address: u64, len| Memory { address, len };
        let input = memory(small.input.as_ptr() as u64, dims.elements());
        let targets = match &small.labels {
            Labels::Dense(t) => launch::Targets::Dense(memory(t.as_ptr() as u64, dims.elements())),
            Labels::I64(t) => launch::Targets::I64(memory(t.as_ptr() as u64, dims.rows())),
            _ => launch::Targets::Nothing,
        };
        let mut request = Request::new::<T>(input, targets, small.shape(case).map(|_| dims.shape()));
        request.class_weight = small.class_weight.as_deref().map(|w| memory(w.as_ptr() as u64, w.len()));
        let of_third = case.third.as_ref().map_or(0, |third| third.len(dims));
        request.third = small.third.as_deref().map(|x| memory(x.as_ptr() as u64, of_third));
        request.grad_input = Some(input);
        request.output = Output::Reduced(Reduction::Mean, None);
        if list::reported(case) > 0 {
            let rows = || Some(memory(small.input.as_ptr() as u64, dims.rows()));
            request.report =
                launch::Report { log_prob: rows(), entropy: rows(), lse: rows(), hit: rows(), argmax: rows() };
        }
        // SAFETY: nothing is launched.
        unsafe { launch::run(&loss, &request, needs) }.map(|()| 0.0)
    }
}

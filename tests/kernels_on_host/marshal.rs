//! Launches of the crate's host side, executed on the host: buffers of the case table stand in for a GPU's memory.

use std::cell::RefCell;
use std::ffi::c_void;

use fused_loss::launch::{self, Launch, Memory, Output, Params, Request, Scalar, Targets};
use fused_loss::parallel::Communicator;
use fused_loss::{Element, Loss, Reduction, Result, Target};

use super::cases::job::{AnyLoss, Job, Verb, Weight};
use super::host_exec::Host;
use super::params::*;
use super::plan::{Limits, Plan, WORKSPACE_BYTES};
use super::trace;

thread_local! {
    /// The order of threads: a new one for every call.
    static TURN: RefCell<u64> = const { RefCell::new(0) };
}

/// Machines without much shared memory, without clusters, and with both; and chips so small that short rows take the ways of long
/// ones.
const LIMITS: [Limits; 5] = [
    Limits { shared: 96 << 10, cluster: 1 },
    Limits { shared: 224 << 10, cluster: 8 },
    Limits { shared: 1 << 10, cluster: 1 },
    Limits { shared: 2 << 10, cluster: 8 },
    Limits { shared: 4 << 10, cluster: 2 },
];

/// The runtime as what launches kernels.
pub struct OnHost {
    turn: u64,
    limits: Limits,
    workspace: Vec<u64>,
    scratch: Vec<u64>,
    /// The bytes of the buffers.
    pub sizes: trace::Buffers,
    /// Blocks of 32 threads, and no shared memory.
    small_blocks: bool,
    /// Softmax regions have the tiles of images that are too large to be executed here: several steps of a block.
    long_tiles: bool,
}

impl OnHost {
    /// `machine` picks what it can hold on the chip. All ways of one call must have the same: they must give the same bits.
    pub fn new(machine: usize, sizes: trace::Buffers) -> Self {
        let turn = TURN.with_borrow_mut(|turn| {
            *turn += 1;
            *turn
        });
        let workspace = vec![0; WORKSPACE_BYTES / 8];
        OnHost {
            turn,
            limits: LIMITS[machine % LIMITS.len()],
            workspace,
            scratch: Vec::new(),
            sizes,
            small_blocks: false,
            long_tiles: machine % 2 == 1,
        }
    }

    /// The error word; and nothing else is left behind for the next launch.
    pub fn finish(self) -> u64 {
        let head = &self.workspace[..size_of::<Workspace>() / 8];
        assert!(head.iter().enumerate().all(|(i, &w)| w == 0 || i <= 1), "{head:x?}");
        head[0]
    }
}

impl Launch for OnHost {
    fn limits(&self) -> Limits {
        self.limits
    }

    fn workspace(&self) -> u64 {
        self.workspace.as_ptr() as u64
    }

    fn scratch(&mut self, bytes: u64) -> Result<u64> {
        self.scratch = vec![u64::MAX; bytes as usize / 8];
        self.sizes.scratch = bytes as usize;
        Ok(self.scratch.as_mut_ptr() as u64)
    }

    /// By turns: a sum has the same bits by kernels of its own and by those of any sum.
    fn has_sum(&mut self, file: &str) -> bool {
        self.turn.is_multiple_of(2) && super::cases::custom::SUMS.contains(&file)
    }

    unsafe fn launch(&mut self, file: &str, name: &str, plan: &Plan, args: &LaunchArgs, params: &Params) -> Result<()> {
        let known = file.starts_with("custom_")
            || super::cases::custom::SUMS.contains(&file)
            || super::host_exec::root().join(format!("kernels/{file}.cu")).exists();
        assert!(known, "{name} is of no file {file}");
        let (host, mut plan, mut args, mut params) = (Host::get(), *plan, *args, params.bytes().to_vec());
        if self.small_blocks {
            plan = Plan {
                grid: args.losses.div_ceil(32) as u32,
                block: (32, 1),
                tile: 32,
                shared: 0,
                cached: false,
                ..plan
            };
            (args.tile, args.flags) = (32, args.flags & !CACHED);
        }
        let over_channels =
            ["region_softmax", "region_cross_entropy", "region_focal"].iter().any(|kind| name.contains(kind));
        if self.long_tiles && over_channels && args.inner != 0 {
            args.tile *= 8;
            plan.grid = (args.elements / (args.classes * args.inner) * args.inner.div_ceil(args.tile)).max(1) as u32;
        }
        let plan = &plan;
        host.order(self.turn % 7);
        let record = trace::Record::before(name, plan, &args, &params, &self.sizes);
        let mut pointers = [(&raw mut args).cast::<c_void>(), params.as_mut_ptr().cast()];
        // SAFETY: the caller's promise.
        let result = unsafe { host.launch(name, plan, &mut pointers) };
        result.unwrap_or_else(|e| panic!("{name} {plan:?} {args:?}: {e}"));
        record.finish();
        Ok(())
    }
}

pub fn memory<T>(x: &[T]) -> Memory {
    Memory { address: x.as_ptr() as u64, len: x.len() }
}

/// Of a buffer that is written.
pub fn memory_mut<T>(x: &mut [T]) -> Memory {
    Memory { address: x.as_mut_ptr() as u64, len: x.len() }
}

/// Runs a call by kernels.
pub fn run<T: Element>(loss: AnyLoss, job: Job<'_, T>) -> Result<f32> {
    loss.apply(RunOf(job))
}

struct RunOf<'a, T>(Job<'a, T>);

impl<T: Element> super::cases::job::Apply for RunOf<'_, T> {
    fn to<L: Loss>(self, loss: L) -> Result<f32> {
        run_of(&loss, self.0)
    }
}

/// The targets of a call, and their bytes.
pub fn targets<T>(target: Target<'_, T>) -> (Targets, usize) {
    match target {
        Target::Nothing => (Targets::Nothing, 0),
        Target::Dense(t) => (Targets::Dense(memory(t)), size_of_val(t)),
        Target::I64(t) => (Targets::I64(memory(t)), size_of_val(t)),
        Target::I32(t) => (Targets::I32(memory(t)), size_of_val(t)),
        Target::U32(t) => (Targets::U32(memory(t)), size_of_val(t)),
        Target::U8(t) => (Targets::U8(memory(t)), size_of_val(t)),
        _ => unreachable!(),
    }
}

fn run_of<T: Element>(loss: &impl Loss, job: Job<'_, T>) -> Result<f32> {
    let Job { input, target, shape, weight, class_weight, grad_output, accumulate, grad_target, .. } = job;
    let Job { third, grad_third, verb, .. } = job;
    let mut value = [f32::NAN];
    let mut reduced = |reduction| Output::Reduced(reduction, Some(memory_mut(&mut value)));
    let unreduced = |losses: Option<&mut [f32]>, grad_output: Option<&[f32]>| Output::Unreduced {
        losses: losses.map(memory_mut),
        grad_output: grad_output.map(memory),
    };
    let (output, grad, in_place) = match verb {
        Verb::Forward(r) => (reduced(r), None, false),
        Verb::ForwardBackward(r, g) => (reduced(r), Some(memory_mut(g)), false),
        Verb::Backward(r, g) => (Output::Reduced(r, None), Some(memory_mut(g)), false),
        Verb::ForwardUnreduced { losses } => (unreduced(Some(losses), None), None, false),
        Verb::ForwardBackwardUnreduced { grad_output, losses, grad } => {
            (unreduced(Some(losses), Some(grad_output)), Some(memory_mut(grad)), false)
        }
        Verb::BackwardUnreduced { grad_output, grad } => {
            (unreduced(None, Some(grad_output)), Some(memory_mut(grad)), false)
        }
        Verb::InPlace(r, g) => (reduced(r), Some(memory_mut(g)), true),
        Verb::InPlaceUnreduced { grad_output, losses, buffer } => {
            (unreduced(Some(losses), Some(grad_output)), Some(memory_mut(buffer)), true)
        }
    };
    let input = if in_place { grad.unwrap() } else { memory(input) };
    let (targets, target_bytes) = targets(target);
    let mut request = Request::new::<T>(input, targets, shape);
    request.output = output;
    request.weight = match weight {
        Weight::None => None,
        Weight::PerElement(w) => Some(launch::Weight::PerElement(memory(w))),
        Weight::PerSample(w) => Some(launch::Weight::PerSample(memory(w))),
    };
    request.class_weight = class_weight.map(memory);
    request.accumulate = accumulate;
    request.grad_input = grad;
    request.in_place = in_place;
    request.grad_target = grad_target.map(memory_mut);
    request.third = third.map(memory);
    request.grad_third = grad_third.map(memory_mut);
    // Numbers that a GPU may hold are the host's or the GPU's. Not by turns: all ways of calling must give the same bits.
    let on_device = !input.len.is_multiple_of(2);
    let divisor = match output {
        Output::Reduced(Reduction::SumOver(d), _) => [d as f32],
        _ => [1.0],
    };
    if let (Output::Reduced(Reduction::SumOver(_), value), true) = (output, on_device) {
        request.output = Output::Over(memory(&divisor).address, value);
    }
    let scale = [grad_output];
    request.grad_output = if on_device { Scalar::Device(memory(&scale).address) } else { Scalar::Host(grad_output) };

    let per_loss = match output {
        Output::Unreduced { losses, grad_output } => losses.or(grad_output).map_or(0, |m| 4 * m.len),
        _ => 0,
    };
    let sizes = trace::Buffers {
        input: input.len * size_of::<T>(),
        target: target_bytes,
        third: third.map_or(0, size_of_val),
        class_weight: class_weight.map_or(0, size_of_val),
        weight: match weight {
            Weight::None => 0,
            Weight::PerElement(w) | Weight::PerSample(w) => size_of_val(w),
        },
        per_loss,
        reported: 0,
        scratch: 0,
        terms: 0,
    };
    let mut host = OnHost::new(input.len + input.len / 3, sizes);
    // SAFETY: the buffers are as long as the request says, live longer than this, and those that are written are this function's.
    unsafe { launch::run(loss, &request, &mut host)? };
    host.finish();
    if matches!(output, Output::Reduced(_, Some(_))) { Ok(value[0]) } else { Ok(0.0) }
}

/// A call of the relativistic average: `high`, `low`, their gradients; the value.
pub fn relativistic_average<T: Element>(high: &[T], low: &[T], grads: [&mut [T]; 2], scale: f32, flags: u32) -> f32 {
    let mut value = [f32::NAN];
    let call = launch::Average {
        dtype: launch::Dtype::of::<T>(),
        high: memory(high),
        low: memory(low),
        grads: Some(grads.map(memory_mut)),
        value: Some(memory_mut(&mut value)),
        grad_output: Scalar::Host(scale),
        accumulate: flags & ACCUMULATE != 0,
    };
    let sizes = trace::Buffers { input: size_of_val(high), target: size_of_val(low), ..Default::default() };
    let mut host = OnHost::new(0, sizes);
    // SAFETY: the buffers are as long as that, and live longer than this.
    unsafe { launch::run_average(&call, &mut host).unwrap() };
    assert_eq!(host.finish(), 0);
    value[0]
}

/// NLL by three blocks of 32 threads: few enough for ThreadSanitizer to tell all of them apart.
pub fn few_threads() {
    let (input, target, mut grad, mut value) = ([-0.5f32; 180], [1u8; 90], [f32::NAN; 180], [f32::NAN]);
    let mut request = Request::new::<f32>(memory(&input), Targets::U8(memory(&target)), Some((90, 2).into()));
    request.output = Output::Reduced(Reduction::Sum, Some(memory_mut(&mut value)));
    request.grad_input = Some(memory_mut(&mut grad));
    let mut host = OnHost::new(0, trace::Buffers { input: 720, target: 90, ..Default::default() });
    host.small_blocks = true;
    // SAFETY: the buffers are as long as that, and live longer than this.
    unsafe { launch::run(&fused_loss::Nll::new(), &request, &mut host).unwrap() };
    host.finish();
    assert_eq!(value, [45.0]);
}

/// Cross-entropy of `(rows, classes)`, whatever the indices are: its mean with the gradient, the values of the rows, and the first bad
/// row.
pub fn cross_entropy(
    input: &[f32],
    target: &[i64],
    classes: usize,
    grad: &mut [f32],
    values: &mut [f32],
) -> (f32, Option<u64>) {
    let mut value = [f32::NAN];
    let shape = Some((target.len(), classes).into());
    let mut request = Request::new::<f32>(memory(input), Targets::I64(memory(target)), shape);
    let sizes = trace::Buffers {
        input: size_of_val(input),
        target: size_of_val(target),
        per_loss: 4 * target.len(),
        ..Default::default()
    };
    let outputs = [
        (Output::Reduced(Reduction::Mean, Some(memory_mut(&mut value))), Some(memory_mut(grad))),
        (Output::Unreduced { losses: Some(memory_mut(values)), grad_output: None }, None),
    ];
    let errors = outputs.map(|(output, grad)| {
        (request.output, request.grad_input) = (output, grad);
        let mut host = OnHost::new(0, sizes);
        // SAFETY: the buffers are as long as that, and live longer than this.
        unsafe { launch::run(&fused_loss::CrossEntropy::new(), &request, &mut host).unwrap() };
        host.finish()
    });
    assert_eq!(errors[0], errors[1]);
    (value[0], (errors[0] != 0).then_some(!errors[0]))
}

/// A rank's part of a cross-entropy whose classes ranks share: the logits of its classes, of which `classes` says the first and how many all
/// have, and the weights of classes and rows, if there are any. The value, the gradient over the logits, and the first bad row.
pub fn vocab<T: Element>(
    loss: &fused_loss::CrossEntropy,
    logits: &mut [T],
    target: &[i64],
    classes: [usize; 2],
    [class_weight, weight]: [Option<&[f32]>; 2],
    ranks: &dyn Communicator,
) -> (f32, Option<u64>) {
    let (mut value, rows, bytes) = ([f32::NAN], target.len(), size_of_val(logits));
    let buffer = memory_mut(logits);
    let shape = Some((rows, buffer.len / rows).into());
    let mut request = Request::new::<T>(buffer, Targets::I64(memory(target)), shape);
    request.output = Output::Reduced(Reduction::Mean, Some(memory_mut(&mut value)));
    request.grad_input = Some(buffer);
    request.class_weight = class_weight.map(memory);
    request.weight = weight.map(memory).map(launch::Weight::PerElement);
    let sizes = trace::Buffers {
        input: bytes,
        target: size_of_val(target),
        class_weight: class_weight.map_or(0, size_of_val),
        weight: 4 * rows,
        ..Default::default()
    };
    let reduce = |address: u64, len: usize, op| {
        // SAFETY: on the host an address is one, of so many numbers that nobody else uses.
        ranks.all_reduce(unsafe { std::slice::from_raw_parts_mut(address as *mut f32, len) }, op)
    };
    let mut host = OnHost::new(rows, sizes);
    // SAFETY: the buffers are as long as that, and live longer than this.
    unsafe { launch::run_vocab(loss, &request, classes, &mut host, &reduce).unwrap() };
    let error = host.finish();
    (value[0], (error != 0).then_some(!error))
}

/// Lovász's, whose values and gradients are those of the CPU.
pub fn lovasz<T: Element>(shape: [usize; 3]) {
    let (n, rows) = (shape.iter().product::<usize>(), shape[0] * shape[2]);
    let numbers = |f: &dyn Fn(usize) -> f32| (0..n).map(|i| T::from_f32(f(i))).collect::<Vec<T>>();
    let x = numbers(&|i| ((i * 37) % 101) as f32 / 32.0 - 1.5);
    let masks = numbers(&|i| ((i * 7) % 5 % 2) as f32);
    let classes: Vec<u8> = (0..rows).map(|i| if i % 11 == 0 { 255 } else { (i % shape[1]) as u8 }).collect();
    let (hinge, softmax) = (fused_loss::LovaszHinge::new(), fused_loss::LovaszSoftmax::new().ignore_index(255));
    let mut want = vec![T::from_f32(0.0); n];
    let run = |kernel: &dyn Fn(&Request, &mut OnHost), targets, target, of_cpu: f32, want: &[T]| {
        let (mut value, mut grad) = ([f32::NAN], vec![T::from_f32(f32::NAN); n]);
        let mut request = Request::new::<T>(memory(&x), targets, Some(shape.into()));
        request.output = Output::Reduced(Reduction::Mean, Some(memory_mut(&mut value)));
        request.grad_input = Some(memory_mut(&mut grad));
        let mut host = OnHost::new(0, trace::Buffers { input: size_of_val(&x[..]), target, ..Default::default() });
        kernel(&request, &mut host);
        assert_eq!(host.finish(), 0);
        assert!((value[0] - of_cpu).abs() <= 1e-6 * of_cpu, "{} {of_cpu}", value[0]);
        for (got, want) in grad.iter().zip(want).map(|(g, w)| (g.to_f32(), w.to_f32())) {
            assert!((got - want).abs() <= 1e-6 + want.abs() / 128.0, "{got} {want}");
        }
    };
    let of_cpu = hinge.forward_backward(&x, &masks, shape, Reduction::Mean, &mut want).unwrap();
    // SAFETY, of both: the buffers are as long as the request says, and live longer than this.
    let by = |r: &Request, host: &mut OnHost| unsafe { launch::run(&hinge, r, host).unwrap() };
    run(&by, Targets::Dense(memory(&masks)), size_of_val(&masks[..]), of_cpu, &want);
    let of_cpu = softmax.forward_backward(&x, &classes, shape, Reduction::Mean, &mut want).unwrap();
    let by = |r: &Request, host: &mut OnHost| unsafe { launch::run(&softmax, r, host).unwrap() };
    run(&by, Targets::U8(memory(&classes)), classes.len(), of_cpu, &want);
}

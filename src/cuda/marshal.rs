//! From a call to launches: which kernels, how large, with what. The only place that knows; real launches and those that the tests
//! execute on the host both come from here.

use super::kernel::{Family, Kernel, Params};
use super::params::*;
use super::plan::{self, Limits, Plan};
use super::request::{Average, Dtype, Memory, Output, Request, Sizes, Targets};
use super::sums;
use crate::error::{Error, Result, check_len};
use crate::reduction::Reduction;
use crate::third::ThirdOf;

/// What launches kernels: a GPU's stream, or the runtime of the tests.
pub trait Launch {
    /// What it can hold on the chip.
    fn limits(&self) -> Limits;

    /// The address of the workspace.
    fn workspace(&self) -> u64;

    /// The address of at least so many bytes that no launch but those of this call uses before the last of them.
    fn scratch(&mut self, bytes: u64) -> Result<u64>;

    /// Whether there is a file with the kernel of one sum alone, see `sums`.
    fn has_sum(&mut self, _file: &str) -> bool {
        false
    }

    /// Launches a kernel of a file of `kernels/`.
    ///
    /// # Safety
    /// The kernel takes these arguments, and their addresses are of memory as long as they say.
    unsafe fn launch(&mut self, file: &str, name: &str, plan: &Plan, args: &LaunchArgs, params: &Params) -> Result<()>;
}

/// Checks a call and launches its kernels. After an error of the checks nothing has been launched.
///
/// # Safety
/// Each [`Memory`] and address of the request is of memory that the launches may use until they have finished, aligned as its type
/// wants it; what they write, nobody else uses meanwhile, unless it is the input of a call in place.
pub(crate) unsafe fn run(kernel: &Kernel, request: &Request, launcher: &mut dyn Launch) -> Result<()> {
    let sizes = request.check(kernel)?;
    let Request { input, targets, dtype, grad_input, .. } = *request;
    let [outer, classes, inner] = sizes.dims.map(|n| n as u64);
    let (target_kind, target) = targets.parts();
    let third = u64::from(kernel.takes.third == Some(ThirdOf::Elements));
    let tensors = third + if target_kind == TARGET_DENSE { 2 } else { 1 };
    let plan = match kernel.family {
        Family::Sorted { .. } => {
            let tiles = plan::sorted_tiles((input.len as u64).checked_div(sizes.losses as u64).unwrap_or(0));
            let blocks =
                (sizes.losses as u64).saturating_mul(tiles.max(1)).max((input.len as u64).div_ceil(BLOCK.into()));
            if blocks > i32::MAX as u64 {
                return Err(Error::Unsupported { loss: kernel.loss, what: "so many regions on a GPU" });
            }
            plan::sorted(0, plan::sorted_scratch(input.len as u64, sizes.losses as u64, tiles))
        }
        Family::Elements if kernel.terms.is_some() => plan::combined(input.len as u64, dtype.bytes),
        Family::Elements => plan::elementwise(input.len as u64),
        Family::Rows => {
            let plan = plan::rowwise(sizes.losses as u64, classes, inner, dtype.bytes, tensors, launcher.limits());
            kernel.terms.map_or(plan, |terms| plan::combined_rows(plan, terms.count as u64))
        }
        Family::Regions { softmax, .. } => {
            let segments = if softmax { outer } else { outer.saturating_mul(classes) };
            let blocks = if inner == 0 { 0 } else { segments.saturating_mul(inner.div_ceil(u64::from(BLOCK))) };
            if blocks > i32::MAX as u64 || sizes.losses as u64 > u64::MAX >> 16 {
                return Err(Error::Unsupported { loss: kernel.loss, what: "so many regions on a GPU" });
            }
            plan::region(outer, classes, inner, softmax, kernel.terms.is_some())
        }
    };
    let (divide_by, denominator) = denominator(kernel, request, &sizes);
    let mean = matches!(request.output, Output::Reduced(Reduction::Mean | Reduction::WeightedMean, _));
    let own_means = mean && (kernel.terms.is_some() || matches!(kernel.family, Family::Sorted { .. }));
    let (grad_output, grad_scale) = request.grad_output.parts();
    let ([value, values, grad_outputs], divisor) = request.output.parts();
    let args = LaunchArgs {
        input: input.address,
        target: target.address,
        class_weight: of(request.class_weight),
        weight: of(sizes.weight),
        grad_outputs: of(grad_outputs),
        grad_input: of(grad_input),
        grad_target: of(request.grad_target),
        values: of(values),
        value: of(value),
        grad_scale,
        divisor,
        workspace: launcher.workspace(),
        scratch: if plan.scratch == 0 { 0 } else { launcher.scratch(plan.scratch)? },
        terms: of(request.terms),
        third: of(request.third),
        grad_third: of(request.grad_third),
        log_prob: of(request.report.log_prob),
        entropy: of(request.report.entropy),
        lse: of(request.report.lse),
        hit: of(request.report.hit),
        argmax: of(request.report.argmax),
        elements: input.len as u64,
        losses: sizes.losses as u64,
        classes,
        inner,
        pitch: classes.saturating_mul(inner),
        bias: 0,
        each: sizes.each as u64,
        tile: plan.tile,
        ignore_index: kernel.ignore_index.unwrap_or(0),
        denominator,
        scale: scale(grad_output, divide_by, denominator),
        flags: kernel.flags
            | if request.accumulate { ACCUMULATE } else { 0 }
            | if kernel.ignore_index.is_some() { IGNORE } else { 0 }
            | if plan.cached { CACHED } else { 0 }
            | if own_means { OWN_MEANS } else { 0 },
        target_kind,
        divide_by,
    };
    let report = kernel.takes.report.filter(|_| request.report.is_asked_for());
    let launch = |launcher: &mut dyn Launch, file: &str, suffix: &str, params: &Params, name: &str| {
        let name = Name::new(&[name, suffix], dtype);
        // SAFETY: the caller's promise; and the name, the plan, the arguments and the options are of one kernel.
        unsafe { launcher.launch(file, name.text(), &plan, &args, params) }
    };
    match kernel.family {
        Family::Elements => {
            if kernel.flags & KERAS_LABELS != 0 {
                launch(launcher, kernel.file, "", &Params::none(), "keras_labels")?;
            }
            let general = request.accumulate
                || [sizes.weight, request.class_weight, grad_outputs, values, request.grad_target, request.third]
                    .iter()
                    .any(Option::is_some);
            let own = kernel.kinds().map(|kinds| sums::name(kinds, general, dtype));
            match own.filter(|own| launcher.has_sum(own.file())) {
                Some(own) => {
                    // What is in flight is in registers.
                    let plan = Plan { shared: 0, ..plan };
                    // SAFETY: the caller's promise; it takes what the kernel of any sum takes.
                    unsafe { launcher.launch(own.file(), own.text(), &plan, &args, &kernel.params) }
                }
                None if general => launch(launcher, kernel.file, "_general", &kernel.params, kernel.name),
                None => launch(launcher, kernel.file, "", &kernel.params, kernel.name_usual),
            }
        }
        Family::Rows => {
            let dense = target_kind == TARGET_DENSE;
            let other = report.or((dense && kernel.name_dense != kernel.name).then_some(kernel.name_dense));
            // What is compiled when it is first launched is as little as can be: a driver takes half a minute for all of cross-entropy.
            let (file, name) = other.map_or((kernel.file, kernel.name), |other| (other, other));
            launch(launcher, file, if plan.columns { "_columns" } else { "" }, &kernel.params, name)
        }
        // SAFETY: the caller's promise; the scratch memory is as large as the plan says.
        Family::Sorted { softmax, present } => unsafe { run_sorted(&args, dtype, softmax, present, launcher) },
        Family::Regions { .. } => {
            launch(launcher, kernel.file, "_sums", &kernel.params, kernel.name)?;
            if grad_input.is_some() {
                launch(launcher, kernel.file, "_grads", &kernel.params, kernel.name)
            } else {
                Ok(())
            }
        }
    }
}

/// The launches of the sorted skeleton: errors, four passes of a sort, and what follows from their order.
///
/// # Safety
/// As for [`run`].
unsafe fn run_sorted(
    args: &LaunchArgs,
    dtype: Dtype,
    softmax: bool,
    present: bool,
    launcher: &mut dyn Launch,
) -> Result<()> {
    let segments = args.losses;
    let tiles = plan::sorted_tiles(args.elements.checked_div(segments).unwrap_or(0));
    let whole = Dtype { name: "f32", bytes: 4 };
    let (errors, grads) = if softmax { ("softmax_errors", "softmax_grads") } else { ("hinge_errors", "hinge_grads") };
    let threads = if softmax { args.elements.checked_div(args.classes).unwrap_or(0) } else { args.elements };
    let mut launch = |name: &str, dtype: Dtype, blocks: u64, pass: u32| {
        if blocks == 0 {
            return Ok(());
        }
        let params = SortParams { segments: segments as u32, half: pass & 1, shift: 8 * pass, present: present.into() };
        let (plan, name) = (plan::sorted(blocks, 0), Name::new(&["lovasz_", name], dtype));
        // SAFETY: the caller's promise; and the kernels of this file take these arguments.
        unsafe { launcher.launch("lovasz", name.text(), &plan, args, &Params::new(params)) }
    };
    launch(errors, dtype, threads.div_ceil(BLOCK.into()), 0)?;
    for pass in 0..if tiles == 0 { 0 } else { 4 } {
        launch("count", whole, segments * tiles, pass)?;
        launch("scan", whole, segments, pass)?;
        launch("scatter", whole, segments * tiles, pass)?;
    }
    launch("marks", whole, segments * tiles, 0)?;
    launch("marks_before", whole, segments, 0)?;
    launch("slopes", whole, segments * tiles, 0)?;
    launch("finish", whole, 1, 0)?;
    if args.grad_input == 0 { Ok(()) } else { launch(grads, dtype, threads.div_ceil(BLOCK.into()), 0) }
}

/// `LaunchArgs::divide_by` and `LaunchArgs::denominator`.
pub(super) fn denominator(kernel: &Kernel, request: &Request, sizes: &Sizes) -> (u32, f64) {
    let losses = sizes.losses as f64;
    let indexed = request.targets.indices().is_some() && kernel.family == Family::Rows;
    let class_weight = request.class_weight.is_some();
    if let (Family::Sorted { .. }, Output::Reduced(Reduction::Mean | Reduction::WeightedMean, _)) =
        (kernel.family, request.output)
    {
        // A launch finds which regions there are.
        return (BY_HOST, 1.0);
    }
    let counted = if indexed && kernel.ignore_index.is_some() { BY_ROWS } else { BY_HOST };
    match request.output {
        Output::Unreduced { .. } | Output::Reduced(Reduction::Sum, _) => (BY_HOST, 1.0),
        Output::Over(..) => (BY_DEVICE, 1.0),
        Output::Reduced(Reduction::BatchMean(batch), _) => (BY_HOST, batch as f64),
        Output::Reduced(Reduction::SumOver(denominator), _) => (BY_HOST, denominator),
        Output::Reduced(Reduction::Mean, _) if indexed && kernel.takes.mean_by_class_weight && class_weight => {
            (BY_CLASS_WEIGHTS, 0.0)
        }
        Output::Reduced(Reduction::Mean, _) => (counted, losses),
        Output::Reduced(Reduction::WeightedMean, _) => {
            let by_class = class_weight && (indexed || matches!(kernel.family, Family::Regions { .. }));
            (if sizes.weight.is_some() || by_class { BY_WEIGHTS } else { counted }, losses)
        }
    }
}

/// `LaunchArgs::scale`.
pub(super) fn scale(grad_output: f32, divide_by: u32, denominator: f64) -> f32 {
    if divide_by == BY_HOST { (f64::from(grad_output) / denominator) as f32 } else { grad_output }
}

/// The address of what there may be, or 0.
pub(super) fn of(memory: Option<Memory>) -> u64 {
    memory.map_or(0, |m| m.address)
}

/// Checks the call and launches its kernels.
///
/// # Safety
/// As for [`run`].
pub(crate) unsafe fn run_average(call: &Average, names: [&'static str; 2], launcher: &mut dyn Launch) -> Result<()> {
    let Average { dtype, high, low, .. } = *call;
    for (grads, (name, side)) in [(0, (names[0], high)), (1, (names[1], low))] {
        call.grads.map_or(Ok(()), |g| check_len(name, side.len, g[grads].len))?;
    }
    call.value.map_or(Ok(()), |value| check_len("value", 1, value.len))?;
    let plan = plan::relativistic_average(high.len as u64, low.len as u64);
    let (scale, grad_scale) = call.grad_output.parts();
    let args = LaunchArgs {
        input: high.address,
        target: low.address,
        grad_input: of(call.grads.map(|g| g[0])),
        grad_target: of(call.grads.map(|g| g[1])),
        value: of(call.value),
        grad_scale,
        workspace: launcher.workspace(),
        scratch: launcher.scratch(plan.scratch)?,
        elements: high.len as u64,
        losses: low.len as u64,
        classes: 1,
        inner: 1,
        pitch: 1,
        each: 1,
        tile: plan.tile,
        denominator: 1.0,
        scale,
        flags: if call.accumulate { ACCUMULATE } else { 0 },
        target_kind: Targets::Dense(low).parts().0,
        divide_by: BY_HOST,
        ..LaunchArgs::default()
    };
    for suffix in ["_means", "_sums", "_grads"].into_iter().take(if call.grads.is_some() { 3 } else { 2 }) {
        let name = Name::new(&["relativistic_average", suffix], dtype);
        // SAFETY: the caller's promise; and the three kernels take these arguments.
        unsafe { launcher.launch("relativistic_average", name.text(), &plan, &args, &Params::none())? };
    }
    Ok(())
}

/// `fl_<kernel>_<dtype>`, put together without an allocation.
pub(super) struct Name {
    bytes: [u8; 64],
    len: usize,
}

impl Name {
    pub(super) fn new(parts: &[&str], dtype: Dtype) -> Self {
        let mut name = Name { bytes: [0; 64], len: 0 };
        for part in ["fl_"].iter().chain(parts).chain(&["_", dtype.name]) {
            name.bytes[name.len..name.len + part.len()].copy_from_slice(part.as_bytes());
            name.len += part.len();
        }
        name
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("its parts are text")
    }

    /// Of a kernel that has a file of its own: that file, without its ending.
    pub(super) fn file(&self) -> &str {
        self.text().trim_start_matches("fl_")
    }
}

//! A call of the case table as launches of kernels: what the host side of the CUDA backend does, in short.

use std::cell::RefCell;
use std::ffi::c_void;

use fused_loss::{Element, Reduction, Result, Target};

use super::cases::job::{AnyLoss, Job, Verb, Weight};
use super::host_exec::Host;
use super::params::*;
use super::plan::{self, Limits, Plan, WORKSPACE_BYTES};
use super::trace;

/// The options of a loss, as its `Debug` shows them: the crate keeps them to itself.
struct Options {
    text: String,
}

impl Options {
    fn word(&self, name: &str) -> &str {
        let key = format!("{name}: ");
        let at = self.text.find(&key).unwrap_or_else(|| panic!("{} has no {name}", self.text)) + key.len();
        self.text[at..].split([',', ' ', ')', '}']).next().unwrap()
    }

    fn f32(&self, name: &str) -> f32 {
        self.word(name).parse().unwrap()
    }

    fn u32(&self, name: &str) -> u32 {
        self.word(name).parse().unwrap()
    }

    fn bool(&self, name: &str) -> bool {
        self.word(name) == "true"
    }

    fn ignore_index(&self) -> Option<i64> {
        let word = self.word("ignore_index");
        word.strip_prefix("Some(").map(|index| index.parse().unwrap())
    }
}

/// Which kernel a loss has, with what.
struct Kernel {
    name: String,
    family: Family,
    params: Vec<u8>,
    ignore_index: Option<i64>,
    flags: u32,
    mean_by_class_weight: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Family {
    Elements,
    Rows,
    Regions { softmax: bool },
}

fn bytes<P: Copy>(params: P) -> Vec<u8> {
    // SAFETY: the structs of params.rs have no padding.
    unsafe { std::slice::from_raw_parts((&raw const params).cast(), size_of::<P>()) }.to_vec()
}

impl Kernel {
    fn of(loss: AnyLoss) -> Kernel {
        let o = Options { text: format!("{loss:?}") };
        let none = || bytes(NoParams { unused: 0 });
        let elements = |name: &str, params| Kernel {
            name: name.into(),
            family: Family::Elements,
            params,
            ignore_index: None,
            flags: 0,
            mean_by_class_weight: false,
        };
        let rows = |name: &str, params| Kernel { family: Family::Rows, ..elements(name, params) };
        let ignoring = |kernel: Kernel| Kernel { ignore_index: o.ignore_index(), ..kernel };
        let by_class = |kernel: Kernel| Kernel { mean_by_class_weight: true, ..kernel };
        match o.text.split('(').next().unwrap() {
            "Mse" => elements("mse", bytes(MseParams { factor: o.f32("factor") })),
            "Mae" => elements("mae", none()),
            "Huber" => elements("huber", bytes(HuberParams { delta: o.f32("delta") })),
            "SmoothL1" => {
                let params = SmoothL1Params { beta: o.f32("beta"), inv_beta: o.f32("inv_beta") };
                elements("smooth_l1", bytes(params))
            }
            "Bce" => elements("bce", bytes(BceParams { epsilon: o.f32("epsilon"), smoothing: o.f32("smoothing") })),
            "BceWithLogits" => {
                let params = BceWithLogitsParams { pos_weight: o.f32("pos_weight"), smoothing: o.f32("smoothing") };
                elements("bce_with_logits", bytes(params))
            }
            loss @ ("Hinge" | "SquaredHinge") => {
                let (label_scale, label_offset) = if o.word("labels") == "ZeroOne" { (2.0, -1.0) } else { (1.0, 0.0) };
                let name = if loss == "Hinge" { "hinge" } else { "squared_hinge" };
                let kernel = elements(name, bytes(HingeParams { label_scale, label_offset }));
                Kernel { flags: if o.word("labels") == "Keras" { KERAS_LABELS } else { 0 }, ..kernel }
            }
            "KlDiv" => elements(if o.bool("log_target") { "kl_div_log_target" } else { "kl_div" }, none()),
            "KlDivProbs" => elements("kl_div_probs", bytes(KlDivProbsParams { epsilon: o.f32("epsilon") })),
            "SigmoidFocal" => {
                let (alpha_pos, alpha_neg, gamma) = (o.f32("alpha_pos"), o.f32("alpha_neg"), o.f32("gamma"));
                let name = if gamma == 2.0 { "sigmoid_focal" } else { "sigmoid_focal_any" };
                elements(name, bytes(SigmoidFocalParams { alpha_pos, alpha_neg, gamma }))
            }
            "RelativisticPair" => elements("relativistic_pair", none()),
            "GanTerm" => {
                let params = GanTermParams { sign: o.f32("sign"), label: o.f32("label") };
                elements(&format!("gan_{}", o.word("form").to_lowercase()), bytes(params))
            }
            "CrossEntropy" => {
                let (smoothing, z_loss, softcap) = (o.f32("smoothing"), o.f32("z_loss"), o.f32("softcap"));
                let name = if softcap == 0.0 { "cross_entropy" } else { "cross_entropy_softcap" };
                ignoring(by_class(rows(name, bytes(CrossEntropyParams { smoothing, z_loss, softcap }))))
            }
            "CrossEntropyProbs" => {
                let params = CrossEntropyProbsParams { epsilon: o.f32("epsilon"), smoothing: o.f32("smoothing") };
                ignoring(by_class(rows("cross_entropy_probs", bytes(params))))
            }
            "Nll" => ignoring(by_class(rows("nll", none()))),
            "SoftmaxFocal" => ignoring(rows("softmax_focal", bytes(SoftmaxFocalParams { gamma: o.f32("gamma") }))),
            "CategoricalHinge" => rows("categorical_hinge", none()),
            "MultiMargin" => rows("multi_margin", bytes(MultiMarginParams { margin: o.f32("margin"), p: o.u32("p") })),
            "Distillation" => {
                let t = o.f32("temperature");
                let factor = if o.bool("squared") { t * t } else { 1.0 };
                rows("distillation", bytes(DistillationParams { inv_temperature: 1.0 / t, factor }))
            }
            "GradientPenalty" => {
                let params = GradientPenaltyParams { weight: o.f32("weight"), centred: o.u32("centred") };
                rows("gradient_penalty", bytes(params))
            }
            "DiceLoss" | "TverskyLoss" => {
                let params = DiceParams {
                    overlap: o.f32("overlap"),
                    union_i: o.f32("union_i"),
                    union_p: o.f32("union_p"),
                    union_t: o.f32("union_t"),
                    smooth_nr: o.f32("smooth_nr"),
                    smooth_dr: o.f32("smooth_dr"),
                    squared: o.u32("squared"),
                };
                let activation = o.word("activation").to_lowercase();
                let kernel = elements(&format!("region_{activation}"), bytes(params));
                let batch = if o.bool("batch") { BATCH } else { 0 };
                let background = if o.bool("include_background") { 0 } else { NO_BACKGROUND };
                let family = Family::Regions { softmax: activation == "softmax" };
                Kernel { family, flags: batch | background, ..kernel }
            }
            other => panic!("no kernel for {other}"),
        }
    }
}

thread_local! {
    /// What the GPU is taken to hold on the chip, and the order of threads: a new one for every call.
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

fn dtype<T: Element>() -> &'static str {
    match T::NAME {
        "float16" => "f16",
        "bfloat16" => "bf16",
        _ => "f32",
    }
}

/// Runs a call by kernels.
pub fn run<T: Element>(loss: AnyLoss, job: Job<'_, T>) -> Result<f32> {
    let turn = TURN.with_borrow_mut(|turn| {
        *turn += 1;
        *turn
    });
    let kernel = Kernel::of(loss);
    let Job { input, target, shape, weight, class_weight, grad_output, accumulate, grad_target, verb } = job;
    let (mut reduction, mut grad, mut values, mut grad_outputs, mut in_place) = (None, None, None, None, false);
    match verb {
        Verb::Forward(r) => reduction = Some(r),
        Verb::ForwardBackward(r, g) => (reduction, grad) = (Some(r), Some(g)),
        // The value has nowhere to go.
        Verb::Backward(r, g) => (reduction, grad) = (Some(r), Some(g)),
        Verb::ForwardUnreduced { losses } => values = Some(losses),
        Verb::ForwardBackwardUnreduced { grad_output, losses, grad: g } => {
            (grad_outputs, values, grad) = (Some(grad_output), Some(losses), Some(g));
        }
        Verb::BackwardUnreduced { grad_output, grad: g } => (grad_outputs, grad) = (Some(grad_output), Some(g)),
        Verb::InPlace(r, g) => (reduction, grad, in_place) = (Some(r), Some(g), true),
        Verb::InPlaceUnreduced { grad_output, losses, buffer } => {
            (grad_outputs, values, grad, in_place) = (Some(grad_output), Some(losses), Some(buffer), true);
        }
    }
    let elements = if in_place { grad.as_ref().unwrap().len() } else { input.len() };
    let dims: [usize; 3] = shape.map_or([elements, 1, 1], dims_of);
    let [outer, mut classes, inner] = dims;
    let background = usize::from(kernel.flags & NO_BACKGROUND != 0);
    let losses = match kernel.family {
        Family::Elements => elements,
        Family::Rows => outer * inner,
        Family::Regions { .. } => (classes - background) * if kernel.flags & BATCH != 0 { 1 } else { outer },
    };
    if kernel.family == Family::Elements {
        classes = class_weight.map_or(1, <[f32]>::len);
    }
    let (target_kind, target_bytes, target) = match target {
        Target::Nothing => (TARGET_NONE, 0, std::ptr::null()),
        Target::Dense(t) => (TARGET_DENSE, size_of_val(t), t.as_ptr().cast::<c_void>()),
        Target::I64(t) => (TARGET_I64, size_of_val(t), t.as_ptr().cast()),
        Target::I32(t) => (TARGET_I32, size_of_val(t), t.as_ptr().cast()),
        Target::U32(t) => (TARGET_U32, size_of_val(t), t.as_ptr().cast()),
        Target::U8(t) => (TARGET_U8, size_of_val(t), t.as_ptr().cast()),
        _ => unreachable!(),
    };
    let (weight, each) = match weight {
        Weight::None => (None, 1),
        Weight::PerElement(w) => (Some(w), 1),
        Weight::PerSample(w) => (Some(w), losses.checked_div(w.len()).unwrap_or(1)),
    };
    let indexed = target_kind >= TARGET_I64 && kernel.family == Family::Rows;
    let counted = if indexed && kernel.ignore_index.is_some() { BY_ROWS } else { BY_HOST };
    let (divide_by, denominator) = match reduction {
        None => (BY_HOST, 1.0),
        Some(Reduction::Mean) if indexed && kernel.mean_by_class_weight && class_weight.is_some() => {
            (BY_CLASS_WEIGHTS, 0.0)
        }
        Some(Reduction::Mean) => (counted, losses as f64),
        Some(Reduction::Sum) => (BY_HOST, 1.0),
        Some(Reduction::BatchMean(batch)) => (BY_HOST, batch as f64),
        Some(Reduction::WeightedMean) => {
            let by_class = class_weight.is_some() && (indexed || matches!(kernel.family, Family::Regions { .. }));
            (if weight.is_some() || by_class { BY_WEIGHTS } else { counted }, losses as f64)
        }
        Some(Reduction::SumOver(d)) => (BY_DEVICE, d),
        Some(_) => unreachable!(),
    };
    let (divisor, grad_scale) = (denominator as f32, grad_output);
    // Not by turns: all ways of calling must give the same bits.
    let host_scale = elements % 2 == 0;
    let scale = if host_scale { grad_output } else { 1.0 };
    let scale = if divide_by == BY_HOST { (f64::from(scale) / denominator) as f32 } else { scale };

    let of = |x: Option<&[f32]>| x.map_or(std::ptr::null(), <[f32]>::as_ptr) as u64;
    let (bytes, softmax) = (size_of::<T>() as u64, kernel.family == Family::Regions { softmax: true });
    let tensors = if target_kind == TARGET_DENSE { 2 } else { 1 };
    let limits = LIMITS[(elements + losses) % LIMITS.len()];
    let [outer, classes, inner] = [outer, classes, inner].map(|n| n as u64);
    let plan = match kernel.family {
        Family::Elements => plan::elementwise(elements as u64),
        Family::Rows => plan::rowwise(losses as u64, classes, inner, bytes, tensors, limits),
        Family::Regions { .. } => plan::region(outer, classes, inner, softmax),
    };
    let mut workspace = vec![0u64; WORKSPACE_BYTES / 8];
    let mut scratch = vec![u64::MAX; plan.scratch as usize / 8];
    let mut value = f32::NAN;
    let grad_input = grad.as_ref().map_or(0, |g| g.as_ptr() as u64);
    let general = weight.is_some() || class_weight.is_some() || grad_outputs.is_some() || values.is_some();
    let general = general || grad_target.is_some() || accumulate;
    let args = LaunchArgs {
        input: if in_place { grad_input } else { input.as_ptr() as u64 },
        target: target as u64,
        class_weight: of(class_weight),
        weight: of(weight),
        grad_outputs: of(grad_outputs),
        grad_input,
        grad_target: grad_target.as_ref().map_or(0, |g| g.as_ptr() as u64),
        values: values.as_ref().map_or(0, |v| v.as_ptr() as u64),
        value: if reduction.is_some() { &raw mut value as u64 } else { 0 },
        grad_scale: if host_scale { 0 } else { &raw const grad_scale as u64 },
        divisor: if divide_by == BY_DEVICE { &raw const divisor as u64 } else { 0 },
        workspace: workspace.as_mut_ptr() as u64,
        scratch: scratch.as_mut_ptr() as u64,
        elements: elements as u64,
        losses: losses as u64,
        classes,
        inner,
        each: each as u64,
        tile: plan.tile,
        ignore_index: kernel.ignore_index.unwrap_or(0),
        denominator,
        scale,
        flags: kernel.flags
            | if accumulate { ACCUMULATE } else { 0 }
            | if kernel.ignore_index.is_some() { IGNORE } else { 0 }
            | if plan.cached { CACHED } else { 0 },
        target_kind,
        divide_by,
    };
    let tensor = elements * size_of::<T>();
    let launches: Vec<String> = match kernel.family {
        Family::Elements => {
            let keras = (kernel.flags & KERAS_LABELS != 0).then(|| "keras_labels".to_string());
            let name = if general { format!("{}_general", kernel.name) } else { kernel.name.clone() };
            keras.into_iter().chain([name]).collect()
        }
        Family::Rows if plan.columns => vec![format!("{}_columns", kernel.name)],
        Family::Rows => vec![kernel.name.clone()],
        Family::Regions { .. } => {
            let grads = grad.is_some().then(|| format!("{}_grads", kernel.name));
            [format!("{}_sums", kernel.name)].into_iter().chain(grads).collect()
        }
    };
    for name in launches {
        let params =
            if name == "keras_labels" { super::marshal::bytes(NoParams { unused: 0 }) } else { kernel.params.clone() };
        let name = format!("fl_{name}_{}", dtype::<T>());
        let buffers = trace::Buffers {
            input: tensor,
            target: target_bytes,
            class_weight: class_weight.map_or(0, size_of_val),
            weight: weight.map_or(0, size_of_val),
            per_loss: losses * 4,
            scratch: scratch.len() * 8,
        };
        launch(&name, &plan, args, params, buffers, turn);
    }
    // Nothing is left behind for the next launch.
    assert!(
        workspace[..size_of::<Workspace>() / 8].iter().enumerate().all(|(i, &w)| w == 0 || i == 1),
        "{workspace:x?}"
    );
    if reduction.is_some() { Ok(value) } else { Ok(0.0) }
}

/// A call of the relativistic average: `high`, `low`, their gradients; the value.
pub fn relativistic_average<T: Element>(
    high: &[T],
    low: &[T],
    grads: [&mut [T]; 2],
    grad_output: f32,
    flags: u32,
) -> f32 {
    let plan = plan::relativistic_average(high.len() as u64, low.len() as u64);
    let (mut workspace, mut scratch) = (vec![0u64; WORKSPACE_BYTES / 8], vec![u64::MAX; plan.scratch as usize / 8]);
    let mut value = f32::NAN;
    let args = LaunchArgs {
        input: high.as_ptr() as u64,
        target: low.as_ptr() as u64,
        grad_input: grads[0].as_ptr() as u64,
        grad_target: grads[1].as_ptr() as u64,
        value: &raw mut value as u64,
        workspace: workspace.as_mut_ptr() as u64,
        scratch: scratch.as_mut_ptr() as u64,
        elements: high.len() as u64,
        losses: low.len() as u64,
        tile: plan.tile,
        scale: grad_output,
        flags,
        ..nothing()
    };
    let buffers = trace::Buffers {
        input: size_of_val(high),
        target: size_of_val(low),
        scratch: scratch.len() * 8,
        ..trace::Buffers::default()
    };
    for stage in ["means", "sums", "grads"] {
        let name = format!("fl_relativistic_average_{stage}_{}", dtype::<T>());
        launch(&name, &plan, args, bytes(NoParams { unused: 0 }), buffers, 5);
    }
    value
}

/// Cross-entropy of `(rows, classes)`, whatever the indices are: the value, and the first bad row.
pub fn cross_entropy(
    input: &[f32],
    target: &[i64],
    classes: usize,
    grad: &mut [f32],
    values: &mut [f32],
) -> (f32, Option<u64>) {
    let plan = plan::rowwise(target.len() as u64, classes as u64, 1, 4, 1, LIMITS[0]);
    let mut workspace = vec![0u64; WORKSPACE_BYTES / 8];
    let mut value = 0f32;
    let args = LaunchArgs {
        input: input.as_ptr() as u64,
        target: target.as_ptr() as u64,
        grad_input: grad.as_ptr() as u64,
        values: values.as_ptr() as u64,
        value: &raw mut value as u64,
        workspace: workspace.as_mut_ptr() as u64,
        elements: input.len() as u64,
        losses: target.len() as u64,
        classes: classes as u64,
        tile: plan.tile,
        ignore_index: -100,
        flags: IGNORE | if plan.cached { CACHED } else { 0 },
        target_kind: TARGET_I64,
        divide_by: BY_ROWS,
        scale: 1.0,
        ..nothing()
    };
    let (tensor, name) =
        (size_of_val(input), if plan.columns { "fl_cross_entropy_columns_f32" } else { "fl_cross_entropy_f32" });
    let params = bytes(CrossEntropyParams { smoothing: 0.0, z_loss: 0.0, softcap: 0.0 });
    let buffers =
        trace::Buffers { input: tensor, target: size_of_val(target), per_loss: target.len() * 4, ..Default::default() };
    launch(name, &plan, args, params, buffers, 6);
    (value, (workspace[0] != 0).then_some(!workspace[0]))
}

/// NLL by three blocks of 32 threads: few enough for ThreadSanitizer to tell all of them apart.
pub fn few_threads() {
    let (input, target, grad) = (vec![-0.5f32; 180], vec![1u8; 90], vec![f32::NAN; 180]);
    let plan = Plan { grid: 3, block: (32, 1), tile: 32, ..plan::elementwise(0) };
    let mut workspace = vec![0u64; WORKSPACE_BYTES / 8];
    let mut value = 0f32;
    let args = LaunchArgs {
        input: input.as_ptr() as u64,
        target: target.as_ptr() as u64,
        grad_input: grad.as_ptr() as u64,
        value: &raw mut value as u64,
        workspace: workspace.as_mut_ptr() as u64,
        elements: 180,
        losses: 90,
        classes: 2,
        tile: 32,
        target_kind: TARGET_U8,
        scale: 1.0,
        ..nothing()
    };
    let buffers = trace::Buffers { input: 720, target: 90, per_loss: 360, ..Default::default() };
    launch("fl_nll_columns_f32", &plan, args, bytes(NoParams { unused: 0 }), buffers, 6);
    assert_eq!(value, 45.0);
}

/// Arguments of a call of nothing.
fn nothing() -> LaunchArgs {
    // SAFETY: all fields are numbers.
    LaunchArgs { classes: 1, inner: 1, each: 1, denominator: 1.0, ..unsafe { std::mem::zeroed() } }
}

/// Launches a kernel and keeps a record of it.
fn launch(name: &str, plan: &Plan, mut args: LaunchArgs, mut params: Vec<u8>, buffers: trace::Buffers, turn: u64) {
    let host = Host::get();
    host.order(turn % 7);
    let record = trace::Record::before(name, plan, &args, &params, &buffers);
    let mut pointers = [(&raw mut args).cast::<c_void>(), params.as_mut_ptr().cast()];
    // SAFETY: the pointers are of buffers as long as the arguments say, which live longer than this.
    let result = unsafe { host.launch(name, plan, &mut pointers) };
    result.unwrap_or_else(|e| panic!("{name} {plan:?} {args:?}: {e}"));
    record.finish();
}

/// `[outer, classes, inner]` of a shape, from what it says of itself.
fn dims_of(shape: fused_loss::Shape) -> [usize; 3] {
    let options = Options { text: format!("{shape:?}") };
    ["outer", "classes", "inner"].map(|name| options.word(name).parse().unwrap())
}

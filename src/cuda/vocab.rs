//! Cross-entropy on a GPU whose classes ranks share: two looks at the logits, and what the ranks reduce between them. Plain marshalling, which
//! the tests run with kernels that are executed on the host.

use super::kernel::{HasKernel, Params};
use super::marshal::{self, Launch, Name, of};
use super::params::*;
use super::plan::{self, Plan};
use super::request::{Dtype, Memory, Output, Request, Sizes};
use crate::cpu::rowwise::Rowwise;
use crate::error::{Error, Result, check_len};
use crate::loss::CrossEntropy;
use crate::parallel::ReduceOp;

/// Numbers that a row has between the looks: two maxima, and its sums.
pub(super) const OF_ROW: usize = 2 + VOCAB_SUMS as usize;

/// Has ranks reduce so many f32 at an address.
pub(crate) type Reduce<'r> = dyn Fn(u64, usize, ReduceOp) -> Result<()> + 'r;

/// The two looks at logits of a rank.
#[derive(Clone, Copy)]
pub(super) struct Looks<'r> {
    pub(super) params: VocabParams,
    /// Of the kernels' names.
    pub(super) dtype: Dtype,
    /// The file of the kernels, which are named after it: of logits, or of the head's.
    pub(super) file: &'static str,
    /// What it is given is of this call, and used by nobody else meanwhile.
    pub(super) reduce: &'r Reduce<'r>,
}

impl<'r> Looks<'r> {
    /// Of `total` classes, of which the first of this rank is `first`.
    pub(super) fn new(
        loss: &CrossEntropy,
        [first, total]: [usize; 2],
        weighs: bool,
        (file, dtype): (&'static str, Dtype),
        reduce: &'r Reduce<'r>,
    ) -> Result<Self> {
        let total = u32::try_from(total).map_err(|_| Error::Unsupported {
            loss: <CrossEntropy as crate::Loss>::NAME,
            what: "more than 2^32 classes on GPUs",
        })?;
        let params = VocabParams { of: loss.params(), first: first as u32, total, weighs: weighs.into() };
        Ok(Looks { params, dtype, file, reduce })
    }

    /// Both, and what ranks reduce between them. Value and gradients go where `args` say; `target` has the places of the rows' classes and
    /// `scratch` room for what is found, see `kernels/vocab.cuh`. `between`, if the gradient has to wait for more than that.
    ///
    /// # Safety
    /// As for [`marshal::run`]; rows have `bytes` an element and the classes that are here.
    pub(super) unsafe fn run(
        &self,
        on: &mut dyn Launch,
        args: &LaunchArgs,
        bytes: u64,
        between: impl FnOnce(&mut dyn Launch) -> Result<()>,
    ) -> Result<()> {
        let plan = plan::rowwise(args.losses, args.classes, 1, bytes, 1, on.limits());
        let look = LaunchArgs {
            grad_input: 0,
            values: 0,
            value: 0,
            weight: 0,
            tile: plan.tile,
            flags: if plan.cached { CACHED } else { 0 },
            divide_by: BY_HOST,
            ..*args
        };
        let rows = args.losses as usize;
        // SAFETY, of all launches: the caller's promise.
        unsafe {
            self.launch(on, "_fold", &plan, &look)?;
            (self.reduce)(args.scratch + 4 * args.losses, rows, ReduceOp::Max)?;
            self.small(on, "move", args.losses.div_ceil(BLOCK.into()), args)?;
            (self.reduce)(args.scratch + 8 * args.losses, VOCAB_SUMS as usize * rows, ReduceOp::Sum)?;
            between(on)?;
            // It writes each element when it has read it, and keeps nothing.
            let plan = Plan { cached: false, shared: 0, ..plan };
            self.launch(on, "_unfold", &plan, &LaunchArgs { tile: plan.tile, ..*args })
        }
    }

    /// # Safety
    /// As for [`marshal::run`].
    unsafe fn launch(&self, on: &mut dyn Launch, look: &str, plan: &Plan, args: &LaunchArgs) -> Result<()> {
        let (softcap, file) = match (self.params.of.softcap == 0.0, self.file) {
            (true, file) => ("", file),
            (false, "vocab") => ("_softcap", "vocab_softcap"),
            (false, _) => ("_softcap", "head_vocab_softcap"),
        };
        let columns = if plan.columns { "_columns" } else { "" };
        let name = Name::new(&[self.file, look, softcap, columns], self.dtype);
        // SAFETY: the caller's promise.
        unsafe { on.launch(file, name.text(), plan, args, &Params::new(self.params)) }
    }

    /// One of the kernels that know nothing of the storage type.
    ///
    /// # Safety
    /// As for [`marshal::run`].
    unsafe fn small(&self, on: &mut dyn Launch, name: &str, grid: u64, args: &LaunchArgs) -> Result<()> {
        let name = Name::new(&["vocab_", name], Dtype { name: "f32", bytes: 4 });
        let plan = Plan::new(grid, (BLOCK, 1), 0);
        // SAFETY: the caller's promise.
        unsafe { on.launch("vocab", name.text(), &plan, args, &Params::new(self.params)) }
    }
}

/// The checks of so many rows of this rank's classes, of which there may be none, unlike those of other losses; the input has been checked.
pub(crate) fn check(request: &Request, rows: usize) -> Result<Sizes> {
    let here = request.shape.map_or(0, |shape| shape.classes);
    if i32::try_from(here).is_err() {
        let loss = <CrossEntropy as crate::Loss>::NAME;
        return Err(Error::Unsupported { loss, what: "more than 2^31 classes on a GPU" });
    }
    let of = |what, memory: Option<Memory>, len| memory.map_or(Ok(()), |m| check_len(what, len, m.len));
    of("grad_input", request.grad_input, request.input.len)?;
    of("class_weight", request.class_weight, here)?;
    let (weight, each) = request.weights(rows)?;
    if let Output::Reduced(reduction, _) = request.output {
        reduction.check(rows)?;
    }
    let ([value, losses, _], _) = request.output.parts();
    of("value", value, 1)?;
    of("losses", losses, rows)?;
    Ok(Sizes { losses: rows, dims: [rows, here, 1], weight, each })
}

/// Bytes of so many numbers of each of so many rows.
fn of_rows(numbers: usize, rows: usize) -> u64 {
    4 * (numbers * rows) as u64
}

/// Bytes of scratch memory of a call.
pub(crate) fn scratch(rows: usize) -> u64 {
    (of_rows(OF_ROW + 2, rows) + 4).next_multiple_of(8)
}

/// Launches a call of rows of this rank's classes, whose targets are indices among the classes of all: of `total`, from `first` on.
///
/// # Safety
/// As for [`marshal::run`]; and the checks have found these sizes.
pub(crate) unsafe fn run(
    loss: &CrossEntropy,
    request: &Request,
    sizes: &Sizes,
    classes: [usize; 2],
    on: &mut dyn Launch,
    reduce: &Reduce<'_>,
) -> Result<()> {
    let (target_kind, target) = request.targets.parts();
    let (rows, here) = (sizes.losses, sizes.dims[1]);
    let looks = Looks::new(loss, classes, request.class_weight.is_some(), ("vocab", request.dtype), reduce)?;
    // Behind what is of each row: its place and its weight; and what a mean is divided by.
    let scratch = on.scratch(self::scratch(rows))?;
    let (divide_by, denominator) = marshal::denominator(&loss.kernel(), request, sizes);
    let ([value, values, _], divisor) = request.output.parts();
    let (grad_output, grad_scale) = request.grad_output.parts();
    let (found, ignore) = (divide_by >= BY_ROWS, Rowwise::ignore_index(loss));
    let before = LaunchArgs {
        target: target.address,
        weight: of(sizes.weight),
        workspace: on.workspace(),
        scratch,
        losses: rows as u64,
        classes: here as u64,
        inner: 1,
        pitch: here as u64,
        each: sizes.each as u64,
        ignore_index: ignore.unwrap_or(0),
        flags: if ignore.is_some() { IGNORE } else { 0 },
        target_kind,
        divide_by,
        ..LaunchArgs::default()
    };
    let args = LaunchArgs {
        input: request.input.address,
        target: scratch + of_rows(OF_ROW, rows),
        class_weight: of(request.class_weight),
        weight: scratch + of_rows(OF_ROW + 1, rows),
        grad_input: of(request.grad_input),
        values: of(values),
        value: of(value),
        grad_scale,
        divisor: if found { scratch + of_rows(OF_ROW + 2, rows) } else { divisor },
        elements: request.input.len as u64,
        denominator,
        scale: marshal::scale(grad_output, divide_by, denominator),
        flags: if request.accumulate { ACCUMULATE } else { 0 },
        target_kind: TARGET_NONE,
        divide_by: if found { BY_DEVICE } else { divide_by },
        ..before
    };
    // SAFETY: the caller's promise.
    unsafe {
        looks.small(on, "places", before.losses.div_ceil(BLOCK.into()), &before)?;
        looks.run(
            on,
            &args,
            request.dtype.bytes,
            |on| {
                if found { looks.small(on, "divisor", 1, &before) } else { Ok(()) }
            },
        )
    }
}

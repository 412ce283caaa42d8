//! The launches and products of a language-model head.
//!
//! Tokens go in blocks, as many as the products of gradients sum over at once, and within a block in chunks, whose logits are there at
//! once. In f32 a chunk is a block, and its logits become their gradient in place. For 16-bit storage the logits are f32 all the same,
//! and the gradient, which tensor cores want in the storage type, has memory of its own: chunks are a fourth of a block, so that a
//! token takes three bytes a class. Large blocks matter: each of them reads and writes the whole weight gradient.

use super::blas::{Blas, Matrix, Product};
use super::chunks::{CUBLAS, Layout, Part};
use super::handle::Cuda;
use super::kernel::{Kernel, Params};
use super::marshal::{self, Launch, Name, of};
use super::params::*;
use super::plan::{self, Plan};
use super::request::{Dtype, Memory, Output, Request, Scalar, Sizes, Targets, Weight};
use super::vocab::{Looks, OF_ROW};
use crate::error::{Error, Result};
use crate::head::LinearShape;
use crate::parallel::{ReduceOp, Same, Vocab};

/// A call whose lengths have been checked.
#[derive(Clone, Copy)]
pub(super) struct HeadRequest<'v> {
    pub(super) dtype: Dtype,
    pub(super) shape: LinearShape,
    pub(super) input: Memory,
    pub(super) weight: Memory,
    pub(super) bias: Option<Memory>,
    /// Without any, a token is of the class of its number.
    pub(super) targets: Targets,
    pub(super) class_weight: Option<Memory>,
    pub(super) token_weight: Option<Memory>,
    pub(super) grad_output: Scalar,
    pub(super) accumulate: bool,
    pub(super) output: Output,
    pub(super) grad_input: Option<Memory>,
    pub(super) grad_weight: Option<Memory>,
    pub(super) grad_bias: Option<Memory>,
    /// Most tokens that count.
    pub(super) counted: usize,
    pub(super) budget: usize,
    pub(super) tf32: bool,
    pub(super) z_loss: f32,
    /// What logits but for their bias are multiplied by, and where its gradient goes.
    pub(super) logit_scale: Scalar,
    pub(super) grad_scale: Option<Memory>,
    /// The gradient of the input is f32.
    pub(super) wide: bool,
    /// What value and gradients are multiplied by, and whether the value is added to what is there.
    pub(super) part: f32,
    pub(super) adds: bool,
    /// Where ranks share the classes.
    pub(super) looks: Option<(&'v Vocab<'v>, Looks<'v>)>,
}

const F32: Dtype = Dtype { name: "f32", bytes: 4 };

/// Launches the kernels of a call and enqueues its products.
///
/// # Safety
/// As for [`marshal::run`]; and lengths are those of the shape.
pub(super) unsafe fn run(loss: &Kernel, call: &HeadRequest<'_>, cuda: &Cuda) -> Result<()> {
    let LinearShape { tokens, hidden, classes } = call.shape;
    if [tokens, hidden, classes].iter().any(|&n| i32::try_from(n.next_multiple_of(8)).is_err()) {
        return Err(Error::Unsupported {
            loss: loss.loss,
            what: "more than 2^31 tokens, hidden numbers or classes on a GPU",
        });
    }
    // Blocks and chunks are those of the rank with most classes, so that all ranks have the same.
    let (least, most) = call.looks.map_or((classes, classes), |(vocab, _)| vocab.least_and_most);
    if least == 0 {
        return Err(Error::Unsupported {
            loss: loss.loss,
            what: "a head, or a rank's part of one, without classes on a GPU",
        });
    }
    let (shape, of_rank) = (LinearShape { classes: most, ..call.shape }, if call.looks.is_some() { OF_ROW } else { 0 });
    let layout = Layout::new(call.dtype, shape, call.counted, call.budget, of_rank)?;
    let mut stream = cuda.launcher();
    let (blas, memory) = stream.head(layout.bytes)?;
    // SAFETY: the handle has the memory as long as the stream does; the workspace is a part of it.
    unsafe { blas.bind(cuda.stream.cu_stream().cast(), memory + layout.workspace as u64, layout.cublas as u64)? };
    if let Some((vocab, looks)) = call.looks {
        let scratch = stream.scratch(vocab.scratch_to_agree())?;
        // SAFETY: it is the handle's, and this call has the handle.
        unsafe { vocab.agree_on(same(call, &layout, (looks.params.of, loss.ignore_index)), cuda, scratch)? };
    }
    let pass = Pass { loss, call, layout, memory, blas: &blas, args: args(loss, call, memory, stream.workspace()) };
    let used = stream.use_head();
    // SAFETY: the caller's promise.
    used.and_then(|()| unsafe { pass.run(&mut stream) })
        .inspect_err(|error| call.looks.iter().for_each(|(vocab, _)| vocab.ranks.leave(error)))
}

/// What all ranks must call alike.
fn same(call: &HeadRequest<'_>, layout: &Layout, options: (CrossEntropyParams, Option<i64>)) -> Same {
    let has = [call.class_weight.is_some(), call.token_weight.is_some(), call.grad_input.is_some()];
    let rest = (call.shape.hidden, [layout.room, layout.block, layout.chunk], has, call.dtype.name);
    Same::new(call.shape.tokens, options, call.output.reduction(), rest)
}

/// A product alone, for benches.
///
/// # Safety
/// The addresses are of memory of the handle's GPU as large as the product says, and stay so until it is done.
pub unsafe fn product(cuda: &Cuda, product: &Product) -> Result<()> {
    let mut stream = cuda.launcher();
    let (blas, memory) = stream.head(CUBLAS[0])?;
    // SAFETY: the memory is the handle's, and as large as that; the caller's promise.
    unsafe {
        blas.bind(cuda.stream.cu_stream().cast(), memory, CUBLAS[0] as u64)?;
        blas.product(product)
    }
}

/// What all launches are told.
fn args(loss: &Kernel, call: &HeadRequest<'_>, memory: u64, workspace: u64) -> LaunchArgs {
    let LinearShape { tokens, hidden, classes } = call.shape;
    let mut request = Request::of(call.dtype, call.input, call.targets, None);
    request.class_weight = call.class_weight;
    request.output = call.output;
    request.weight = call.token_weight.map(Weight::PerElement);
    let sizes = Sizes { losses: tokens, dims: [tokens, classes, 1], weight: call.token_weight, each: 1 };
    let (divide_by, denominator) = marshal::denominator(loss, &request, &sizes);
    let (grad_output, grad_scale) = call.grad_output.parts();
    let (target_kind, target) = call.targets.parts();
    let ([value, values, _], divisor) = call.output.parts();
    let (_, third) = call.logit_scale.parts();
    LaunchArgs {
        target: target.address,
        class_weight: of(call.class_weight),
        weight: of(call.token_weight),
        values: of(values),
        value: of(value),
        grad_scale,
        divisor,
        workspace,
        scratch: memory,
        losses: tokens as u64,
        classes: classes as u64,
        inner: 1,
        pitch: hidden as u64,
        bias: of(call.bias),
        third,
        grad_third: of(call.grad_scale),
        each: 1,
        ignore_index: loss.ignore_index.unwrap_or(0),
        denominator,
        scale: marshal::scale(call.part * grad_output, divide_by, denominator),
        flags: if call.accumulate { ACCUMULATE } else { 0 } | if loss.ignore_index.is_some() { IGNORE } else { 0 },
        target_kind,
        divide_by,
        ..LaunchArgs::default()
    }
}

struct Pass<'p> {
    loss: &'p Kernel,
    call: &'p HeadRequest<'p>,
    layout: Layout,
    memory: u64,
    blas: &'p Blas,
    args: LaunchArgs,
}

impl Pass<'_> {
    /// # Safety
    /// As for [`run`].
    unsafe fn run(&self, on: &mut dyn Launch) -> Result<()> {
        let HeadRequest { shape, grad_input, grad_weight, grad_bias, grad_scale, accumulate, wide, .. } = *self.call;
        let losses = self.args.values != 0;
        let of_inputs = grad_input.is_some() || grad_scale.is_some();
        let rest = self.call.targets != Targets::Nothing && (losses || (grad_input.is_some() && !accumulate));
        // SAFETY, of all launches and products: the caller's promise; the kernels are of this file and take these arguments; the parts
        // of the memory are as large as the layout says.
        unsafe {
            self.launch(on, "head_rows", 1, self.args, 0)?;
            if let Some((_, looks)) = self.call.looks.filter(|_| self.apart()) {
                (looks.reduce)(self.state(std::mem::offset_of!(HeadState, share)), 1, ReduceOp::Sum)?;
                self.launch(on, "head_apart", 1, self.args, 0)?;
            }
            if rest {
                let of = grad_input.map_or(0, |g| g.address);
                self.launch(on, "head_rest", shape.tokens, LaunchArgs { grad_input: of, ..self.args }, 0)?;
            }
            for (index, part) in self.layout.parts().enumerate() {
                let (start, count) = part.block;
                if part.first == start {
                    let args =
                        LaunchArgs { input: self.call.input.address, grad_input: self.inputs().address, ..self.args };
                    self.launch(on, "head_gather", count, args, start)?;
                }
                self.chunk(on, index, part)?;
                if !part.ends_block() {
                    continue;
                }
                let first = start == 0 && !accumulate;
                if let Some(grad) = grad_bias {
                    self.bias(on, count, first, grad)?;
                }
                if let Some(grad) = grad_weight {
                    self.grad_weight(count, first, grad)?;
                }
                if of_inputs {
                    self.grad_input(count)?;
                    if let Some((_, looks)) = self.call.looks {
                        (looks.reduce)(self.part(self.layout.grad_inputs), count * shape.hidden, ReduceOp::Sum)?;
                    }
                }
                if losses || of_inputs {
                    let args = LaunchArgs {
                        input: self.part(self.layout.grad_inputs),
                        third: self.call.input.address,
                        grad_input: of(grad_input),
                        ..self.args
                    };
                    self.launch(on, if wide { "head_scatter_wide" } else { "head_scatter" }, count, args, start)?;
                }
            }
            if grad_scale.is_some() {
                self.launch(on, "head_scale", 1, self.args, 0)?;
            }
            if self.args.value != 0 { self.launch(on, "head_value", 1, self.args, 0) } else { Ok(()) }
        }
    }

    /// Logits of a chunk, and their gradient.
    ///
    /// # Safety
    /// As for [`run`].
    unsafe fn chunk(&self, on: &mut dyn Launch, index: usize, part: Part) -> Result<()> {
        let HeadRequest { shape: LinearShape { hidden, classes, .. }, dtype, token_weight, .. } = *self.call;
        let Layout { room, pitch, .. } = self.layout;
        let below = part.first - part.block.0;
        // In f32 a chunk is a block.
        let logits = Matrix { address: self.part(self.layout.logits), dtype: F32, pitch };
        let inputs = self.inputs();
        let product = Product {
            size: [part.count, classes, hidden],
            out: logits,
            a: Matrix { address: inputs.address + (below * hidden) as u64 * dtype.bytes, ..inputs },
            a_transposed: false,
            b: self.weight(),
            b_transposed: true,
            alpha: self.state(std::mem::offset_of!(HeadState, logit_scale)),
            beta: self.state(std::mem::offset_of!(HeadState, zero)),
            tf32: self.call.tf32,
        };
        let plan = plan::rowwise(part.count as u64, classes as u64, 1, 4, 1, on.limits());
        // The lists behind the state.
        let list = |number: usize, at: usize| self.state(size_of::<HeadState>() + 4 * (number * room + at));
        let HeadRequest { grad_input, grad_weight, grad_bias, grad_scale, .. } = *self.call;
        let backward = [grad_input, grad_weight, grad_bias, grad_scale].iter().any(Option::is_some);
        let grads = self.grads();
        let args = LaunchArgs {
            input: logits.address,
            target: list(1, part.first),
            weight: if token_weight.is_some() { list(2, part.first) } else { 0 },
            grad_input: if backward { grads.address + (below * pitch) as u64 * dtype.bytes } else { 0 },
            values: if self.args.values == 0 { 0 } else { list(3, part.first) },
            value: list(5, index),
            grad_scale: self.state(std::mem::offset_of!(HeadState, row_scale)),
            divisor: 0,
            scratch: 0,
            third: 0,
            grad_third: 0,
            elements: (part.count * pitch) as u64,
            losses: part.count as u64,
            pitch: pitch as u64,
            tile: plan.tile,
            ignore_index: -1,
            denominator: 1.0,
            scale: 1.0,
            flags: IGNORE | if plan.cached { CACHED } else { 0 },
            target_kind: TARGET_I32,
            divide_by: BY_HOST,
            ..self.args
        };
        let file = match self.loss.name {
            "cross_entropy" => "head_cross_entropy",
            "cross_entropy_every" => "head_cross_entropy_every",
            _ => "head_cross_entropy_softcap",
        };
        let name = Name::new(&["head_", self.loss.name, if plan.columns { "_columns" } else { "" }], dtype);
        // SAFETY: the caller's promise.
        unsafe {
            self.blas.product(&product)?;
            match self.call.looks {
                None => on.launch(file, name.text(), &plan, &args, &self.loss.params),
                Some((_, looks)) => {
                    // Of its list, in which a class is where it is here.
                    let args = LaunchArgs {
                        scratch: list(6, 0),
                        target_kind: TARGET_NONE,
                        flags: 0,
                        weight: list(2, part.first),
                        ..args
                    };
                    looks.run(on, &args, F32.bytes, |_| Ok(()))
                }
            }
        }
    }

    /// # Safety
    /// As for [`run`].
    unsafe fn grad_weight(&self, count: usize, first: bool, grad: Memory) -> Result<()> {
        let LinearShape { hidden, classes, .. } = self.call.shape;
        let beta = if first { std::mem::offset_of!(HeadState, zero) } else { std::mem::offset_of!(HeadState, one) };
        let product = Product {
            size: [classes, hidden, count],
            out: Matrix { address: grad.address, dtype: F32, pitch: hidden },
            a: self.grads(),
            a_transposed: true,
            b: self.inputs(),
            b_transposed: false,
            alpha: self.state(std::mem::offset_of!(HeadState, scaled_alpha)),
            beta: self.state(beta),
            tf32: self.call.tf32,
        };
        // SAFETY: the caller's promise.
        unsafe { self.blas.product(&product) }
    }

    /// # Safety
    /// As for [`run`].
    unsafe fn grad_input(&self, count: usize) -> Result<()> {
        let LinearShape { hidden, classes, .. } = self.call.shape;
        let product = Product {
            size: [count, hidden, classes],
            out: Matrix { address: self.part(self.layout.grad_inputs), dtype: F32, pitch: hidden },
            a: self.grads(),
            a_transposed: false,
            b: self.weight(),
            b_transposed: false,
            alpha: self.state(std::mem::offset_of!(HeadState, alpha)),
            beta: self.state(std::mem::offset_of!(HeadState, zero)),
            tf32: self.call.tf32,
        };
        // SAFETY: the caller's promise.
        unsafe { self.blas.product(&product) }
    }

    /// # Safety
    /// As for [`run`].
    unsafe fn bias(&self, on: &mut dyn Launch, count: usize, first: bool, grad: Memory) -> Result<()> {
        let args = LaunchArgs {
            input: self.grads().address,
            grad_input: grad.address,
            losses: count as u64,
            pitch: self.layout.pitch as u64,
            flags: if first { 0 } else { ACCUMULATE },
            ..self.args
        };
        // SAFETY: the caller's promise.
        unsafe { self.launch(on, "head_bias", self.call.shape.classes.div_ceil(BLOCK as usize), args, 0) }
    }

    /// One of the small kernels.
    ///
    /// # Safety
    /// As for [`run`].
    unsafe fn launch(
        &self,
        on: &mut dyn Launch,
        name: &str,
        grid: usize,
        args: LaunchArgs,
        first: usize,
    ) -> Result<()> {
        if grid == 0 {
            return Ok(());
        }
        let params = HeadParams {
            room: self.layout.room as u32,
            first: first as u32,
            chunks: self.layout.chunks() as u32,
            z_loss: self.call.z_loss,
            logit_scale: self.call.logit_scale.parts().0,
            part: self.call.part,
            adds: self.call.adds.into(),
            first_class: self.call.looks.map_or(0, |(_, looks)| looks.params.first),
            total: self.call.looks.map_or(self.call.shape.classes as u32, |(_, looks)| looks.params.total),
            apart: self.apart().into(),
        };
        let (plan, name) = (Plan::new(grid as u64, (BLOCK, 1), 0), Name::new(&[name], self.call.dtype));
        // SAFETY: the caller's promise.
        unsafe { on.launch("head", name.text(), &plan, &args, &Params::new(params)) }
    }

    /// Whether the denominator is of class weights that other ranks have.
    fn apart(&self) -> bool {
        self.call.looks.is_some() && self.args.class_weight != 0 && self.args.divide_by > BY_ROWS
    }

    fn part(&self, start: usize) -> u64 {
        self.memory + start as u64
    }

    /// What is at this offset of the state, or behind it.
    fn state(&self, offset: usize) -> u64 {
        self.memory + offset as u64
    }

    fn inputs(&self) -> Matrix {
        Matrix { address: self.part(self.layout.inputs), dtype: self.call.dtype, pitch: self.call.shape.hidden }
    }

    fn weight(&self) -> Matrix {
        Matrix { address: self.call.weight.address, dtype: self.call.dtype, pitch: self.call.shape.hidden }
    }

    fn grads(&self) -> Matrix {
        Matrix { address: self.part(self.layout.grads), dtype: self.call.dtype, pitch: self.layout.pitch }
    }
}

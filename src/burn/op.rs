//! The operation on burn's graph.

use burn_autodiff::NodeId;
use burn_autodiff::checkpoint::base::Checkpointer;
use burn_autodiff::checkpoint::strategy::NoCheckpointing;
use burn_autodiff::grads::Gradients;
use burn_autodiff::ops::{Backward, Ops, OpsKind};
use burn_backend::DType;
use burn_flex::{Flex, FlexTensor};
use half::bf16;
use rayon::prelude::*;

use super::side::{OnGraph, Side, scalar};
use super::{Result, cpu};
use crate::call::Loss;
use crate::cpu::threads::shared;
use crate::reduction::Reduction;
use crate::shape::Shape;

/// A checked call without its input and target.
#[derive(Clone, Debug)]
pub(super) struct Plan<L> {
    pub(super) loss: L,
    /// `None` of an element-wise loss.
    pub(super) shape: Option<Shape>,
    /// The dimensions of the unreduced losses.
    pub(super) losses: Vec<usize>,
    /// And whether it is of samples.
    pub(super) weight: Option<(FlexTensor, bool)>,
    pub(super) class_weight: Option<FlexTensor>,
    pub(super) third: Option<FlexTensor>,
    /// `None` for unreduced losses.
    pub(super) reduction: Option<Reduction>,
    /// What a direct call multiplies its gradient by.
    pub(super) grad_output: f32,
}

impl<L> Plan<L> {
    /// The dimensions of what a call returns: burn has no scalars.
    pub(super) fn result(&self) -> Vec<usize> {
        if self.reduction.is_some() || self.losses.is_empty() { vec![1] } else { self.losses.clone() }
    }
}

/// What is asked of a call.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) values: bool,
    /// For both tensors.
    pub(super) grads: [bool; 2],
    /// The gradient from above, a scalar or one for each loss; 1 without.
    pub(super) upstream: Option<&'a FlexTensor>,
}

/// What has been computed, in the order of [`Ask`].
pub(super) struct Made {
    pub(super) values: Option<FlexTensor>,
    pub(super) grads: [Option<FlexTensor>; 2],
}

/// What runs on one or two tensors.
pub(super) trait Run: Clone + std::fmt::Debug + Send + 'static {
    /// Whether it has one value.
    fn is_reduced(&self) -> bool;

    /// The tensors are contiguous.
    fn run(&self, first: &FlexTensor, second: Option<&FlexTensor>, ask: Ask) -> Result<Made>;
}

impl<L: Loss> Run for Plan<L> {
    fn is_reduced(&self) -> bool {
        self.reduction.is_some()
    }

    fn run(&self, input: &FlexTensor, target: Option<&FlexTensor>, ask: Ask) -> Result<Made> {
        cpu::run(self, input, target, ask)
    }
}

/// Runs a call as an operation, on which `backward` can be called.
pub(super) fn apply<R: Run>(run: R, first: Side, second: Option<Side>) -> Result<Side> {
    let wanted = [first.is_tracked(), second.as_ref().is_some_and(Side::is_tracked)];
    let (x, t) = (in_order(first.primitive()), second.as_ref().map(|second| in_order(second.primitive())));
    // What is above comes too late for f16: see the documentation of the module.
    let keeps = wanted != [false; 2] && run.is_reduced() && x.dtype() != DType::F16;
    let grads = if keeps { wanted } else { [false; 2] };
    let made = run.run(&x, t.as_ref(), Ask { values: true, grads, upstream: None })?;
    let Some(values) = made.values else { return Err(super::Error("there is no value".into())) };
    let graph = |side: &Side| matches!(side, Side::Graph { .. });
    let like = if graph(&first) { &first } else { second.as_ref().filter(|second| graph(second)).unwrap_or(&first) };
    let Side::Graph { balanced, .. } = *like else { return Ok(like.alike(values)) };
    if wanted == [false; 2] {
        return Ok(like.alike(values));
    }
    let nodes = [Some(first), second].map(|side| match side {
        Some(Side::Graph { tensor, .. }) => tensor.node(),
        // burn wants a node of each; this one gets nothing.
        _ => OnGraph::new(x.clone()).node(),
    });
    let state = State { run, first: x, second: t, wanted, kept: keeps.then_some(made.grads) };
    let prepared = Fused(std::marker::PhantomData).prepare::<NoCheckpointing>(nodes).compute_bound().stateful();
    let tensor = match prepared {
        OpsKind::Tracked(prepared) => prepared.finish(state, values),
        OpsKind::UnTracked(prepared) => prepared.finish(values),
    };
    Ok(Side::Graph { tensor, balanced, tracked: true })
}

/// The elements in order, wherever in their storage they begin.
pub(super) fn in_order(x: &FlexTensor) -> FlexTensor {
    if x.layout().is_contiguous() { x.clone() } else { x.to_contiguous() }
}

#[derive(Debug)]
struct Fused<R>(std::marker::PhantomData<R>);

#[derive(Clone, Debug)]
struct State<R> {
    run: R,
    first: FlexTensor,
    second: Option<FlexTensor>,
    wanted: [bool; 2],
    /// The gradients, where they were computed with the value.
    kept: Option<[Option<FlexTensor>; 2]>,
}

impl<R: Run> Backward<Flex, 2> for Fused<R> {
    type State = State<R>;

    fn backward(self, ops: Ops<State<R>, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let upstream = in_order(&grads.consume::<Flex>(&ops.node));
        let State { run, first, second, wanted, kept } = ops.state;
        let made = match kept {
            Some(kept) => kept.map(|grad| grad.map(|grad| scaled(grad, scalar(&upstream)))),
            None => {
                let ask = Ask { values: false, grads: wanted, upstream: Some(&upstream) };
                // burn's `backward` returns no errors; this call was accepted once, when its value was computed.
                run.run(&first, second.as_ref(), ask).expect("what has a value has a gradient").grads
            }
        };
        let ids: [Option<NodeId>; 2] = ops.parents.map(|node| node.map(|node| node.id));
        for (id, grad) in ids.into_iter().zip(made) {
            if let (Some(id), Some(grad)) = (id, grad) {
                grads.register::<Flex>(id, grad);
            }
        }
    }
}

/// A gradient times what came from above, in place.
fn scaled(mut grad: FlexTensor, by: f32) -> FlexTensor {
    /// As many as stay in the first cache, and are worth a task.
    const CHUNK: usize = 1 << 14;
    if by == 1.0 {
        return grad;
    }
    if grad.dtype() == DType::BF16 {
        let times = |x: &mut bf16| *x = bf16::from_f32(x.to_f32() * by);
        let x = grad.storage_mut::<bf16>();
        shared(|| x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(times)));
    } else {
        let x = grad.storage_mut::<f32>();
        shared(|| x.par_chunks_mut(CHUNK).for_each(|x| x.iter_mut().for_each(|x| *x *= by)));
    }
    grad
}

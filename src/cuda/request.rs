//! A call as the marshalling gets it: addresses and lengths, wherever they came from; and its checks, which are those of the CPU
//! backend, in the same order.

use super::kernel::{Family, Kernel};
use super::params::{TARGET_DENSE, TARGET_I32, TARGET_I64, TARGET_NONE, TARGET_U8, TARGET_U32};
use crate::element::Element;
use crate::error::{Error, Result, check_len};
use crate::reduction::Reduction;
use crate::report::Report;
use crate::shape::Shape;
use crate::third::ThirdOf;

/// A buffer where kernels can reach it: its address, and its length in elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    pub address: u64,
    pub len: usize,
}

/// A storage type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dtype {
    /// As kernels are named.
    pub name: &'static str,
    pub bytes: u64,
}

impl Dtype {
    pub fn of<T: Element>() -> Self {
        let name = match T::NAME {
            "float16" => "f16",
            "bfloat16" => "bf16",
            _ => "f32",
        };
        Dtype { name, bytes: size_of::<T>() as u64 }
    }
}

/// Targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Targets {
    Nothing,
    Dense(Memory),
    I64(Memory),
    I32(Memory),
    U32(Memory),
    U8(Memory),
}

impl Targets {
    /// `LaunchArgs::target_kind`, and where they are.
    pub(super) fn parts(self) -> (u32, Memory) {
        match self {
            Targets::Nothing => (TARGET_NONE, Memory { address: 0, len: 0 }),
            Targets::Dense(m) => (TARGET_DENSE, m),
            Targets::I64(m) => (TARGET_I64, m),
            Targets::I32(m) => (TARGET_I32, m),
            Targets::U32(m) => (TARGET_U32, m),
            Targets::U8(m) => (TARGET_U8, m),
        }
    }

    /// Where they are; nowhere if there are none.
    pub fn memory(self) -> Memory {
        self.parts().1
    }

    pub(super) fn indices(self) -> Option<Memory> {
        match self {
            Targets::Nothing | Targets::Dense(_) => None,
            _ => Some(self.parts().1),
        }
    }
}

/// A number that the host knows, or the address of one f32.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar {
    Host(f32),
    Device(u64),
}

impl Scalar {
    /// The factor that the host knows, and the address of the other, 0 if there is none.
    pub(super) fn parts(self) -> (f32, u64) {
        match self {
            Scalar::Host(x) => (x, 0),
            Scalar::Device(address) => (1.0, address),
        }
    }
}

/// Weights of losses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    PerElement(Memory),
    PerSample(Memory),
}

/// What becomes of the losses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Output {
    /// A value, which may have nowhere to go.
    Reduced(Reduction, Option<Memory>),
    /// The sum over the device scalar at this address.
    Over(u64, Option<Memory>),
    Unreduced {
        losses: Option<Memory>,
        grad_output: Option<Memory>,
    },
}

impl Output {
    /// How losses are reduced: those that are divided by a number on the device are summed.
    #[cfg(feature = "cuda")]
    pub(super) fn reduction(&self) -> Option<Reduction> {
        match *self {
            Output::Reduced(reduction, _) => Some(reduction),
            Output::Over(..) => Some(Reduction::Sum),
            Output::Unreduced { .. } => None,
        }
    }

    /// Where the value goes, where the values and their upstream gradients are, and the address of the divisor, 0 if there is none.
    pub(super) fn parts(self) -> ([Option<Memory>; 3], u64) {
        match self {
            Output::Reduced(_, value) => ([value, None, None], 0),
            Output::Over(divisor, value) => ([value, None, None], divisor),
            Output::Unreduced { losses, grad_output } => ([None, losses, grad_output], 0),
        }
    }
}

/// A call.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub dtype: Dtype,
    pub input: Memory,
    pub targets: Targets,
    pub shape: Option<Shape>,
    pub weight: Option<Weight>,
    pub class_weight: Option<Memory>,
    pub grad_output: Scalar,
    pub accumulate: bool,
    pub grad_input: Option<Memory>,
    /// `grad_input` is the input.
    pub in_place: bool,
    pub grad_target: Option<Memory>,
    /// The values of the terms of a combined loss.
    pub terms: Option<Memory>,
    /// The third tensor of a loss of three.
    pub third: Option<Memory>,
    pub grad_third: Option<Memory>,
    pub report: Report<Memory, Memory>,
    pub output: Output,
}

/// The relativistic average of two batches, of which `high` should be above the mean of the other.
#[derive(Clone, Copy, Debug)]
pub struct Average {
    pub dtype: Dtype,
    pub high: Memory,
    pub low: Memory,
    /// In the same order.
    pub grads: Option<[Memory; 2]>,
    pub value: Option<Memory>,
    pub grad_output: Scalar,
    pub accumulate: bool,
}

/// What the checks have found out on the way.
pub(crate) struct Sizes {
    pub(super) losses: usize,
    /// Outer, classes (of an element-wise loss the number of class weights, or 1) and inner.
    pub(super) dims: [usize; 3],
    pub(super) weight: Option<Memory>,
    /// Consecutive losses that share a weight.
    pub(super) each: usize,
}

impl Request {
    /// A call without anything but its input and targets.
    pub fn new<T: Element>(input: Memory, targets: Targets, shape: Option<Shape>) -> Self {
        Self::of(Dtype::of::<T>(), input, targets, shape)
    }

    /// The same of a storage type that is not known before.
    pub fn of(dtype: Dtype, input: Memory, targets: Targets, shape: Option<Shape>) -> Self {
        Request {
            dtype,
            input,
            targets,
            shape,
            weight: None,
            class_weight: None,
            grad_output: Scalar::Host(1.0),
            accumulate: false,
            grad_input: None,
            in_place: false,
            grad_target: None,
            terms: None,
            third: None,
            grad_third: None,
            report: Report::default(),
            output: Output::Unreduced { losses: None, grad_output: None },
        }
    }

    pub(super) fn check(&self, kernel: &Kernel) -> Result<Sizes> {
        let n = self.input.len;
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        if let Some(refused) = kernel.terms.and_then(|terms| terms.refused) {
            return Err(refused.error(kernel.loss));
        }
        if self.in_place && self.accumulate {
            return Err(unsupported("accumulate in place, over the input,"));
        }
        if self.grad_target.is_some() && self.grad_input.is_none() {
            return Err(unsupported("grad_target of a call that computes no gradient"));
        }
        if self.grad_third.is_some() && self.grad_input.is_none() {
            return Err(unsupported("grad_third of a call that computes no gradient"));
        }
        if let Some(grad) = self.grad_input {
            check_len("grad_input", n, grad.len)?;
        }
        let sizes = match kernel.family {
            Family::Elements => self.check_elements(kernel)?,
            Family::Rows => self.check_rows(kernel)?,
            Family::Regions { .. } => self.check_regions(kernel)?,
            Family::Sorted { softmax, .. } => self.check_sorted(kernel, softmax)?,
        };
        if let Some(terms) = self.terms {
            check_len("terms", kernel.terms.map_or(0, |terms| terms.count), terms.len)?;
        }
        let value = match self.output {
            Output::Unreduced { .. } if self.terms.is_some() => {
                return Err(unsupported("asking for terms without a reduction"));
            }
            Output::Unreduced { .. } if kernel.terms.is_some() && matches!(kernel.family, Family::Regions { .. }) => {
                return Err(unsupported("a call without a reduction, for its terms are of regions and of rows,"));
            }
            Output::Reduced(reduction, value) => {
                reduction.check(sizes.losses)?;
                if let (Some(_), Family::Regions { .. }, Some(shape)) = (kernel.terms, kernel.family, self.shape) {
                    reduction.check(shape.rows())?;
                }
                value
            }
            Output::Over(_, value) => value,
            Output::Unreduced { losses, grad_output } => {
                for (what, memory) in [("losses", losses), ("grad_output", grad_output)] {
                    memory.map_or(Ok(()), |m| check_len(what, sizes.losses, m.len))?;
                }
                None
            }
        };
        value.map_or(Ok(()), |value| check_len("value", 1, value.len))?;
        Ok(sizes)
    }

    fn check_elements(&self, kernel: &Kernel) -> Result<Sizes> {
        let (n, takes) = (self.input.len, kernel.takes);
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        self.refuse_report(kernel)?;
        match self.targets {
            Targets::Dense(t) if takes.dense => check_len("target", n, t.len)?,
            Targets::Nothing if !takes.dense => {}
            _ => return Err(unsupported("a target of this kind")),
        }
        self.check_third(kernel, n)?;
        if let Some(w) = self.class_weight {
            if !takes.class_weight {
                return Err(unsupported("a class weight"));
            }
            if w.len == 0 || !n.is_multiple_of(w.len) {
                return Err(Error::Samples { what: "class_weight", samples: w.len, elements: n });
            }
        }
        let (weight, each) = self.weights(n)?;
        if let Some(grad) = self.grad_target {
            if !takes.grad_target {
                return Err(unsupported("a gradient for the targets"));
            }
            check_len("grad_target", n, grad.len)?;
        }
        Ok(Sizes { losses: n, dims: [n, self.class_weight.map_or(1, |w| w.len), 1], weight, each })
    }

    fn check_rows(&self, kernel: &Kernel) -> Result<Sizes> {
        let (n, takes) = (self.input.len, kernel.takes);
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        let shape = self.shape.ok_or(unsupported("a call without a shape"))?;
        shape.check_input(n)?;
        crate::cpu::rowwise::check_classes(kernel.loss, takes.classes, shape)?;
        let rows = shape.rows();
        self.check_third(kernel, if kernel.takes.third == Some(ThirdOf::Rows) { rows } else { n })?;
        if i32::try_from(shape.classes).is_err() {
            return Err(unsupported("more than 2^31 classes on a GPU"));
        }
        if self.class_weight.is_some() && !takes.class_weight {
            return Err(unsupported("a class weight"));
        }
        self.class_weight.map_or(Ok(()), |w| check_len("class_weight", shape.classes, w.len))?;
        let (weight, each) = self.weights(rows)?;
        let indices = self.targets.indices();
        match self.targets {
            Targets::Nothing if !takes.index && !takes.dense => {}
            Targets::Dense(t) if takes.dense => check_len("target", n, t.len)?,
            _ if indices.is_some() && takes.index => {}
            _ => return Err(unsupported("a target of this kind")),
        }
        if let Some(grad) = self.grad_target {
            if !takes.grad_target || indices.is_some() {
                return Err(unsupported("a gradient for these targets"));
            }
            check_len("grad_target", n, grad.len)?;
        }
        if indices.is_none() && kernel.ignore_index.is_some_and(|i| i >= 0) {
            return Err(unsupported("an ignored class with dense targets"));
        }
        let len = |m: &Memory| m.len;
        self.report.check((kernel.loss, takes.report.is_some()), indices.is_some(), rows, (len, len))?;
        indices.map_or(Ok(()), |i| check_len("target", rows, i.len))?;
        Ok(Sizes { losses: rows, dims: [shape.outer, shape.classes, shape.inner], weight, each })
    }

    fn check_regions(&self, kernel: &Kernel) -> Result<Sizes> {
        let (n, shape) = (self.input.len, self.shape_of_regions(kernel)?);
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        let background = usize::from(kernel.flags & super::params::NO_BACKGROUND != 0);
        if shape.classes == background {
            return Err(unsupported("leaving out the background of a single channel"));
        }
        let counted = shape.classes - background;
        let each = if matches!(kernel.family, Family::Regions { together: true, .. }) { 1 } else { counted };
        let regions = if kernel.flags & super::params::BATCH != 0 { each } else { shape.outer * each };
        if self.class_weight.is_some() && !kernel.takes.class_weight {
            return Err(unsupported("a class weight"));
        }
        // Those of a sum are of all channels.
        let weighed = if kernel.terms.is_some() { shape.classes } else { counted };
        self.class_weight.map_or(Ok(()), |w| check_len("class_weight", weighed, w.len))?;
        if kernel.terms.is_some() && self.weight.is_some() {
            return Err(unsupported("a weight, which is of regions or of rows,"));
        }
        if self.grad_target.is_some() {
            return Err(unsupported("a gradient for the targets"));
        }
        let (weight, each) = self.weights(regions)?;
        match self.targets {
            Targets::Nothing => return Err(unsupported("a call without targets")),
            Targets::Dense(_) if !kernel.takes.dense => return Err(unsupported("a target of this kind")),
            Targets::Dense(t) => check_len("target", n, t.len)?,
            indices => check_len("target", shape.rows(), indices.parts().1.len)?,
        }
        Ok(Sizes { losses: regions, dims: [shape.outer, shape.classes, shape.inner], weight, each })
    }

    /// The shape of a loss of regions, which fits its input and its third tensor.
    fn shape_of_regions(&self, kernel: &Kernel) -> Result<Shape> {
        self.refuse_report(kernel)?;
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        let shape = self.shape.ok_or(unsupported("a call without a shape"))?;
        shape.check_input(self.input.len)?;
        self.check_third(kernel, self.input.len)?;
        Ok(shape)
    }

    fn check_sorted(&self, kernel: &Kernel, softmax: bool) -> Result<Sizes> {
        let (n, shape) = (self.input.len, self.shape_of_regions(kernel)?);
        let unsupported = |what| Error::Unsupported { loss: kernel.loss, what };
        if self.class_weight.is_some() {
            return Err(unsupported("a class weight"));
        }
        if self.weight.is_some() {
            return Err(unsupported("a weight"));
        }
        if self.grad_target.is_some() {
            return Err(unsupported("a gradient for the targets"));
        }
        let batch = kernel.flags & super::params::BATCH != 0;
        let regions = if batch { shape.classes } else { shape.outer * shape.classes };
        let len = if batch { shape.rows() } else { shape.inner };
        crate::cpu::sorted::check_len_of_region(kernel.loss, len)?;
        match self.targets {
            Targets::Dense(t) if !softmax => check_len("target", n, t.len)?,
            targets if softmax && targets.indices().is_some() => {
                check_len("target", shape.rows(), targets.memory().len)?;
            }
            _ => return Err(unsupported("a target of this kind")),
        }
        Ok(Sizes { losses: regions, dims: [shape.outer, shape.classes, shape.inner], weight: None, each: 1 })
    }

    /// Of what has no rows.
    fn refuse_report(&self, kernel: &Kernel) -> Result<()> {
        self.report.check((kernel.loss, false), true, 0, (|m| m.len, |m| m.len))
    }

    /// The third tensor, which is of this length where the loss takes one.
    fn check_third(&self, kernel: &Kernel, len: usize) -> Result<()> {
        let unsupported = |what| Err(Error::Unsupported { loss: kernel.loss, what });
        match (kernel.takes.third, self.third, self.grad_third) {
            (None, None, None) => return Ok(()),
            (None, ..) => return unsupported("a third tensor"),
            (Some(_), None, _) => return unsupported("a call without its third tensor"),
            (Some(_), Some(third), _) => check_len("third", len, third.len)?,
        }
        match self.grad_third {
            Some(_) if !kernel.takes.grad_third => unsupported("a gradient for the third tensor"),
            Some(grad) => check_len("grad_third", len, grad.len),
            None => Ok(()),
        }
    }

    /// The weights, and how many consecutive losses of `n` share one.
    pub(super) fn weights(&self, n: usize) -> Result<(Option<Memory>, usize)> {
        match self.weight {
            None => Ok((None, 1)),
            Some(Weight::PerElement(w)) => {
                check_len("weight", n, w.len)?;
                Ok((Some(w), 1))
            }
            Some(Weight::PerSample(w)) => {
                if n != 0 && (w.len == 0 || !n.is_multiple_of(w.len)) {
                    return Err(Error::Samples { what: "sample_weight", samples: w.len, elements: n });
                }
                Ok((Some(w), n.checked_div(w.len).unwrap_or(1).max(1)))
            }
        }
    }
}

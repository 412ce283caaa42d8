//! What a call on a framework's tensors must be, in the words of tensors: for the doors whose tensors know their shape.

use crate::call::Loss;
use crate::cuda::kernel::Losses;
use crate::shape::Shape;
use crate::third::ThirdOf;

/// A tensor, as far as it has to be known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Described<'a> {
    pub(crate) dims: &'a [usize],
    /// As `f32`, `i64`.
    pub(crate) dtype: &'a str,
    /// Whether it gets a gradient.
    pub(crate) tracked: bool,
}

/// The tensors of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tensors<'a> {
    pub(crate) input: Described<'a>,
    pub(crate) target: Option<Described<'a>>,
    /// And whether it is of samples.
    pub(crate) weight: Option<(Described<'a>, bool)>,
    pub(crate) class_weight: Option<Described<'a>>,
    pub(crate) third: Option<Described<'a>>,
    pub(crate) classes_last: bool,
    /// The method that takes a tensor from the graph.
    pub(crate) detach: &'a str,
}

/// What they mean.
#[derive(Debug)]
pub(crate) struct Meaning {
    /// `None` of an element-wise loss.
    pub(crate) shape: Option<Shape>,
    /// The dimensions of the unreduced losses.
    pub(crate) losses: Vec<usize>,
    /// Whether the target is on the graph.
    pub(crate) target_tracked: bool,
}

type Result<T> = std::result::Result<T, String>;

macro_rules! refuse {
    ($($text:tt)*) => {
        return Err(format!($($text)*))
    };
}

pub(crate) fn check_input_dtype(loss: &str, dtype: &str) -> Result<()> {
    if !matches!(dtype, "f32" | "f16" | "bf16") {
        refuse!("{loss}: input: expected f32, f16 or bf16, got {dtype}");
    }
    Ok(())
}

fn expect_dims(loss: &str, what: &str, expected: &[usize], got: &[usize]) -> Result<()> {
    if expected != got {
        refuse!("{loss}: {what}: expected shape {expected:?}, got {got:?}");
    }
    Ok(())
}

/// The same of one number for each loss; that of a single loss may be in a vector of one, for burn has no scalars.
fn expect_each(loss: &str, what: &str, losses: &[usize], got: &[usize]) -> Result<()> {
    if losses.is_empty() && got == [1] { Ok(()) } else { expect_dims(loss, what, losses, got) }
}

impl Tensors<'_> {
    /// Checks types and dimensions; the devices are the door's to check.
    pub(crate) fn check<L: Loss>(&self, loss: &L) -> Result<Meaning> {
        let (kernel, name) = (loss.kernel(), L::NAME);
        let (takes, losses) = (kernel.takes(), kernel.losses());
        let (dtype, dims) = (self.input.dtype, self.input.dims);
        check_input_dtype(name, dtype)?;
        let penalty = losses == Losses::Rows && !takes.index && !takes.dense;
        let (shape, mut each) = self.anatomy(name, losses, penalty)?;
        let mut target_tracked = false;
        match self.target {
            None if takes.dense || takes.index => refuse!("{name}: target: expected one, got none: call `tensors`"),
            Some(_) if !(takes.dense || takes.index) => {
                refuse!("{name}: target: expected none, got one: call `tensor`")
            }
            None => {}
            Some(target) if target.dtype == dtype && takes.dense => {
                expect_dims(name, "target", dims, target.dims)?;
                if target.tracked && !takes.grad_target {
                    refuse!(
                        "{name}: target: this loss has no gradient for its target: pass `target.{}()`",
                        self.detach
                    );
                }
                target_tracked = target.tracked;
            }
            Some(target) if matches!(target.dtype, "u8" | "u32" | "i32" | "i64") && takes.index => {
                // The one row of a vector may have its index in a vector of one.
                if each.is_empty() && target.dims == [1] {
                    each = vec![1];
                } else {
                    let per_row = if let Losses::Regions { .. } = losses { self.rows() } else { each.clone() };
                    expect_dims(name, "target", &per_row, target.dims)?;
                }
            }
            Some(target) => {
                let index = takes.index.then_some("class indices (u8, u32, i32 or i64)");
                let expected: Vec<_> = takes.dense.then_some(dtype).into_iter().chain(index).collect();
                refuse!("{name}: target: expected {}, got {}", expected.join(" or "), target.dtype);
            }
        }
        match (takes.third, self.third) {
            (None, None) => {}
            (None, Some(_)) => refuse!("{name}: third: expected none, got one: this loss is of two tensors"),
            (Some(_), None) => refuse!("{name}: third: expected one, got none: add it by `third`"),
            (Some(of), Some(third)) => {
                if third.dtype != dtype {
                    refuse!("{name}: third: expected {dtype}, got {}", third.dtype);
                }
                match of {
                    ThirdOf::Rows => expect_each(name, "third", &each, third.dims)?,
                    ThirdOf::Elements => expect_dims(name, "third", dims, third.dims)?,
                }
                if third.tracked {
                    refuse!("{name}: third: it gets no gradient here: pass `third.{}()`", self.detach);
                }
            }
        }
        if let Some((weight, per_sample)) = self.weight {
            let what = if per_sample { "sample_weight" } else { "weight" };
            self.check_weight(name, what, weight)?;
            if !per_sample {
                expect_each(name, what, &each, weight.dims)?;
            } else if weight.dims.len() != 1 {
                refuse!("{name}: {what}: expected one axis, got shape {:?}", weight.dims);
            }
        }
        if let Some(weight) = self.class_weight {
            self.check_weight(name, "class_weight", weight)?;
            if losses == Losses::Elements && !dims.ends_with(weight.dims) {
                refuse!("{name}: class_weight: expected the last axes of {dims:?}, got shape {:?}", weight.dims);
            }
            if losses != Losses::Elements && weight.dims.len() != 1 {
                refuse!("{name}: class_weight: expected one axis, got shape {:?}", weight.dims);
            }
        }
        Ok(Meaning { shape, losses: each, target_tracked })
    }

    /// What the dimensions of the input mean: its shape, where it has a class axis, and the shape of its losses.
    fn anatomy(&self, name: &str, losses: Losses, penalty: bool) -> Result<(Option<Shape>, Vec<usize>)> {
        let (dims, classes_last) = (self.input.dims, self.classes_last);
        if losses == Losses::Elements || penalty {
            if classes_last {
                refuse!("{name}: classes_last: this loss has no class axis");
            }
            if losses == Losses::Elements {
                return Ok((None, dims.to_vec()));
            }
        }
        let shape = match dims {
            [] => refuse!("{name}: input: expected at least one axis, got a scalar"),
            [classes] => Ok((1, *classes).into()),
            // A sample is all that follows the first axis.
            [samples, rest @ ..] if penalty => Ok((*samples, rest.iter().product::<usize>()).into()),
            dims if classes_last => Shape::last_axis(dims),
            dims => Shape::channels_first(dims),
        };
        let shape = shape.map_err(|error| error.to_string())?;
        let losses = match (losses, dims) {
            (_, []) => vec![],
            (Losses::Regions { .. }, dims) if classes_last && dims.len() > 2 => {
                refuse!(
                    "{name}: classes_last: regions of more than two axes have their classes on axis 1: permute the input"
                )
            }
            // One loss of the whole batch has no axis.
            (Losses::Regions { batch, left_out, together }, dims) => {
                let counted = if together { None } else { Some(shape.classes().saturating_sub(left_out)) };
                let samples = if batch || dims.len() == 1 { None } else { Some(dims[0]) };
                samples.into_iter().chain(counted).collect()
            }
            (_, [_]) => vec![],
            (_, [samples, ..]) if penalty => vec![*samples],
            (_, [rest @ .., _]) if classes_last => rest.to_vec(),
            (_, [samples, _, rest @ ..]) => [&[*samples], rest].concat(),
        };
        Ok((Some(shape), losses))
    }

    /// The dimensions of class-index targets: those of the input but the classes'.
    fn rows(&self) -> Vec<usize> {
        let mut dims = self.input.dims.to_vec();
        let axis = if self.classes_last { dims.len() - 1 } else { 1.min(dims.len() - 1) };
        dims.remove(axis);
        dims
    }

    /// Checks weights of any kind.
    fn check_weight(&self, name: &str, what: &str, weight: Described) -> Result<()> {
        if weight.dtype != "f32" {
            refuse!("{name}: {what}: expected f32, got {}", weight.dtype);
        }
        if weight.tracked {
            refuse!("{name}: {what}: weights get no gradient: pass `{what}.{}()`", self.detach);
        }
        Ok(())
    }
}

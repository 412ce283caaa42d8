//! The case table that tests and benches share: every loss with every option, how its numbers are drawn,
//! how the crate is called, and what the [`textbook`] says.
//!
//! To add a loss: its definition into `textbook.rs`, its type into the list at the end of `job.rs`, and its
//! rows into `elementwise.rs`, `rowwise.rs` or `region.rs`. If f32 cannot reach the usual tolerance, the
//! reason goes into `tolerance.rs`.
#![allow(dead_code)] // neither the battery nor the benches use all of it

pub mod custom;
pub mod draw;
pub mod drawn;
mod elementwise;
#[cfg(feature = "cuda")]
pub mod gpu;
pub mod guarded;
pub mod job;
pub mod oracle;
mod region;
mod rowwise;
pub mod textbook;
pub mod tolerance;
pub mod trial;

use draw::{Dims, Rng, Round};
use job::AnyLoss;
use textbook::RegionOptions;

/// Draws an input and a target.
pub type DrawPair = Box<dyn Fn(&mut Rng, Round) -> (f64, f64) + Send + Sync>;
/// Draws a row of that many classes, of which one may be the target.
pub type DrawRow = Box<dyn Fn(&mut Rng, Round, usize, Option<usize>) -> Vec<f64> + Send + Sync>;
/// The value of an input, its target and the weight of its class.
pub type ElementValue = Box<dyn Fn(f64, f64, f64) -> f64 + Send + Sync>;
/// The value of a row: inputs, what the target puts on each class, class weights.
pub type RowValue = Box<dyn Fn(&[f64], &[f64], &[f64]) -> f64 + Send + Sync>;

/// The third tensor of a loss of three: how it is drawn, and the step for its gradient, if the loss has that.
pub struct Third {
    pub draw: DrawThird,
    pub step: Option<Step>,
}

/// Draws an element of the third tensor, given those of input and target.
pub type DrawBeside = fn(&mut Rng, f64, f64) -> f64;

/// Draws a label of a row, given those of input and target.
pub type DrawLabel = Box<dyn Fn(&mut Rng, &[f64], &[f64]) -> f64 + Send + Sync>;

/// Draws a row of the third tensor, given those of input and target.
pub type DrawThirdRow = Box<dyn Fn(&mut Rng, Round, &[f64], &[f64]) -> Vec<f64> + Send + Sync>;

/// What of a row its gradient holds constant, of input and target.
pub type Held = fn(&[f64], &[f64]) -> Vec<f64>;

/// Draws a part of the third tensor, given those of input and target.
pub enum DrawThird {
    Element(DrawBeside),
    /// The number of a row.
    Label(DrawLabel),
    /// A row.
    Row(DrawThirdRow),
}

impl Third {
    /// How many numbers there are.
    pub fn len(&self, dims: Dims) -> usize {
        match self.draw {
            DrawThird::Element(_) | DrawThird::Row(_) => dims.elements(),
            DrawThird::Label(_) => dims.rows(),
        }
    }
}

/// One row of the table: a loss with its options.
pub struct Case {
    /// `loss[option+option]`
    pub name: String,
    pub loss: AnyLoss,
    pub family: Family,
    pub targets: Targets,
    /// It is called with class weights (for binary cross-entropy, `pos_weight` per class).
    pub class_weight: bool,
    /// Index targets hold this index too, and its rows count for nothing.
    pub ignore_index: Option<i64>,
    /// The mean divides by the class weights of the targets, not by their number.
    pub mean_by_class_weight: bool,
    /// The step of numerical differentiation for the input; for the target too, if the loss has that gradient.
    pub step: Step,
    pub target_step: Option<Step>,
    /// The third tensor of a loss of three. The value of an element or row gets it in the place of the class weights.
    pub third: Option<Third>,
    /// How many numbers a row has, if the loss is of such rows alone.
    pub classes: Option<usize>,
    /// What the gradient takes for constant, of an input and a target: taken where it is differentiated, and not with them moved. The
    /// value of a row gets it in the place of the class weights.
    pub held: Option<Held>,
}

/// What one loss of a case is a loss of, how that is drawn, and its definition.
pub enum Family {
    /// An element.
    Elements { draw: DrawPair, value: ElementValue },
    /// A row of classes.
    Rows { draw: DrawRow, value: RowValue },
    /// A channel of a sample, or of the batch.
    Regions { draw: fn(&mut Rng) -> f64, options: RegionOptions },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Targets {
    Nothing,
    Dense(Dense),
    /// One class a row (or position), in every integer type in turn.
    Index,
}

/// What dense targets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dense {
    /// Drawn with the inputs, element by element.
    Paired,
    Distribution,
    OneHot,
    Logits,
    /// Drawn as the input is.
    Embedding,
    /// Clear of the anchors and negatives of a triplet.
    Positives,
    /// Corners of boxes.
    Boxes,
}

/// The step of a central difference.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    Of(f64),
    /// Of probabilities: in proportion to the distance from the nearer end of (0, 1).
    Probability,
}

impl Step {
    pub fn at(self, x: f64) -> f64 {
        match self {
            Step::Of(h) => h,
            Step::Probability => 2e-3 * x.min(1.0 - x),
        }
    }
}

/// The usual step: the fourth-order difference is then right to 1e-11 or so.
pub const STEP: Step = Step::Of(2e-3);

impl Case {
    /// Where its random numbers begin, which sizes it sees and which settings: of its name, so that a new case changes no other,
    /// and of `BATTERY_SEED`, with which everything is drawn anew.
    pub fn seed(&self) -> usize {
        let again: u64 =
            std::env::var("BATTERY_SEED").map_or(0, |seed| seed.parse().expect("BATTERY_SEED is a number"));
        // FNV-1a.
        let hash =
            self.name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        ((hash >> 32) + again * 1_000_003) as usize
    }

    fn new(name: impl Into<String>, loss: impl Into<AnyLoss>, family: Family, targets: Targets) -> Self {
        Case {
            name: name.into(),
            loss: loss.into(),
            family,
            targets,
            class_weight: false,
            ignore_index: None,
            mean_by_class_weight: false,
            step: STEP,
            target_step: None,
            third: None,
            classes: None,
            held: None,
        }
    }

    fn step(mut self, step: Step) -> Self {
        self.step = step;
        self
    }

    fn grad_target(mut self, step: Step) -> Self {
        self.target_step = Some(step);
        self
    }

    fn with_third(mut self, draw: DrawBeside, step: impl Into<Option<Step>>) -> Self {
        self.third = Some(Third { draw: DrawThird::Element(draw), step: step.into() });
        self
    }

    fn with_labels(mut self, draw: impl Fn(&mut Rng, &[f64], &[f64]) -> f64 + Send + Sync + 'static) -> Self {
        self.third = Some(Third { draw: DrawThird::Label(Box::new(draw)), step: None });
        self
    }

    fn with_third_rows(
        mut self,
        draw: impl Fn(&mut Rng, Round, &[f64], &[f64]) -> Vec<f64> + Send + Sync + 'static,
    ) -> Self {
        self.third = Some(Third { draw: DrawThird::Row(Box::new(draw)), step: Some(STEP) });
        self
    }

    fn without_third_gradient(mut self) -> Self {
        self.third.iter_mut().for_each(|third| third.step = None);
        self
    }

    fn with_class_weight(mut self, class_weight: bool) -> Self {
        self.class_weight = class_weight;
        self
    }

    /// Whether it has a gradient for its third tensor.
    pub fn has_third_gradient(&self) -> bool {
        self.third.as_ref().is_some_and(|third| third.step.is_some())
    }

    /// These, or with as many classes as there must be.
    pub fn fit(&self, dims: Dims) -> Dims {
        Dims { classes: self.classes.unwrap_or(dims.classes), ..dims }
    }

    /// The number of class weights the case is called with.
    pub fn class_weights(&self, dims: Dims) -> Option<usize> {
        let background = match &self.family {
            Family::Regions { options, .. } => usize::from(!options.include_background),
            _ => 0,
        };
        self.class_weight.then(|| dims.classes - background)
    }
}

/// The whole table.
pub fn table() -> Vec<Case> {
    let mut cases = elementwise::cases();
    cases.extend(rowwise::cases());
    cases.extend(region::cases());
    cases
}

/// `loss[option+option]`, of the options that are on.
fn name(loss: &str, options: &[(bool, &str)]) -> String {
    let on: Vec<&str> = options.iter().filter(|(on, _)| *on).map(|(_, option)| *option).collect();
    if on.is_empty() { loss.to_string() } else { format!("{loss}[{}]", on.join("+")) }
}

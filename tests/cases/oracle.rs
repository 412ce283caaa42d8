//! What the textbook says of a problem: the value of every loss, and by central differences the
//! derivatives for a choice of elements.

use std::ops::Range;

use fused_loss::Element;

use super::draw::{Labels, Problem, Rng};
use super::{Case, DrawThird, Family, Step, Third, textbook};

/// The f64 answers to a problem, before any weights but those of the classes, and before the reduction.
pub struct Oracle {
    /// The value of each loss: of an element, a row or a region.
    pub losses: Vec<f64>,
    /// What each loss adds to the denominator of the mean: 0, 1 or a class weight.
    pub counts: Vec<f64>,
    /// The class weight in each loss's share of the weighted mean, 0 if the loss is ignored.
    pub class_weights: Vec<f64>,
    /// Derivatives for the input, by element.
    pub slopes: Vec<Slope>,
    /// Derivatives for the targets, if the case has them.
    pub target_slopes: Vec<Slope>,
    /// Derivatives for the third tensor, likewise.
    pub third_slopes: Vec<Slope>,
}

/// The derivative of one loss for one element.
#[derive(Clone, Copy, Debug)]
pub struct Slope {
    pub element: usize,
    pub loss: usize,
    pub slope: f64,
}

/// Elements that share losses with each other and with no other element.
struct Group {
    /// Its elements are `first`, `first + stride`, ...
    first: usize,
    stride: usize,
    len: usize,
    losses: Range<usize>,
}

/// A problem in f64.
struct View<'a> {
    case: &'a Case,
    dims: super::draw::Dims,
    x: Vec<f64>,
    /// Dense targets, or index targets as one-hot ones; zeros if there are none.
    t: Vec<f64>,
    third: Option<Vec<f64>>,
    indices: Option<Vec<i64>>,
    /// One a class.
    class_weight: Vec<f64>,
}

impl Oracle {
    /// Differentiates for every element if that takes at most `budget` looks at one, and otherwise for as
    /// many as that allows, always with the first, the last and those where gradients are large. For none with a budget of 0.
    pub fn new<T: Element>(case: &Case, problem: &Problem<T>, budget: usize, seed: u64) -> Self {
        let view = View::new(case, problem);
        let groups: Vec<Group> = view.groups();
        let mut oracle = Oracle {
            losses: Vec::new(),
            counts: Vec::new(),
            class_weights: Vec::new(),
            slopes: Vec::new(),
            target_slopes: Vec::new(),
            third_slopes: Vec::new(),
        };
        for group in &groups {
            oracle.losses.extend(view.values(group, &view.inputs(group), &view.targets(group), &view.thirds(group)));
        }
        for loss in 0..oracle.losses.len() {
            let (count, class_weight) = view.counts(loss);
            oracle.counts.push(count);
            oracle.class_weights.push(class_weight);
        }
        for (g, k) in view.choose(&groups, budget, seed) {
            oracle.differentiate(&view, &groups[g], k);
        }
        oracle
    }

    fn differentiate(&mut self, view: &View<'_>, group: &Group, k: usize) {
        let (mut x, mut t, mut third) = (view.inputs(group), view.targets(group), view.thirds(group));
        let element = group.first + k * group.stride;
        let push = |slopes: Vec<f64>, out: &mut Vec<Slope>| {
            let losses = group.losses.clone();
            out.extend(losses.zip(slopes).map(|(loss, slope)| Slope { element, loss, slope }));
        };
        let at = x[k];
        let slopes = central(view.case.step, at, |moved| {
            x[k] = moved;
            view.values(group, &x, &t, &third)
        });
        x[k] = at;
        push(slopes, &mut self.slopes);
        if let Some(step) = view.case.target_step {
            let at = t[k];
            let slopes = central(step, at, |moved| {
                t[k] = moved;
                view.values(group, &x, &t, &third)
            });
            t[k] = at;
            push(slopes, &mut self.target_slopes);
        }
        if let Some(step) = view.case.third.as_ref().and_then(|third| third.step) {
            let slopes = central(step, third[k], |moved| {
                third[k] = moved;
                view.values(group, &x, &t, &third)
            });
            push(slopes, &mut self.third_slopes);
        }
    }
}

/// The derivatives of several functions, from four values of each.
pub fn central(step: Step, x: f64, mut values: impl FnMut(f64) -> Vec<f64>) -> Vec<f64> {
    let h = step.at(x);
    let [far_below, below, above, far_above] = [-2.0, -1.0, 1.0, 2.0].map(|steps| values(x + steps * h));
    (0..below.len()).map(|i| (8.0 * (above[i] - below[i]) - (far_above[i] - far_below[i])) / (12.0 * h)).collect()
}

impl<'a> View<'a> {
    fn new<T: Element>(case: &'a Case, problem: &Problem<T>) -> Self {
        let dims = problem.dims;
        let wide = |x: &[T]| x.iter().map(|x| f64::from(x.to_f32())).collect::<Vec<f64>>();
        let indices: Option<Vec<i64>> = match &problem.labels {
            Labels::Nothing | Labels::Dense(_) => None,
            Labels::I64(t) => Some(t.clone()),
            Labels::I32(t) => Some(t.iter().map(|&t| t.into()).collect()),
            Labels::U32(t) => Some(t.iter().map(|&t| t.into()).collect()),
            Labels::U8(t) => Some(t.iter().map(|&t| t.into()).collect()),
        };
        let mut t = vec![0.0; dims.elements()];
        if let Labels::Dense(dense) = &problem.labels {
            t = wide(dense);
        }
        for (r, &index) in indices.iter().flatten().enumerate() {
            if (0..dims.classes as i64).contains(&index) {
                t[dims.at(r, index as usize)] = 1.0;
            }
        }
        let class_weight = match &problem.class_weight {
            Some(w) => w.iter().map(|&w| w.into()).collect(),
            None => vec![1.0; dims.classes],
        };
        let third = problem.third.as_deref().map(wide);
        View { case, dims, x: wide(&problem.input), t, third, indices, class_weight }
    }

    fn groups(&self) -> Vec<Group> {
        let dims = self.dims;
        let n = dims.elements();
        match &self.case.family {
            Family::Elements { .. } => {
                (0..n).map(|i| Group { first: i, stride: 1, len: 1, losses: i..i + 1 }).collect()
            }
            Family::Rows { .. } => {
                let row = |r| Group { first: dims.at(r, 0), stride: dims.inner, len: dims.classes, losses: r..r + 1 };
                (0..dims.rows()).map(row).collect()
            }
            Family::Regions { options, .. } => {
                let channels = dims.classes - usize::from(!options.include_background);
                let regions = if options.weight.is_some() { 1 } else { channels };
                let groups = if options.batch { 1 } else { dims.outer };
                let len = n.checked_div(groups).unwrap_or(0);
                let group = |g| Group { first: g * len, stride: 1, len, losses: g * regions..(g + 1) * regions };
                (0..groups).map(group).collect()
            }
        }
    }

    fn inputs(&self, group: &Group) -> Vec<f64> {
        (0..group.len).map(|k| self.x[group.first + k * group.stride]).collect()
    }

    fn targets(&self, group: &Group) -> Vec<f64> {
        (0..group.len).map(|k| self.t[group.first + k * group.stride]).collect()
    }

    /// Nothing of a loss of two tensors, but what its gradient holds constant.
    fn thirds(&self, group: &Group) -> Vec<f64> {
        if let Some(held) = self.case.held {
            return held(&self.inputs(group), &self.targets(group));
        }
        match (&self.third, &self.case.third) {
            (Some(third), Some(Third { draw: DrawThird::Label(_), .. })) => vec![third[group.losses.start]],
            (Some(third), _) => (0..group.len).map(|k| third[group.first + k * group.stride]).collect(),
            (None, _) => Vec::new(),
        }
    }

    /// The losses of a group, were these its inputs, targets and third tensor.
    fn values(&self, group: &Group, x: &[f64], t: &[f64], third: &[f64]) -> Vec<f64> {
        match &self.case.family {
            Family::Elements { value, .. } => {
                let class_weight = self.class_weight[group.first % self.dims.classes];
                vec![value(x[0], t[0], third.first().copied().unwrap_or(class_weight))]
            }
            Family::Rows { .. } if self.ignored(group.losses.start) => vec![0.0],
            Family::Rows { value, .. } if !third.is_empty() => vec![value(x, t, third)],
            Family::Rows { value, .. } => vec![value(x, t, &self.class_weight)],
            Family::Regions { options, .. } => {
                let samples = if options.batch { self.dims.outer } else { 1 };
                let values = textbook::regions(x, t, [samples, self.dims.classes, self.dims.inner], *options);
                let weights = self.class_weight.iter().cycle();
                values.into_iter().zip(weights).map(|(value, w)| value * w).collect()
            }
        }
    }

    fn ignored(&self, row: usize) -> bool {
        self.indices.as_ref().is_some_and(|indices| Some(indices[row]) == self.case.ignore_index)
    }

    /// What a loss adds to the denominators of the mean and, before its own weight, of the weighted mean.
    fn counts(&self, loss: usize) -> (f64, f64) {
        match (&self.case.family, &self.indices) {
            (Family::Rows { .. }, Some(_)) if self.ignored(loss) => (0.0, 0.0),
            (Family::Rows { .. }, Some(indices)) => {
                let w = self.class_weight[indices[loss] as usize];
                (if self.case.mean_by_class_weight { w } else { 1.0 }, w)
            }
            (Family::Regions { options, .. }, _) => {
                let channels = self.dims.classes - usize::from(!options.include_background);
                (1.0, self.class_weight[loss % channels])
            }
            _ => (1.0, 1.0),
        }
    }

    /// Groups and elements in them to differentiate for.
    fn choose(&self, groups: &[Group], budget: usize, seed: u64) -> Vec<(usize, usize)> {
        let Some(len) = groups.first().map(|group| group.len).filter(|_| budget > 0) else { return Vec::new() };
        let affordable = (budget / (4 * len.max(1))).max(8);
        if groups.len() * len <= affordable {
            return (0..groups.len()).flat_map(|g| (0..len).map(move |k| (g, k))).collect();
        }
        let mut rng = Rng::new(seed);
        let mut chosen = Vec::new();
        let mut g = 0;
        while chosen.len() < affordable {
            // The first, the last, then any.
            let group = &groups[g];
            let (x, t) = (self.inputs(group), self.targets(group));
            let top = |x: &[f64]| (0..len).fold(0, |top, k| if x[k] > x[top] { k } else { top });
            chosen.extend([0, len - 1, top(&x), top(&t)].map(|k| (g, k)));
            chosen.extend((0..len.min(4)).map(|_| (g, rng.below(len))));
            g = if g == 0 { groups.len() - 1 } else { rng.below(groups.len()) };
        }
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

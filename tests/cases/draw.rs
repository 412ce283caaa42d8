//! How the numbers of a case are drawn: fixed by a seed, rounded to the storage type, clear of kinks.

use fused_loss::{Element, Shape, Target};

use super::{Case, Dense, DrawThird, Family, Targets};

/// SplitMix64.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def0)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In `low..high`.
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * ((self.next() >> 11) as f64 / (1u64 << 53) as f64)
    }

    /// In `0..n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True once in `n`.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Rounds a number to the storage type.
pub type Round = fn(f64) -> f64;

pub fn round<T: Element>(x: f64) -> f64 {
    T::from_f32(x as f32).to_f32().into()
}

/// In [-8, 8]; one in sixteen up to four times as far out, where sigmoid and softmax saturate.
pub fn logit(rng: &mut Rng) -> f64 {
    let x = rng.uniform(-8.0, 8.0);
    if rng.once_in(16) { 4.0 * x } else { x }
}

/// In (0, 1); one in sixteen close to an end.
pub fn probability(rng: &mut Rng) -> f64 {
    let p = rng.uniform(0.02, 0.98);
    match rng.below(32) {
        0 => p * 0.02,
        1 => 1.0 - p * 0.02,
        _ => p,
    }
}

pub fn log_probability(rng: &mut Rng) -> f64 {
    rng.uniform(-8.0, -0.02)
}

/// 0, 1, or something between.
pub fn soft_label(rng: &mut Rng) -> f64 {
    match rng.below(4) {
        0 => 0.0,
        1 => 1.0,
        _ => rng.uniform(0.0, 1.0),
    }
}

/// 0 or 1.
pub fn hard_label(rng: &mut Rng) -> f64 {
    if rng.once_in(2) { 0.0 } else { 1.0 }
}

/// -1 or 1.
pub fn signed_label(rng: &mut Rng) -> f64 {
    2.0 * hard_label(rng) - 1.0
}

/// How far, at least, inputs stay from a kink: more than twice the largest step of a difference.
pub const CLEAR: f64 = 0.01;

/// Draws from `input` and `target` until `clear`, given both after rounding, says yes.
pub fn pairs(
    input: fn(&mut Rng) -> f64,
    target: fn(&mut Rng) -> f64,
    clear: impl Fn(f64, f64) -> bool + Send + Sync + 'static,
) -> super::DrawPair {
    Box::new(move |rng, round| {
        loop {
            let (x, t) = (round(input(rng)), round(target(rng)));
            if clear(x, t) {
                return (x, t);
            }
        }
    })
}

/// Rows of independent numbers.
pub fn rows(input: fn(&mut Rng) -> f64) -> super::DrawRow {
    Box::new(move |rng, round, classes, _| (0..classes).map(|_| round(input(rng))).collect())
}

/// `x1, y1, x2, y2`, each a whole number and `part` to `part + 0.3`: clear of the edges of boxes of another part.
pub fn corners(rng: &mut Rng, part: f64) -> Vec<f64> {
    let [x, y, w, h] = [(); 4].map(|()| rng.below(3));
    [x, y, x + w + 1, y + h + 1].map(|whole| whole as f64 + part + rng.uniform(0.0, 0.3)).to_vec()
}

/// A whole number of -2 to 2 and `part` to `part + 0.2`: clear of those of another part.
pub fn apart(rng: &mut Rng, part: f64) -> f64 {
    rng.below(5) as f64 - 2.0 + part + rng.uniform(0.0, 0.2)
}

/// A distribution, a one-hot one every fourth time; some classes have nothing.
fn distribution(rng: &mut Rng, classes: usize, always_hard: bool) -> Vec<f64> {
    let mut q = vec![0.0; classes];
    if always_hard || rng.once_in(4) {
        q[rng.below(classes)] = 1.0;
        return q;
    }
    for q in &mut q {
        *q = if rng.once_in(8) { 0.0 } else { rng.uniform(0.0, 1.0) };
    }
    q[rng.below(classes)] += 0.1;
    let sum: f64 = q.iter().sum();
    q.iter().map(|q| q / sum).collect()
}

/// `(outer, classes, inner)`. An element-wise case has `outer * inner` elements a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dims {
    pub outer: usize,
    pub classes: usize,
    pub inner: usize,
}

impl Dims {
    pub fn new(outer: usize, classes: usize, inner: usize) -> Self {
        Dims { outer, classes, inner }
    }

    pub fn elements(self) -> usize {
        self.outer * self.classes * self.inner
    }

    pub fn rows(self) -> usize {
        self.outer * self.inner
    }

    /// Where class `k` of row `r` is.
    pub fn at(self, r: usize, k: usize) -> usize {
        (r / self.inner * self.classes + k) * self.inner + r % self.inner
    }

    /// The numbers of row `r`.
    pub fn row(self, x: &[f64], r: usize) -> Vec<f64> {
        (0..self.classes).map(|k| x[self.at(r, k)]).collect()
    }

    /// As the crate takes it: classes on the last axis if nothing comes after them, on axis 1 otherwise.
    pub fn shape(self) -> Shape {
        let Dims { outer, classes, inner } = self;
        match (inner, inner % 3) {
            (1, _) => (outer, classes).into(),
            (_, 0) => [outer, classes, inner / 3, 3].into(),
            _ => [outer, classes, inner].into(),
        }
    }
}

/// The targets of a problem.
pub enum Labels<T> {
    Nothing,
    Dense(Vec<T>),
    I64(Vec<i64>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

impl<T: Element> Labels<T> {
    /// As the crate takes them.
    pub fn target(&self) -> Target<'_, T> {
        match self {
            Labels::Nothing => Target::Nothing,
            Labels::Dense(t) => Target::Dense(t),
            Labels::I64(t) => Target::I64(t),
            Labels::I32(t) => Target::I32(t),
            Labels::U32(t) => Target::U32(t),
            Labels::U8(t) => Target::U8(t),
        }
    }

    /// In the narrowest type of `choice..` that holds all of them.
    fn indices(indices: Vec<i64>, choice: usize) -> Self {
        if choice == 0 && indices.iter().all(|&i| u8::try_from(i).is_ok()) {
            return Labels::U8(indices.iter().map(|&i| i as u8).collect());
        }
        if choice <= 1 && indices.iter().all(|&i| u32::try_from(i).is_ok()) {
            return Labels::U32(indices.iter().map(|&i| i as u32).collect());
        }
        if choice <= 2 { Labels::I32(indices.iter().map(|&i| i as i32).collect()) } else { Labels::I64(indices) }
    }
}

/// The numbers of one case, drawn.
pub struct Problem<T> {
    pub dims: Dims,
    pub input: Vec<T>,
    pub labels: Labels<T>,
    pub third: Option<Vec<T>>,
    pub class_weight: Option<Vec<f32>>,
}

impl<T: Element> Problem<T> {
    /// With every other number of the input one that arithmetic makes something special of.
    pub fn at_the_edges(mut self) -> Self {
        let largest = if T::NAME == "float16" { 65504.0 } else { 3.3e38 };
        let least = if T::NAME == "float16" { 6e-8 } else { 1e-40 };
        let edges = [f32::INFINITY, f32::NAN, -largest, least, f32::NEG_INFINITY, largest, -0.0, -least];
        self.input.iter_mut().step_by(2).zip(edges.iter().cycle()).for_each(|(x, &edge)| *x = T::from_f32(edge));
        self
    }

    pub fn draw(case: &Case, dims: Dims, seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let (mut input, mut dense) = (vec![0.0; dims.elements()], vec![0.0; dims.elements()]);
        let mut indices = Vec::new();
        match &case.family {
            Family::Elements { draw, .. } => {
                for (x, t) in input.iter_mut().zip(&mut dense) {
                    (*x, *t) = draw(&mut rng, round::<T>);
                }
            }
            Family::Rows { draw, .. } => {
                for r in 0..dims.rows() {
                    let mut class = None;
                    if case.targets == Targets::Index {
                        // The first row always counts, so that there is something to take the mean of.
                        let ignored = case.ignore_index.filter(|_| r != 0 && rng.once_in(4));
                        let index = ignored.unwrap_or(rng.below(dims.classes) as i64);
                        let index = if r == 0 && Some(index) == case.ignore_index { 0 } else { index };
                        indices.push(index);
                        class = usize::try_from(index).ok().filter(|&t| t < dims.classes);
                    } else if let Targets::Dense(kind) = case.targets {
                        let teacher =
                            matches!(kind, Dense::Logits | Dense::Embedding | Dense::Positives | Dense::Boxes);
                        let q = match kind {
                            Dense::Boxes => corners(&mut rng, 0.6),
                            Dense::Positives => (0..dims.classes).map(|_| apart(&mut rng, 0.35)).collect(),
                            Dense::Embedding => draw(&mut rng, round::<T>, dims.classes, None),
                            Dense::Logits => (0..dims.classes).map(|_| logit(&mut rng)).collect(),
                            _ => distribution(&mut rng, dims.classes, kind == Dense::OneHot),
                        };
                        class = q.iter().position(|&q| q == 1.0).filter(|_| !teacher);
                        for (k, q) in q.into_iter().enumerate() {
                            dense[dims.at(r, k)] = round::<T>(q);
                        }
                    }
                    for (k, x) in draw(&mut rng, round::<T>, dims.classes, class).into_iter().enumerate() {
                        input[dims.at(r, k)] = x;
                    }
                }
            }
            Family::Regions { draw, .. } => {
                for (x, t) in input.iter_mut().zip(&mut dense) {
                    (*x, *t) = (round::<T>(draw(&mut rng)), round::<T>(soft_label(&mut rng)));
                }
                if case.targets == Targets::Index {
                    indices = (0..dims.rows()).map(|_| rng.below(dims.classes) as i64).collect();
                }
            }
        }
        let third = case.third.as_ref().map(|third| match &third.draw {
            DrawThird::Element(draw) => input.iter().zip(&dense).map(|(&x, &t)| draw(&mut rng, x, t)).collect(),
            DrawThird::Label(draw) => {
                (0..dims.rows()).map(|r| draw(&mut rng, &dims.row(&input, r), &dims.row(&dense, r))).collect()
            }
            DrawThird::Row(draw) => {
                let mut third = vec![0.0; dims.elements()];
                for r in 0..dims.rows() {
                    let row = draw(&mut rng, round::<T>, &dims.row(&input, r), &dims.row(&dense, r));
                    row.into_iter().enumerate().for_each(|(k, x)| third[dims.at(r, k)] = x);
                }
                third
            }
        });
        let storage = |x: Vec<f64>| x.into_iter().map(|x| T::from_f32(x as f32)).collect();
        let third = third.map(storage);
        let labels = match case.targets {
            Targets::Nothing => Labels::Nothing,
            Targets::Dense(_) => Labels::Dense(storage(dense)),
            Targets::Index => Labels::indices(indices, rng.below(4)),
        };
        let class_weight = case.class_weights(dims).map(|n| (0..n).map(|_| rng.uniform(0.25, 2.0) as f32).collect());
        Problem { dims, input: storage(input), labels, third, class_weight }
    }

    /// The shape, if the loss has a class axis.
    pub fn shape(&self, case: &Case) -> Option<Shape> {
        (!matches!(case.family, Family::Elements { .. })).then(|| self.dims.shape())
    }
}

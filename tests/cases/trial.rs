//! One problem called in one setting, in all ways, and compared with the oracle.

use std::cell::RefCell;

use fused_loss::{Element, Reduction, Result, Target};

use super::draw::{Labels, Problem, Rng};
use super::guarded::{Guarded, bits};
use super::job::{AnyLoss, Job, Verb, Weight};
use super::oracle::{Oracle, Slope};
use super::{Case, Family, tolerance};

/// What of a call does not depend on the loss.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// `None` is the unreduced form.
    pub reduction: Option<Reduction>,
    pub weights: Weights,
    pub grad_output: f32,
    /// Elements before input, target and gradient in the buffers they are slices of.
    pub offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weights {
    None,
    PerElement,
    PerSample,
}

/// Every reduction, with and without weights of either kind.
pub fn settings(losses: usize, seed: usize) -> Vec<Setting> {
    let batch = if losses == 0 { 0 } else { largest_divisor(losses, 9) };
    let reductions = [
        (Some(Reduction::Mean), Weights::None),
        (Some(Reduction::Sum), Weights::None),
        (Some(Reduction::BatchMean(batch)), Weights::None),
        (Some(Reduction::SumOver(12.5)), Weights::PerSample),
        (Some(Reduction::WeightedMean), Weights::PerElement),
        (None, Weights::None),
        (Some(Reduction::WeightedMean), Weights::PerSample),
        (Some(Reduction::Mean), Weights::PerElement),
        (None, Weights::PerElement),
        (Some(Reduction::WeightedMean), Weights::None),
    ];
    let setting = |(i, (reduction, weights))| Setting {
        reduction,
        weights,
        grad_output: [1.0, 0.25, 65536.0, 1.0, 0.0, -3.0, 1.0][(seed + i) % 7],
        offset: [0, 1, 3][(seed + i) % 3],
    };
    reductions.into_iter().enumerate().map(setting).collect()
}

/// What runs a call: the crate, or something that should give the same.
pub type Engine<T> = for<'j> fn(AnyLoss, Job<'j, T>) -> Result<f32>;

/// One case, drawn, with what the textbook says of it, and a setting to call it in.
pub struct Trial<'a, T> {
    case: &'a Case,
    problem: &'a Problem<T>,
    oracle: &'a Oracle,
    setting: Setting,
    engine: Engine<T>,
    /// One a loss or one a sample, as the setting says.
    weights: Vec<f32>,
    /// The upstream gradient of each loss, for the unreduced form.
    upstream: Vec<f32>,
    /// The worst error so far.
    worst: RefCell<Worst>,
}

/// An error as a share of what is allowed, and where it is.
#[derive(Default)]
pub struct Worst {
    pub share: f64,
    pub what: String,
}

impl Worst {
    pub fn add(&mut self, share: f64, what: impl FnOnce() -> String) {
        // A NaN is worse than anything.
        if share > self.share || share.is_nan() {
            *self = Worst { share: if share.is_nan() { f64::INFINITY } else { share }, what: what() };
        }
    }
}

/// The verbs, each in its reduced and its unreduced form.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    ForwardBackward,
    Forward,
    Backward,
    InPlace,
    Accumulate,
}

/// What a call gave.
pub struct Outcome<T> {
    value: f32,
    losses: Guarded<f32>,
    grad: Guarded<T>,
    grad_target: Guarded<T>,
    grad_third: Guarded<T>,
}

impl<'a, T: Element> Trial<'a, T> {
    pub fn new(case: &'a Case, problem: &'a Problem<T>, oracle: &'a Oracle, setting: Setting) -> Self {
        let mut rng = Rng::new(problem.input.len() as u64);
        let mut floats = |n: usize, low: f64| (0..n).map(|_| rng.uniform(low, 2.0) as f32).collect();
        let losses = oracle.losses.len();
        let samples = if losses == 0 { 0 } else { largest_divisor(losses, 5) };
        let weights = match setting.weights {
            Weights::None => Vec::new(),
            Weights::PerElement => floats(losses, 0.25),
            Weights::PerSample => floats(samples, 0.25),
        };
        let (engine, upstream): (Engine<T>, _) = (AnyLoss::run, floats(losses, -2.0));
        Trial { case, problem, oracle, setting, engine, weights, upstream, worst: RefCell::default() }
    }

    /// Runs calls by something else than the crate.
    pub fn by(self, engine: Engine<T>) -> Self {
        Trial { engine, ..self }
    }

    fn context(&self) -> String {
        format!("{} of {} {:?} in {:?}", self.case.name, T::NAME, self.problem.dims, self.setting)
    }

    /// Calls the crate.
    fn call(&self, way: Way) -> Outcome<T> {
        let Trial { case, problem, setting, .. } = self;
        let (n, offset) = (problem.input.len(), setting.offset);
        let rubbish = || Guarded::new(&vec![T::from_f32(f32::NAN); n], offset);
        let (input, old) = (Guarded::new(&problem.input, offset), Guarded::new(&self.old(), offset));
        let dense = match &problem.labels {
            Labels::Dense(t) => Some(Guarded::new(t, offset)),
            _ => None,
        };
        let third = problem.third.as_ref().map(|third| Guarded::new(third, offset));
        let mut out = match way {
            Way::InPlace => Outcome { grad: Guarded::new(&problem.input, offset), ..self.nothing(rubbish()) },
            Way::Accumulate => Outcome { grad: Guarded::new(&self.old(), offset), ..self.nothing(old) },
            _ => Outcome { grad: rubbish(), ..self.nothing(rubbish()) },
        };
        let (grad, losses, grad_output) = (out.grad.get_mut(), out.losses.get_mut(), &self.upstream[..]);
        let verb = match (setting.reduction, way) {
            (Some(r), Way::ForwardBackward | Way::Accumulate) => Verb::ForwardBackward(r, grad),
            (Some(r), Way::Forward) => Verb::Forward(r),
            (Some(r), Way::Backward) => Verb::Backward(r, grad),
            (Some(r), Way::InPlace) => Verb::InPlace(r, grad),
            (None, Way::ForwardBackward | Way::Accumulate) => {
                Verb::ForwardBackwardUnreduced { grad_output, losses, grad }
            }
            (None, Way::Forward) => Verb::ForwardUnreduced { losses },
            (None, Way::Backward) => Verb::BackwardUnreduced { grad_output, grad },
            (None, Way::InPlace) => Verb::InPlaceUnreduced { grad_output, losses, buffer: grad },
        };
        let with_target = case.target_step.is_some() && way != Way::Forward;
        let with_third = self.case.has_third_gradient() && way != Way::Forward;
        let job = Job {
            input: input.get(),
            target: dense.as_ref().map_or(problem.labels.target(), |t| Target::Dense(t.get())),
            shape: problem.shape(case),
            weight: match setting.weights {
                Weights::None => Weight::None,
                Weights::PerElement => Weight::PerElement(&self.weights),
                Weights::PerSample => Weight::PerSample(&self.weights),
            },
            class_weight: problem.class_weight.as_deref(),
            grad_output: setting.grad_output,
            accumulate: way == Way::Accumulate,
            grad_target: with_target.then(|| out.grad_target.get_mut()),
            third: third.as_ref().map(Guarded::get),
            grad_third: with_third.then(|| out.grad_third.get_mut()),
            verb,
        };
        out.value =
            (self.engine)(case.loss, job).unwrap_or_else(|error| panic!("{}, {way:?}: {error}", self.context()));
        let others = out.grad_target.canaries_live() && out.grad_third.canaries_live();
        let live = out.grad.canaries_live() && others && out.losses.canaries_live();
        assert!(live, "{}, {way:?}: wrote outside a buffer", self.context());
        out
    }

    /// What gradients are added to.
    fn old(&self) -> Vec<T> {
        (0..self.problem.input.len()).map(|i| T::from_f32([0.5, -0.125, 0.0, 3.0, -2.0][i % 5])).collect()
    }

    fn nothing(&self, grad_target: Guarded<T>) -> Outcome<T> {
        let losses = Guarded::new(&vec![f32::NAN; self.oracle.losses.len()], self.setting.offset);
        let grad_third = Guarded::new(grad_target.get(), self.setting.offset);
        Outcome { value: f32::NAN, losses, grad: Guarded::new(&[], 0), grad_target, grad_third }
    }

    fn weight(&self, loss: usize) -> f64 {
        match self.setting.weights {
            Weights::None => 1.0,
            Weights::PerElement => self.weights[loss].into(),
            Weights::PerSample => self.weights[loss / (self.oracle.losses.len() / self.weights.len())].into(),
        }
    }

    fn denominator(&self) -> f64 {
        let Oracle { counts, class_weights, .. } = self.oracle;
        match self.setting.reduction {
            Some(Reduction::Mean) => counts.iter().sum(),
            Some(Reduction::BatchMean(batch)) => batch as f64,
            Some(Reduction::WeightedMean) => (0..counts.len()).map(|l| self.weight(l) * class_weights[l]).sum(),
            Some(Reduction::SumOver(d)) => d,
            _ => 1.0,
        }
    }

    /// Calls in all ways and compares.
    pub fn check(self) -> Worst {
        let out = self.call(Way::ForwardBackward);
        self.check_values(&out);
        self.check_gradients("grad_input", &self.oracle.slopes, out.grad.get(), None);
        if self.case.target_step.is_some() {
            self.check_gradients("grad_target", &self.oracle.target_slopes, out.grad_target.get(), None);
        }
        if self.case.has_third_gradient() {
            self.check_gradients("grad_third", &self.oracle.third_slopes, out.grad_third.get(), None);
        }
        self.check_same(Way::Forward, &out);
        self.check_same(Way::Backward, &out);
        self.check_same(Way::InPlace, &out);
        self.check_accumulated(&out);
        self.worst.into_inner()
    }

    fn check_values(&self, out: &Outcome<T>) {
        let (floor, _) = tolerance::floors(&self.case.name);
        let (mut sum, mut sum_against) = (0.0, 0.0);
        for (l, loss) in self.oracle.losses.iter().enumerate() {
            let (want, against) = (self.weight(l) * loss, self.weight(l) * loss.abs().max(floor));
            if self.setting.reduction.is_none() {
                let got = f64::from(out.losses.get()[l]);
                let error = (got - want).abs();
                let share = if error == 0.0 { 0.0 } else { error / (tolerance::VALUE * against) };
                self.note(share, || format!("loss {l}: expected {want}, got {got}"));
            }
            (sum, sum_against) = (sum + want, sum_against + against);
        }
        if self.setting.reduction.is_some() {
            let (want, against) = (sum / self.denominator(), sum_against / self.denominator());
            let got = f64::from(out.value);
            let same = got == want || got.is_nan() && want.is_nan();
            let share = if same { 0.0 } else { (got - want).abs() / (tolerance::VALUE * against) };
            self.note(share, || format!("expected {want}, got {got}"));
        }
    }

    fn check_gradients(&self, what: &str, slopes: &[Slope], got: &[T], old: Option<&[T]>) {
        assert!(!got.iter().any(|g| g.to_f32().is_nan()), "{}: {what} has a NaN", self.context());
        let denominator = self.denominator();
        let factor = |loss: usize| {
            let above = if self.setting.reduction.is_none() { self.upstream[loss] } else { 1.0 };
            self.weight(loss) * f64::from(above) * f64::from(self.setting.grad_output) / denominator
        };
        let (_, floor) = tolerance::floors(&self.case.name);
        let floor = match self.case.family {
            Family::Regions { .. } => floor * self.oracle.losses.len() as f64 / got.len() as f64,
            _ => floor,
        };
        // Regions of an element, or of a group of elements, may share it: its gradient is a sum.
        let want: Vec<(Slope, f64, f64)> = slopes
            .chunk_by(|a, b| a.element == b.element)
            .map(|same| {
                let above = same.iter().fold(0f64, |most, s| most.max(factor(s.loss).abs()));
                (same[0], same.iter().map(|s| s.slope * factor(s.loss)).sum(), above)
            })
            .collect();
        let by_row = matches!(self.case.family, Family::Rows { .. });
        for row in want.chunk_by(|(a, ..), (b, ..)| !by_row || a.loss == b.loss) {
            let floor = floor * row.iter().fold(0f64, |most, (.., above)| most.max(*above));
            let largest = row.iter().fold(floor, |most, (_, want, _)| most.max(want.abs()));
            for &(Slope { element, .. }, want, _) in row {
                let want: f64 = want + old.map_or(0.0, |old| f64::from(old[element].to_f32()));
                let got = f64::from(got[element].to_f32());
                // A sum with what was there is rounded to f32 first.
                let twice = if old.is_some() { tolerance::half_ulp::<f32>(want) } else { 0.0 };
                let rounding = tolerance::half_ulp::<T>(want.abs().max(got.abs())) + twice;
                let error = ((got - want).abs() - rounding).max(0.0);
                let overflow =
                    want.abs() + rounding >= tolerance::overflow::<T>() && got == want.signum() * f64::INFINITY;
                let share = if overflow || error == 0.0 { 0.0 } else { error / (tolerance::GRADIENT * largest) };
                self.note(share, || format!("{what}[{element}]: expected {want}, got {got}, of {largest}"));
            }
        }
    }

    fn note(&self, share: f64, what: impl FnOnce() -> String) {
        self.worst.borrow_mut().add(share, || format!("{}: {}", self.context(), what()));
    }

    /// To the last bit.
    fn check_same(&self, way: Way, out: &Outcome<T>) {
        let other = self.call(way);
        if way != Way::Backward {
            let same =
                other.value.to_bits() == out.value.to_bits() && bits(other.losses.get()) == bits(out.losses.get());
            assert!(same, "{}: {way:?} has another value", self.context());
        }
        if way != Way::Forward {
            let same = bits(other.grad.get()) == bits(out.grad.get());
            let same_target = bits(other.grad_target.get()) == bits(out.grad_target.get());
            let same_third = bits(other.grad_third.get()) == bits(out.grad_third.get());
            assert!(same && same_target && same_third, "{}: {way:?} has another gradient", self.context());
        }
    }

    /// Accumulation is the old and the new, rounded once.
    fn check_accumulated(&self, out: &Outcome<T>) {
        let (sum, old) = (self.call(Way::Accumulate), self.old());
        self.check_gradients("accumulated grad_input", &self.oracle.slopes, sum.grad.get(), Some(&old));
        if self.case.target_step.is_some() {
            let slopes = &self.oracle.target_slopes;
            self.check_gradients("accumulated grad_target", slopes, sum.grad_target.get(), Some(&old));
        }
        if self.case.has_third_gradient() {
            let slopes = &self.oracle.third_slopes;
            self.check_gradients("accumulated grad_third", slopes, sum.grad_third.get(), Some(&old));
        }
        if T::NAME == "float32" {
            let exact = old.iter().zip(out.grad.get()).map(|(old, new)| (old.to_f32() + new.to_f32()).to_bits());
            assert!(exact.eq(bits(sum.grad.get())), "{}: not the old and the new", self.context());
        }
    }
}

pub fn largest_divisor(n: usize, most: usize) -> usize {
    (1..=most).rev().find(|d| n.is_multiple_of(*d)).expect("one divides")
}

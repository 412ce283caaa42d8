//! Calls of any loss with any lengths, shapes, places in memory, index types, options and bits: each ends in an error that has written
//! nothing, or in an answer that is written where it should be and nowhere else, and is the same at another place in memory.
//!
//! A call is made from one number, so that it comes back. Those that once went wrong are in `fuzz/corpus.txt` and come first; then
//! `FUSED_LOSS_FUZZ_CASES` more, from `FUSED_LOSS_FUZZ_SEED` on. (`FUSED_LOSS_FUZZ_SAY` prints each before
//! it is tried, for a call that ends the process.) `tests/bad_input.rs` looks at what errors say; `capi/tests/fuzz.rs`
//! does the same to the C ABI.

mod cases;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

use cases::draw::Rng;
use cases::drawn::drawn;
use cases::guarded::Guarded;
use cases::job::{AnyLoss, Job, Verb, Weight};
use cases::{Case, DrawThird, Family, Targets, table};
use fused_loss::*;
use half::{bf16, f16};

/// Where the calls begin that no variable asks for.
const SEED: u64 = 1;
const CASES: u64 = if cfg!(debug_assertions) { 6_000 } else { 200_000 };

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable}: expected a number, got {text}")),
        Err(_) => otherwise,
    }
}

#[test]
fn whatever_a_call_is_made_of_it_ends_well() {
    let corpus = include_str!("fuzz/corpus.txt").lines().filter(|line| !line.starts_with('#'));
    let corpus = corpus.map(|line| line.split_whitespace().next().unwrap().parse::<u64>().unwrap());
    let (first, count) = (number("FUSED_LOSS_FUZZ_SEED", SEED), number("FUSED_LOSS_FUZZ_CASES", CASES));
    let (mut taken, mut refused) = (0, 0);
    for seed in corpus.chain((0..count).map(|i| first.wrapping_add(i))) {
        if std::env::var_os("FUSED_LOSS_FUZZ_SAY").is_some() {
            eprintln!("{seed}");
        }
        match catch_unwind(|| call(seed)) {
            Ok(true) => taken += 1,
            Ok(false) => refused += 1,
            Err(_) => panic!(
                "the call of seed {seed} went wrong, as said above: FUSED_LOSS_FUZZ_SEED={seed} FUSED_LOSS_FUZZ_CASES=1 runs it \
                 alone; it belongs into tests/fuzz/corpus.txt"
            ),
        }
    }
    println!("{taken} calls were taken, {refused} refused");
    assert!(taken > count / 8 && refused > count / 8, "{taken} {refused}: these are not any calls");
}

/// Whether it was taken.
fn call(seed: u64) -> bool {
    let mut rng = Rng::new(seed);
    match rng.below(3) {
        0 => call_of::<f32>(&mut rng),
        1 => call_of::<f16>(&mut rng),
        _ => call_of::<bf16>(&mut rng),
    }
}

fn call_of<T: Element>(rng: &mut Rng) -> bool {
    static TABLE: OnceLock<Vec<Case>> = OnceLock::new();
    let listed = TABLE.get_or_init(table);
    let drawn = drawn(rng);
    let case = if rng.once_in(2) { &drawn } else { &listed[rng.below(listed.len())] };
    let mut draft = Draft::<T>::draw(case, rng);
    let loss = match wild(rng).filter(|_| rng.once_in(4)) {
        None => case.loss,
        Some((loss, kind)) => {
            // Another loss than that of the case, in a call that may fit it; by type it takes no other target.
            draft.kind = kind.unwrap_or(draft.kind);
            draft.shape = draft.shape.or(Some((draft.input.len(), 1).into()));
            loss
        }
    };
    let context = || format!("{loss:?} of {}: {draft:?}", T::NAME);

    let (mut first, mut second) = (draft.outputs(0), draft.outputs(1));
    let got = catch_unwind(AssertUnwindSafe(|| draft.run(loss, 0, &mut first)));
    let got = got.unwrap_or_else(|_| panic!("a panic of {}", context()));
    for out in [&first.grad, &first.grad_target, &first.grad_third] {
        assert!(out.canaries_live(), "wrote outside a gradient: {}", context());
    }
    assert!(first.losses.canaries_live(), "wrote outside the losses: {}", context());
    if got.is_err() {
        let before = draft.outputs(0);
        assert!(first.same(&before), "wrote, then {got:?}: {}", context());
        return false;
    }
    let again = draft.run(loss, 1, &mut second);
    let same = matches!((&got, &again), (Ok(a), Ok(b)) if number_bits(*a) == number_bits(*b));
    assert!(same && first.same(&second), "elsewhere in memory {again:?}, here {got:?}: {}", context());
    true
}

/// Bits, where a NaN is a NaN.
fn number_bits(x: f32) -> u32 {
    if x.is_nan() { f32::NAN.to_bits() } else { x.to_bits() }
}

/// What a call writes.
struct Outputs<T> {
    losses: Guarded<f32>,
    grad: Guarded<T>,
    grad_target: Guarded<T>,
    grad_third: Guarded<T>,
}

impl<T: Element> Outputs<T> {
    fn same(&self, other: &Self) -> bool {
        fn same<T: Element>(a: &Guarded<T>, b: &Guarded<T>) -> bool {
            let bits = |x: &Guarded<T>| x.get().iter().map(|x| number_bits(x.to_f32())).collect::<Vec<u32>>();
            bits(a) == bits(b)
        }
        same(&self.losses, &other.losses)
            && same(&self.grad, &other.grad)
            && same(&self.grad_target, &other.grad_target)
            && same(&self.grad_third, &other.grad_third)
    }
}

/// Owned index targets, of any bits.
#[derive(Debug)]
enum Classes {
    I64(Vec<i64>),
    I32(Vec<i32>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Nothing,
    Dense,
    Index,
}

/// A call, with everything in it.
#[derive(Debug)]
struct Draft<T> {
    shape: Option<Shape>,
    input: Vec<T>,
    kind: Kind,
    dense: Vec<T>,
    classes: Classes,
    weight: Option<(bool, Vec<f32>)>,
    class_weight: Option<Vec<f32>>,
    third: Option<Vec<T>>,
    grad_output: f32,
    accumulate: bool,
    reduction: Reduction,
    verb: usize,
    /// What is in the gradient, and with which lengths the outputs come.
    old: Vec<T>,
    losses: usize,
    each: Vec<f32>,
    grad_target: Option<usize>,
    grad_third: Option<usize>,
    /// Where in memory, in elements: two places.
    offsets: [usize; 2],
}

/// Numbers that arithmetic trips over.
const NASTY: [f32; 16] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    1e-45,
    -1e-38,
    f32::MIN_POSITIVE,
    0.99999994,
    1.0000001,
    88.8,
    -104.0,
    65504.0,
    f32::MAX,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

/// Any bits, those of a half, numbers as they come, or numbers as they should not.
fn float(rng: &mut Rng, tame: bool) -> f32 {
    match rng.below(if tame { 1 } else { 4 }) {
        0 => rng.uniform(-3.0, 3.0) as f32,
        1 => f32::from_bits(rng.below(1 << 32) as u32),
        2 => f16::from_bits(rng.below(1 << 16) as u16).to_f32(),
        _ => NASTY[rng.below(NASTY.len())],
    }
}

fn floats(rng: &mut Rng, n: usize) -> Vec<f32> {
    // Some buffers are wild throughout, most here and there, some not at all.
    let one_in = [1, 2, 20, usize::MAX >> 1][rng.below(4)];
    (0..n)
        .map(|_| {
            let tame = !rng.once_in(one_in);
            float(rng, tame)
        })
        .collect()
}

fn elements<T: Element>(rng: &mut Rng, n: usize) -> Vec<T> {
    floats(rng, n).into_iter().map(T::from_f32).collect()
}

/// The right length, or now and then another.
fn length(rng: &mut Rng, right: usize) -> usize {
    if rng.once_in(24) { [0, 1, right.saturating_sub(1), right + 1, 2 * right][rng.below(5)] } else { right }
}

impl<T: Element> Draft<T> {
    fn draw(case: &Case, rng: &mut Rng) -> Self {
        let mut axis = || [0, 1, 1, 2, 3, 5, 15, 16, 17, 33][rng.below(10)];
        let dims = [axis(), axis(), axis()];
        let [outer, classes, inner] = [dims[0], case.classes.unwrap_or(dims[1]), dims[2]];
        let (n, rows) = (outer * classes * inner, outer * inner);
        let (losses, shaped) = match &case.family {
            Family::Elements { .. } => (n, false),
            Family::Rows { .. } => (rows, true),
            Family::Regions { options, .. } => {
                // Generalised Dice has one loss of all channels.
                let channels = classes.saturating_sub(usize::from(!options.include_background));
                let each = if options.weight.is_some() { 1 } else { channels };
                (if options.batch { each } else { outer * each }, true)
            }
        };
        // Losses of elements, of three tensors, and those without targets, take no other kind by type.
        let kind = match case.targets {
            Targets::Nothing => Kind::Nothing,
            Targets::Dense(_) if !shaped || case.third.is_some() => Kind::Dense,
            _ if rng.once_in(16) => [Kind::Nothing, Kind::Dense, Kind::Index][rng.below(3)],
            Targets::Dense(_) => Kind::Dense,
            Targets::Index => Kind::Index,
        };
        let dense = match kind {
            Kind::Dense => {
                let n = length(rng, n);
                elements(rng, n)
            }
            _ => vec![],
        };
        let count = length(rng, rows);
        let bad = rng.once_in(6);
        let mut class = |_| {
            if bad && rng.once_in(4) {
                rng.below(usize::MAX) as i64 >> rng.below(64)
            } else {
                rng.below(classes.max(1)) as i64
            }
        };
        let indices: Vec<i64> = (0..count).map(&mut class).collect();
        let classes_of = match rng.below(4) {
            0 => Classes::I64(indices),
            1 => Classes::I32(indices.iter().map(|&i| i as i32).collect()),
            2 => Classes::U32(indices.iter().map(|&i| i as u32).collect()),
            _ => Classes::U8(indices.iter().map(|&i| i as u8).collect()),
        };
        let mut shape = Shape::from([outer, classes, inner]);
        if rng.once_in(20) {
            let mut huge = || [0, 1, 2, 3, 1 << 31, 1 << 32, 1 << 62, isize::MAX as usize, usize::MAX][rng.below(9)];
            shape = [huge(), huge(), huge()].into();
        }
        let weight = rng.once_in(3).then(|| {
            let per_sample = rng.once_in(2);
            let n = length(rng, if per_sample { outer } else { losses });
            (per_sample, floats(rng, n))
        });
        let class_weight = (case.class_weight || rng.once_in(16)).then(|| {
            let n = length(
                rng,
                case.class_weights(cases::draw::Dims::new(outer, classes.max(1), inner)).unwrap_or(classes),
            );
            floats(rng, n)
        });
        let third = (case.third.is_some() != rng.once_in(32)).then(|| {
            let of_rows = matches!(&case.third, Some(third) if matches!(third.draw, DrawThird::Label(_)));
            let n = length(rng, if of_rows { rows } else { n });
            elements(rng, n)
        });
        let grad_target = (case.target_step.is_some() && rng.once_in(2) || rng.once_in(24)).then(|| length(rng, n));
        let with_third = case.has_third_gradient();
        let grad_third = (with_third && rng.once_in(2) || rng.once_in(32)).then(|| length(rng, n));
        let tame = rng.once_in(2);
        let reduction = match rng.below(5) {
            0 => Reduction::Sum,
            1 => Reduction::WeightedMean,
            2 => Reduction::BatchMean([outer, outer, 0, 3, usize::MAX][rng.below(5)]),
            3 if tame => Reduction::SumOver(rng.uniform(0.1, 9.0)),
            3 => Reduction::SumOver(f64::from_bits((rng.below(1 << 32) as u64) << 32 | rng.below(1 << 32) as u64)),
            _ => Reduction::Mean,
        };
        let (input, old) = (length(rng, n), length(rng, n));
        Draft {
            shape: shaped.then_some(shape),
            input: elements(rng, input),
            kind,
            dense,
            classes: classes_of,
            weight,
            class_weight,
            third,
            grad_output: float(rng, tame),
            accumulate: rng.once_in(4),
            reduction,
            verb: rng.below(8),
            old: elements(rng, old),
            losses: length(rng, losses),
            each: {
                let n = length(rng, losses);
                floats(rng, n)
            },
            grad_target,
            grad_third,
            offsets: [rng.below(20), rng.below(20)],
        }
    }

    /// What the call writes before it has.
    fn outputs(&self, place: usize) -> Outputs<T> {
        let offset = self.offsets[place];
        let in_place = self.verb >= 6;
        let filled = |n: Option<usize>| Guarded::new(&vec![T::from_f32(0.25); n.unwrap_or(0)], offset);
        Outputs {
            losses: Guarded::new(&vec![0.5; self.losses], offset),
            grad: Guarded::new(if in_place { &self.input } else { &self.old }, offset),
            grad_target: filled(self.grad_target),
            grad_third: filled(self.grad_third),
        }
    }

    fn run(&self, loss: AnyLoss, place: usize, out: &mut Outputs<T>) -> Result<f32> {
        let offset = self.offsets[place];
        let (input, dense) = (Guarded::new(&self.input, offset), Guarded::new(&self.dense, offset));
        let third = self.third.as_ref().map(|third| Guarded::new(third, offset));
        let (each, losses, grad, r) = (&self.each[..], out.losses.get_mut(), out.grad.get_mut(), self.reduction);
        let job = Job {
            input: input.get(),
            target: match (self.kind, &self.classes) {
                (Kind::Nothing, _) => Target::Nothing,
                (Kind::Dense, _) => Target::Dense(dense.get()),
                (_, Classes::I64(t)) => Target::I64(t),
                (_, Classes::I32(t)) => Target::I32(t),
                (_, Classes::U32(t)) => Target::U32(t),
                (_, Classes::U8(t)) => Target::U8(t),
            },
            shape: self.shape,
            weight: match &self.weight {
                None => Weight::None,
                Some((false, w)) => Weight::PerElement(w),
                Some((true, w)) => Weight::PerSample(w),
            },
            class_weight: self.class_weight.as_deref(),
            grad_output: self.grad_output,
            accumulate: self.accumulate,
            grad_target: self.grad_target.map(|_| out.grad_target.get_mut()),
            third: third.as_ref().map(Guarded::get),
            grad_third: self.grad_third.map(|_| out.grad_third.get_mut()),
            verb: match self.verb {
                0 => Verb::Forward(r),
                1 => Verb::ForwardBackward(r, grad),
                2 => Verb::Backward(r, grad),
                3 => Verb::ForwardUnreduced { losses },
                4 => Verb::ForwardBackwardUnreduced { grad_output: each, losses, grad },
                5 => Verb::BackwardUnreduced { grad_output: each, grad },
                6 => Verb::InPlace(r, grad),
                _ => Verb::InPlaceUnreduced { grad_output: each, losses, buffer: grad },
            },
        };
        loss.run(job)
    }
}

/// A loss whose options are any bits that its setters take, and the one kind of target that its type has, if it has one.
fn wild(rng: &mut Rng) -> Option<(AnyLoss, Option<Kind>)> {
    let kind = rng.below(26);
    let [a, b, c] = [(); 3].map(|()| float(rng, false));
    let [x, y, z] = [(); 3].map(|()| rng.once_in(2));
    let ignored = [None, Some(-100), Some(0), Some(i64::MAX)][rng.below(4)];
    let loss: Result<AnyLoss> = match kind {
        0 => Huber::new(a).map(Into::into),
        1 => SmoothL1::new(a).map(Into::into),
        2 => Quantile::new(a).map(Into::into),
        3 => Bce::new().epsilon(a).and_then(|l| l.label_smoothing(b)).map(Into::into),
        4 => BceWithLogits::new().pos_weight(a).and_then(|l| l.label_smoothing(b)).map(Into::into),
        5 => KlDivProbs::new().epsilon(a).map(Into::into),
        6 => SigmoidFocal::new().gamma(a).and_then(|l| l.alpha(if x { Some(b) } else { None })).map(Into::into),
        7 => PoissonNll::new().eps(a).map(|l| l.log_input(x).full(y).into()),
        8 => GaussianNll::new().eps(a).map(|l| l.full(x).into()),
        9 => MarginRanking::new(a).map(Into::into),
        10 => Dpo::new(a).and_then(|l| l.label_smoothing(b)).map(Into::into),
        11 => CrossEntropy::new()
            .label_smoothing(a)
            .and_then(|l| l.z_loss(b))
            .and_then(|l| l.softcap(if x { Some(c) } else { None }))
            .map(|l| l.ignore_index(ignored).into()),
        12 => CrossEntropyProbs::new().epsilon(a).and_then(|l| l.label_smoothing(b)).map(Into::into),
        13 => SoftmaxFocal::new().gamma(a).map(|l| l.ignore_index(ignored).into()),
        14 => MultiMargin::new().margin(a).and_then(|l| l.p(1 + u32::from(x))).map(Into::into),
        15 => Distillation::new().temperature(a).map(|l| l.scale_by_t2(x).into()),
        16 => Jsd::new().beta(a).and_then(|l| l.temperature(b)).map(Into::into),
        17 => GradientPenalty::wgan_gp(a).map(Into::into),
        18 => BoxIou::ciou().eps(a).map(Into::into),
        19 => DiceLoss::new().smooth_nr(a).and_then(|l| l.smooth_dr(b)).map(|l| {
            let l = l.squared_pred(x).jaccard(y).batch(z);
            if x { l.softmax().into() } else { l.sigmoid().into() }
        }),
        20 => TverskyLoss::new(a, b).and_then(|l| l.smooth(c)).map(|l| l.batch(x).include_background(y).into()),
        21 => CrossEntropy::new().label_smoothing(a).and_then(|l| l.z_loss(b)).map(|l| {
            let sum = b * l.ignore_index(ignored) + c * Distillation::new().scale_by_t2(x);
            sum.into()
        }),
        22 => Ok(LovaszHinge::new().batch(x).into()),
        23 => Ok(LovaszSoftmax::new().batch(x).all_classes(y).ignore_index(ignored).into()),
        24 => TverskyLoss::new(a, 0.5).and_then(|region| {
            let region = region.batch(x).include_background(y);
            Ok(match rng.below(4) {
                0 => (region.softmax() + b * CrossEntropy::new()).into(),
                1 => (b * region.softmax() + SoftmaxFocal::new().gamma(c)?.ignore_index(ignored)).into(),
                2 => (region.sigmoid() + b * SigmoidFocal::new().gamma(c)?).into(),
                _ => (region.sigmoid() - b * BceWithLogits::new()).into(),
            })
        }),
        _ => Ok((a * Mse::new() + b * BceWithLogits::new() + c * SigmoidFocal::new()).into()),
    };
    let kind = match kind {
        0..=10 | 22 | 25.. => Some(Kind::Dense),
        17 => Some(Kind::Nothing),
        _ => None,
    };
    loss.ok().map(|loss| (loss, kind))
}

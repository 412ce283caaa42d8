//! Random calls: whatever comes, a call returns, and after an error nothing is written.

use super::*;

/// Says which call a panic came from.
struct Context(String);

impl Drop for Context {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("in {}", self.0);
        }
    }
}

/// Numbers that arithmetic trips over.
const NASTY: [f32; 20] = [
    0.0,
    -0.0,
    1.0,
    -1.0,
    0.5,
    1e-45,
    -1e-45,
    1e-38,
    1e-7,
    88.7,
    -103.9,
    1e4,
    -6.5e4,
    1e19,
    -1e20,
    f32::MAX,
    f32::MIN,
    f32::INFINITY,
    f32::NEG_INFINITY,
    f32::NAN,
];

fn value(random: &mut Random) -> f32 {
    if random.below(3) == 0 { random.pick(&NASTY) } else { random.between(-3.0, 3.0) }
}

fn values<T: Element>(random: &mut Random, n: usize) -> Vec<T> {
    // Some buffers are nasty throughout, most here and there, some not at all.
    let share = random.pick(&[0, 0, 1, 10, 100]);
    (0..n)
        .map(|_| T::from_f32(if random.below(100) < share { value(random) } else { random.between(-2.0, 2.0) }))
        .collect()
}

fn reduction(random: &mut Random) -> Reduction {
    match random.below(5) {
        0 => Sum,
        1 => WeightedMean,
        2 => BatchMean(random.pick(&[0, 1, 2, 3, 5, usize::MAX])),
        3 => SumOver(value(random).into()),
        _ => Mean,
    }
}

/// The right length, or now and then a wrong one.
fn length(random: &mut Random, right: usize) -> usize {
    if random.below(16) == 0 { random.pick(&[0, 1, right.saturating_sub(1), right + 1, 2 * right]) } else { right }
}

fn verb(random: &mut Random) -> Do {
    match random.below(6) {
        0 => Do::Forward(reduction(random)),
        1 => Do::ForwardBackward(reduction(random)),
        2 => Do::InPlace(reduction(random)),
        3 => Do::Unreduced,
        4 => Do::UnreducedBackward,
        _ => Do::UnreducedInPlace,
    }
}

#[test]
fn no_lengths_shapes_or_values_make_a_call_panic() {
    fn check<T: Element>() {
        let mut random = Random(0xf022);
        for loss in losses::<T>() {
            for round in 0..60 {
                let dims = std::array::from_fn(|_| random.pick(&[0, 1, 1, 2, 2, 3, 5, 16, 17, 33]));
                let [outer, classes, inner] = dims;
                let n = outer * classes * inner;
                let target = match loss.target {
                    Domain::Nothing => Labels::Nothing,
                    Domain::Index => {
                        let bad = random.below(20) == 0;
                        let mut index = |_| {
                            if bad {
                                random.next() as i64 >> random.below(64)
                            } else {
                                random.below(classes.max(1)) as i64
                            }
                        };
                        Labels::Index((0..outer * inner).map(&mut index).collect())
                    }
                    _ => Labels::Dense(values(&mut random, n)),
                };
                let data = Data { dims, input: values::<T>(&mut random, n), target };
                let right = Lengths::right(&loss, &data);
                let mut some = |right: usize| (random.below(4) == 0).then(|| length(&mut random, right));
                let (weight, sample_weight) = (some(right.losses), some(outer));
                let class_weight = some(classes).filter(|_| loss.class_weight);
                let grad_target = some(right.grad).filter(|_| loss.grad_target);
                let lengths = Lengths {
                    target: length(&mut random, right.target),
                    grad: length(&mut random, right.grad),
                    losses: length(&mut random, right.losses),
                    grad_output: length(&mut random, right.grad_output),
                    weight,
                    sample_weight,
                    class_weight,
                    grad_target,
                };
                let (mut shape, verb) = (Shape::from(dims), verb(&mut random));
                if random.below(8) == 0 {
                    let mut huge =
                        || random.pick(&[0, 1, 2, 3, 1 << 31, 1 << 32, 1 << 62, isize::MAX as usize, usize::MAX]);
                    shape = [huge(), huge(), huge(), huge()].into();
                }
                let _context =
                    Context(format!("{} {} {round}: {dims:?} {shape:?} {lengths:?} {verb:?}", loss.name, T::NAME));
                let _ = attempt(&loss, &data, shape, lengths, verb);
            }
        }
    }
    every_dtype!(check);
}

#[test]
fn no_option_that_was_taken_makes_a_call_panic() {
    fn check<T: Element>() {
        let mut random = Random(0x0f0f);
        for round in 0..150 {
            let (rows, classes) = (1 + random.below(4), 1 + random.below(40));
            let n = rows * classes;
            let (x, t) = (values::<T>(&mut random, n), values::<T>(&mut random, n));
            let index: Vec<i64> = (0..rows).map(|_| random.below(classes) as i64).collect();
            let (dense, indices) = (Target::Dense(&t), Target::I64(&index));
            let [a, b, c] = std::array::from_fn(|_| value(&mut random));
            let (reduction, up) = (reduction(&mut random), value(&mut random));
            let mut grad = vec![T::default(); n];
            let (shape, labels) = ((rows, classes), &x[..rows]);
            macro_rules! all {
                ($($loss:expr => |$l:ident| $call:expr;)*) => {$({
                    let _context = Context(format!("{} {round}: {} of {a} {b} {c}", stringify!($loss), T::NAME));
                    let loss: Result<_> = $loss;
                    if let Ok($l) = loss {
                        let _ = $call.grad_output(up).forward_backward(reduction, &mut grad);
                    }
                })*};
            }
            all! {
                Huber::new(a) => |l| l.call(&x, &t);
                SmoothL1::new(a) => |l| l.call(&x, &t);
                Bce::new().epsilon(a).and_then(|l| l.label_smoothing(b)) => |l| l.call(&x, &t);
                BceWithLogits::new().pos_weight(a).and_then(|l| l.label_smoothing(b)) => |l| l.call(&x, &t);
                KlDivProbs::new().epsilon(a) => |l| l.call(&x, &t);
                SigmoidFocal::new().alpha(a).and_then(|l| l.gamma(b)) => |l| l.call(&x, &t);
                SigmoidFocal::new().gamma(a) => |l| l.call(&x, &t);
                SoftmaxFocal::new().gamma(a) => |l| l.call(&x, indices, shape);
                CrossEntropy::new().z_loss(a) => |l| l.call(&x, dense, shape);
                CrossEntropy::new().softcap(a).and_then(|l| l.label_smoothing(b)) => |l| l.call(&x, indices, shape);
                CrossEntropyProbs::new().epsilon(a) => |l| l.call(&x, dense, shape);
                CrossEntropyProbs::new().label_smoothing(a) => |l| l.call(&x, indices, shape);
                Distillation::new().temperature(a) => |l| l.call(&x, dense, shape);
                Distillation::new().temperature(a) => |l| (b * CrossEntropy::new() + c * l).call(&x, indices, &t, shape);
                MultiMargin::new().margin(a) => |l| l.call(&x, indices, shape);
                GradientPenalty::wgan_gp(a) => |l| l.call(&x, shape);
                GradientPenalty::r1(a) => |l| l.call(&x, shape);
                DiceLoss::new().smooth_nr(a).and_then(|l| l.smooth_dr(b)) => |l| l.call(&x, dense, [1, rows, classes]);
                DiceLoss::new().sigmoid().smooth(a) => |l| l.call(&x, dense, [rows, classes, 1]);
                GeneralizedDiceLoss::new().smooth_nr(a).and_then(|l| l.smooth_dr(b)) => |l| l.call(&x, dense, [1, rows, classes]);
                Ok::<_, Error>(LovaszHinge::new().batch(rows % 2 == 1)) => |l| l.call(&x, dense, [1, rows, classes]);
                Ok::<_, Error>(LovaszSoftmax::new().batch(rows % 2 == 1)) => |l| l.call(&x, indices, shape);
                TverskyLoss::new(a, b).and_then(|l| l.softmax().smooth(c)) => |l| l.call(&x, indices, shape);
                MarginRanking::new(a) => |l| l.call(&x, &t, &x);
                Dpo::new(a).and_then(|l| l.label_smoothing(b)) => |l| l.call(&x, &t, &t);
                TripletMargin::new().margin(a).and_then(|l| l.eps(b)) => |l| l.swap(true).call(&x, &t, &x, shape);
                CosineEmbedding::new(a) => |l| l.call(&x, &t, labels, shape);
                Jsd::new().beta(a).and_then(|l| l.temperature(b)) => |l| l.call(&x, dense, shape);
                Quantile::new(a) => |l| l.call(&x, &t);
                PoissonNll::new().eps(a) => |l| l.log_input(false).full(true).call(&x, &t);
                GaussianNll::new().eps(a) => |l| l.full(true).call(&x, &t, &x);
                GanLoss::new(GanMode::LeastSquares).real_label(a) => |l| l.real_term().call(&x);
            }
        }
    }
    every_dtype!(check);
}

#[test]
fn no_batches_make_the_adversarial_losses_panic() {
    fn check<T: Element>() {
        let mut random = Random(0x6a6);
        for _ in 0..300 {
            let sizes = [0, 1, 2, 15, 16, 17, 40];
            let (n, m) = (random.pick(&sizes), random.pick(&sizes));
            let (real, fake) = (values::<T>(&mut random, n), values::<T>(&mut random, m));
            let lengths = [length(&mut random, n), length(&mut random, m)];
            let [mut on_real, mut on_fake] = lengths.map(|n| values::<T>(&mut random, n));
            let (reduction, up) = (reduction(&mut random), value(&mut random));
            let modes = [
                GanMode::NonSaturating,
                GanMode::Minimax,
                GanMode::LeastSquares,
                GanMode::Hinge,
                GanMode::Probabilities,
            ];
            let gan = GanLoss::new(random.pick(&modes)).grad_output(up).accumulate();
            let _ = gan.discriminator(&real, &fake, reduction, &mut on_real, &mut on_fake);
            let _ = gan.generator(&fake, reduction, &mut on_fake);
            let ragan = RelativisticAverage::new().grad_output(up);
            let _ = ragan.discriminator(&real, &fake, &mut on_real, &mut on_fake);
            let _ = ragan.accumulate().generator(&real, &fake, &mut on_real, &mut on_fake);
        }
    }
    every_dtype!(check);
}

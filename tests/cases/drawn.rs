//! Cases whose options nobody has picked: they are drawn, as are the numbers of the table's.

use fused_loss::*;

use super::draw::*;
use super::job::AnyLoss;
use super::textbook::{self as book, Activation, CrossEntropyOptions, Overlap, RegionOptions};
use super::{Case, Dense, DrawPair, DrawRow, Family, STEP, Step, Targets};

/// A loss with options that may be set, of any kind. Its name begins as those of the table do, for the tolerances.
pub fn drawn(rng: &mut Rng) -> Case {
    match rng.below(3) {
        0 => element(rng),
        1 => row(rng),
        _ => region(rng),
    }
}

/// Between the two, more often close to zero than a uniform number is.
fn scale(rng: &mut Rng, low: f64, high: f64) -> f32 {
    rng.uniform(low.ln(), high.ln()).exp() as f32
}

fn flag(rng: &mut Rng) -> bool {
    rng.once_in(2)
}

fn element(rng: &mut Rng) -> Case {
    let case = |name: String, loss: AnyLoss, draw: DrawPair, value: Box<dyn Fn(f64, f64, f64) -> f64 + Send + Sync>| {
        Case::new(name, loss, Family::Elements { draw, value }, Targets::Dense(Dense::Paired))
    };
    let clear_of = |radius: f32| pairs(logit, logit, move |x, t| ((x - t).abs() - f64::from(radius)).abs() > CLEAR);
    let anywhere = |_: f64, _: f64| true;
    match rng.below(12) {
        0 => {
            let delta = scale(rng, 0.05, 20.0);
            let value = move |x, t, _| book::huber(x, t, delta.into());
            case(format!("huber[delta={delta}]"), Huber::new(delta).unwrap().into(), clear_of(delta), Box::new(value))
                .grad_target(STEP)
        }
        1 => {
            let beta = scale(rng, 0.05, 20.0);
            let value = move |x, t, _| book::smooth_l1(x, t, beta.into());
            let loss = SmoothL1::new(beta).unwrap().into();
            case(format!("smooth_l1[beta={beta}]"), loss, clear_of(beta), Box::new(value)).grad_target(STEP)
        }
        2 => {
            let q = rng.uniform(0.01, 0.99) as f32;
            let value = move |x, t, _| book::quantile(x, t, q.into());
            let loss = Quantile::new(q).unwrap().into();
            case(format!("quantile[q={q}]"), loss, clear_of(0.0), Box::new(value)).grad_target(STEP)
        }
        3 => {
            let smoothing = rng.uniform(0.0, 1.0) as f32;
            let loss = Bce::new().label_smoothing(smoothing).unwrap().into();
            let value = move |x, t, _| book::bce(x, book::smooth_binary(t, smoothing.into()));
            let draw = pairs(probability, soft_label, |x, _| x > 0.0 && x < 1.0);
            let name = format!("bce[smoothing={smoothing}]");
            case(name, loss, draw, Box::new(value)).step(Step::Probability).grad_target(STEP)
        }
        4 => {
            let (pos_weight, smoothing) = (scale(rng, 0.01, 50.0), rng.uniform(0.0, 1.0) as f32);
            let loss = BceWithLogits::new().pos_weight(pos_weight).unwrap().label_smoothing(smoothing).unwrap();
            let value = move |x, t, w| {
                book::bce_with_logits(x, book::smooth_binary(t, smoothing.into()), f64::from(pos_weight) * w)
            };
            let name = format!("bce_with_logits[pos_weight={pos_weight}+smoothing={smoothing}]");
            let case = case(name, loss.into(), pairs(logit, soft_label, anywhere), Box::new(value));
            case.with_class_weight(flag(rng)).grad_target(STEP)
        }
        5 => {
            let (alpha, gamma) = (rng.uniform(0.0, 1.0) as f32, rng.uniform(0.0, 5.0) as f32);
            let loss = SigmoidFocal::new().alpha(alpha).unwrap().gamma(gamma).unwrap();
            let value = move |x, t, _| book::sigmoid_focal(x, t, Some(alpha.into()), gamma.into());
            let label = if flag(rng) { soft_label } else { hard_label };
            let name = format!("sigmoid_focal[any gamma={gamma}+alpha={alpha}]");
            case(name, loss.into(), pairs(logit, label, anywhere), Box::new(value))
        }
        6 => {
            let (full, eps) = (flag(rng), scale(rng, 0.05, 1.0));
            let loss = GaussianNll::new().full(full).eps(eps).unwrap();
            let value = move |x, t, var| book::gaussian_nll(x, t, var, full, eps.into());
            let draw = pairs(|rng| rng.uniform(-4.0, 4.0), |rng| rng.uniform(-4.0, 4.0), anywhere);
            // Variances that eps does not raise.
            let variance: super::DrawBeside = |rng, _, _| rng.uniform(1.1, 4.0);
            let case = case(format!("gaussian_nll[eps={eps}]"), loss.into(), draw, Box::new(value));
            case.grad_target(STEP).with_third(variance, STEP)
        }
        7 => {
            let (full, eps) = (flag(rng), scale(rng, 1e-8, 1.0));
            let loss = PoissonNll::new().full(full).log_input(false).eps(eps).unwrap();
            let value = move |x, t, _| book::poisson_nll_rate(x, t, full, eps.into());
            let draw = pairs(|rng| rng.uniform(0.1, 12.0), |rng| rng.below(12) as f64, anywhere);
            case(format!("poisson_nll[eps={eps}]"), loss.into(), draw, Box::new(value))
        }
        8 => {
            let (beta, smoothing) = (scale(rng, 0.02, 1.0), rng.uniform(0.0, 0.49) as f32);
            let loss = Dpo::new(beta).unwrap().label_smoothing(smoothing).unwrap();
            let value = move |x, t, r| book::dpo(x, t, r, beta.into(), smoothing.into());
            let name = format!("dpo[beta={beta}+smoothing={smoothing}]");
            let case = case(name, loss.into(), pairs(logit, logit, anywhere), Box::new(value));
            case.grad_target(STEP).with_third(|rng, _, _| rng.uniform(-4.0, 4.0), None)
        }
        9 => {
            let margin = rng.uniform(-1.0, 3.0) as f32;
            // On neither side of zero, for the label may be of either sign.
            let clear = move |x: f64, t: f64| ((x - t).abs() - f64::from(margin).abs()).abs() > CLEAR;
            let value = move |x, t, y| book::margin_ranking(x, t, y, margin.into());
            let loss = MarginRanking::new(margin).unwrap().into();
            let case =
                case(format!("margin_ranking[margin={margin}]"), loss, pairs(logit, logit, clear), Box::new(value));
            case.grad_target(STEP).with_third(|rng, _, _| signed_label(rng), None)
        }
        10 => {
            let label = rng.uniform(0.0, 1.0) as f32;
            let mode = GanMode::LeastSquares;
            let loss = GanLoss::new(mode).real_label(label).unwrap().real_term();
            let value = move |x, _, _| book::gan_real(mode, x, label.into());
            let case =
                case(format!("gan[label={label}]"), loss.into(), pairs(logit, |_| 0.0, anywhere), Box::new(value));
            Case { targets: Targets::Nothing, ..case }
        }
        _ => {
            // All weights of one sign: a sum that cancels is as exact as its largest term.
            let [a, b, c] = [(); 3].map(|()| scale(rng, 0.1, 10.0));
            let loss = a * Mse::new() + b * Huber::new(3.0).unwrap() + c * BceWithLogits::new();
            let value = move |x, t, _| {
                let near = f64::from(a) * book::mse(x, t) + f64::from(b) * book::huber(x, t, 3.0);
                near + f64::from(c) * book::bce_with_logits(x, t, 1.0)
            };
            let draw = pairs(logit, soft_label, |x, t| ((x - t).abs() - 3.0).abs() > CLEAR);
            case(format!("combined[drawn {a} {b} {c}]"), loss.into(), draw, Box::new(value)).grad_target(STEP)
        }
    }
}

fn row(rng: &mut Rng) -> Case {
    type Value = Box<dyn Fn(&[f64], &[f64], &[f64]) -> f64 + Send + Sync>;
    let case = |name: String, loss: AnyLoss, targets, draw: DrawRow, value: Value| {
        Case::new(name, loss, Family::Rows { draw, value }, targets)
    };
    let ignore_index = [Some(-100), Some(0), Some(1), Some(i64::MIN), None][rng.below(5)];
    let weights = flag(rng);
    let dense = Targets::Dense(Dense::Distribution);
    match rng.below(7) {
        0 | 1 => {
            let (smoothing, z) = (rng.uniform(0.0, 1.0) as f32, if flag(rng) { scale(rng, 1e-5, 0.1) } else { 0.0 });
            let cap = flag(rng).then(|| scale(rng, 5.0, 100.0));
            let targets = if flag(rng) { dense } else { Targets::Index };
            let ignore_index = ignore_index.filter(|_| targets == Targets::Index);
            let loss = CrossEntropy::new().label_smoothing(smoothing).unwrap().z_loss(z).unwrap();
            let loss = loss.softcap(cap).unwrap().ignore_index(ignore_index);
            let o = CrossEntropyOptions { smoothing: smoothing.into(), z_loss: z.into(), softcap: cap.map(f64::from) };
            let kind = match cap {
                Some(cap) => format!("softcap={cap}+"),
                None => "z_loss+".into(),
            };
            let name = format!("cross_entropy[{kind}{smoothing}+{z}]");
            let value = move |z: &[f64], q: &[f64], w: &[f64]| book::cross_entropy(z, q, w, o);
            Case {
                class_weight: weights,
                ignore_index,
                mean_by_class_weight: true,
                target_step: (targets == dense).then_some(STEP),
                ..case(name, loss.into(), targets, rows(logit), Box::new(value))
            }
        }
        2 => {
            let gamma = rng.uniform(0.0, 5.0) as f32;
            let loss = SoftmaxFocal::new().gamma(gamma).unwrap().ignore_index(ignore_index);
            let value = move |z: &[f64], q: &[f64], w: &[f64]| book::softmax_focal(z, q, w, gamma.into());
            let name = format!("softmax_focal[drawn gamma={gamma}]");
            let case = case(name, loss.into(), Targets::Index, rows(logit), Box::new(value));
            Case { class_weight: weights, ignore_index, ..case }
        }
        3 => {
            let (p, margin) = (1 + rng.below(2) as u32, rng.uniform(0.0, 3.0) as f32);
            let loss = MultiMargin::new().p(p).unwrap().margin(margin).unwrap();
            let draw: DrawRow = Box::new(move |rng, round, classes, class| {
                let t = class.expect("a class a row");
                let mut x = vec![round(logit(rng)); classes];
                for k in (0..classes).filter(|&k| k != t) {
                    let mut draws = (0..).map(|_| round(logit(rng)));
                    let clear = draws.find(|x_k| (f64::from(margin) - x[t] + x_k).abs() > CLEAR);
                    x[k] = clear.expect("without end");
                }
                x
            });
            let value = move |x: &[f64], q: &[f64], w: &[f64]| {
                book::multi_margin(x, q.iter().position(|&q| q == 1.0).expect("one-hot"), w, p as i32, margin.into())
            };
            let name = format!("multi_margin[p={p}+margin={margin}]");
            case(name, loss.into(), Targets::Index, draw, Box::new(value)).with_class_weight(weights)
        }
        4 => {
            let (temperature, by_t2) = (scale(rng, 1.0, 10.0), flag(rng));
            let loss = Distillation::new().temperature(temperature).unwrap().scale_by_t2(by_t2);
            let factor = if by_t2 { f64::from(temperature).powi(2) } else { 1.0 };
            let value = move |x: &[f64], t: &[f64], _: &[f64]| book::distillation(x, t, temperature.into(), factor);
            let name = format!("distillation[T={temperature}+{by_t2}]");
            case(name, loss.into(), Targets::Dense(Dense::Logits), rows(logit), Box::new(value)).grad_target(STEP)
        }
        5 => {
            let (beta, temperature) = (rng.uniform(0.05, 1.0) as f32, scale(rng, 1.0, 10.0));
            let loss = Jsd::new().beta(beta).unwrap().temperature(temperature).unwrap();
            let value = move |x: &[f64], t: &[f64], _: &[f64]| book::jsd(x, t, beta.into(), temperature.into());
            let name = format!("jsd[beta={beta}+T={temperature}]");
            case(name, loss.into(), Targets::Dense(Dense::Logits), rows(logit), Box::new(value)).grad_target(STEP)
        }
        6 => {
            let (temperature, smoothing) = (scale(rng, 1.0, 10.0), rng.uniform(0.0, 0.5) as f32);
            let z_loss = if flag(rng) { scale(rng, 1e-4, 1e-1) } else { 0.0 };
            let cross_entropy = CrossEntropy::new().label_smoothing(smoothing).unwrap().z_loss(z_loss).unwrap();
            let weights = [(); 2].map(|()| rng.uniform(0.1, 2.0) as f32);
            let distillation = Distillation::new().temperature(temperature).unwrap();
            let loss = weights[0] * cross_entropy.ignore_index(ignore_index) + weights[1] * distillation;
            let o = CrossEntropyOptions { smoothing: smoothing.into(), z_loss: z_loss.into(), softcap: None };
            let (weights, t) = (weights.map(f64::from), f64::from(temperature));
            let value = move |z: &[f64], q: &[f64], y: &[f64]| book::combined_rows(z, q, y, weights, o, (t, t * t));
            let name = format!("combined_rows[drawn T={temperature}+{smoothing}+{z_loss}]");
            let case = case(name, loss.into(), Targets::Index, rows(logit), Box::new(value));
            let case = case.with_third_rows(|rng, round, z, _| z.iter().map(|_| round(logit(rng))).collect());
            Case { ignore_index, ..case.without_third_gradient() }
        }
        _ => {
            let lambda = scale(rng, 0.1, 20.0);
            let draw = rows(|rng| signed_label(rng) * rng.uniform(0.1, 2.0));
            let value = move |g: &[f64], _: &[f64], _: &[f64]| book::wgan_gp(g, lambda.into());
            let loss = GradientPenalty::wgan_gp(lambda).unwrap().into();
            case(format!("gradient_penalty[lambda={lambda}]"), loss, Targets::Nothing, draw, Box::new(value))
        }
    }
}

fn region(rng: &mut Rng) -> Case {
    let activation = [Activation::None, Activation::Sigmoid, Activation::Softmax][rng.below(3)];
    let [batch, foreground, squared_pred, jaccard, index, weights, tversky] = [(); 7].map(|()| flag(rng));
    let (nr, dr) = (if flag(rng) { scale(rng, 0.01, 2.0) } else { 0.0 }, scale(rng, 0.01, 2.0));
    let options = RegionOptions {
        overlap: if jaccard { Overlap::Jaccard } else { Overlap::Dice },
        activation,
        batch,
        include_background: !foreground,
        squared_pred: squared_pred && !tversky,
        // More on top than below would be a loss below zero, whose power is no number.
        smooth_nr: nr.min(dr).into(),
        smooth_dr: dr.into(),
        gamma: 1.0,
        weight: None,
    };
    macro_rules! activated {
        ($loss:expr) => {
            match activation {
                Activation::None => $loss.into(),
                Activation::Sigmoid => $loss.sigmoid().into(),
                Activation::Softmax => $loss.softmax().into(),
            }
        };
    }
    let (name, loss, options): (_, AnyLoss, _) = if tversky {
        let [alpha, beta] = [(); 2].map(|()| rng.uniform(0.05, 2.0) as f32);
        let gamma = if flag(rng) { rng.uniform(0.6, 2.5) as f32 } else { 1.0 };
        let overlap = Overlap::Tversky { alpha: alpha.into(), beta: beta.into() };
        let loss = TverskyLoss::new(alpha, beta).unwrap().focal(gamma).unwrap().batch(batch);
        let loss = loss.smooth_nr(nr.min(dr)).unwrap().smooth_dr(dr).unwrap().include_background(!foreground);
        let options = RegionOptions { overlap, gamma: gamma.into(), ..options };
        (format!("tversky[{alpha}, {beta}, focal {gamma}]"), activated!(loss), options)
    } else {
        let loss = DiceLoss::new().squared_pred(squared_pred).jaccard(jaccard).batch(batch);
        let loss = loss.include_background(!foreground).smooth_nr(nr.min(dr)).unwrap().smooth_dr(dr).unwrap();
        (format!("dice[smooth {nr} {dr}]"), activated!(loss), options)
    };
    let draw: fn(&mut Rng) -> f64 = match activation {
        Activation::None => |rng| rng.uniform(0.15, 0.98),
        _ => |rng| rng.uniform(-8.0, 8.0),
    };
    let targets = if index { Targets::Index } else { Targets::Dense(Dense::Paired) };
    Case::new(name, loss, Family::Regions { draw, options }, targets).with_class_weight(weights)
}

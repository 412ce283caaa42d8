//! The rows of the table that are losses of one element.

use fused_loss::*;

use super::draw::*;
use super::job::AnyLoss;
use super::textbook as book;
use super::{Case, Dense, DrawPair, Family, STEP, Step, Targets, name};

fn case(
    name: impl Into<String>,
    loss: impl Into<AnyLoss>,
    draw: DrawPair,
    value: impl Fn(f64, f64, f64) -> f64 + Send + Sync + 'static,
) -> Case {
    Case::new(name, loss, Family::Elements { draw, value: Box::new(value) }, Targets::Dense(Dense::Paired))
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    distances(&mut cases);
    binary_cross_entropies(&mut cases);
    hinges(&mut cases);
    divergences(&mut cases);
    likelihoods(&mut cases);
    focals(&mut cases);
    preferences(&mut cases);
    gan_terms(&mut cases);
    custom(&mut cases);
    sums(&mut cases);
    cases
}

/// Losses that the user wrote.
fn custom(cases: &mut Vec<Case>) {
    use super::custom::{charbonnier, expectile, logistic, squared_error};
    for tau in [0.5f32, 0.9] {
        let smooth = pairs(logit, logit, |x, t| (x - t).abs() > CLEAR);
        let value = move |x, t, _| book::expectile(x, t, tau.into());
        cases.push(case(format!("custom[expectile+tau={tau}]"), expectile(tau), smooth, value));
    }
    let value = |x, t, _| book::charbonnier(x, t, 0.75) * 1.5;
    cases.push(case("custom[charbonnier]", charbonnier(0.75, 1.5), pairs(logit, logit, anywhere), value));
    let value = |x, t, _| book::mse(x, t);
    cases.push(case("custom[squared_error]", squared_error(), pairs(logit, logit, anywhere), value));
    let value = |x, t, _| book::bce_with_logits(x, t, 1.0);
    cases.push(case("custom[logistic]", logistic(), pairs(logit, soft_label, anywhere), value));
}

/// No kinks.
fn anywhere(_: f64, _: f64) -> bool {
    true
}

fn distances(cases: &mut Vec<Case>) {
    // The parabola ends at `radius`, where the second derivative jumps.
    let clear_of = |radius: f64| pairs(logit, logit, move |x, t| ((x - t).abs() - radius).abs() > CLEAR);
    cases.push(case("mse", Mse::new(), pairs(logit, logit, anywhere), |x, t, _| book::mse(x, t)).grad_target(STEP));
    cases.push(
        case("mse[half]", Mse::half(), pairs(logit, logit, anywhere), |x, t, _| book::half_mse(x, t)).grad_target(STEP),
    );
    cases.push(case("mae", Mae::new(), clear_of(0.0), |x, t, _| book::mae(x, t)).grad_target(STEP));
    for delta in [1.0f32, 3.3] {
        let value = move |x, t, _| book::huber(x, t, delta.into());
        let loss = Huber::new(delta).unwrap();
        cases.push(case(format!("huber[delta={delta}]"), loss, clear_of(delta.into()), value).grad_target(STEP));
    }
    for beta in [1.0f32, 0.7] {
        let value = move |x, t, _| book::smooth_l1(x, t, beta.into());
        let loss = SmoothL1::new(beta).unwrap();
        cases.push(case(format!("smooth_l1[beta={beta}]"), loss, clear_of(beta.into()), value).grad_target(STEP));
    }
    let value = |x, t, _| book::smooth_l1(x, t, 0.0);
    cases.push(case("smooth_l1[beta=0]", SmoothL1::new(0.0).unwrap(), clear_of(0.0), value).grad_target(STEP));
    // Errors small and large.
    let close: fn(&mut Rng) -> f64 = |rng| rng.uniform(-0.5, 0.5);
    for (range, number) in [("", logit as fn(&mut Rng) -> f64), ("[close]", close)] {
        let draw = pairs(number, number, anywhere);
        let name = format!("log_cosh{range}");
        cases.push(case(name, LogCosh::new(), draw, |x, t, _| book::log_cosh(x, t)).grad_target(STEP));
    }
    for q in [0.5f32, 0.1, 0.95] {
        let value = move |x, t, _| book::quantile(x, t, q.into());
        let loss = Quantile::new(q).unwrap();
        cases.push(case(format!("quantile[q={q}]"), loss, clear_of(0.0), value).grad_target(STEP));
    }
}

fn binary_cross_entropies(cases: &mut Vec<Case>) {
    for (clip, smooth) in [(false, false), (false, true), (true, false), (true, true)] {
        let smoothing = if smooth { 0.1f32 } else { 0.0 };
        let epsilon = if clip { 0.05f32 } else { 0.0 };
        let loss = Bce::new().epsilon(epsilon).unwrap().label_smoothing(smoothing).unwrap();
        let clear = move |x: f64, _: f64| {
            let x = x.min(1.0 - x);
            x > 0.0 && (!clip || (x - f64::from(epsilon)).abs() > CLEAR)
        };
        let value = move |x, t, _| {
            let t = book::smooth_binary(t, smoothing.into());
            if clip { book::bce_clipped(x, t, epsilon.into()) } else { book::bce(x, t) }
        };
        let name = name("bce", &[(clip, "epsilon"), (smooth, "smoothing")]);
        let draw = pairs(probability, soft_label, clear);
        cases.push(case(name, loss, draw, value).step(Step::Probability).grad_target(STEP));
    }
    for combination in 0..8 {
        let [scalar, per_class, smooth] = [0, 1, 2].map(|bit| combination >> bit & 1 == 1);
        let pos_weight = if scalar { 2.5f32 } else { 1.0 };
        let smoothing = if smooth { 0.1f32 } else { 0.0 };
        let loss = BceWithLogits::new().pos_weight(pos_weight).unwrap().label_smoothing(smoothing).unwrap();
        let value = move |x, t, w: f64| {
            book::bce_with_logits(x, book::smooth_binary(t, smoothing.into()), f64::from(pos_weight) * w)
        };
        let options = [(scalar, "pos_weight"), (per_class, "pos_weight per class"), (smooth, "smoothing")];
        let draw = pairs(logit, soft_label, anywhere);
        let case = case(name("bce_with_logits", &options), loss, draw, value);
        cases.push(case.with_class_weight(per_class).grad_target(STEP));
    }
}

fn hinges(cases: &mut Vec<Case>) {
    // Keras's rule finds out by itself which of the two kinds it has been given.
    let signed: fn(f64) -> f64 = |t| t;
    let zero_one: fn(f64) -> f64 = |t| 2.0 * t - 1.0;
    let kinds = [
        ("signed", HingeLabels::Signed, signed_label as fn(&mut Rng) -> f64, signed),
        ("zero-one", HingeLabels::ZeroOne, hard_label, zero_one),
        ("keras, signed", HingeLabels::Keras, signed_label, signed),
        ("keras, zero-one", HingeLabels::Keras, hard_label, zero_one),
    ];
    let value = |x, y, _| book::soft_margin(x, y);
    cases.push(case("soft_margin", SoftMargin::new(), pairs(logit, signed_label, anywhere), value));
    for (kind, labels, label, y) in kinds {
        let draw = move || pairs(logit, label, move |x, t| (1.0 - y(t) * x).abs() > CLEAR);
        let value = move |x, t, _| book::hinge(x, y(t));
        cases.push(case(format!("hinge[{kind}]"), Hinge::new().labels(labels), draw(), value));
        let value = move |x, t, _| book::squared_hinge(x, y(t));
        cases.push(case(format!("squared_hinge[{kind}]"), SquaredHinge::new().labels(labels), draw(), value));
    }
}

fn likelihoods(cases: &mut Vec<Case>) {
    let count: fn(&mut Rng) -> f64 = |rng| rng.below(12) as f64;
    for full in [false, true] {
        let loss = PoissonNll::new().full(full);
        let value = move |x, t, _| book::poisson_nll(x, t, full);
        let draw = pairs(|rng| rng.uniform(-3.0, 3.0), count, anywhere);
        cases.push(case(name("poisson_nll", &[(full, "full")]), loss, draw, value));
        for eps in [1e-8f32, 0.25] {
            let loss = loss.log_input(false).eps(eps).unwrap();
            let value = move |x, t, _| book::poisson_nll_rate(x, t, full, eps.into());
            let draw = pairs(|rng| rng.uniform(0.1, 12.0), count, anywhere);
            let options = [(true, "rate"), (full, "full"), (eps != 1e-8, "eps")];
            cases.push(case(name("poisson_nll", &options), loss, draw, value));
        }
        let loss = GaussianNll::new().full(full).eps(0.25).unwrap();
        let value = move |x, t, var| book::gaussian_nll(x, t, var, full, 0.25);
        let name = name("gaussian_nll", &[(full, "full")]);
        let draw = pairs(|rng| rng.uniform(-4.0, 4.0), |rng| rng.uniform(-4.0, 4.0), anywhere);
        cases.push(case(name, loss, draw, value).grad_target(STEP).with_third(|rng, _, _| rng.uniform(0.3, 4.0), STEP));
    }
}

fn divergences(cases: &mut Vec<Case>) {
    let inside = |p: f64| p > 0.0 && p < 1.0;
    let draw = pairs(log_probability, probability, move |_, t| inside(t));
    cases.push(case("kl_div", KlDiv::new(), draw, |x, t, _| book::kl_div(x, t)).grad_target(Step::Probability));
    let draw = pairs(log_probability, log_probability, anywhere);
    let value = |x, t, _| book::kl_div_log_target(x, t);
    cases.push(case("kl_div[log_target]", KlDiv::new().log_target(true), draw, value).grad_target(STEP));
    for epsilon in [1e-7f32, 0.1] {
        let clear = move |p: f64| inside(p) && (p - f64::from(epsilon)).abs() > 0.01 * p;
        let draw = pairs(probability, probability, move |x, t| clear(x) && clear(t));
        let loss = KlDivProbs::new().epsilon(epsilon).unwrap();
        let value = move |x, t, _| book::kl_div_probs(x, t, epsilon.into());
        let case = case(format!("kl_div_probs[epsilon={epsilon}]"), loss, draw, value);
        cases.push(case.step(Step::Probability).grad_target(Step::Probability));
    }
}

fn focals(cases: &mut Vec<Case>) {
    for gamma in [0.0f32, 0.5, 1.0, 2.0, 3.5] {
        for (alpha, labels) in [(Some(0.25f32), "hard"), (None, "hard"), (Some(0.25), "soft")] {
            let label = if labels == "soft" { soft_label } else { hard_label };
            let loss = SigmoidFocal::new().alpha(alpha).unwrap().gamma(gamma).unwrap();
            let value = move |x, t, _| book::sigmoid_focal(x, t, alpha.map(f64::from), gamma.into());
            let alpha = if alpha.is_some() { "alpha" } else { "no alpha" };
            let name = format!("sigmoid_focal[gamma={gamma}+{alpha}+{labels}]");
            cases.push(case(name, loss, pairs(logit, label, anywhere), value));
        }
    }
    let draw = pairs(logit, logit, anywhere);
    let value = |x, t, _| book::relativistic_pair(x, t);
    cases.push(case("relativistic_pair", RelativisticPair, draw, value).grad_target(STEP));
}

fn preferences(cases: &mut Vec<Case>) {
    for margin in [0.0f32, 0.75] {
        let loss = MarginRanking::new(margin).unwrap();
        let draw = pairs(logit, logit, move |x, t| ((x - t).abs() - f64::from(margin)).abs() > CLEAR);
        let value = move |x, t, y| book::margin_ranking(x, t, y, margin.into());
        let case = case(format!("margin_ranking[margin={margin}]"), loss, draw, value);
        cases.push(case.grad_target(STEP).with_third(|rng, _, _| signed_label(rng), None));
    }
    let log_ratio: super::DrawBeside = |rng, _, _| rng.uniform(-4.0, 4.0);
    for (smoothing, beta) in [(0.0f32, 0.5f32), (0.1, 0.5), (0.0, 0.1)] {
        let loss = Dpo::new(beta).unwrap().label_smoothing(smoothing).unwrap();
        let value = move |x, t, r| book::dpo(x, t, r, beta.into(), smoothing.into());
        let case = case(format!("dpo[beta={beta}+smoothing={smoothing}]"), loss, pairs(logit, logit, anywhere), value);
        cases.push(case.grad_target(STEP).with_third(log_ratio, None));
    }
    let loss = Dpo::new(0.5).unwrap().variant(DpoVariant::Hinge);
    let clear: super::DrawBeside = |rng, x, t| {
        let mut ratios = (0..).map(|_| rng.uniform(-4.0, 4.0));
        ratios.find(|r| (1.0 - 0.5 * (x - t - r)).abs() > 3.0 * CLEAR).expect("without end")
    };
    let case_of = |name: &str, loss, value: fn(f64, f64, f64) -> f64, draw| {
        case(name, loss, pairs(logit, logit, anywhere), value).grad_target(STEP).with_third(draw, None)
    };
    cases.push(case_of("dpo[hinge]", loss, |x, t, r| book::dpo_hinge(x, t, r, 0.5), clear));
    let loss = Dpo::new(0.25).unwrap().variant(DpoVariant::Ipo);
    cases.push(case_of("dpo[ipo]", loss, |x, t, r| book::dpo_ipo(x, t, r, 0.25), log_ratio));
}

fn gan_terms(cases: &mut Vec<Case>) {
    use GanMode::*;
    let nothing = |_: &mut Rng| 0.0;
    for mode in [NonSaturating, Minimax, LeastSquares, Wasserstein, Hinge, Probabilities] {
        let draw = || match mode {
            Probabilities => pairs(probability, nothing, |x, _| x > 0.0 && x < 1.0),
            // The kinks of the two terms are at 1 and -1.
            Hinge => pairs(logit, nothing, |x, _| (x.abs() - 1.0).abs() > CLEAR),
            _ => pairs(logit, nothing, anywhere),
        };
        let step = if mode == Probabilities { Step::Probability } else { STEP };
        let mut push = |term: &str, loss: GanTerm, value: Box<dyn Fn(f64) -> f64 + Send + Sync>| {
            let case = case(format!("gan[{mode:?}+{term}]"), loss, draw(), move |x, _, _| value(x));
            cases.push(Case { targets: Targets::Nothing, ..case }.step(step));
        };
        let gan = GanLoss::new(mode);
        push("real", gan.real_term(), Box::new(move |x| book::gan_real(mode, x, 1.0)));
        push("fake", gan.fake_term(), Box::new(move |x| book::gan_fake(mode, x)));
        push("generator", gan.generator_term(), Box::new(move |x| book::gan_generator(mode, x)));
        if let Ok(gan) = gan.real_label(0.9) {
            let label = f64::from(0.9f32);
            push("real+label", gan.real_term(), Box::new(move |x| book::gan_real(mode, x, label)));
        }
    }
}

/// Sums of several losses: one to four terms of every kind, with weights of either sign.
fn sums(cases: &mut Vec<Case>) {
    let sum = |name: &str, loss: Combined, draw, value: fn(f64, f64, f64) -> f64| {
        case(format!("combined[{name}]"), loss, draw, value)
    };
    let away = |radii: &'static [f64]| {
        pairs(logit, logit, move |x, t| radii.iter().all(|radius| ((x - t).abs() - radius).abs() > CLEAR))
    };
    let mse_mae = 0.75 * Mse::new() + 0.25 * Mae::new();
    cases.push(
        sum("mse+mae", mse_mae, away(&[0.0]), |x, t, _| 0.75 * book::mse(x, t) + 0.25 * book::mae(x, t))
            .grad_target(STEP),
    );
    let distances = Mae::new() + 0.5 * (Huber::new(3.0).unwrap() + SmoothL1::new(0.5).unwrap() * -2.0) + Mse::half();
    let value = |x, t, _| {
        let near = 0.5 * book::huber(x, t, 3.0) - book::smooth_l1(x, t, 0.5);
        book::mae(x, t) + near + book::half_mse(x, t)
    };
    cases.push(sum("four distances", distances, away(&[0.0, 0.5, 3.0]), value).grad_target(STEP));
    cases.push(
        sum("huber", Huber::new(1.0).unwrap() * 2.0, away(&[1.0]), |x, t, _| 2.0 * book::huber(x, t, 1.0))
            .grad_target(STEP),
    );
    let bce_focal = 0.5 * BceWithLogits::new() + SigmoidFocal::new();
    let value = |x, t, w: f64| 0.5 * book::bce_with_logits(x, t, w) + book::sigmoid_focal(x, t, Some(0.25), 2.0);
    let mut push = |name, loss, value, per_class| {
        cases.push(sum(name, loss, pairs(logit, soft_label, anywhere), value).with_class_weight(per_class));
    };
    push("bce+focal", bce_focal, value, false);
    push("bce+focal+per class", bce_focal, value, true);
    let bce_focal = SigmoidFocal::new() + 0.5 * BceWithLogits::new().pos_weight(2.5).unwrap();
    let value = |x, t, w: f64| 0.5 * book::bce_with_logits(x, t, 2.5 * w) + book::sigmoid_focal(x, t, Some(0.25), 2.0);
    push("focal+bce+pos_weight", bce_focal, value, false);
    push("focal+bce+pos_weight+per class", bce_focal, value, true);
    let focals = 0.5 * SigmoidFocal::new().gamma(1.0).unwrap() + 2.0 * BceWithLogits::new() + 0.25 * Mse::new();
    let value = |x, t, _| {
        let focal = 0.5 * book::sigmoid_focal(x, t, Some(0.25), 1.0);
        focal + 2.0 * book::bce_with_logits(x, t, 1.0) + 0.25 * book::mse(x, t)
    };
    cases.push(sum("focal, any gamma+bce+mse", focals, pairs(logit, soft_label, anywhere), value));
    let hinges = Hinge::new().labels(HingeLabels::ZeroOne) + 0.5 * SquaredHinge::new().labels(HingeLabels::ZeroOne);
    let draw = pairs(logit, hard_label, |x, t| (1.0 - (2.0 * t - 1.0) * x).abs() > CLEAR);
    let value = |x, t, _| book::hinge(x, 2.0 * t - 1.0) + 0.5 * book::squared_hinge(x, 2.0 * t - 1.0);
    cases.push(sum("hinges", hinges, draw, value));
    let inside = |p: f64| p > 1e-3 && p < 0.999;
    let draw = pairs(probability, probability, move |x, t| inside(x) && inside(t));
    let probabilities = Bce::new().label_smoothing(0.125).unwrap() + 0.5 * KlDivProbs::new();
    let value = |x, t, _| book::bce(x, book::smooth_binary(t, 0.125)) + 0.5 * book::kl_div_probs(x, t, 1e-7);
    let case = sum("bce of probabilities+kl", probabilities, draw, value);
    cases.push(case.step(Step::Probability).grad_target(Step::Probability));
    let draw = pairs(log_probability, log_probability, anywhere);
    let value = |x, t, _| book::kl_div_log_target(x, t) + 0.125 * book::mse(x, t);
    let divergence = KlDiv::new().log_target(true) + 0.125 * Mse::new();
    cases.push(sum("kl, log target+mse", divergence, draw, value).grad_target(STEP));
    let bends = 2.0 * LogCosh::new() + Quantile::new(0.75).unwrap() + 0.25 * Mae::new();
    let value = |x, t, _| 2.0 * book::log_cosh(x, t) + book::quantile(x, t, 0.75) + 0.25 * book::mae(x, t);
    cases.push(sum("log-cosh+quantile+mae", bends, away(&[0.0]), value).grad_target(STEP));
    let margins = SoftMargin::new() + 0.5 * SquaredHinge::new();
    let draw = pairs(logit, signed_label, |x, y| (1.0 - y * x).abs() > CLEAR);
    let value = |x, y, _| book::soft_margin(x, y) + 0.5 * book::squared_hinge(x, y);
    cases.push(sum("soft margin+squared hinge", margins, draw, value));
    let count: fn(&mut Rng) -> f64 = |rng| rng.below(12) as f64;
    let counts = PoissonNll::new().full(true) + 0.0625 * Mse::new();
    let draw = pairs(|rng| rng.uniform(-3.0, 3.0), count, anywhere);
    let value = |x, t, _| book::poisson_nll(x, t, true) + 0.0625 * book::mse(x, t);
    cases.push(sum("poisson+mse", counts, draw, value));
    let rates = 0.5 * Mae::new() + PoissonNll::new().log_input(false).full(true).eps(0.25).unwrap();
    let draw = pairs(|rng| rng.uniform(0.1, 12.0), count, |x, t| (x - t).abs() > CLEAR);
    let value = |x, t, _| 0.5 * book::mae(x, t) + book::poisson_nll_rate(x, t, true, 0.25);
    cases.push(sum("mae+poisson of rates", rates, draw, value));
    let draw = pairs(log_probability, probability, move |_, t| inside(t));
    let value = |x, t, _| 3.0 * book::kl_div(x, t);
    cases.push(sum("kl", 3.0 * KlDiv::new(), draw, value).grad_target(Step::Probability));
}

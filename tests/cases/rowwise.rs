//! The rows of the table that are losses of one row of classes.

use fused_loss::*;

use super::draw::*;
use super::job::AnyLoss;
use super::textbook::{self as book, CrossEntropyOptions};
use super::{Case, Dense, DrawRow, Family, Held, STEP, Step, Targets, name};

fn case(
    name: impl Into<String>,
    loss: impl Into<AnyLoss>,
    targets: Targets,
    draw: DrawRow,
    value: impl Fn(&[f64], &[f64], &[f64]) -> f64 + Send + Sync + 'static,
) -> Case {
    Case::new(name, loss, Family::Rows { draw, value: Box::new(value) }, targets)
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    cross_entropies(&mut cases);
    likelihoods(&mut cases);
    focals(&mut cases);
    margins(&mut cases);
    distillations(&mut cases);
    combined(&mut cases);
    jensen_shannons(&mut cases);
    penalties(&mut cases);
    boxes(&mut cases);
    cosines(&mut cases);
    triplets(&mut cases);
    cases
}

/// What index targets may say of rows to leave out.
const IGNORED: [(&str, Option<i64>); 3] = [("", Some(-100)), ("ignored class", Some(1)), ("none ignored", None)];

fn cross_entropies(cases: &mut Vec<Case>) {
    let mut push = |combination: usize, cap: f32, targets: Targets, (kind, ignore_index): (&str, Option<i64>)| {
        let [smooth, weights, z_loss, softcap] = [0, 1, 2, 3].map(|bit| combination >> bit & 1 == 1);
        let (smoothing, z) = (if smooth { 0.1f32 } else { 0.0 }, if z_loss { 1e-2f32 } else { 0.0 });
        let cap = softcap.then_some(cap);
        let loss = CrossEntropy::new().label_smoothing(smoothing).unwrap().z_loss(z).unwrap();
        let loss = loss.softcap(cap).unwrap().ignore_index(ignore_index);
        let o = CrossEntropyOptions { smoothing: smoothing.into(), z_loss: z.into(), softcap: cap.map(f64::from) };
        let dense = targets != Targets::Index;
        let cap = cap.map_or(String::new(), |cap| format!("softcap={cap}"));
        let options = [
            (dense, "dense"),
            (smooth, "smoothing"),
            (weights, "weights"),
            (z_loss, "z_loss"),
            (softcap, &cap),
            (!kind.is_empty(), kind),
        ];
        let name = name("cross_entropy", &options);
        let case = case(name, loss, targets, rows(logit), move |z, q, w| book::cross_entropy(z, q, w, o));
        cases.push(Case {
            class_weight: weights,
            ignore_index,
            mean_by_class_weight: true,
            target_step: dense.then_some(STEP),
            ..case
        });
    };
    for combination in 0..16 {
        for ignored in IGNORED {
            push(combination, 30.0, Targets::Index, ignored);
        }
        push(combination, 30.0, Targets::Dense(Dense::Distribution), IGNORED[0]);
    }
    // Every logit well bent.
    push(0b1000, 5.0, Targets::Index, IGNORED[0]);
    push(0b1111, 5.0, Targets::Dense(Dense::Distribution), IGNORED[0]);
}

/// Unnormalised, as Keras takes them.
fn share(rng: &mut Rng) -> f64 {
    rng.uniform(0.05, 1.0)
}

fn likelihoods(cases: &mut Vec<Case>) {
    let step = Step::Of(2e-4);
    for combination in 0..8 {
        let [dense, weights, smooth] = [0, 1, 2].map(|bit| combination >> bit & 1 == 1);
        let smoothing = if smooth { 0.1f32 } else { 0.0 };
        let loss = CrossEntropyProbs::new().label_smoothing(smoothing).unwrap();
        let name = name("cross_entropy_probs", &[(dense, "dense"), (weights, "weights"), (smooth, "smoothing")]);
        let targets = if dense { Targets::Dense(Dense::Distribution) } else { Targets::Index };
        let value = move |x: &[f64], q: &[f64], w: &[f64]| book::cross_entropy_probs(x, q, w, smoothing.into(), 1e-7);
        cases.push(Case {
            class_weight: weights,
            ignore_index: Some(-100),
            mean_by_class_weight: true,
            step,
            target_step: dense.then_some(STEP),
            ..case(name, loss, targets, rows(share), value)
        });
    }
    let epsilon = 0.05f32;
    let draw: DrawRow = Box::new(move |rng, round, classes, class| {
        loop {
            let x: Vec<f64> = (0..classes).map(|_| round(share(rng))).collect();
            let q = class.map_or(0.5, |t| x[t] / x.iter().sum::<f64>());
            let clip = q.min(1.0 - q) - f64::from(epsilon);
            if clip.abs() > 0.1 * f64::from(epsilon) {
                return x;
            }
        }
    });
    let value = move |x: &[f64], q: &[f64], w: &[f64]| book::cross_entropy_probs(x, q, w, 0.0, epsilon);
    let loss = CrossEntropyProbs::new().epsilon(epsilon).unwrap().ignore_index(None);
    let case_of_clip = case("cross_entropy_probs[epsilon]", loss, Targets::Index, draw, value);
    cases.push(Case { mean_by_class_weight: true, step, ..case_of_clip });

    for (weights, ignore_index) in [(false, Some(-100)), (true, Some(-100)), (false, None), (true, Some(1))] {
        let loss = Nll::new().ignore_index(ignore_index);
        let options = [
            (weights, "weights"),
            (ignore_index == Some(1), "ignored class"),
            (ignore_index.is_none(), "none ignored"),
        ];
        let case = case(name("nll", &options), loss, Targets::Index, rows(log_probability), book::nll);
        cases.push(Case { class_weight: weights, ignore_index, mean_by_class_weight: true, ..case });
    }
}

fn focals(cases: &mut Vec<Case>) {
    for (i, gamma) in [0.0f32, 0.5, 1.0, 2.0, 3.5].into_iter().enumerate() {
        for alpha in [false, true] {
            let (kind, ignore_index) = IGNORED[(i + usize::from(alpha)) % IGNORED.len()];
            let loss = SoftmaxFocal::new().gamma(gamma).unwrap().ignore_index(ignore_index);
            let gamma_is = format!("gamma={gamma}");
            let options = [(true, gamma_is.as_str()), (alpha, "alpha"), (!kind.is_empty(), kind)];
            let value = move |z: &[f64], q: &[f64], w: &[f64]| book::softmax_focal(z, q, w, gamma.into());
            let case = case(name("softmax_focal", &options), loss, Targets::Index, rows(logit), value);
            cases.push(Case { class_weight: alpha, ignore_index, ..case });
        }
    }
}

fn margins(cases: &mut Vec<Case>) {
    for targets in [Targets::Index, Targets::Dense(Dense::OneHot)] {
        let name = name("categorical_hinge", &[(targets != Targets::Index, "dense")]);
        let value = |x: &[f64], q: &[f64], _: &[f64]| book::categorical_hinge(x, q);
        cases.push(case(name, CategoricalHinge, targets, Box::new(one_winner), value));
    }
    for combination in 0..8 {
        let [squared, narrow, weights] = [0, 1, 2].map(|bit| combination >> bit & 1 == 1);
        let (p, margin) = (if squared { 2 } else { 1 }, if narrow { 0.3f32 } else { 1.0 });
        let loss = MultiMargin::new().p(p).unwrap().margin(margin).unwrap();
        let draw: DrawRow = Box::new(move |rng, round, classes, class| {
            let t = class.expect("a class a row");
            let mut x = vec![round(logit(rng)); classes];
            for k in (0..classes).filter(|&k| k != t) {
                x[k] = loop {
                    let x_k = round(logit(rng));
                    if (f64::from(margin) - x[t] + x_k).abs() > CLEAR {
                        break x_k;
                    }
                };
            }
            x
        });
        let value = move |x: &[f64], q: &[f64], w: &[f64]| {
            let t = q.iter().position(|&q| q == 1.0).expect("one-hot");
            book::multi_margin(x, t, w, p as i32, margin.into())
        };
        let name = name("multi_margin", &[(squared, "p=2"), (narrow, "margin=0.3"), (weights, "weights")]);
        cases.push(case(name, loss, Targets::Index, draw, value).with_class_weight(weights));
    }
}

/// Scores of which one wrong one, or the zero in the place of the true class, is well above the others.
fn one_winner(rng: &mut Rng, round: Round, classes: usize, class: Option<usize>) -> Vec<f64> {
    let t = class.expect("a class a row");
    loop {
        let mut x: Vec<f64> = (0..classes).map(|_| round(logit(rng))).collect();
        let mut highest = 0.0;
        if classes > 1 && rng.once_in(4) {
            (0..classes).filter(|&k| k != t).for_each(|k| x[k] = round(-x[k].abs() - 0.5));
        } else if classes > 1 {
            let winner = (t + 1 + rng.below(classes - 1)) % classes;
            let others = (0..classes).filter(|&k| k != t && k != winner).map(|k| x[k]);
            x[winner] = round(others.fold(0.0, f64::max) + 0.5);
            highest = x[winner];
        }
        if (1.0 + highest - x[t]).abs() > CLEAR {
            return x;
        }
    }
}

fn distillations(cases: &mut Vec<Case>) {
    for (temperature, by_t2) in [(1.0f32, true), (4.0, true), (2.5, false)] {
        let loss = Distillation::new().temperature(temperature).unwrap().scale_by_t2(by_t2);
        let factor = if by_t2 { f64::from(temperature).powi(2) } else { 1.0 };
        let value = move |x: &[f64], t: &[f64], _: &[f64]| book::distillation(x, t, temperature.into(), factor);
        let by = if by_t2 { "" } else { "+not by T^2" };
        let name = format!("distillation[T={temperature}{by}]");
        cases.push(case(name, loss, Targets::Dense(Dense::Logits), rows(logit), value).grad_target(STEP));
    }
}

fn combined(cases: &mut Vec<Case>) {
    let options = [(1.0f32, 0.0f32, 0.0f32), (2.0, 0.1, 0.0), (4.0, 0.0, 1e-2), (0.5, 0.2, 1e-3)];
    for ((temperature, smoothing, z_loss), (kind, ignore_index)) in options.into_iter().zip(IGNORED.into_iter().cycle())
    {
        let cross_entropy = CrossEntropy::new().label_smoothing(smoothing).unwrap().z_loss(z_loss).unwrap();
        let cross_entropy = cross_entropy.ignore_index(ignore_index);
        let loss = 0.25 * cross_entropy + 0.75 * Distillation::new().temperature(temperature).unwrap();
        let o = CrossEntropyOptions { smoothing: smoothing.into(), z_loss: z_loss.into(), softcap: None };
        let softened = (f64::from(temperature), f64::from(temperature).powi(2));
        let value = move |z: &[f64], q: &[f64], y: &[f64]| book::combined_rows(z, q, y, [0.25, 0.75], o, softened);
        let name = format!("combined_rows[T={temperature}+smoothing={smoothing}+z_loss={z_loss}]");
        let name = if kind.is_empty() { name } else { format!("{name}[{kind}]") };
        let case = case(name, loss, Targets::Index, rows(logit), value);
        let case = case.with_third_rows(|rng, round, z, _| z.iter().map(|_| round(logit(rng))).collect());
        cases.push(Case { ignore_index, ..case.without_third_gradient() });
    }
}

fn jensen_shannons(cases: &mut Vec<Case>) {
    for (beta, temperature) in [(0.5f32, 1.0f32), (0.1, 2.0), (0.9, 1.0), (1.0, 1.0)] {
        let loss = Jsd::new().beta(beta).unwrap().temperature(temperature).unwrap();
        let value = move |x: &[f64], t: &[f64], _: &[f64]| book::jsd(x, t, beta.into(), temperature.into());
        let name = format!("jsd[beta={beta}+T={temperature}]");
        cases.push(case(name, loss, Targets::Dense(Dense::Logits), rows(logit), value).grad_target(STEP));
    }
}

fn boxes(cases: &mut Vec<Case>) {
    let mut push = |kind: &str, loss: BoxIou, value: fn(&[f64], &[f64], &[f64]) -> f64| {
        let draw: DrawRow = Box::new(|rng, round, _, _| corners(rng, 0.1).into_iter().map(round).collect());
        let case = case(format!("box_iou[{kind}]"), loss, Targets::Dense(Dense::Boxes), draw, value);
        let held: Option<Held> = (kind == "ciou").then_some(|p, t| vec![book::ciou_alpha(p, t, 1e-7)]);
        cases.push(Case { classes: Some(4), held, ..case.grad_target(STEP) });
    };
    push("iou", BoxIou::iou(), |p, t, _| book::box_iou(p, t, "iou", 1e-7));
    push("giou", BoxIou::giou(), |p, t, _| book::box_iou(p, t, "giou", 1e-7));
    push("diou", BoxIou::diou(), |p, t, _| book::box_iou(p, t, "diou", 1e-7));
    push("ciou", BoxIou::ciou(), |p, t, alpha| book::complete_box_iou(p, t, alpha[0], 1e-7));
}

/// Of a size of 0.5 to 2, for the gradient for a short row is as large as the row is short.
fn embedding(rng: &mut Rng) -> f64 {
    signed_label(rng) * rng.uniform(0.5, 2.0)
}

fn cosines(cases: &mut Vec<Case>) {
    for margin in [0.0f32, 0.25, -0.5] {
        let loss = CosineEmbedding::new(margin).unwrap();
        let value = move |x: &[f64], t: &[f64], label: &[f64]| book::cosine_embedding(x, t, label[0], margin.into());
        let name = format!("cosine_embedding[margin={margin}]");
        let case = case(name, loss, Targets::Dense(Dense::Embedding), rows(embedding), value).grad_target(STEP);
        cases.push(case.with_labels(move |rng, x, t| match rng.below(5) {
            0 => 0.0,
            // The cosine moves by less than this between the ends of a difference.
            1 | 2 if (book::cosine(x, t) - f64::from(margin)).abs() > CLEAR => -1.0,
            _ => 1.0,
        }));
    }
}

fn triplets(cases: &mut Vec<Case>) {
    for (margin, eps, swap) in [(1.0f32, 1e-6f32, false), (0.5, 0.0, true), (2.0, 1e-3, true)] {
        let loss = TripletMargin::new().margin(margin).unwrap().eps(eps).unwrap().swap(swap);
        let (margin_wide, eps_wide) = (f64::from(margin), f64::from(eps));
        let value = move |a: &[f64], p: &[f64], n: &[f64]| book::triplet_margin(a, p, n, margin_wide, eps_wide, swap);
        let name = name(&format!("triplet_margin[margin={margin}+eps={eps}]"), &[(swap, "swap")]);
        let case = case(name, loss, Targets::Dense(Dense::Positives), rows(|rng| apart(rng, 0.0)), value);
        cases.push(case.grad_target(STEP).with_third_rows(move |rng, round, a, p| {
            loop {
                let n: Vec<f64> = a.iter().map(|_| round(apart(rng, 0.7))).collect();
                let [near, far, between] = [(a, p), (a, &n), (p, &n)].map(|(a, b)| book::distance(a, b, eps_wide));
                let nearer = if swap { far.min(between) } else { far };
                if (near - nearer + margin_wide).abs() > CLEAR && (!swap || (far - between).abs() > CLEAR) {
                    return n;
                }
            }
        }));
    }
}

fn penalties(cases: &mut Vec<Case>) {
    // WGAN-GP has a kink where the norm is zero.
    let slope = |rng: &mut Rng| signed_label(rng) * rng.uniform(0.1, 2.0);
    let loss = GradientPenalty::wgan_gp(10.0).unwrap();
    let value = |g: &[f64], _: &[f64], _: &[f64]| book::wgan_gp(g, 10.0);
    cases.push(case("gradient_penalty[wgan-gp]", loss, Targets::Nothing, rows(slope), value));
    let loss = GradientPenalty::r1(5.0).unwrap();
    let value = |g: &[f64], _: &[f64], _: &[f64]| book::r1(g, 5.0);
    cases.push(case("gradient_penalty[r1]", loss, Targets::Nothing, rows(slope), value));
}

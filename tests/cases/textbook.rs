//! The textbook: the value of every loss in f64, as its definition says it, and nothing else.
//!
//! Nothing here is shared with the crate, nothing is fast, and there are no derivatives: the battery
//! differentiates these values numerically. What is done for accuracy's sake (`ln_1p`, leaving the
//! largest logit out of a sum) is done because the battery asks for seven digits of losses such as
//! 1e-9, and says nothing about how the crate does it.

use fused_loss::{DiceWeight, GanMode};

/// `ln(1 + e^x)`
pub fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// `1 / (1 + e^-x)`
pub fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

// --- element-wise: one input, one target ---

pub fn mse(x: f64, t: f64) -> f64 {
    (x - t).powi(2)
}

pub fn half_mse(x: f64, t: f64) -> f64 {
    0.5 * (x - t).powi(2)
}

pub fn mae(x: f64, t: f64) -> f64 {
    (x - t).abs()
}

pub fn huber(x: f64, t: f64, delta: f64) -> f64 {
    let e = (x - t).abs();
    if e <= delta { 0.5 * e * e } else { delta * (e - 0.5 * delta) }
}

pub fn smooth_l1(x: f64, t: f64, beta: f64) -> f64 {
    let e = (x - t).abs();
    if e < beta { 0.5 * e * e / beta } else { e - 0.5 * beta }
}

/// Newey and Powell, 1987.
pub fn expectile(x: f64, t: f64, tau: f64) -> f64 {
    (x - t).powi(2) * if x > t { 1.0 - tau } else { tau }
}

/// Charbonnier et al., 1994.
pub fn charbonnier(x: f64, t: f64, epsilon: f64) -> f64 {
    (x - t).hypot(epsilon)
}

/// Without overflow: `cosh(e) = 1 + 2 sinh(e / 2)^2`.
pub fn log_cosh(x: f64, t: f64) -> f64 {
    (2.0 * (0.5 * (x - t)).sinh().powi(2)).ln_1p()
}

/// The pinball.
pub fn quantile(x: f64, t: f64, q: f64) -> f64 {
    (q * (t - x)).max((q - 1.0) * (t - x))
}

/// PyTorch's, of the logarithm of the rate.
pub fn poisson_nll(x: f64, t: f64, full: bool) -> f64 {
    x.exp() - t * x + stirling(t, full)
}

/// PyTorch's, of the rate.
pub fn poisson_nll_rate(x: f64, t: f64, full: bool, eps: f64) -> f64 {
    x - t * (x + eps).ln() + stirling(t, full)
}

fn stirling(t: f64, full: bool) -> f64 {
    if full && t > 1.0 { t * t.ln() - t + 0.5 * (2.0 * std::f64::consts::PI * t).ln() } else { 0.0 }
}

/// PyTorch's.
pub fn gaussian_nll(x: f64, t: f64, var: f64, full: bool, eps: f64) -> f64 {
    let v = var.max(eps);
    let constant = if full { 0.5 * (2.0 * std::f64::consts::PI).ln() } else { 0.0 };
    0.5 * (v.ln() + (x - t).powi(2) / v) + constant
}

/// `y` is -1 or 1.
pub fn soft_margin(x: f64, y: f64) -> f64 {
    softplus(-y * x)
}

/// Keras's smoothing of a binary target.
pub fn smooth_binary(t: f64, smoothing: f64) -> f64 {
    t * (1.0 - smoothing) + 0.5 * smoothing
}

/// PyTorch's, which clamps the logarithms at -100.
pub fn bce(x: f64, t: f64) -> f64 {
    -(t * x.ln().max(-100.0) + (1.0 - t) * (-x).ln_1p().max(-100.0))
}

/// Keras's, which clips the probability.
pub fn bce_clipped(x: f64, t: f64, epsilon: f64) -> f64 {
    bce(x.clamp(epsilon, 1.0 - epsilon), t)
}

/// `-ln sigmoid(x)` is `softplus(-x)`, `-ln(1 - sigmoid(x))` is `softplus(x)`.
pub fn bce_with_logits(x: f64, t: f64, pos_weight: f64) -> f64 {
    pos_weight * t * softplus(-x) + (1.0 - t) * softplus(x)
}

/// `y` is -1 or 1.
pub fn hinge(x: f64, y: f64) -> f64 {
    (1.0 - y * x).max(0.0)
}

/// `y` is -1 or 1.
pub fn squared_hinge(x: f64, y: f64) -> f64 {
    hinge(x, y).powi(2)
}

/// `x` is a log-probability, `t` a probability.
pub fn kl_div(x: f64, t: f64) -> f64 {
    if t == 0.0 { 0.0 } else { t * (t.ln() - x) }
}

/// Both are log-probabilities.
pub fn kl_div_log_target(x: f64, t: f64) -> f64 {
    t.exp() * (t - x)
}

/// Both are probabilities; Keras clips them.
pub fn kl_div_probs(x: f64, t: f64, epsilon: f64) -> f64 {
    let (q, p) = (x.clamp(epsilon, 1.0), t.clamp(epsilon, 1.0));
    p * (p / q).ln()
}

/// Torchvision's `sigmoid_focal_loss`.
pub fn sigmoid_focal(x: f64, t: f64, alpha: Option<f64>, gamma: f64) -> f64 {
    let wrong = sigmoid(x) * (1.0 - t) + sigmoid(-x) * t;
    let weight = alpha.map_or(1.0, |alpha| alpha * t + (1.0 - alpha) * (1.0 - t));
    weight * wrong.powf(gamma) * bce_with_logits(x, t, 1.0)
}

pub fn relativistic_pair(x: f64, t: f64) -> f64 {
    softplus(x - t)
}

/// `y` is 1 where `x` should be higher, -1 where `t` should.
pub fn margin_ranking(x: f64, t: f64, y: f64, margin: f64) -> f64 {
    (margin - y * (x - t)).max(0.0)
}

/// `x` and `t` are the policy's log-probabilities of the chosen and of the rejected answer, `r` is the reference's log-ratio.
pub fn dpo(x: f64, t: f64, r: f64, beta: f64, smoothing: f64) -> f64 {
    let h = (x - t) - r;
    (1.0 - smoothing) * softplus(-beta * h) + smoothing * softplus(beta * h)
}

pub fn dpo_hinge(x: f64, t: f64, r: f64, beta: f64) -> f64 {
    (1.0 - beta * ((x - t) - r)).max(0.0)
}

pub fn dpo_ipo(x: f64, t: f64, r: f64, beta: f64) -> f64 {
    ((x - t) - r - 0.5 / beta).powi(2)
}

// --- GAN terms: one input, no target ---

/// The discriminator's term for a real sample.
pub fn gan_real(mode: GanMode, r: f64, label: f64) -> f64 {
    match mode {
        GanMode::NonSaturating | GanMode::Minimax => bce_with_logits(r, label, 1.0),
        GanMode::LeastSquares => (r - label).powi(2),
        GanMode::Wasserstein => -r,
        GanMode::Hinge => (1.0 - r).max(0.0),
        GanMode::Probabilities => bce(r, label),
        _ => unreachable!("a mode that the textbook does not know"),
    }
}

/// The discriminator's term for a fake sample.
pub fn gan_fake(mode: GanMode, f: f64) -> f64 {
    match mode {
        GanMode::NonSaturating | GanMode::Minimax => softplus(f),
        GanMode::LeastSquares => f.powi(2),
        GanMode::Wasserstein => f,
        GanMode::Hinge => (1.0 + f).max(0.0),
        GanMode::Probabilities => -(-f).ln_1p(),
        _ => unreachable!("a mode that the textbook does not know"),
    }
}

/// The generator's term for a fake sample.
pub fn gan_generator(mode: GanMode, f: f64) -> f64 {
    match mode {
        GanMode::NonSaturating => softplus(-f),
        GanMode::Minimax => -softplus(f),
        GanMode::LeastSquares => (f - 1.0).powi(2),
        GanMode::Wasserstein | GanMode::Hinge => -f,
        GanMode::Probabilities => -f.ln(),
        _ => unreachable!("a mode that the textbook does not know"),
    }
}

/// The relativistic average: `high` should be above the mean of `low`, and `low` below that of `high`.
/// The discriminator's loss is that of `(real, fake)`, the generator's that of `(fake, real)`.
pub fn relativistic_average(high: &[f64], low: &[f64]) -> f64 {
    let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
    let (mean_high, mean_low) = (mean(high), mean(low));
    let missed: Vec<f64> = high.iter().map(|h| softplus(mean_low - h)).collect();
    let fooled: Vec<f64> = low.iter().map(|l| softplus(l - mean_high)).collect();
    0.5 * (mean(&missed) + mean(&fooled))
}

// --- row-wise: a row of inputs; what the target puts on each class; the weights of the classes ---

/// `ln(sum_k e^(z_k))`, and of each class `-ln softmax_k`.
fn log_softmax(z: &[f64]) -> (f64, Vec<f64>) {
    let top = (0..z.len()).fold(0, |top, k| if z[k] > z[top] { k } else { top });
    let others: f64 = (0..z.len()).filter(|&k| k != top).map(|k| (z[k] - z[top]).exp()).sum();
    (z[top] + others.ln_1p(), z.iter().map(|z_k| others.ln_1p() + (z[top] - z_k)).collect())
}

/// `sum_k a_k b_k`, where 0 times anything is 0.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).filter(|(a, _)| **a != 0.0).map(|(a, b)| a * b).sum()
}

/// What cross-entropy asks of every class: PyTorch's smoothing, then the class weights.
fn asked(q: &[f64], w: &[f64], smoothing: f64) -> Vec<f64> {
    let each = smoothing / q.len() as f64;
    q.iter().zip(w).map(|(q, w)| w * ((1.0 - smoothing) * q + each)).collect()
}

/// The options of cross-entropy.
#[derive(Clone, Copy)]
pub struct CrossEntropyOptions {
    pub smoothing: f64,
    pub z_loss: f64,
    pub softcap: Option<f64>,
}

/// `q` is the target distribution, for a class index one-hot.
pub fn cross_entropy(z: &[f64], q: &[f64], w: &[f64], o: CrossEntropyOptions) -> f64 {
    let capped: Vec<f64> = z.iter().map(|z| o.softcap.map_or(*z, |cap| cap * (z / cap).tanh())).collect();
    let (lse, nll) = log_softmax(&capped);
    dot(&asked(q, w, o.smoothing), &nll) + o.z_loss * lse * lse
}

/// Keras's, on probabilities: normalised, then clipped. `1 - epsilon` is meant as f32 has it.
pub fn cross_entropy_probs(x: &[f64], q: &[f64], w: &[f64], smoothing: f64, epsilon: f32) -> f64 {
    let sum: f64 = x.iter().sum();
    let (low, high) = (f64::from(epsilon), f64::from(1.0 - epsilon));
    let nll: Vec<f64> = x.iter().map(|x| -(x / sum).clamp(low, high).ln()).collect();
    dot(&asked(q, w, smoothing), &nll)
}

/// `x` are log-probabilities.
pub fn nll(x: &[f64], q: &[f64], w: &[f64]) -> f64 {
    -dot(&asked(q, w, 0.0), x)
}

/// `w` is alpha.
pub fn softmax_focal(z: &[f64], q: &[f64], w: &[f64], gamma: f64) -> f64 {
    let (_, nll) = log_softmax(z);
    let focal: Vec<f64> = nll.iter().map(|nll| (-(-nll).exp_m1()).powf(gamma) * nll).collect();
    dot(&asked(q, w, 0.0), &focal)
}

/// Keras's: the zero in the place of the true class takes part in the maximum.
pub fn categorical_hinge(x: &[f64], q: &[f64]) -> f64 {
    let wrong = x.iter().zip(q).map(|(x, q)| (1.0 - q) * x).fold(f64::NEG_INFINITY, f64::max);
    (1.0 + wrong - dot(q, x)).max(0.0)
}

/// PyTorch's `multi_margin_loss`; divided by C.
pub fn multi_margin(x: &[f64], t: usize, w: &[f64], p: i32, margin: f64) -> f64 {
    let others = (0..x.len()).filter(|&k| k != t);
    let sum: f64 = others.map(|k| (margin - x[t] + x[k]).max(0.0).powi(p)).sum();
    w[t] * sum / x.len() as f64
}

/// `KL(softmax(teacher / T) || softmax(student / T))`, times a factor that is `T^2` or 1.
pub fn distillation(student: &[f64], teacher: &[f64], temperature: f64, factor: f64) -> f64 {
    let soften = |z: &[f64]| -> Vec<f64> { z.iter().map(|z| z / temperature).collect() };
    let (_, p) = log_softmax(&soften(student));
    let (_, q) = log_softmax(&soften(teacher));
    factor * p.iter().zip(&q).map(|(p, q)| (-q).exp() * (p - q)).sum::<f64>()
}

/// `w0 (cross-entropy + z-loss) + w1 distillation`, of one student.
pub fn combined_rows(
    student: &[f64],
    q: &[f64],
    teacher: &[f64],
    weights: [f64; 2],
    o: CrossEntropyOptions,
    (temperature, factor): (f64, f64),
) -> f64 {
    let of_target = cross_entropy(student, q, &vec![1.0; q.len()], o);
    weights[0] * of_target + weights[1] * distillation(student, teacher, temperature, factor)
}

/// `beta KL(q || m) + (1 - beta) KL(p || m)` of the softmaxes, q the teacher's, with the mixture `m = beta q + (1 - beta) p`; at
/// `beta = 1` TRL's, which is one divergence.
pub fn jsd(student: &[f64], teacher: &[f64], beta: f64, temperature: f64) -> f64 {
    let soften = |z: &[f64]| -> Vec<f64> { z.iter().map(|z| z / temperature).collect() };
    let (p, q) = (log_softmax(&soften(student)).1, log_softmax(&soften(teacher)).1);
    let kl = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (-a).exp() * (b - a)).sum::<f64>();
    // All of them are minus the logarithm.
    let mixed: Vec<f64> =
        p.iter().zip(&q).map(|(p, q)| -(beta * (-q).exp() + (1.0 - beta) * (-p).exp()).ln()).collect();
    match beta {
        1.0 => kl(&p, &q),
        _ => beta * kl(&q, &mixed) + (1.0 - beta) * kl(&p, &mixed),
    }
}

/// One minus the intersection over union of `(x1, y1, x2, y2)`, and what torchvision's GIoU and DIoU add.
pub fn box_iou(p: &[f64], t: &[f64], kind: &str, eps: f64) -> f64 {
    let area = |b: &[f64]| (b[2] - b[0]) * (b[3] - b[1]);
    let inner = [p[0].max(t[0]), p[1].max(t[1]), p[2].min(t[2]), p[3].min(t[3])];
    let outer = [p[0].min(t[0]), p[1].min(t[1]), p[2].max(t[2]), p[3].max(t[3])];
    let shared = if inner[2] > inner[0] && inner[3] > inner[1] { area(&inner) } else { 0.0 };
    let union = area(p) + area(t) - shared;
    let square = |x: f64, y: f64| x * x + y * y;
    let centres = square((p[0] + p[2] - t[0] - t[2]) / 2.0, (p[1] + p[3] - t[1] - t[3]) / 2.0);
    let added = match kind {
        "giou" => (area(&outer) - union) / (area(&outer) + eps),
        "diou" => centres / (square(outer[2] - outer[0], outer[3] - outer[1]) + eps),
        _ => 0.0,
    };
    1.0 - shared / (union + eps) + added
}

/// torchvision's CIoU, whose gradient takes this alpha for constant: DIoU and alpha times the difference of the aspect ratios.
pub fn complete_box_iou(p: &[f64], t: &[f64], alpha: f64, eps: f64) -> f64 {
    box_iou(p, t, "diou", eps) + alpha * aspect(p, t)
}

/// The alpha of CIoU.
pub fn ciou_alpha(p: &[f64], t: &[f64], eps: f64) -> f64 {
    let v = aspect(p, t);
    v / (box_iou(p, t, "iou", eps) + v + eps)
}

/// `4 / pi^2` times the squared difference of the angles of the diagonals.
fn aspect(p: &[f64], t: &[f64]) -> f64 {
    let angle = |b: &[f64]| ((b[2] - b[0]) / (b[3] - b[1])).atan();
    (2.0 / std::f64::consts::PI * (angle(t) - angle(p))).powi(2)
}

/// PyTorch's: rows of a label of 1 point the same way, those of -1 do not.
pub fn cosine_embedding(x: &[f64], t: &[f64], label: f64, margin: f64) -> f64 {
    let cos = cosine(x, t);
    match label {
        1.0 => 1.0 - cos,
        -1.0 => (cos - margin).max(0.0),
        _ => 0.0,
    }
}

pub fn cosine(x: &[f64], t: &[f64]) -> f64 {
    dot(x, t) / ((dot(x, x) + 1e-12) * (dot(t, t) + 1e-12)).sqrt()
}

/// PyTorch's, of Euclidean distances.
pub fn triplet_margin(a: &[f64], p: &[f64], n: &[f64], margin: f64, eps: f64, swap: bool) -> f64 {
    let far = distance(a, n, eps);
    let far = if swap { far.min(distance(p, n, eps)) } else { far };
    (distance(a, p, eps) - far + margin).max(0.0)
}

/// PyTorch's `pairwise_distance`, which adds eps to the differences.
pub fn distance(a: &[f64], b: &[f64], eps: f64) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b + eps).powi(2)).sum::<f64>().sqrt()
}

/// Of WGAN-GP.
pub fn wgan_gp(g: &[f64], lambda: f64) -> f64 {
    lambda * (dot(g, g).sqrt() - 1.0).powi(2)
}

pub fn r1(g: &[f64], gamma: f64) -> f64 {
    0.5 * gamma * dot(g, g)
}

// --- regions: (n, c, positions) ---

/// What comes before a region loss.
#[derive(Clone, Copy, PartialEq)]
pub enum Activation {
    None,
    Sigmoid,
    Softmax,
}

/// What of a region is compared with what.
#[derive(Clone, Copy)]
pub enum Overlap {
    Dice,
    Jaccard,
    Tversky {
        alpha: f64,
        beta: f64,
    },
    /// Lovász's: of a hinge without an activation, else of probabilities.
    Lovasz,
}

/// The options of the region losses.
#[derive(Clone, Copy)]
pub struct RegionOptions {
    pub overlap: Overlap,
    pub activation: Activation,
    pub batch: bool,
    pub include_background: bool,
    pub squared_pred: bool,
    pub smooth_nr: f64,
    pub smooth_dr: f64,
    /// The focal form's power.
    pub gamma: f64,
    /// Of generalised Dice: the weight of a channel by the sum of its targets.
    pub weight: Option<DiceWeight>,
}

/// MONAI's generalised Dice: one value a sample, or of the whole batch.
fn generalised_dice(p: &[f64], t: &[f64], [n, c, positions]: [usize; 3], o: RegionOptions) -> Vec<f64> {
    let groups = if o.batch { 1 } else { n };
    let one = |group: usize| {
        let of_channel = |channel: usize, f: &dyn Fn(f64, f64) -> f64| -> f64 {
            let samples = if o.batch { 0..n } else { group..group + 1 };
            let pixels = samples.flat_map(|s| (0..positions).map(move |i| (s * c + channel) * positions + i));
            pixels.map(|i| f(p[i], t[i])).sum()
        };
        let channels = usize::from(!o.include_background)..c;
        let weigh = |t: f64| match o.weight {
            Some(DiceWeight::Square) => t.powi(-2),
            Some(DiceWeight::Simple) => t.recip(),
            _ => 1.0,
        };
        let weights: Vec<f64> = channels.clone().map(|channel| weigh(of_channel(channel, &|_, t| t))).collect();
        let largest = weights.iter().filter(|w| w.is_finite()).fold(0.0, |a: f64, &w| a.max(w));
        let weights = weights.iter().map(|&w| if w.is_finite() { w } else { largest });
        let (mut over, mut under) = (o.smooth_nr, o.smooth_dr);
        for (channel, w) in channels.zip(weights) {
            over += 2.0 * w * of_channel(channel, &|p, t| p * t);
            under += w * of_channel(channel, &|p, t| p + t);
        }
        1.0 - over / under
    };
    (0..groups).map(one).collect()
}

/// One value a region: a channel of a sample, or of the whole batch.
pub fn regions(x: &[f64], t: &[f64], [n, c, positions]: [usize; 3], o: RegionOptions) -> Vec<f64> {
    let p = activate(x, [n, c, positions], o.activation);
    if o.weight.is_some() {
        return generalised_dice(&p, t, [n, c, positions], o);
    }
    let first = usize::from(!o.include_background);
    let batches: Vec<_> = if o.batch { std::iter::once(0..n).collect() } else { (0..n).map(|s| s..s + 1).collect() };
    let channels = batches.into_iter().flat_map(|samples| (first..c).map(move |channel| (samples.clone(), channel)));
    channels
        .map(|(samples, channel)| {
            let starts = samples.map(|s| (s * c + channel) * positions);
            let pixels: Vec<usize> = starts.flat_map(|start| start..start + positions).collect();
            if matches!(o.overlap, Overlap::Lovasz) {
                let error = |&i: &usize| match o.activation {
                    Activation::None => (1.0 - x[i] * (2.0 * t[i] - 1.0)).max(0.0),
                    _ => (t[i] - p[i]).abs(),
                };
                return lovasz(pixels.iter().map(|i| (error(i), t[*i] > 0.5)).collect());
            }
            let sum = |f: &dyn Fn(f64, f64) -> f64| pixels.iter().map(|&i| f(p[i], t[i])).sum::<f64>();
            let power = if o.squared_pred { 2 } else { 1 };
            let shared = sum(&|p, t| p * t);
            let sizes = sum(&|p, t| p.powi(power) + t.powi(power));
            let (over, under) = match o.overlap {
                Overlap::Dice => (2.0 * shared, sizes),
                Overlap::Jaccard => (2.0 * shared, 2.0 * (sizes - shared)),
                Overlap::Tversky { alpha, beta } => {
                    let (fp, fn_) = (sum(&|p, t| p * (1.0 - t)), sum(&|p, t| (1.0 - p) * t));
                    (shared, shared + alpha * fp + beta * fn_)
                }
                Overlap::Lovasz => unreachable!("it is above"),
            };
            (1.0 - (over + o.smooth_nr) / (under + o.smooth_dr)).powf(o.gamma)
        })
        .collect()
}

/// The Lovász extension of the Jaccard loss, of errors and whether they are of the foreground: Berman's algorithm 1.
fn lovasz(mut errors: Vec<(f64, bool)>) -> f64 {
    errors.sort_by(|a, b| b.0.total_cmp(&a.0));
    let all = errors.iter().filter(|e| e.1).count() as f64;
    let (mut found, mut others, mut before, mut value) = (0.0, 0.0, 0.0, 0.0);
    for (error, foreground) in errors {
        *if foreground { &mut found } else { &mut others } += 1.0;
        let jaccard = 1.0 - (all - found) / (all + others);
        value += error * (jaccard - before);
        before = jaccard;
    }
    value
}

fn activate(x: &[f64], [n, c, positions]: [usize; 3], activation: Activation) -> Vec<f64> {
    let mut p = x.to_vec();
    match activation {
        Activation::None => {}
        Activation::Sigmoid => p.iter_mut().for_each(|p| *p = sigmoid(*p)),
        Activation::Softmax => {
            for (s, i) in (0..n).flat_map(|s| (0..positions).map(move |i| (s, i))) {
                let at = |channel: usize| (s * c + channel) * positions + i;
                let z: Vec<f64> = (0..c).map(|channel| x[at(channel)]).collect();
                for (channel, nll) in log_softmax(&z).1.into_iter().enumerate() {
                    p[at(channel)] = (-nll).exp();
                }
            }
        }
    }
    p
}

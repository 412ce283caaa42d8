//! The rows of the case table that are timed, their sizes, and the fewest bytes that they can move.

use fused_loss::{LovaszHinge, LovaszSoftmax};

use super::cases::draw::{Dims, logit, rows};
use super::cases::job::AnyLoss;
use super::cases::textbook::{self as book, Activation, CrossEntropyOptions, Overlap, RegionOptions};
use super::cases::{self, Case, Dense, Family, Targets};

/// By (the beginning of) their name: element-wise losses, at every size, ...
pub const ELEMENTWISE: [&str; 37] = [
    "mse",
    "mae",
    "huber[delta=1]",
    "smooth_l1[beta=1]",
    "log_cosh",
    "quantile[q=0.5",
    "poisson_nll",
    "gaussian_nll",
    "soft_margin",
    "margin_ranking[margin=0]",
    "dpo[beta=0.5+smoothing=0]",
    "dpo[hinge",
    "dpo[ipo",
    "hinge[signed]",
    "squared_hinge[signed]",
    "bce",
    "bce_with_logits",
    "sigmoid_focal[gamma=2",
    "sigmoid_focal[gamma=0.5",
    "kl_div",
    "kl_div[log_target]",
    "kl_div_probs[",
    "gan[NonSaturating+generator]",
    "gan[NonSaturating+real]",
    "gan[NonSaturating+fake]",
    "gan[Minimax+generator]",
    "gan[LeastSquares+real]",
    "gan[Wasserstein+real]",
    "gan[Hinge+real]",
    "gan[Probabilities+real]",
    "relativistic_pair",
    "combined[mse+mae]",
    "combined[bce+focal]",
    "custom[expectile+tau=0.5]",
    "custom[charbonnier]",
    // Beside `mse` and `bce_with_logits`, whose formulas these are.
    "custom[squared_error]",
    "custom[logistic]",
];
pub const SIZES: [usize; 4] = [1 << 12, 1 << 16, 1 << 20, 1 << 24];

/// ... and those with classes, at these shapes.
pub const SHAPED: [(&str, &[OuterClassesInner]); 33] = [
    (
        "cross_entropy",
        &[
            (512, 10, 1),
            (16384, 1000, 1),
            (2048, 8192, 1),
            (512, 32768, 1),
            (128, 131_072, 1),
            (4, 21, 512 * 512), // segmentation
        ],
    ),
    (REPORT, &[(16384, 1000, 1), (2048, 8192, 1)]),
    ("cross_entropy[dense]", &[(2048, 8192, 1)]),
    ("cross_entropy_probs", &[(16384, 1000, 1)]),
    ("nll", &[(16384, 1000, 1)]),
    ("softmax_focal[gamma=2", &[(16384, 1000, 1)]),
    ("categorical_hinge", &[(16384, 1000, 1)]),
    ("multi_margin", &[(16384, 1000, 1)]),
    ("gradient_penalty[wgan-gp", &[(256, 65536, 1)]),
    ("gradient_penalty[r1", &[(256, 65536, 1)]),
    ("distillation[T=4", &[(2048, 8192, 1)]),
    ("combined_rows[T=2", &[(2048, 8192, 1)]),
    ("box_iou[iou]", &[(1 << 20, 4, 1)]),
    ("box_iou[giou]", &[(1 << 20, 4, 1)]),
    ("box_iou[diou]", &[(1 << 20, 4, 1)]),
    ("box_iou[ciou]", &[(1 << 20, 4, 1)]),
    ("jsd[beta=0.5", &[(2048, 8192, 1)]),
    ("cosine_embedding[margin=0]", &[(16384, 1000, 1)]),
    ("triplet_margin[margin=1", &[(16384, 1000, 1)]),
    (DENSE_DICE, &[(4, 4, 1 << 20)]),
    ("dice[index+sigmoid", &[(4, 4, 1 << 20)]),
    ("dice[index+softmax", &[(4, 4, 1 << 20)]),
    ("tversky[", &[(4, 4, 1 << 20)]),
    ("tversky[0.4, 0.6, focal 0.75][sigmoid", &[(4, 4, 1 << 20)]),
    ("generalised_dice[square][sigmoid", &[(4, 4, 1 << 20)]),
    (COMBINED[0].0, &[(4, 4, 1 << 20)]),
    (COMBINED[1].0, &[(4, 4, 1 << 20)]),
    (COMBINED[2].0, &[(4, 4, 1 << 20)]),
    (COMBINED[3].0, &[(4, 4, 1 << 20)]),
    (COMBINED[4].0, &[(4, 4, 1 << 20)]),
    (COMBINED[5].0, &[(4, 4, 1 << 20)]),
    (LOVASZ[0], &[(4, 4, 1 << 16)]),
    (LOVASZ[1], &[(4, 4, 1 << 16)]),
];

/// One a family, and cross-entropy from an image's classes to a language model's.
pub const REPRESENTATIVE: [(&str, OuterClassesInner); 14] = [
    ("mse", (1 << 24, 1, 1)),
    ("mae", (1 << 24, 1, 1)),
    ("huber[delta=1]", (1 << 24, 1, 1)),
    ("hinge[signed]", (1 << 24, 1, 1)),
    ("bce", (1 << 24, 1, 1)),
    ("bce_with_logits", (1 << 24, 1, 1)),
    ("sigmoid_focal[gamma=2", (1 << 24, 1, 1)),
    ("kl_div", (1 << 24, 1, 1)),
    ("gan[NonSaturating+generator]", (1 << 24, 1, 1)),
    (DENSE_DICE, (4, 4, 1 << 20)),
    ("cross_entropy", (16384, 1000, 1)),
    ("cross_entropy", (2048, 8192, 1)),
    ("cross_entropy", (512, 32768, 1)),
    ("cross_entropy", (128, 131_072, 1)),
];

/// The same where memory is faster and larger: sizes that run well past a launch and past the L2 cache.
pub const REPRESENTATIVE_GPU: [(&str, OuterClassesInner); 16] = [
    ("mse", (1 << 28, 1, 1)),
    ("mae", (1 << 28, 1, 1)),
    ("huber[delta=1]", (1 << 28, 1, 1)),
    ("hinge[signed]", (1 << 28, 1, 1)),
    ("bce", (1 << 28, 1, 1)),
    ("bce_with_logits", (1 << 28, 1, 1)),
    ("sigmoid_focal[gamma=2", (1 << 28, 1, 1)),
    ("kl_div", (1 << 28, 1, 1)),
    ("gan[NonSaturating+generator]", (1 << 28, 1, 1)),
    (DENSE_DICE, (4, 4, 1 << 24)),
    ("distillation[T=4", (8192, 32000, 1)),
    ("cross_entropy", (1 << 18, 1000, 1)),
    ("cross_entropy", (8192, 32000, 1)),
    ("cross_entropy", (8192, 128_256, 1)),
    ("cross_entropy", (8192, 262_144, 1)),
    ("cross_entropy", (16, 21, 1024 * 1024)), // segmentation
];

pub type OuterClassesInner = (usize, usize, usize);

const DENSE_DICE: &str = "dice[sigmoid]";
const LOVASZ: [&str; 2] = ["lovasz_hinge", "lovasz_softmax"];
const REPORT: &str = "cross_entropy[report]";
/// Of a softmax and of a sigmoid.
const TVERSKY: [&str; 2] = ["tversky[0.5, 0.5][index+softmax", "tversky[0.3, 0.7][sigmoid"];
/// Sums of a region loss and another of the same logits, and their terms.
const COMBINED: [(&str, [&str; 2]); 6] = [
    ("combined_regions[dice+cross_entropy]", ["dice[index+softmax", "cross_entropy"]),
    ("combined_regions[dice+softmax_focal]", ["dice[index+softmax", "softmax_focal[gamma=2"]),
    ("combined_regions[dice+sigmoid_focal]", [DENSE_DICE, "sigmoid_focal[gamma=2"]),
    ("combined_regions[tversky+cross_entropy]", [TVERSKY[0], "cross_entropy"]),
    ("combined_regions[tversky+softmax_focal]", [TVERSKY[0], "softmax_focal[gamma=2"]),
    ("combined_regions[tversky+sigmoid_focal]", [TVERSKY[1], "sigmoid_focal[gamma=2"]),
];

/// The terms of a loss whose value is their sum, each reduced by itself, so that it has no definition of its own in the table.
pub fn terms(case: &Case) -> Option<[&'static str; 2]> {
    COMBINED.iter().find(|(name, _)| *name == case.name).map(|&(_, terms)| terms)
}

/// What else a call writes of each row, in bytes: of a call that reports, four f32 and a class.
pub fn reported(case: &Case) -> usize {
    if case.name == REPORT { 4 * size_of::<f32>() + size_of::<i64>() } else { 0 }
}

/// The case table; Dice with a target for every element, as it is most used: in the table the options of a case take turns; Lovász's, which
/// the table does not have, for numerical differentiation would cross from one order of errors to another; cross-entropy that reports; and
/// sums of a region loss and another.
pub fn table() -> Vec<Case> {
    let mut table = cases::table();
    let dice = table.iter().find(|c| c.name.starts_with("dice[index+sigmoid")).expect("Dice is there");
    let Family::Regions { draw, options } = &dice.family else { panic!("Dice has regions") };
    let lovasz = |name: &str, activation, batch, loss, targets| {
        let options = RegionOptions { overlap: Overlap::Lovasz, activation, batch, ..*options };
        Case {
            name: name.into(),
            family: Family::Regions { draw: *draw, options },
            targets,
            loss,
            third: None,
            ..*dice
        }
    };
    let hinge = lovasz(LOVASZ[0], Activation::None, false, LovaszHinge::new().into(), Targets::Dense(Dense::Paired));
    let softmax = lovasz(LOVASZ[1], Activation::Softmax, true, LovaszSoftmax::new().into(), Targets::Index);
    let family = Family::Regions { draw: *draw, options: *options };
    let targets = Targets::Dense(Dense::Paired);
    let dense = Case { name: DENSE_DICE.into(), family, targets, loss: dice.loss, third: None, ..*dice };
    let plain = find(&table, "cross_entropy").expect("cross-entropy is there");
    let options = CrossEntropyOptions { smoothing: 0.0, z_loss: 0.0, softcap: None };
    let value = Box::new(move |z: &[f64], q: &[f64], w: &[f64]| book::cross_entropy(z, q, w, options));
    let family = Family::Rows { draw: rows(logit), value };
    let report = Case { name: REPORT.into(), family, third: None, ..*plain };
    table.extend([dense, hinge, softmax, report]);
    for (name, terms) in COMBINED {
        let [region, other] = terms.map(|name| find(&table, name).expect("terms are in the table"));
        let loss = match (region.loss, other.loss) {
            (AnyLoss::DiceLoss(dice), AnyLoss::CrossEntropy(other)) => dice + other,
            (AnyLoss::DiceLoss(dice), AnyLoss::SoftmaxFocal(other)) => dice + other,
            (AnyLoss::DiceLoss(dice), AnyLoss::SigmoidFocal(other)) => dice + other,
            (AnyLoss::TverskyLoss(tversky), AnyLoss::CrossEntropy(other)) => tversky + other,
            (AnyLoss::TverskyLoss(tversky), AnyLoss::SoftmaxFocal(other)) => tversky + other,
            (AnyLoss::TverskyLoss(tversky), AnyLoss::SigmoidFocal(other)) => tversky + other,
            _ => unreachable!("those are the kinds of terms"),
        };
        let Family::Regions { draw, options } = region.family else { panic!("the first of them has regions") };
        let family = Family::Regions { draw, options };
        table.push(Case { name: name.into(), loss: loss.into(), family, third: None, ..*region });
    }
    table
}

/// The case of this name; else the first that is timed and begins so; else the first that begins so.
pub fn find<'a>(table: &'a [Case], name: &str) -> Option<&'a Case> {
    let exactly = |name: &str| table.iter().find(|c| c.name == name);
    let begins = |name: &str| table.iter().find(|c| c.name.starts_with(name));
    let mut timed = ELEMENTWISE.into_iter().chain(SHAPED.map(|(name, _)| name));
    let timed = || timed.find(|timed| timed.starts_with(name)).and_then(|timed| exactly(timed).or(begins(timed)));
    if name.is_empty() { None } else { exactly(name).or_else(timed).or_else(|| begins(name)) }
}

/// Every loss at every size; but those that a user wrote, which NVRTC compiles, where there is a GPU and no NVRTC.
pub fn everything(table: &[Case]) -> Vec<(&Case, Dims)> {
    let case = |name| find(table, name).unwrap_or_else(|| panic!("no case is named {name}"));
    #[cfg(feature = "cuda")]
    let custom = fused_loss::launch::nvrtc().is_ok() || !fused_loss::Device::auto().is_cuda();
    #[cfg(not(feature = "cuda"))]
    let custom = true;
    let flat = ELEMENTWISE
        .iter()
        .filter(|name| custom || !name.starts_with("custom"))
        .flat_map(|name| SIZES.map(|n| (case(name), Dims::new(n, 1, 1))));
    flat.chain(SHAPED.iter().flat_map(|(name, shapes)| shapes.iter().map(|&s| (case(name), dims(s))))).collect()
}

pub fn dims((outer, classes, inner): OuterClassesInner) -> Dims {
    Dims::new(outer, classes, inner)
}

/// A shape as users give it, `[n]`, `[rows, classes]` or `[n, classes, inner]`, if the loss has such.
pub fn fit(case: &Case, shape: &[usize]) -> Result<Dims, String> {
    let name = &case.name;
    let elements = shape.iter().try_fold(1usize, |n, &x| n.checked_mul(x)).filter(|&n| n < 1 << 48);
    if shape.contains(&0) || elements.is_none() {
        return Err(format!("{name}: a size is above zero, and fits in memory"));
    }
    match (&case.family, shape) {
        (Family::Elements { .. }, &[n]) => Ok(Dims::new(n, 1, 1)),
        (Family::Elements { .. }, _) => Err(format!("{name} is element-wise: its size is one number")),
        (_, &[_, classes]) | (_, &[_, classes, _]) if case.fit(Dims::new(1, classes, 1)).classes != classes => {
            Err(format!("{name} has rows of {} numbers", case.classes.unwrap_or(0)))
        }
        (_, &[rows, classes]) => Ok(Dims::new(rows, classes, 1)),
        (_, &[n, classes, inner]) => Ok(Dims::new(n, classes, inner)),
        _ => Err(format!("{name} has classes: its size is ROWSxCLASSES or NxCLASSESxINNER")),
    }
}

/// The reverse of [`fit`].
pub fn shape(case: &Case, dims: Dims) -> Vec<usize> {
    match (&case.family, dims.inner) {
        (Family::Elements { .. }, _) => vec![dims.outer],
        (_, 1) => vec![dims.outer, dims.classes],
        _ => vec![dims.outer, dims.classes, dims.inner],
    }
}

/// The fewest bytes that value and gradient can move, with so many bytes an element: every tensor is read once, the gradient and what is
/// reported are written once. Class indices are i64, as PyTorch's are.
pub fn fewest_bytes(case: &Case, dims: Dims, each: usize) -> usize {
    let tensor = dims.elements() * each;
    let targets = match case.targets {
        Targets::Nothing => 0,
        Targets::Dense(_) => tensor,
        Targets::Index => dims.rows() * size_of::<i64>(),
    };
    let third = case.third.as_ref().map_or(0, |third| third.len(dims) * each);
    2 * tensor + targets + third + dims.rows() * reported(case)
}

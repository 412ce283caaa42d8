//! The rows of the table that are losses of a region.

use fused_loss::*;

use super::draw::Rng;
use super::job::AnyLoss;
use super::textbook::{Activation, Overlap, RegionOptions};
use super::{Case, Dense, Family, Targets, name};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for activation in [Activation::None, Activation::Sigmoid, Activation::Softmax] {
        for combination in 0..16 {
            let [batch, foreground, squared_pred, jaccard] = [0, 1, 2, 3].map(|bit| combination >> bit & 1 == 1);
            // Two smoothings, and the kind of targets and class weights, take turns.
            let (nr, dr) = if batch == squared_pred { (1.0f32, 1.0f32) } else { (0.0, 1e-5) };
            let loss = DiceLoss::new().squared_pred(squared_pred).jaccard(jaccard);
            let loss = loss.batch(batch).include_background(!foreground);
            let loss = loss.smooth_nr(nr).unwrap().smooth_dr(dr).unwrap();
            let loss: AnyLoss = match activation {
                Activation::None => loss.into(),
                Activation::Sigmoid => loss.sigmoid().into(),
                Activation::Softmax => loss.softmax().into(),
            };
            let options = RegionOptions {
                overlap: if jaccard { Overlap::Jaccard } else { Overlap::Dice },
                activation,
                batch,
                include_background: !foreground,
                squared_pred,
                smooth_nr: nr.into(),
                smooth_dr: dr.into(),
                gamma: 1.0,
                weight: None,
            };
            cases.push(case("dice", loss, options, foreground == jaccard, batch ^ jaccard ^ squared_pred));
        }
        for (batch, (alpha, beta), gamma) in [
            (false, (0.3f32, 0.7f32), 1.0f32),
            (true, (0.5, 0.5), 1.0),
            (false, (1.0, 0.25), 1.0),
            (false, (0.4, 0.6), 0.75),
            (true, (0.25, 0.5), 2.0),
        ] {
            let loss = TverskyLoss::new(alpha, beta).unwrap().focal(gamma).unwrap().batch(batch);
            let loss: AnyLoss = match activation {
                Activation::None => loss.into(),
                Activation::Sigmoid => loss.sigmoid().into(),
                Activation::Softmax => loss.softmax().into(),
            };
            let options = RegionOptions {
                overlap: Overlap::Tversky { alpha: alpha.into(), beta: beta.into() },
                activation,
                batch,
                include_background: true,
                squared_pred: false,
                smooth_nr: 1.0,
                smooth_dr: 1.0,
                gamma: gamma.into(),
                weight: None,
            };
            let name = if gamma == 1.0 {
                format!("tversky[{alpha}, {beta}]")
            } else {
                format!("tversky[{alpha}, {beta}, focal {gamma}]")
            };
            cases.push(case(&name, loss, options, batch, alpha == 1.0));
        }
        for (kind, weight) in
            [("square", DiceWeight::Square), ("simple", DiceWeight::Simple), ("uniform", DiceWeight::Uniform)]
        {
            for combination in 0..4 {
                let [batch, foreground] = [0, 1].map(|bit| combination >> bit & 1 == 1);
                let loss = GeneralizedDiceLoss::new().weight(weight).batch(batch).include_background(!foreground);
                let loss: AnyLoss = match activation {
                    Activation::None => loss.into(),
                    Activation::Sigmoid => loss.sigmoid().into(),
                    Activation::Softmax => loss.softmax().into(),
                };
                let smooth = f64::from(1e-5f32);
                let options = RegionOptions {
                    overlap: Overlap::Dice,
                    activation,
                    batch,
                    include_background: !foreground,
                    squared_pred: false,
                    smooth_nr: smooth,
                    smooth_dr: smooth,
                    gamma: 1.0,
                    weight: Some(weight),
                };
                let index = (activation == Activation::Softmax) != foreground;
                cases.push(case(&format!("generalised_dice[{kind}]"), loss, options, index, false));
            }
        }
    }
    cases
}

fn case(loss_name: &str, loss: AnyLoss, options: RegionOptions, index: bool, weights: bool) -> Case {
    let activation = options.activation;
    let named = [
        (index, "index"),
        (activation == Activation::Sigmoid, "sigmoid"),
        (activation == Activation::Softmax, "softmax"),
        (options.batch, "batch"),
        (!options.include_background, "no background"),
        (options.squared_pred, "squared"),
        (matches!(options.overlap, Overlap::Jaccard), "jaccard"),
        (options.smooth_nr == 0.0, "smooth=0, 1e-5"),
        (weights, "weights"),
    ];
    let draw: fn(&mut Rng) -> f64 = match activation {
        Activation::None => |rng| rng.uniform(0.15, 0.98),
        _ => |rng| rng.uniform(-8.0, 8.0),
    };
    let targets = if index { Targets::Index } else { Targets::Dense(Dense::Paired) };
    let case = Case::new(name(loss_name, &named), loss, Family::Regions { draw, options }, targets);
    case.with_class_weight(weights)
}

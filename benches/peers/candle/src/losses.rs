//! The losses as a candle user has them: from `candle_nn::loss` where it has one, else written with tensor operations.
//!
//! | from candle-nn | composed here |
//! |---|---|
//! | mse, huber, bce_with_logits, cross_entropy | mae, hinge, bce, sigmoid_focal, kl_div, gan, dice |
//!
//! What is composed is the stable form where the textbook's is not, as PyTorch and torchvision write it.

use candle_core::{D, Error, Result, Tensor};
use candle_nn::{loss, ops};

/// The mean loss; `target` is a placeholder for losses without one.
pub fn value(name: &str, x: &Tensor, t: &Tensor) -> Result<Tensor> {
    match name {
        "mse" => loss::mse(x, t),
        "huber[delta=1]" => loss::huber(x, t, 1.0),
        // NaN where a sigmoid rounds to 1, as it does for bf16 logits that PyTorch has no trouble with.
        "bce_with_logits" => loss::binary_cross_entropy_with_logit(x, t),
        "cross_entropy" => loss::cross_entropy(x, t),
        "mae" => (x - t)?.abs()?.mean_all(),
        "hinge[signed]" => (x * t)?.affine(-1.0, 1.0)?.relu()?.mean_all(),
        "bce" => {
            let (one_minus_x, one_minus_t) = (x.affine(-1.0, 1.0)?, t.affine(-1.0, 1.0)?);
            ((t * x.log()?)? + (one_minus_t * one_minus_x.log()?)?)?.neg()?.mean_all()
        }
        "sigmoid_focal[gamma=2" => focal(x, t)?.mean_all(),
        "kl_div" => (t * (t.log()? - x)?)?.mean_all(),
        "gan[NonSaturating+generator]" => softplus(&x.neg()?)?.mean_all(),
        "dice[sigmoid]" => dice(x, t),
        _ => Err(Error::Msg("not written for candle".into())),
    }
}

/// `ln(1 + e^x)` without overflow.
fn softplus(x: &Tensor) -> Result<Tensor> {
    x.relu()? + x.abs()?.neg()?.exp()?.affine(1.0, 1.0)?.log()?
}

/// torchvision's `sigmoid_focal_loss` with alpha 0.25 and gamma 2.
fn focal(x: &Tensor, t: &Tensor) -> Result<Tensor> {
    let cross_entropy = (softplus(x)? - (x * t)?)?;
    let p = ops::sigmoid(x)?;
    let not_t = t.affine(-1.0, 1.0)?;
    let p_t = ((&p * t)? + (p.affine(-1.0, 1.0)? * &not_t)?)?;
    let alpha_t = ((t * 0.25)? + (not_t * 0.75)?)?;
    alpha_t * (p_t.affine(-1.0, 1.0)?.sqr()? * cross_entropy)?
}

/// 1 - Dice of every region, with smoothing 1 above and below; a region is the last axis.
fn dice(x: &Tensor, t: &Tensor) -> Result<Tensor> {
    let p = ops::sigmoid(x)?;
    let overlap = (&p * t)?.sum(D::Minus1)?.affine(2.0, 1.0)?;
    let total = (p.sum(D::Minus1)? + t.sum(D::Minus1)?)?.affine(1.0, 1.0)?;
    (overlap / total)?.affine(-1.0, 1.0)?.mean_all()
}

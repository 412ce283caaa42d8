"""Losses beyond the ten families."""

import keras
import torch
import torch.nn.functional as F

from elementwise import keras_elementwise
from harness import INF, REDUCTIONS, Draw, case, reduce, source


@source("keras.losses.LogCosh")
def log_cosh(x, t, o):
    return keras_elementwise(keras.losses.LogCosh, x, t, o)


@source("max(q (t - x), (q - 1) (t - x))")
def quantile(x, t, o):
    return reduce(torch.maximum(o.quantile * (t - x), (o.quantile - 1) * (t - x)), o.reduction)


@source("torch.nn.functional.poisson_nll_loss")
def poisson_nll(x, t, o):
    options = {k: o[k] for k in ("log_input", "full", "eps") if k in o}
    return F.poisson_nll_loss(x, t, reduction=o.reduction, **options)


@source("torch.nn.functional.gaussian_nll_loss")
def gaussian_nll(x, t, o):
    return F.gaussian_nll_loss(x, t, o.third, full=o.get("full", False), eps=o.get("eps", 1e-6), reduction=o.reduction)


@source("torch.nn.functional.soft_margin_loss")
def soft_margin(x, t, o):
    return F.soft_margin_loss(x, t, reduction=o.reduction)


def likelihoods():
    d = Draw("log_cosh")
    for r in REDUCTIONS:
        case(f"log_cosh_{r}", log_cosh, "log_cosh", d.logits(3, 5), d.logits(3, 5), reduction=r, grad_target=True)
    case("log_cosh_37_f32", log_cosh, "log_cosh", d.full(37), d.full(37))
    d = Draw("quantile")
    for r, q in zip(REDUCTIONS, (0.5, 0.125, 0.875)):
        case(f"quantile_{r}", quantile, "quantile", d.logits(3, 5), d.logits(3, 5), reduction=r, quantile=q)
    d, loss = Draw("poisson_nll"), "poisson_nll"
    for log_input in (True, False):
        x = (lambda *shape: d.logits(*shape)) if log_input else (lambda *shape: d.grid(0.25, 7, shape))
        for full in (False, True):
            for r in REDUCTIONS if full else ("mean",):
                name = f"poisson_nll_{'log' if log_input else 'rate'}{'_full' if full else ''}_{r}"
                case(name, poisson_nll, loss, x(3, 5), d.labels(9, 3, 5).astype(float), reduction=r,
                     log_input=log_input, full=full)
    case("poisson_nll_eps", poisson_nll, loss, d.grid(0, 2, (12,)), d.labels(3, 12).astype(float), log_input=False,
         eps=0.125)
    d, loss = Draw("gaussian_nll"), "gaussian_nll"
    for r, full in zip(REDUCTIONS, (False, True, False)):
        case(f"gaussian_nll_{r}", gaussian_nll, loss, d.logits(3, 5), d.logits(3, 5), reduction=r,
             third=d.grid(0.125, 4, (3, 5)), grad_third=True, grad_target=True, full=full)
    # A variance below eps has the gradient of eps.
    case("gaussian_nll_eps", gaussian_nll, loss, [1, 2, -1], [0.5, 2, 1], third=[0.0, 0.125, 1], grad_third=True,
         reduction="none", eps=0.25)
    d, loss = Draw("soft_margin"), "soft_margin"
    for r in REDUCTIONS:
        case(f"soft_margin_{r}", soft_margin, loss, d.logits(3, 5), 2 * d.bits(3, 5) - 1, reduction=r)


def cases():
    likelihoods()

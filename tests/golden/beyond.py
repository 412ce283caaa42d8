"""Losses beyond the ten families."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
import torchvision

import elementwise
from elementwise import keras_elementwise
from harness import REDUCTIONS, Draw, case, reduce, source, with_terms


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


@source("torch.nn.functional.margin_ranking_loss")
def margin_ranking(x, t, o):
    return F.margin_ranking_loss(x, t, o.third, margin=o.margin, reduction=o.reduction)


@source("torch.nn.functional.cosine_embedding_loss")
def cosine_embedding(x, t, o):
    return F.cosine_embedding_loss(x, t, o.third, margin=o.margin, reduction=o.reduction)


@source("torch.nn.functional.triplet_margin_loss")
def triplet_margin(x, t, o):
    return F.triplet_margin_loss(x, t, o.third, margin=o.margin, eps=o.eps, swap=o.swap, reduction=o.reduction)


@source("w0 cross_entropy + w0 z_loss lse^2 + w1 T^2 kl_div, of rows that are not ignored")
def combined_rows(x, t, o):
    hard = F.cross_entropy(x, t, ignore_index=o.ignore_index, label_smoothing=o.label_smoothing, reduction="none")
    student, teacher = (torch.log_softmax(z / o.temperature, 1) for z in (x, o.third))
    soft = o.temperature**2 * F.kl_div(student, teacher, log_target=True, reduction="none").sum(1)
    valid = t != o.ignore_index
    pull = o.z_loss * torch.logsumexp(x, 1) ** 2
    weights = (o.weights[0], o.weights[0], o.weights[1])
    rows = [torch.where(valid, term, 0) for term in (hard, pull, soft)]
    value = reduce(sum(w * term for w, term in zip(weights, rows)), o.reduction, valid.sum())
    if o.reduction == "none":
        return value
    return with_terms(value, weights, [reduce(term, o.reduction, valid.sum()) for term in rows])


@source("trl.DPOTrainer.dpo_loss, its formulas")
def dpo(x, t, o):
    logits = (x - t) - o.third
    if o.variant == "hinge":
        return reduce(torch.relu(1 - o.beta * logits), o.reduction)
    if o.variant == "ipo":
        return reduce((logits - 1 / (2 * o.beta)) ** 2, o.reduction)
    s = o.label_smoothing
    return reduce(-F.logsigmoid(o.beta * logits) * (1 - s) - F.logsigmoid(-o.beta * logits) * s, o.reduction)


@source("trl.GKDTrainer.generalized_jsd_loss, its formulas")
def jsd(x, t, o):
    student, teacher = (torch.log_softmax(z / o.temperature, -1) for z in (x, t))
    if o.beta == 1:
        rows = F.kl_div(teacher, student, reduction="none", log_target=True)
    else:
        beta = torch.tensor(o.beta, dtype=torch.float64)
        mixture = torch.logsumexp(torch.stack([student + torch.log1p(-beta), teacher + torch.log(beta)]), dim=0)
        on_teacher = F.kl_div(mixture, teacher, reduction="none", log_target=True)
        on_student = F.kl_div(mixture, student, reduction="none", log_target=True)
        rows = beta * on_teacher + (1 - beta) * on_student
    return reduce(rows.sum(-1), o.reduction)


@source("torchvision.ops: 1 - box_iou, generalized_, distance_, complete_box_iou_loss")
def box_iou(x, t, o):
    rows = {"giou": torchvision.ops.generalized_box_iou_loss, "diou": torchvision.ops.distance_box_iou_loss,
            "ciou": torchvision.ops.complete_box_iou_loss}
    if o.kind in rows:
        return rows[o.kind](x, t, reduction=o.reduction)
    return reduce(1 - torchvision.ops.box_iou(x, t).diagonal(), o.reduction)


@source("w0 and w1 times two losses, each from the framework that defines it")
def combined(x, t, o):
    losses = [(globals().get(term) or getattr(elementwise, term))(x, t, o) for term in o.terms]
    value = sum(w * loss for w, loss in zip(o.weights, losses, strict=True))
    return value if o.reduction == "none" else with_terms(value, o.weights, losses)


@source("torch.nn.functional.gaussian_nll_loss, of one variance")
def task_of_regression(x, t, o):
    return F.gaussian_nll_loss(x, t, o.third.exp().expand(x.shape))


@source("Kendall, Gal and Cipolla 2018, equation 10, of torch.nn.functional.cross_entropy")
def task_of_classification(x, t, o):
    return (torch.exp(-o.third) * F.cross_entropy(x, t) + o.third / 2).squeeze()


def sums():
    d, loss = Draw("combined"), "combined"
    for r in REDUCTIONS:
        case(f"combined_squared_absolute_{r}", combined, loss, d.logits(3, 5), d.logits(3, 5), reduction=r,
             grad_target=True, terms=["mse", "mae"], weights=[0.75, 0.25])
    case("combined_huber_smooth_l1", combined, loss, d.logits(3, 5), d.logits(3, 5), grad_target=True,
         terms=["huber", "smooth_l1"], weights=[2.0, -0.5], delta=0.75, beta=0.25)
    case("combined_hinges", combined, loss, d.full(3, 5), 2 * d.bits(3, 5) - 1, terms=["hinge", "squared_hinge"],
         weights=[0.5, 1.5], labels="signed")
    for r in ("mean", "none"):
        case(f"combined_bce_focal_{r}", combined, loss, d.logits(3, 5), d.bits(3, 5), reduction=r, pos_weight=2.5,
             alpha=0.25, gamma=2.0, terms=["bce_with_logits", "sigmoid_focal"], weights=[0.5, 2.0])
    d = Draw("combined_newer")
    case("combined_log_cosh_quantile", combined, loss, d.logits(3, 5), d.logits(3, 5), grad_target=True,
         terms=["log_cosh", "quantile"], weights=[0.5, 2.0], quantile=0.75)
    case("combined_poisson_mse", combined, loss, d.logits(3, 5), d.rng.poisson(2.0, (3, 5)), full=True,
         terms=["poisson_nll", "mse"], weights=[1.0, 0.125])
    case("combined_soft_margin_squared_hinge", combined, loss, d.logits(3, 5), 2 * d.bits(3, 5) - 1,
         terms=["soft_margin", "squared_hinge"], weights=[2.0, 0.25], labels="signed")
    # The third tensor is the logarithm of the variance.
    d, loss = Draw("task_uncertainty"), "task_uncertainty"
    for s in (-1.5, 0.75):
        suffix = "below_0" if s < 0 else "above_0"
        learned = {"third": [s], "grad_third": True}
        case(f"task_uncertainty_regression_{suffix}", task_of_regression, loss, d.logits(3, 5), d.logits(3, 5),
             kind="regression", **learned)
        case(f"task_uncertainty_classification_{suffix}", task_of_classification, loss, d.logits(3, 5),
             d.labels(5, 3), kind="classification", grad_output=0.25, **learned)


def boxes():
    d, loss = Draw("box_iou"), "box_iou"
    corners = lambda n: np.concatenate([d.grid(0, 2, (n, 2)), d.grid(2.25, 5, (n, 2))], 1)
    for kind in ("iou", "giou", "diou", "ciou"):
        for r in ("mean", "sum", "none"):
            case(f"box_iou_{kind}_{r}", box_iou, loss, corners(9), corners(9), reduction=r, grad_target=True, kind=kind,
                 class_axis=1)
        if kind != "iou":  # without eps there is nothing to divide by
            case(f"box_iou_{kind}_apart", box_iou, loss, [[0, 0, 1, 1.5]], [[2, 3, 5, 4.0]], grad_target=True, kind=kind,
                 class_axis=1)


def preferences():
    d, loss = Draw("margin_ranking"), "margin_ranking"
    for r, margin in zip(REDUCTIONS, (0.0, 0.75, 2.0)):
        case(f"margin_ranking_{r}", margin_ranking, loss, d.logits(3, 5), d.logits(3, 5), reduction=r,
             third=2 * d.bits(3, 5) - 1, grad_target=True, margin=margin)
    d, loss = Draw("dpo"), "dpo"
    for variant, s in (("sigmoid", 0.0), ("sigmoid", 0.25), ("hinge", 0.0), ("ipo", 0.0)):
        for r in ("mean", "none"):
            case(f"dpo_{variant}_{'smoothed_' if s else ''}{r}", dpo, loss, d.grid(-40, -10, 9), d.grid(-40, -10, 9),
                 reduction=r, third=d.logits(9), grad_target=True, beta=0.125, label_smoothing=s, variant=variant)
    d, loss = Draw("jsd"), "jsd"
    for beta, t in ((0.5, 1.0), (0.125, 2.0), (0.875, 1.0), (1.0, 4.0)):
        for r in ("mean", "none"):
            case(f"jsd_{beta}_{r}".replace(".", "_"), jsd, loss, d.logits(4, 7), d.logits(4, 7), reduction=r,
                 grad_target=True, beta=beta, temperature=t, class_axis=1)


def distillations():
    d, loss = Draw("combined_rows"), "combined_rows"
    for r, temperature, smoothing, z_loss, weights in zip(
        REDUCTIONS, (1.0, 2.0, 4.0), (0.0, 0.125, 0.0), (0.0, 0.0, 0.0625), ([1.0, 1.0], [0.25, 0.75], [0.5, 2.0])
    ):
        case(f"combined_rows_{r}", combined_rows, loss, d.logits(6, 7), d.labels(7, 6, ignore=-100), reduction=r,
             third=d.logits(6, 7), ignore_index=-100, temperature=temperature, label_smoothing=smoothing, z_loss=z_loss,
             weights=weights, class_axis=1)
    case("combined_rows_33_classes_f32", combined_rows, loss, d.full(3, 33, scale=4), d.labels(33, 3),
         third=d.full(3, 33, scale=4), ignore_index=-100, temperature=2.0, label_smoothing=0.0, z_loss=0.0,
         weights=[0.5, 0.5], class_axis=1)


def embeddings():
    d, loss = Draw("cosine_embedding"), "cosine_embedding"
    for r, margin in zip(REDUCTIONS, (0.0, 0.25, -0.5)):
        case(f"cosine_embedding_{r}", cosine_embedding, loss, d.logits(7, 5), d.logits(7, 5), reduction=r,
             third=2 * d.bits(7) - 1, grad_target=True, margin=margin, class_axis=1)
    # Neither label: nothing. Rows of zeros: eps.
    case("cosine_embedding_others", cosine_embedding, loss, [[1, 2], [0, 0], [3, 4]], [[2, 1], [1, 2], [0, 0.0]],
         third=[0.0, 1, -1], grad_target=True, margin=0.0, reduction="none", class_axis=1)
    d, loss = Draw("triplet_margin"), "triplet_margin"
    for swap in (False, True):
        for r, margin, eps in zip(REDUCTIONS, (1.0, 0.5, 2.0), (1e-6, 1e-6, 1 / 64)):
            case(f"triplet_margin_{'swap_' if swap else ''}{r}", triplet_margin, loss, d.logits(7, 5), d.logits(7, 5),
                 third=d.logits(7, 5), grad_target=True, grad_third=True, margin=margin, eps=eps, swap=swap,
                 reduction=r, class_axis=1)
    same = [[1, 2, 3.0]]  # distances of eps alone
    case("triplet_margin_same", triplet_margin, loss, same, same, third=same, grad_target=True, grad_third=True,
         margin=1.0, eps=1e-6, swap=False, class_axis=1)


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
    preferences()
    distillations()
    embeddings()
    boxes()
    sums()

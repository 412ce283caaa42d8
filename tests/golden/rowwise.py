"""Losses of one row of classes at a time."""

import keras
import numpy as np
import torch
import torch.nn.functional as F

from harness import INF, KERAS_REDUCTION, NAN, REDUCTIONS, Draw, Q, W, Z, case, reduce, source

CLASSES = [2, 0, -100]


@source("torch.nn.functional.cross_entropy")
def cross_entropy(x, t, o):
    z = x.movedim(o.class_axis, 1)
    t = t.movedim(o.class_axis, 1) if t.ndim == x.ndim else t
    if "softcap" in o:
        z = o.softcap * torch.tanh(z / o.softcap)
    ce = {"weight": o.class_weight, "label_smoothing": o.get("label_smoothing", 0.0),
          "ignore_index": o.get("ignore_index", -100)}
    plain = F.cross_entropy(z, t, reduction=o.reduction, **ce)
    if "z_loss" not in o:
        return plain
    rows, lse = F.cross_entropy(z, t, reduction="none", **ce), z.logsumexp(1)
    if t.is_floating_point():
        valid, denominator = torch.ones_like(lse), lse.numel()
    else:
        valid = (t != ce["ignore_index"]).to(lse)
        weight = torch.ones(z.shape[1]).to(lse) if o.class_weight is None else o.class_weight
        denominator = weight[t.clamp(0, z.shape[1] - 1)].mul(valid).sum()
    torch.testing.assert_close(reduce(rows, o.reduction, denominator), plain)  # the denominator is torch's
    return reduce(rows + o.z_loss * lse.square() * valid, o.reduction, denominator)


def cross_entropies():
    d, f, loss = Draw("cross_entropy"), cross_entropy, "cross_entropy"
    known = [("", {}, 2.710495933), ("_weight", {"class_weight": W}, 1.328761952),
             ("_weight_smoothing", {"class_weight": W, "label_smoothing": 0.1}, 1.342198710),
             ("_smoothing", {"label_smoothing": 0.1}, 2.677162600)]
    for suffix, options, expect in known:
        case(f"cross_entropy_known{suffix}", f, loss, Z, CLASSES, expect=expect, class_axis=1, ignore_index=-100,
             **options)
    case("cross_entropy_dense_known", f, loss, Z, Q, expect=3.152420477, class_axis=1)
    case("cross_entropy_dense_known_weight_smoothing", f, loss, Z, Q, expect=3.828145297, class_axis=1,
         class_weight=W, label_smoothing=0.1)

    def combinations(classes):
        w = {"class_weight": d.weights(classes)}
        smooth, z, cap = {"label_smoothing": 0.125}, {"z_loss": 0.015625}, {"softcap": 2.0}
        return {"plain": {}, "smoothing": smooth, "weight": w, "weight_smoothing": w | smooth, "z_loss": z,
                "softcap": cap, "z_loss_softcap": z | cap, "weight_z_loss": w | z,
                "everything": w | smooth | z | cap}

    for name, options in combinations(7).items():
        for r in REDUCTIONS if name in ("plain", "everything") else ("mean",):
            case(f"cross_entropy_{name}_{r}", f, loss, d.logits(5, 7), d.labels(7, 5, ignore=-100), reduction=r,
                 class_axis=1, ignore_index=-100, **options)
    for name, options in combinations(6).items():
        for r in ("mean", "none") if name in ("plain", "everything") else ("mean",):
            case(f"cross_entropy_dense_{name}_{r}", f, loss, d.logits(4, 6), d.rows(4, 6), reduction=r, class_axis=1,
                 grad_target=True, **options)
    for name, options in combinations(3).items():
        if name in ("plain", "everything"):
            case(f"cross_entropy_4d_{name}", f, loss, d.logits(2, 3, 4, 5), d.labels(3, 2, 4, 5, ignore=255),
                 class_axis=1, ignore_index=255, **options)
            case(f"cross_entropy_4d_dense_{name}", f, loss, d.logits(2, 3, 2, 5), d.rows(2, 3, 2, 5), class_axis=1,
                 **options)
            case(f"cross_entropy_channels_last_{name}", f, loss, d.logits(2, 3, 4, 3), d.labels(3, 2, 3, 4, ignore=1),
                 class_axis=-1, ignore_index=1, **options)
    case("cross_entropy_4d_none", f, loss, d.logits(2, 3, 2, 5), d.labels(3, 2, 2, 5, ignore=-100), reduction="none",
         class_axis=1, ignore_index=-100)
    case("cross_entropy_channels_last_dense", f, loss, d.logits(2, 5, 3), d.rows(2, 5, 3, axis=-1), class_axis=-1,
         label_smoothing=0.125)
    case("cross_entropy_1000_classes", f, loss, d.logits(1, 1000), d.labels(1000, 1), class_axis=1)
    case("cross_entropy_1000_classes_dense", f, loss, d.logits(1, 1000), d.rows(1, 1000), class_axis=1)
    case("cross_entropy_33_classes_f32", f, loss, d.full(3, 33, scale=4), d.labels(33, 3), class_axis=1)
    case("cross_entropy_scaled_65536", f, loss, Z, [2, 0, 1], class_axis=1, grad_output=65536.0)
    case("cross_entropy_quarter", f, loss, Z, [2, 0, 1], class_axis=1, class_weight=W, grad_output=0.25)
    case("cross_entropy_shifted", f, loss, np.add(Z, 1000), CLASSES, class_axis=1, ignore_index=-100,
         expect=2.710495933)
    case("cross_entropy_one_class", f, loss, [[3], [-2]], [0, 0], class_axis=1, expect=0, expect_grad=[0, 0])
    case("cross_entropy_one_hot_is_index", f, loss, Z, np.eye(3)[[2, 0, 1]], class_axis=1)
    case("cross_entropy_all_ignored_mean", f, loss, Z, [-100] * 3, class_axis=1, ignore_index=-100)
    case("cross_entropy_all_ignored_sum", f, loss, Z, [-100] * 3, reduction="sum", class_axis=1, ignore_index=-100)
    case("cross_entropy_empty_mean", f, loss, np.zeros((0, 3)), np.zeros(0, int), class_axis=1)
    masked = [[1, -INF, 2], [0, 0.5, -1]]
    case("cross_entropy_masked_class", f, loss, masked, [0, 1], class_axis=1)
    case("cross_entropy_masked_class_smoothing", f, loss, masked, [0, 1], class_axis=1, label_smoothing=0.1)
    case("cross_entropy_masked_target", f, loss, masked, [1, 0], reduction="none", class_axis=1)
    case("cross_entropy_masked_row", f, loss, [[-INF] * 3, [0, 0.5, -1]], [0, 1], reduction="none", class_axis=1)
    case("cross_entropy_nan", f, loss, [[1, NAN, 2], [0, 0.5, -1]], [0, 1], class_axis=1)


def report(x, t, o):
    """What a call of cross-entropy reports of its rows; of one that is ignored the class -1, and zeros."""
    z = x.movedim(o.class_axis, -1)
    if "softcap" in o:
        z = o.softcap * torch.tanh(z / o.softcap)
    log_p = torch.log_softmax(z, -1)
    rows = {"entropy": torch.distributions.Categorical(logits=z).entropy(), "lse": torch.logsumexp(z, -1)}
    argmax = z.argmax(-1)
    if t.is_floating_point():
        return rows | {"argmax": argmax}
    valid = t != o.ignore_index
    rows["log_prob"] = log_p.gather(-1, torch.where(valid, t, 0)[..., None])[..., 0]
    rows["hit"] = (argmax == t).to(z)
    return {key: torch.where(valid, row, 0) for key, row in rows.items()} | {"argmax": torch.where(valid, argmax, -1)}


def reports():
    """Of each row, from torch.log_softmax, torch.distributions.Categorical, logsumexp and argmax."""
    d, f, loss = Draw("cross_entropy_report"), cross_entropy, "cross_entropy"
    asked = {"also": report, "class_axis": 1, "ignore_index": -100}
    for r in REDUCTIONS:
        case(f"cross_entropy_report_{r}", f, loss, d.logits(6, 7), d.labels(7, 6, ignore=-100), reduction=r, **asked)
    case("cross_entropy_report_everything", f, loss, d.logits(6, 7), d.labels(7, 6, ignore=-100), softcap=2.0,
         label_smoothing=0.125, z_loss=0.015625, class_weight=d.weights(7), grad_output=0.25, **asked)
    case("cross_entropy_report_4d", f, loss, d.logits(2, 3, 2, 5), d.labels(3, 2, 2, 5, ignore=-100), **asked)
    case("cross_entropy_report_300_classes_f32", f, loss, d.full(2, 300, scale=4), d.labels(300, 2), **asked)
    case("cross_entropy_report_masked", f, loss, [[1, -INF, 2], [0, 0.5, -1]], [0, 1], **asked)
    # Sure to nine digits: what is left of the entropy is small.
    case("cross_entropy_report_sure", f, loss, [[20, 0, -3], [0, 0, 0.0]], [0, 2], **asked)
    case("cross_entropy_report_dense", f, loss, d.logits(4, 6), d.rows(4, 6), **asked)


@source("keras.losses.CategoricalCrossentropy / SparseCategoricalCrossentropy (from_logits=False)")
def cross_entropy_probs(x, t, o):
    common = {"reduction": KERAS_REDUCTION[o.reduction], "axis": o.class_axis}
    if t.is_floating_point():
        return keras.losses.CategoricalCrossentropy(label_smoothing=o.get("label_smoothing", 0.0), **common)(t, x)
    return keras.losses.SparseCategoricalCrossentropy(ignore_class=o.get("ignore_index"), **common)(t, x)


@source("torch.nn.functional.nll_loss")
def nll(x, t, o):
    return F.nll_loss(x, t, weight=o.class_weight, ignore_index=o.get("ignore_index", -100), reduction=o.reduction)


@source("torch.nn.functional.log_softmax")
def softmax_focal(x, t, o):
    ignored = t == o.get("ignore_index", -100)
    log_p = F.log_softmax(x, o.class_axis).movedim(o.class_axis, -1)
    log_p = log_p.gather(-1, t.masked_fill(ignored, 0)[..., None])[..., 0]
    alpha = 1 if o.class_weight is None else o.class_weight[t.masked_fill(ignored, 0)]
    rows = (-alpha * (-torch.expm1(log_p)) ** o.gamma * log_p).masked_fill(ignored, 0)
    return reduce(rows, o.reduction, (~ignored).sum())


def other_class_losses():
    d, f, loss = Draw("cross_entropy_probs"), cross_entropy_probs, "cross_entropy_probs"
    for r in REDUCTIONS:
        case(f"cross_entropy_probs_{r}", f, loss, d.rows(4, 5), d.labels(5, 4), reduction=r, class_axis=-1)
    for r in ("mean", "none"):
        case(f"cross_entropy_probs_dense_{r}", f, loss, d.rows(4, 5), d.rows(4, 5), reduction=r, class_axis=-1,
             label_smoothing=0.125)
    case("cross_entropy_probs_renormalised", f, loss, d.probs(4, 5), d.labels(5, 4), class_axis=-1)
    case("cross_entropy_probs_dense_renormalised", f, loss, d.probs(4, 5), d.rows(4, 5), class_axis=-1)
    case("cross_entropy_probs_ignored", f, loss, d.rows(6, 5), d.labels(5, 6, ignore=2), class_axis=-1, ignore_index=2)
    case("cross_entropy_probs_ignored_negative_sum", f, loss, d.rows(6, 5), d.labels(5, 6, ignore=-1), reduction="sum",
         class_axis=-1, ignore_index=-1)
    case("cross_entropy_probs_channels_first", f, loss, d.rows(2, 3, 4), d.rows(2, 3, 4), class_axis=1)
    case("cross_entropy_probs_clipped", f, loss, [[0, 0.25, 0.75], [0.5, 0.5, 0]], [0, 1], reduction="none",
         class_axis=-1)

    d = Draw("nll")
    for r in REDUCTIONS:
        case(f"nll_{r}", nll, "nll", d.log_rows(5, 7), d.labels(7, 5), reduction=r, class_axis=1)
    for r in ("mean", "none"):
        case(f"nll_weight_ignored_{r}", nll, "nll", d.log_rows(5, 7), d.labels(7, 5, ignore=3), reduction=r,
             class_axis=1, ignore_index=3, class_weight=d.weights(7))
    case("nll_4d", nll, "nll", d.log_rows(2, 3, 2, 5), d.labels(3, 2, 2, 5, ignore=-100), class_axis=1,
         ignore_index=-100, class_weight=W, grad_output=0.25)
    case("nll_all_ignored_sum", nll, "nll", d.log_rows(2, 3), [-100, -100], reduction="sum", class_axis=1,
         ignore_index=-100)

    d, f, loss = Draw("softmax_focal"), softmax_focal, "softmax_focal"
    for r in REDUCTIONS:
        case(f"softmax_focal_{r}", f, loss, d.logits(5, 7), d.labels(7, 5), reduction=r, class_axis=1, gamma=2.0)
    for r in ("mean", "none"):
        case(f"softmax_focal_weight_ignored_{r}", f, loss, d.logits(5, 7), d.labels(7, 5, ignore=-100), reduction=r,
             class_axis=1, gamma=1.5, ignore_index=-100, class_weight=d.weights(7))
    for gamma in (0.0, 0.5, 1.0, 5.0):
        case(f"softmax_focal_gamma_{gamma}".replace(".", "_"), f, loss, d.logits(3, 4), d.labels(4, 3), class_axis=1,
             gamma=gamma)
    case("softmax_focal_4d", f, loss, d.logits(2, 3, 2, 5), d.labels(3, 2, 2, 5, ignore=255), class_axis=1, gamma=2.0,
         ignore_index=255, class_weight=W, grad_output=0.25)


@source("keras.losses.CategoricalHinge")
def categorical_hinge(x, t, o):
    # The index form is the same loss: Keras only takes one-hot.
    t = t if t.is_floating_point() else F.one_hot(t, x.shape[1]).to(x)
    return keras.losses.CategoricalHinge(reduction=KERAS_REDUCTION[o.reduction])(t, x)


@source("torch.nn.functional.multi_margin_loss")
def multi_margin(x, t, o):
    return F.multi_margin_loss(x, t, p=o.get("p", 1), margin=o.get("margin", 1.0), weight=o.class_weight,
                               reduction=o.reduction)


@source("keras.losses.KLDivergence")
def kl_div_probs(x, t, o):
    assert o.epsilon == keras.config.epsilon()
    return keras.losses.KLDivergence(reduction=KERAS_REDUCTION[o.reduction])(t, x)


@source("torch.nn.functional.kl_div of log_softmax(x / temperature)")
def distillation(x, t, o):
    temperature = o.temperature
    kl = F.kl_div(F.log_softmax(x / temperature, 1), F.log_softmax(t / temperature, 1), reduction=o.reduction,
                  log_target=True)
    return kl * temperature**2 if o.get("scale_by_t2", True) else kl


def margins_and_distributions():
    d, f, loss = Draw("categorical_hinge"), categorical_hinge, "categorical_hinge"
    # The zeroed slot of the true class takes part in the maximum: Crammer-Singer would give 0.
    case("categorical_hinge_zeroed_slot", f, loss, [[-3, -2, -4]], [1], expect=3.0, expect_grad=[0, -1, 0])
    for r in REDUCTIONS:
        case(f"categorical_hinge_{r}", f, loss, d.full(5, 4), d.labels(4, 5), reduction=r)
    for r in ("mean", "none"):
        case(f"categorical_hinge_dense_{r}", f, loss, d.full(5, 4), np.eye(4)[d.labels(4, 5)], reduction=r)
    case("categorical_hinge_dense_soft", f, loss, d.full(5, 4), d.rows(5, 4), grad_output=0.25)

    d, f, loss = Draw("multi_margin"), multi_margin, "multi_margin"
    case("multi_margin_known", f, loss, Z, [2, 0, 1], expect=0.777777778)
    for r in REDUCTIONS:
        case(f"multi_margin_{r}", f, loss, d.full(5, 4), d.labels(4, 5), reduction=r)
    for r in ("mean", "none"):
        case(f"multi_margin_squared_weight_{r}", f, loss, d.full(5, 4), d.labels(4, 5), reduction=r, p=2, margin=0.75,
             class_weight=d.weights(4))
    case("multi_margin_scaled_65536", f, loss, d.full(3, 33), d.labels(33, 3), margin=0.5, grad_output=65536.0)

    d, f, loss = Draw("kl_div_probs"), kl_div_probs, "kl_div_probs"
    for r in ("batchmean", "sum", "none"):
        case(f"kl_div_probs_{r}", f, loss, d.rows(4, 5), d.rows(4, 5), reduction=r, epsilon=1e-7, grad_target=True)
    case("kl_div_probs_clipped", f, loss, [[0, 0.25, 0.75], [0.5, 0.5, 1.5]], [[0.5, 0.5, 0], [0, 0.25, 0.75]],
         reduction="batchmean", epsilon=1e-7, grad_target=True)

    d, f, loss = Draw("distillation"), distillation, "distillation"
    for temperature in (1.0, 2.0, 4.0):
        case(f"distillation_t_{temperature:.0f}", f, loss, d.logits(4, 5), d.logits(4, 5), reduction="batchmean",
             temperature=temperature)
    case("distillation_unscaled", f, loss, d.logits(4, 5), d.logits(4, 5), reduction="batchmean", temperature=3.0,
         scale_by_t2=False)
    case("distillation_sum", f, loss, d.logits(4, 5), d.logits(4, 5), reduction="sum", temperature=2.0,
         grad_output=0.25)
    case("distillation_33_classes_f32", f, loss, d.full(3, 33, scale=4), d.full(3, 33, scale=4), reduction="batchmean",
         temperature=2.0, grad_output=65536.0)


def cases():
    cross_entropies()
    reports()
    other_class_losses()
    margins_and_distributions()

"""Losses of one element at a time."""

import keras
import numpy as np
import torch
import torch.nn.functional as F
import torchvision

from harness import INF, KERAS_REDUCTION, NAN, REDUCTIONS, Draw, Q, Z, case, exact, reduce, source

P, T = [0.5, -1.25, 2, 0], [0, -1, 2.5, 1]
BL, BT = [-2, 0.5, 3, 0], [0, 1, 1, 0.25]


def keras_elementwise(loss_class, x, t, o, **kwargs):
    """Keras averages the last axis first; an axis of length 1 leaves its loss element-wise."""
    loss = loss_class(reduction=KERAS_REDUCTION[o.reduction], **kwargs)
    weight = None if o.weight is None else o.weight.reshape(-1)
    value = loss(t.reshape(-1, 1), x.reshape(-1, 1), sample_weight=weight)
    return value.reshape(x.shape) if o.reduction == "none" else value


@source("torch.nn.functional.mse_loss")
def mse(x, t, o):
    return (0.5 if o.get("half") else 1) * F.mse_loss(x, t, reduction=o.reduction)


@source("torch.nn.functional.l1_loss")
def mae(x, t, o):
    return F.l1_loss(x, t, reduction=o.reduction)


@source("torch.nn.functional.huber_loss")
def huber(x, t, o):
    return F.huber_loss(x, t, delta=o.get("delta", 1.0), reduction=o.reduction)


@source("torch.nn.functional.smooth_l1_loss")
def smooth_l1(x, t, o):
    return F.smooth_l1_loss(x, t, beta=o.get("beta", 1.0), reduction=o.reduction)


def regression():
    variants = (
        ("mse", mse, [{}, {"half": True}], {}, 0.390625),
        ("mae", mae, [{}], {}, 0.5625),
        ("huber", huber, [{}, {"delta": 0.75}, {"delta": INF}], {"delta": 0.5}, 0.1640625),
        ("smooth_l1", smooth_l1, [{}, {"beta": 0.25}, {"beta": 0.0}], {"beta": 0.5}, 0.328125),
    )
    for loss, f, optionses, known, expect in variants:
        d = Draw(loss)
        case(f"{loss}_known", f, loss, P, T, expect=expect, grad_target=True, **known)
        for i, options in enumerate(optionses):
            for reduction in REDUCTIONS if i == 0 else ("mean",):
                suffix = "".join(f"_{k}_{v}" for k, v in options.items()).replace(".", "_").lower()
                case(f"{loss}{suffix}_{reduction}", f, loss, d.logits(3, 5), d.logits(3, 5),
                     reduction=reduction, grad_target=reduction != "sum", **options)
        case(f"{loss}_37_f32", f, loss, d.full(37), d.full(37), grad_target=True, **known)
    case("mse_empty_mean", mse, "mse", np.zeros(0), np.zeros(0))
    case("mse_empty_sum", mse, "mse", np.zeros(0), np.zeros(0), reduction="sum")
    case("mse_scaled_65536", mse, "mse", P, T, grad_output=65536.0)
    case("mae_zero_error", mae, "mae", [1.5, -2, 0, 0.0], [1.5, -2, -0.0, 0], grad_target=True)
    case("mse_nan", mse, "mse", [1, NAN, 2], [0, 0, 0.5])
    case("huber_nan", huber, "huber", [1, NAN, 2], [0, 0, 0.5])
    case("huber_at_delta", huber, "huber", [0.5, -0.5, 1], [0, 0, 0.5], reduction="none", delta=0.5,
         expect=[0.125] * 3)
    case("huber_infinite_error", huber, "huber", [INF, -INF, 1], [0, 0, 0], reduction="sum", delta=0.5)


@source("torch.nn.functional.binary_cross_entropy")
def bce(x, t, o):
    return F.binary_cross_entropy(x, t, weight=o.weight, reduction=o.reduction)


@source("keras.losses.BinaryCrossentropy(from_logits=False)")
def bce_keras(x, t, o):
    assert o.epsilon == keras.config.epsilon()
    return keras_elementwise(keras.losses.BinaryCrossentropy, x, t, o)


@source("torch.nn.functional.binary_cross_entropy_with_logits")
def bce_with_logits(x, t, o):
    smoothing = o.get("label_smoothing", 0.0)
    pos_weight = exact(o.pos_weight) if "pos_weight" in o else o.pos_weight_per_class
    return F.binary_cross_entropy_with_logits(x, t * (1 - smoothing) + smoothing / 2, weight=o.weight,
                                              pos_weight=pos_weight, reduction=o.reduction)


@source("keras.losses.BinaryCrossentropy(from_logits=True)")
def bce_with_logits_keras(x, t, o):
    return keras_elementwise(keras.losses.BinaryCrossentropy, x, t, o, from_logits=True,
                             label_smoothing=o.label_smoothing)


@source("torch.nn.functional.logsigmoid")
def bce_with_logits_by_logsigmoid(x, t, o):
    """torch's own loss takes log(exp + exp), which loses digits far out even in float64."""
    return reduce(-t * F.logsigmoid(x) - (1 - t) * F.logsigmoid(-x), o.reduction)


def binary_cross_entropies():
    d = Draw("bce")
    case("bce_known", bce, "bce", [0.1, 0.5, 0.9, 0.7], BT, expect=0.474004138, grad_target=True)
    for r in REDUCTIONS:
        case(f"bce_{r}", bce, "bce", d.probs(3, 5), d.bits(3, 5), reduction=r, grad_target=True)
    for r in ("mean", "none"):
        case(f"bce_weighted_{r}", bce, "bce", d.probs(3, 5), d.probs(3, 5), reduction=r,
             weight=d.weights((3, 5)), grad_target=True)
        case(f"bce_keras_{r}", bce_keras, "bce", d.probs(3, 5), d.bits(3, 5), reduction=r, epsilon=1e-7)
    case("bce_37_f32", bce, "bce", d.rng.uniform(0.01, 0.99, 37), d.rng.random(37), grad_target=True)
    case("bce_saturated", bce, "bce", [0, 0, 1, 1, 0.5], [0, 1, 0, 1, 1], reduction="none")
    case("bce_scaled_65536", bce, "bce", d.probs(6), d.bits(6), grad_output=65536.0)
    case("bce_keras_weighted", bce_keras, "bce", d.probs(12), d.probs(12), weight=d.weights(12), epsilon=1e-7)
    case("bce_keras_clipped_low", bce_keras, "bce", [0, 1e-8, 0, 0.25], [1, 1, 0, 1], reduction="none",
         epsilon=1e-7)
    # 1 - 1e-7 is not a float32 (it rounds to 1 - 1.19e-7), so float32 clips elsewhere: 15.9424 for 16.1181.
    case("bce_keras_clipped_high", bce_keras, "bce", [1, 1, 0.75], [1, 0, 0], reduction="none", epsilon=1e-7)

    d, f, loss = Draw("bce_with_logits"), bce_with_logits, "bce_with_logits"
    case("bce_with_logits_known", f, loss, BL, BT, expect=0.335684882, grad_target=True)
    case("bce_with_logits_known_pos_weight", f, loss, BL, BT, reduction="sum", pos_weight=3.0,
         expect=2.734641789, grad_target=True)
    for r in REDUCTIONS:
        case(f"bce_with_logits_{r}", f, loss, d.logits(3, 5), d.bits(3, 5), reduction=r, grad_target=True)
    for r in ("mean", "none"):
        case(f"bce_with_logits_soft_weighted_{r}", f, loss, d.logits(3, 5), d.probs(3, 5), reduction=r,
             weight=d.weights((3, 5)), pos_weight=2.5, grad_target=True)
        case(f"bce_with_logits_keras_smoothed_{r}", bce_with_logits_keras, loss, d.logits(3, 5), d.bits(3, 5),
             reduction=r, label_smoothing=0.125)
    case("bce_with_logits_pos_weight_per_class", f, loss, d.logits(2, 3, 4), d.bits(2, 3, 4),
         pos_weight_per_class=d.weights(4).tolist(), grad_target=True)
    case("bce_with_logits_everything", f, loss, d.logits(4, 5), d.probs(4, 5), weight=d.weights((4, 5)),
         pos_weight_per_class=d.weights(5).tolist(), label_smoothing=0.25, grad_output=0.25)
    case("bce_with_logits_37_f32", f, loss, d.full(37), d.rng.random(37), pos_weight=0.5)
    case("bce_with_logits_huge", f, loss, [1e4, -1e4, 1e4, -1e4, 6e4, -6e4], [0, 0, 1, 1, 0, 1],
         reduction="none", expect=[1e4, 0, 0, 1e4, 6e4, 6e4])
    case("bce_with_logits_far_tail", bce_with_logits_by_logsigmoid, loss, [-12, 12, -12, -30, 30, 80],
         [0, 1, 1, 0, 1, 1], reduction="none", expect=[6.1442e-6, 6.1442e-6, 12.0000061442, 0, 0, 0])
    case("bce_with_logits_scaled_65536", f, loss, d.logits(6), d.bits(6), grad_output=65536.0)
    case("bce_with_logits_target_out_of_range", f, loss, [1, -2, 0.5], [1.5, -0.25, 2], grad_target=True)


def hinge_targets(t, o):
    """Keras guesses the labels from the batch; saying them aloud must give what the guess gives."""
    binary = bool(((t == 0) | (t == 1)).all())
    assert {"zero_one": binary, "signed": not binary or bool((t == 1).all()), "auto": True}[o.labels]
    return t


@source("keras.losses.Hinge")
def hinge(x, t, o):
    return keras_elementwise(keras.losses.Hinge, x, hinge_targets(t, o), o)


@source("keras.losses.SquaredHinge")
def squared_hinge(x, t, o):
    return keras_elementwise(keras.losses.SquaredHinge, x, hinge_targets(t, o), o)


@source("torch.nn.functional.relu")
def hinge_by_relu(x, t, o):
    return reduce(F.relu(1 - t * x), o.reduction)


def hinges():
    for loss, f in (("hinge", hinge), ("squared_hinge", squared_hinge)):
        d = Draw(loss)
        for r in REDUCTIONS if loss == "hinge" else ("mean", "none"):
            case(f"{loss}_signed_{r}", f, loss, d.full(3, 5), 2 * d.bits(3, 5) - 1, reduction=r, labels="signed")
        for labels in ("zero_one", "auto"):
            case(f"{loss}_{labels}_binary", f, loss, d.full(3, 5), d.bits(3, 5), labels=labels)
        # One -1 in the batch and Keras leaves every 0 as it is: loss 1, no gradient.
        case(f"{loss}_auto_mixed", f, loss, d.full(6), [-1, 0, 1, 0, 1, -1.0], reduction="none", labels="auto")
        case(f"{loss}_37_f32", f, loss, d.full(37), 2 * d.bits(37) - 1, labels="signed", grad_output=0.25)
    # Not from Keras, whose gradient at the margin is half of the one beside it.
    case("hinge_at_margin", hinge_by_relu, "hinge", [1, -1, 2, 0.5], [1, -1, 1, 1.0], reduction="sum",
         labels="signed", expect=0.5, expect_grad=[0, 0, 0, -1])


@source("torch.nn.functional.kl_div")
def kl_div(x, t, o):
    return F.kl_div(x, t, reduction=o.reduction, log_target=o.get("log_target", False))


@source("torchvision.ops.sigmoid_focal_loss")
def sigmoid_focal(x, t, o):
    return torchvision.ops.sigmoid_focal_loss(x, t, alpha=o.alpha, gamma=o.gamma, reduction=o.reduction)


@source("torch.nn.functional.logsigmoid")
def sigmoid_focal_by_logsigmoid(x, t, o):
    """Hard targets only; torchvision's 1 - p_t cancels where the logit is large."""
    z = x * (2 * t - 1)
    alpha = o.alpha * t + (1 - o.alpha) * (1 - t) if o.alpha >= 0 else 1
    return reduce(-alpha * torch.exp(o.gamma * F.logsigmoid(-z)) * F.logsigmoid(z), o.reduction)


def elementwise_probability_losses():
    d = Draw("kl_div")
    for r in ("mean", "sum", "none", "batchmean"):
        case(f"kl_div_{r}", kl_div, "kl_div", d.log_rows(3, 5), d.rows(3, 5), reduction=r, grad_target=True)
    for r in ("none", "batchmean"):
        case(f"kl_div_log_target_{r}", kl_div, "kl_div", d.log_rows(3, 5), d.log_rows(3, 5), reduction=r,
             log_target=True, grad_target=True)
    case("kl_div_4d_batchmean", kl_div, "kl_div", d.log_rows(2, 3, 2, 2), d.rows(2, 3, 2, 2), reduction="batchmean")
    case("kl_div_known", kl_div, "kl_div", torch.log_softmax(torch.tensor(Z), 1), Q, reduction="batchmean",
         expect=2.596192186)
    case("kl_div_zero_target", kl_div, "kl_div", [[-1, -0.5], [-2, -0.125]], [[0, 1], [1, 0]],
         reduction="none", expect=[0, 0.5, 2, 0])
    case("kl_div_37_f32", kl_div, "kl_div", d.log_rows(1, 37), d.rows(1, 37), grad_output=65536.0)

    d, loss = Draw("sigmoid_focal"), "sigmoid_focal"
    case("sigmoid_focal_known", sigmoid_focal, loss, BL, [0, 1, 1, 0.0], reduction="none", alpha=0.25, gamma=2.0,
         expect=[0.001352672, 0.016893373, 2.7321e-5, 0.129965096])
    case("sigmoid_focal_soft_known", sigmoid_focal, loss, [0.3], [0.5], alpha=-1.0, gamma=2.0, expect=0.17608881)
    for r in REDUCTIONS:
        case(f"sigmoid_focal_{r}", sigmoid_focal, loss, d.logits(3, 5), d.bits(3, 5), reduction=r, alpha=0.25,
             gamma=2.0)
    for gamma in (0.0, 0.5, 1.5, 5.0):
        name = f"sigmoid_focal_gamma_{gamma}".replace(".", "_")
        case(name, sigmoid_focal, loss, d.logits(12), d.bits(12), alpha=0.75, gamma=gamma)
        case(f"{name}_soft", sigmoid_focal, loss, d.logits(12), d.probs(12), alpha=-1.0, gamma=gamma)
    for gamma in (0.5, 2.0):
        x = [-1e4, -100, -20, 20, 100, 1e4]
        case(f"sigmoid_focal_saturated_gamma_{gamma}".replace(".", "_"), sigmoid_focal_by_logsigmoid, loss,
             x + x, [1.0] * 6 + [0.0] * 6, reduction="none", alpha=-1.0, gamma=gamma)
    case("sigmoid_focal_37_f32", sigmoid_focal, loss, d.full(37), d.bits(37), alpha=0.25, gamma=2.0,
         grad_output=65536.0)


def cases():
    regression()
    binary_cross_entropies()
    hinges()
    elementwise_probability_losses()

"""Losses with sums over a region: Dice, Jaccard and Tversky."""

import numpy as np
from monai.losses import DiceLoss, GeneralizedDiceLoss, TverskyLoss

from harness import REDUCTIONS, Draw, W, case, source


def monai_region(loss_class, x, t, o, **kwargs):
    index = not t.is_floating_point()
    activation = {"none": {}, "sigmoid": {"sigmoid": True}, "softmax": {"softmax": True}}[o.get("activation", "none")]
    kwargs |= {k: o[k] for k in ("batch", "include_background", "smooth_nr", "smooth_dr") if k in o}
    loss = loss_class(to_onehot_y=index, reduction=o.reduction, **activation, **kwargs)
    return loss(x, t.unsqueeze(1) if index else t)


@source("monai.losses.DiceLoss")
def dice(x, t, o):
    kwargs = {k: o[k] for k in ("squared_pred", "jaccard") if k in o}
    return monai_region(DiceLoss, x, t, o, weight=o.class_weight, **kwargs)


@source("monai.losses.GeneralizedDiceLoss")
def generalised_dice(x, t, o):
    value = monai_region(GeneralizedDiceLoss, x, t, o, w_type=o.w_type)
    return value.flatten() if o.reduction == "none" else value


@source("monai.losses.TverskyLoss")
def tversky(x, t, o):
    return monai_region(TverskyLoss, x, t, o, alpha=o.alpha, beta=o.beta)


def cases():
    d, f, loss = Draw("dice"), dice, "dice"
    p = [[[[0.9, 0.2], [0.4, 0.1]], [[0.5, 0.5], [0.3, 0.8]]]]
    t = [[[[1, 0], [1, 0]], [[0, 0], [0.0, 0]]]]
    case("dice_known_smooth_1", f, loss, p, t, smooth_nr=1.0, smooth_dr=1.0, expect=0.447405330)
    case("dice_known", f, loss, p, t, smooth_nr=1e-5, smooth_dr=1e-5, expect=0.638886122)
    s = {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    for r in REDUCTIONS:
        case(f"dice_{r}", f, loss, d.probs(2, 3, 2, 4), d.bits(2, 3, 2, 4), reduction=r, **s)
    for r in ("mean", "none"):
        case(f"dice_weight_{r}", f, loss, d.logits(2, 3, 2, 4), d.bits(2, 3, 2, 4), reduction=r, activation="sigmoid",
             class_weight=W, **s)
        case(f"dice_softmax_index_{r}", f, loss, d.logits(2, 3, 2, 4), d.labels(3, 2, 2, 4), reduction=r,
             activation="softmax", **s)
    flags = [{"squared_pred": True}, {"jaccard": True}, {"squared_pred": True, "jaccard": True}, {"batch": True},
             {"include_background": False}]
    for flag in flags:
        case("dice_" + "_".join(flag), f, loss, d.probs(2, 3, 2, 4), d.bits(2, 3, 2, 4), **flag, **s)
    everything = {"batch": True, "include_background": False, "smooth_nr": 0.5, "smooth_dr": 1.0}
    for activation in ("sigmoid", "softmax"):
        case(f"dice_{activation}_everything", f, loss, d.logits(3, 3, 2, 2), d.bits(3, 3, 2, 2), activation=activation,
             squared_pred=True, jaccard=True, class_weight=[0.5, 2], grad_output=0.25, **everything)
    case("dice_batch_none", f, loss, d.logits(3, 2, 5), d.bits(3, 2, 5), reduction="none", activation="sigmoid",
         batch=True, **s)
    case("dice_soft_target", f, loss, d.probs(2, 2, 7), d.probs(2, 2, 7), **s)
    case("dice_soft_target_squared_pred", f, loss, d.probs(2, 2, 7), d.probs(2, 2, 7), squared_pred=True, **s)
    case("dice_5d", f, loss, d.logits(2, 2, 2, 3, 2), d.bits(2, 2, 2, 3, 2), activation="sigmoid", **s)
    case("dice_5d_softmax_index", f, loss, d.logits(1, 3, 2, 3, 2), d.labels(3, 1, 2, 3, 2), activation="softmax",
         squared_pred=True, include_background=False, **s)
    case("dice_37_f32", f, loss, d.full(2, 1, 37), d.bits(2, 1, 37), activation="sigmoid", grad_output=65536.0, **s)
    zero, one = np.zeros((1, 1, 2, 3)), np.ones((1, 1, 2, 3))
    case("dice_empty_empty", f, loss, zero, zero, expect=0, **s)
    case("dice_empty_full", f, loss, zero, one, **s)
    case("dice_perfect", f, loss, one, one, expect=0, **s)

    d, f, loss = Draw("tversky"), tversky, "tversky"
    for r in REDUCTIONS:
        case(f"tversky_{r}", f, loss, d.logits(2, 3, 2, 4), d.bits(2, 3, 2, 4), reduction=r, activation="sigmoid",
             alpha=0.75, beta=0.25, **s)
    p, t = d.probs(2, 2, 2, 3), d.bits(2, 2, 2, 3)
    for alpha, beta in ((0.5, 0.5), (1.0, 1.0), (0.25, 0.75), (0.75, 0.25)):
        case(f"tversky_alpha_{alpha}_beta_{beta}".replace(".", "_"), f, loss, p, t, alpha=alpha, beta=beta, **s)
    case("tversky_softmax_index", f, loss, d.logits(2, 3, 2, 4), d.labels(3, 2, 2, 4), activation="softmax",
         alpha=0.25, beta=0.75, include_background=False, smooth_nr=1.0, smooth_dr=1.0)
    case("tversky_batch", f, loss, d.logits(3, 2, 5), d.bits(3, 2, 5), activation="sigmoid", alpha=0.75, beta=0.5,
         batch=True, grad_output=0.25, **s)

    d, f, loss = Draw("generalised_dice"), generalised_dice, "generalised_dice"
    for w_type in ("square", "simple", "uniform"):
        for r in REDUCTIONS:
            case(f"generalised_dice_{w_type}_{r}", f, loss, d.logits(2, 3, 2, 4), d.bits(2, 3, 2, 4), reduction=r,
                 activation="sigmoid", w_type=w_type, **s)
        case(f"generalised_dice_{w_type}_index", f, loss, d.logits(2, 3, 2, 4), d.labels(3, 2, 2, 4),
             activation="softmax", include_background=False, w_type=w_type, **s)
        case(f"generalised_dice_{w_type}_batch", f, loss, d.probs(3, 2, 5), d.bits(3, 2, 5), batch=True, w_type=w_type,
             smooth_nr=0.5, smooth_dr=1.0)
    # A channel without targets.
    case("generalised_dice_empty_channel", f, loss, d.probs(1, 3, 4), [[[0, 0, 0, 0], [1, 0, 0, 0], [1, 1, 0, 1.0]]],
         w_type="square", **s)

"""Losses of regions: Dice, Jaccard, Tversky and Lovasz, and sums with losses of single predictions."""

from unittest.mock import patch

import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from monai.losses import DiceCELoss, DiceFocalLoss, DiceLoss, FocalLoss, GeneralizedDiceLoss, TverskyLoss
from segmentation_models_pytorch.losses.lovasz import _lovasz_softmax

from harness import REDUCTIONS, Draw, Options, W, case, reduce, source, with_terms

# Both losses of Lovasz and MONAI's focal loss turn float64 into float32.
in_float64 = patch.object(torch.Tensor, "float", torch.Tensor.double)


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


@source("monai.losses.TverskyLoss, each region to the power of gamma")
def focal_tversky(x, t, o):
    return reduce(tversky(x, t, Options(o, reduction="none")) ** o.get("gamma", 1.0), o.reduction)


@source("segmentation_models_pytorch.losses.TverskyLoss")
def focal_tversky_smp(x, t, o):
    """A channel is a region of the whole batch; the power is that of their mean, so that there is but one."""
    assert o.batch and x.shape[1] == 1 and o.smooth_nr == o.smooth_dr
    loss = smp.losses.TverskyLoss("binary", alpha=o.alpha, beta=o.beta, gamma=o.gamma, smooth=o.smooth_nr)
    return loss(x, t)


def samples_of(x, t, o):
    """What has regions of its own."""
    return [(x, t)] if o.batch else list(zip(x.split(1), t.split(1)))


@source("segmentation_models_pytorch.losses.LovaszLoss")
@in_float64
def lovasz_hinge(x, t, o):
    """All channels are one region there, so that it gets one at a time."""
    if o.reduction == "mean":
        loss = smp.losses.LovaszLoss("binary", per_image=not o.batch)
        return torch.stack([loss(x[:, c], t[:, c]) for c in range(x.shape[1])]).mean()
    loss = smp.losses.LovaszLoss("binary")
    regions = [loss(x[:, c], t[:, c]) for x, t in samples_of(x, t, o) for c in range(x.shape[1])]
    return reduce(torch.stack(regions), o.reduction)


@source("segmentation_models_pytorch.losses.LovaszLoss")
@in_float64
def lovasz_softmax(x, t, o):
    return smp.losses.LovaszLoss("multiclass", per_image=not o.batch, ignore_index=o.get("ignore_index"))(x, t)


@source("segmentation_models_pytorch.losses.lovasz._lovasz_softmax")
@in_float64
def lovasz_softmax_classes(x, t, o):
    """With the argument that LovaszLoss leaves at 'present': all classes, or one at a time."""
    p, ignore = x.softmax(1), o.get("ignore_index")
    if o.reduction == "mean":
        return _lovasz_softmax(p, t, "all", not o.batch, ignore)
    regions = [_lovasz_softmax(p, t, [c], False, ignore) * (o.get("all_classes", False) or (t == c).any())
               for p, t in samples_of(p, t, o) for c in range(x.shape[1])]
    return reduce(torch.stack(regions), o.reduction)


def monai_sum(loss_class, x, t, o, other, **kwargs):
    """Each term is the sum with a weight of zero for the other."""
    kwargs |= {k: o[k] for k in ("squared_pred", "jaccard") if k in o}

    def weighed(dice, beside):
        weights = {"lambda_dice": dice, f"lambda_{other}": beside, "weight": o.class_weight}
        return monai_region(loss_class, x, t, o, **weights, **kwargs)

    return with_terms(weighed(*o.weights), o.weights, [weighed(1.0, 0.0), weighed(0.0, 1.0)])


@source("monai.losses.DiceCELoss")
def dice_ce(x, t, o):
    return monai_sum(DiceCELoss, x, t, o, "ce", **{k: o[k] for k in ("label_smoothing",) if k in o})


@source("monai.losses.DiceFocalLoss")
@in_float64
def dice_focal(x, t, o):
    return monai_sum(DiceFocalLoss, x, t, o, "focal", alpha=o.get("alpha"), gamma=o.gamma)


def two(o, region, other):
    return with_terms(o.weights[0] * region + o.weights[1] * other, o.weights, [region, other])


@source("monai.losses.DiceLoss and FocalLoss")
@in_float64
def dice_softmax_focal(x, t, o):
    """DiceFocalLoss(softmax=True) has a focal loss with a sigmoid; that with a softmax divides by the channels too."""
    w = o.class_weight
    focal = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=o.gamma, weight=w)(x, t.unsqueeze(1)) * x.shape[1]
    return two(o, monai_region(DiceLoss, x, t, o, weight=w), focal)


@source("monai.losses.TverskyLoss and FocalLoss")
@in_float64
def tversky_focal(x, t, o):
    """As in DiceFocalLoss the background is left out of both. Reduced here: MONAI's sum is one of means over positions."""
    index, softmax = not t.is_floating_point(), o.activation == "softmax"
    focal = FocalLoss(include_background=o.get("include_background", True), to_onehot_y=index, use_softmax=softmax,
                      gamma=o.focal_gamma, alpha=o.get("focal_alpha"), reduction="none")
    each = focal(x, t.unsqueeze(1) if index else t)
    return two(o, focal_tversky(x, t, o), reduce(each.sum(1) if softmax else each, o.reduction))


@source("monai.losses.TverskyLoss and torch.nn.functional.cross_entropy")
def tversky_ce(x, t, o):
    return two(o, tversky(x, t, o), F.cross_entropy(x, t, reduction=o.reduction))


def lovasz():
    d, f, loss = Draw("lovasz_hinge"), lovasz_hinge, "lovasz_hinge"
    # Logits of all bits: where errors are equal, the gradient is the order's.
    case("lovasz_hinge_known", f, loss, [[[2.0, 0.5, -2.0]]], [[[0.0, 1, 0]]], batch=False, expect=1.75,
         expect_grad=[0.5, -0.5, 0])
    for batch in (False, True):
        for r in REDUCTIONS:
            case(f"lovasz_hinge_{'batch_' if batch else ''}{r}", f, loss, d.full(2, 2, 2, 4), d.bits(2, 2, 2, 4),
                 reduction=r, batch=batch)
    case("lovasz_hinge_37_f32", f, loss, d.full(1, 1, 37), d.bits(1, 1, 37), batch=False, grad_output=65536.0)
    case("lovasz_hinge_empty_mask", f, loss, d.full(1, 1, 2, 3), np.zeros((1, 1, 2, 3)), batch=False)
    case("lovasz_hinge_full_mask", f, loss, d.full(1, 1, 2, 3), np.ones((1, 1, 2, 3)), batch=False)

    d, f, every, loss = Draw("lovasz_softmax"), lovasz_softmax, lovasz_softmax_classes, "lovasz_softmax"
    for batch in (True, False):  # of four classes, one or more occur nowhere
        suffix = "" if batch else "_samples"
        labels = lambda **ignored: d.labels(3, 2, 2, 2, **ignored)
        case(f"lovasz_softmax{suffix}_mean", f, loss, d.full(2, 4, 2, 2), labels(), batch=batch)
        case(f"lovasz_softmax{suffix}_ignored_mean", f, loss, d.full(2, 4, 2, 2), labels(ignore=255), batch=batch,
             ignore_index=255, grad_output=0.25)
        case(f"lovasz_softmax{suffix}_all_mean", every, loss, d.full(2, 4, 2, 2), labels(), batch=batch,
             all_classes=True)
        case(f"lovasz_softmax{suffix}_all_ignored_sum", every, loss, d.full(2, 4, 2, 2), labels(ignore=1),
             reduction="sum", batch=batch, all_classes=True, ignore_index=1)
        case(f"lovasz_softmax{suffix}_none", every, loss, d.full(2, 4, 2, 2), labels(), reduction="none", batch=batch)
    case("lovasz_softmax_37_f32", f, loss, d.full(1, 2, 37, 1, scale=4), d.labels(2, 1, 37, 1), batch=True,
         grad_output=65536.0)


def sums():
    d, loss, s = Draw("combined_regions"), "combined_regions", {"smooth_nr": 1e-5, "smooth_dr": 1e-5}
    of = lambda region, beside, activation, *weights: {"region": region, "beside": beside, "activation": activation,
                                                       "weights": list(weights)} | s
    ce = of("dice", "cross_entropy", "softmax", 0.75, 1.5)
    for r in ("mean", "sum"):
        case(f"dice_ce_{r}", dice_ce, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), reduction=r, **ce)
    # Without the first class, its weight too is not Dice's, but it is that of cross-entropy.
    case("dice_ce_weight_no_background", dice_ce, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), class_weight=W,
         include_background=False, **ce)
    everything = {"batch": True, "squared_pred": True, "jaccard": True, "label_smoothing": 0.125, "class_weight": W}
    case("dice_ce_everything", dice_ce, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), grad_output=0.25,
         **everything, **ce)
    case("dice_ce_dense_everything", dice_ce, loss, d.logits(2, 3, 2, 3), d.rows(2, 3, 2, 3), **everything, **ce)
    case("dice_ce_one_channel", dice_ce, loss, d.logits(2, 1, 2, 4), d.bits(2, 1, 2, 4),
         **of("dice", "bce_with_logits", "sigmoid", 1.0, 0.5))

    focal = of("dice", "sigmoid_focal", "sigmoid", 0.75, 1.5)
    for alpha, gamma in ((None, 2.0), (0.25, 2.0), (0.75, 1.5)):
        name = f"dice_focal_alpha_{alpha}_gamma_{gamma}".replace(".", "_").lower()
        case(name, dice_focal, loss, d.logits(2, 3, 2, 3), d.bits(2, 3, 2, 3), gamma=gamma, **focal,
             **({} if alpha is None else {"alpha": alpha}))
    case("dice_focal_index_no_background", dice_focal, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), gamma=2.0,
         include_background=False, batch=True, grad_output=0.25, **focal)
    case("tversky_ce", tversky_ce, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), alpha=0.25, beta=0.75,
         **of("tversky", "cross_entropy", "softmax", 0.5, 2.0))
    focal = of("dice", "softmax_focal", "softmax", 0.75, 1.5)
    case("dice_softmax_focal", dice_softmax_focal, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3), gamma=2.0, **focal)
    case("dice_softmax_focal_weight_batch", dice_softmax_focal, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3),
         gamma=1.5, class_weight=W, batch=True, grad_output=0.25, **focal)

    # `alpha` and `gamma` are Tversky's.
    d, focal = Draw("tversky_and_focal"), of("tversky", "sigmoid_focal", "sigmoid", 0.75, 1.5)
    prices = {"alpha": 0.25, "beta": 0.75}
    for r in ("mean", "sum"):
        case(f"tversky_and_sigmoid_focal_{r}", tversky_focal, loss, d.logits(2, 3, 2, 3), d.bits(2, 3, 2, 3), reduction=r,
             focal_alpha=0.25, focal_gamma=2.0, **prices, **focal)
    case("tversky_and_sigmoid_focal_batch_no_background", tversky_focal, loss, d.logits(2, 3, 2, 3),
         d.labels(3, 2, 2, 3), include_background=False, batch=True, focal_gamma=1.5, grad_output=0.25, **prices, **focal)
    case("focal_tversky_and_sigmoid_focal", tversky_focal, loss, d.logits(2, 3, 2, 3), d.bits(2, 3, 2, 3), gamma=0.75,
         focal_gamma=2.0, **prices, **focal)
    case("jaccard_and_sigmoid_focal", dice_focal, loss, d.logits(2, 3, 2, 3), d.bits(2, 3, 2, 3), jaccard=True,
         squared_pred=True, gamma=2.0, **of("dice", "sigmoid_focal", "sigmoid", 0.75, 1.5))
    focal = of("tversky", "softmax_focal", "softmax", 0.75, 1.5)
    for r in ("mean", "sum"):
        case(f"tversky_and_softmax_focal_{r}", tversky_focal, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3),
             reduction=r, focal_gamma=2.0, **prices, **focal)
    case("focal_tversky_and_softmax_focal_batch", tversky_focal, loss, d.logits(2, 3, 2, 3), d.labels(3, 2, 2, 3),
         batch=True, gamma=1.25, focal_gamma=1.5, grad_output=0.25, **prices, **focal)


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
    d = Draw("focal_tversky")
    for gamma in (0.75, 2.0):
        case(f"tversky_focal_{gamma}".replace(".", "_"), focal_tversky, loss, d.logits(2, 2, 2, 3), d.bits(2, 2, 2, 3),
             activation="sigmoid", alpha=0.75, beta=0.25, gamma=gamma, **s)
        case(f"tversky_focal_{gamma}_one_channel".replace(".", "_"), focal_tversky_smp, loss, d.logits(2, 1, 2, 3),
             d.bits(2, 1, 2, 3), activation="sigmoid", batch=True, alpha=0.25, beta=0.75, gamma=gamma, **s)
    case("tversky_focal_none", focal_tversky, loss, d.logits(2, 3, 2, 2), d.labels(3, 2, 2, 2), reduction="none",
         activation="softmax", alpha=0.25, beta=0.75, gamma=1.25, **s)

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

    lovasz()
    sums()

"""The losses, with the names, arguments and defaults of torch.nn.functional (and of torchvision or MONAI where PyTorch has none).

What differs from PyTorch:

* Losses are float32, whatever the input's type; gradients have the type of their tensor.
* Shapes must be equal; nothing is broadcast but weights. Arguments after the targets are given by name.
* float32, float16 and bfloat16. Tensors of two of these types are computed in the wider one, as PyTorch promotes them, which is what
  happens under torch.autocast where predictions are float16 and targets float32.
* Tensors that are not contiguous are copied. There are no gradients of gradients.
* On a GPU a class index that is none gives its row a gradient of zero and makes the loss NaN; fused_loss.check() names the row.
"""

import math

import torch

from .autograd import DTYPES, INDICES, TERMS, Loss, Spec
from .library import lib

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "box_iou_loss",
    "categorical_hinge_loss",
    "combined_loss",
    "complete_box_iou_loss",
    "cosine_embedding_loss",
    "cross_entropy",
    "cross_entropy_distillation",
    "cross_entropy_probs",
    "dice_ce_loss",
    "dice_focal_loss",
    "dice_loss",
    "distance_box_iou_loss",
    "distillation_loss",
    "dpo_loss",
    "gan_loss",
    "gaussian_nll_loss",
    "generalized_box_iou_loss",
    "generalized_dice_loss",
    "gradient_penalty",
    "hinge_loss",
    "huber_loss",
    "jsd_loss",
    "kl_div",
    "kl_div_probs",
    "l1_loss",
    "log_cosh_loss",
    "lovasz_hinge_loss",
    "lovasz_softmax_loss",
    "margin_ranking_loss",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "poisson_nll_loss",
    "quantile_loss",
    "relativistic_average_loss",
    "relativistic_pair_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "soft_margin_loss",
    "softmax_focal_loss",
    "squared_hinge_loss",
    "triplet_margin_loss",
    "tversky_loss",
]


ELEMENTS = [name for name in TERMS if name not in ("dice", "tversky", "cross_entropy", "distillation", "softmax_focal")]


def _tensor(name, tensor, like=None):
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{name}: expected a tensor, got {type(tensor).__name__}")
    if like is not None and tensor.device != like.device:
        raise ValueError(f"{name}: expected a tensor on {like.device}, got one on {tensor.device}")
    return tensor


def _dtype(name, dtype):
    if dtype not in DTYPES:
        raise TypeError(f"{name}: expected float32, float16 or bfloat16, got {dtype}")
    return dtype


def _alike(same_shape=True, **tensors):
    """All of one shape, in one type, contiguous."""
    (first, input), *others = tensors.items()
    dtype = _dtype(first, _tensor(first, input).dtype)
    for name, tensor in others:
        _dtype(name, _tensor(name, tensor, input).dtype)
        if same_shape and tensor.shape != input.shape:
            raise ValueError(f"{name}: expected shape {tuple(input.shape)}, got {tuple(tensor.shape)}")
        if tensor.dtype != dtype:
            dtype = torch.promote_types(dtype, tensor.dtype)
    return [tensor.to(dtype).contiguous() for tensor in tensors.values()]


def _pair(input, target):
    """Input and dense targets."""
    return _alike(input=input, target=target)


def _weight(name, weight, shape, like):
    """Weights of this shape, or that can be expanded to it, in float32."""
    if weight is None:
        return None
    _tensor(name, weight, like)
    try:
        return weight.detach().to(torch.float32).expand(shape).contiguous()
    except RuntimeError:
        raise ValueError(f"{name}: expected shape {tuple(shape)}, got {tuple(weight.shape)}") from None


def _elementwise(name, options, input, target, reduction, weight=None, **weights):
    input, target = _pair(input, target)
    batch = input.shape[0] if input.dim() else 1
    weight = _weight("weight", weight, input.shape, input)
    return Loss.apply(Spec(name, options, reduction, input.shape, batch=batch, weight=weight, **weights), input, target)


def _elementwise_of_three(name, options, reduction, **tensors):
    input, target, third = _alike(**tensors)
    batch = input.shape[0] if input.dim() else 1
    return Loss.apply(Spec(name, options, reduction, input.shape, batch=batch), input, target, third)


def mse_loss(input, target, *, reduction="mean", weight=None):
    """Squared error. With weights the mean divides by their sum, as PyTorch's does."""
    mean = "weighted_mean" if weight is not None and reduction == "mean" else reduction
    return _elementwise("mse", {}, input, target, mean, weight)


def l1_loss(input, target, *, reduction="mean", weight=None):
    """Absolute error. With weights the mean divides by their sum."""
    mean = "weighted_mean" if weight is not None and reduction == "mean" else reduction
    return _elementwise("mae", None, input, target, mean, weight)


def huber_loss(input, target, *, reduction="mean", delta=1.0, weight=None):
    """Huber. With weights the mean divides by their sum."""
    mean = "weighted_mean" if weight is not None and reduction == "mean" else reduction
    return _elementwise("huber", {"delta": delta}, input, target, mean, weight)


def smooth_l1_loss(input, target, *, reduction="mean", beta=1.0):
    """Smooth L1."""
    return _elementwise("smooth_l1", {"beta": beta}, input, target, reduction)


def binary_cross_entropy(input, target, weight=None, *, reduction="mean", epsilon=0.0, label_smoothing=0.0):
    """Binary cross-entropy of probabilities; `epsilon` is Keras's clip. (Probabilities outside [0, 1] are not looked for.)"""
    options = {"epsilon": epsilon, "label_smoothing": label_smoothing}
    return _elementwise("bce", options, input, target, reduction, weight)


def binary_cross_entropy_with_logits(
    input, target, weight=None, *, reduction="mean", pos_weight=None, label_smoothing=0.0
):
    """Binary cross-entropy of logits; `pos_weight` is a number, or a tensor of the last axis's length or of one element."""
    options = {"label_smoothing": label_smoothing}
    if pos_weight is not None and not isinstance(pos_weight, torch.Tensor):
        options["pos_weight"], pos_weight = pos_weight, None
    if pos_weight is not None:
        pos_weight = _weight("pos_weight", pos_weight, input.shape[-1:] or (1,), input)
    return _elementwise(
        "bce_with_logits", options, input, target, reduction, weight, class_weight=pos_weight
    )


def kl_div(input, target, *, reduction="mean", log_target=False):
    """KL divergence of log-probabilities from the target."""
    return _elementwise("kl_div", {"log_target": int(log_target)}, input, target, reduction)


def kl_div_probs(input, target, *, reduction="mean", epsilon=1e-7):
    """KL divergence `t ln(t / p)` of probabilities, clipped: Keras's form, per element."""
    return _elementwise("kl_div_probs", {"epsilon": epsilon}, input, target, reduction)


LABELS = {"signed": lib.FL_LABELS_SIGNED, "zero_one": lib.FL_LABELS_ZERO_ONE, "keras": lib.FL_LABELS_KERAS}


def _one_of(name, value, codes):
    if value not in codes:
        raise ValueError(f"{name}: expected one of {', '.join(codes)}, got {value!r}")
    return codes[value]


def hinge_loss(input, target, *, reduction="mean", labels="signed"):
    """Hinge, `max(0, 1 - y x)`; labels are "signed" (-1, 1), "zero_one", or "keras" (whichever they are)."""
    return _elementwise("hinge", {"labels": _one_of("labels", labels, LABELS)}, input, target, reduction)


def squared_hinge_loss(input, target, *, reduction="mean", labels="signed"):
    """Squared hinge."""
    return _elementwise("squared_hinge", {"labels": _one_of("labels", labels, LABELS)}, input, target, reduction)


def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2.0, reduction="none"):
    """Focal loss of logits with a sigmoid each: torchvision.ops.sigmoid_focal_loss, whose reduction is "none"."""
    return _elementwise("sigmoid_focal", {"alpha": alpha, "gamma": gamma}, inputs, targets, reduction)


def log_cosh_loss(input, target, *, reduction="mean"):
    """Log-cosh, `ln(cosh(input - target))`: Keras's."""
    return _elementwise("log_cosh", None, input, target, reduction)


def quantile_loss(input, target, *, quantile=0.5, reduction="mean"):
    """Quantile (pinball): what is too low costs `quantile` of the error, what is too high the rest of 1."""
    return _elementwise("quantile", {"quantile": quantile}, input, target, reduction)


def soft_margin_loss(input, target, *, reduction="mean"):
    """Soft margin, `ln(1 + exp(-target * input))` of labels -1 and 1."""
    return _elementwise("soft_margin", None, input, target, reduction)


def poisson_nll_loss(input, target, log_input=True, full=False, eps=1e-8, *, reduction="mean"):
    """Negative log-likelihood of a Poisson distribution."""
    options = {"log_input": int(log_input), "full": int(full), "eps": eps}
    return _elementwise("poisson_nll", options, input, target, reduction)


def gaussian_nll_loss(input, target, var, full=False, eps=1e-6, *, reduction="mean"):
    """Negative log-likelihood of a normal distribution; variances have the input's shape, and a gradient."""
    options = {"full": int(full), "eps": eps}
    return _elementwise_of_three("gaussian_nll", options, reduction, input=input, target=target, var=var)


def margin_ranking_loss(input1, input2, target, margin=0.0, *, reduction="mean"):
    """Margin ranking; `target` is 1 where the first should be above the second, -1 where it should be below."""
    target = _tensor("target", target).detach()
    label = target if target.is_floating_point() else target.to(_tensor("input1", input1).dtype)
    tensors = {"input1": input1, "input2": input2, "target": label}
    return _elementwise_of_three("margin_ranking", {"margin": margin}, reduction, **tensors)


VARIANTS = {"sigmoid": lib.FL_DPO_SIGMOID, "hinge": lib.FL_DPO_HINGE, "ipo": lib.FL_DPO_IPO}


def dpo_loss(chosen, rejected, reference, *, beta=0.1, label_smoothing=0.0, variant="sigmoid", reduction="mean"):
    """Direct preference optimisation of the policy's log-probabilities; `reference` is the reference's log-ratio of both answers."""
    options = {"beta": beta, "label_smoothing": label_smoothing, "variant": _one_of("variant", variant, VARIANTS)}
    tensors = {"chosen": chosen, "rejected": rejected, "reference": _tensor("reference", reference).detach()}
    return _elementwise_of_three("dpo", options, reduction, **tensors)


def _with_terms(names, input, return_terms):
    """Where the values of the terms of a sum go, and what gives them to whoever asked."""
    if not return_terms:
        return {}, lambda value: value
    terms = torch.empty(len(names), dtype=torch.float32, device=input.device)
    return {"terms": terms}, lambda value: (value, dict(zip(names, terms.unbind())))


def combined_loss(input, target, terms, *, reduction="mean", weight=None, pos_weight=None, return_terms=False):
    """A weighted sum of element-wise losses in one pass, such as `{"mse": 0.7, "mae": 0.3}`.

    `terms` has the weight of each loss, or the weight and the loss's options: `{"mse": 1.0, "huber": (0.5, {"delta": 2.0})}`. At most
    four of mse, mae, huber, smooth_l1, log_cosh, quantile, bce, bce_with_logits, sigmoid_focal, hinge, squared_hinge, soft_margin, kl_div,
    kl_div_probs and poisson_nll, with the options of C's structs of these names. With `return_terms`, also the value of each by its name, without its weight.
    """
    _tensor("input", input)
    sum_of = []
    for name, term in terms.items():
        factor, options = term if isinstance(term, tuple) else (term, {})
        if name not in ELEMENTS:
            raise ValueError(f"terms: expected some of {', '.join(ELEMENTS)}, got {name!r}")
        sum_of.append((factor, name, options))
    if pos_weight is not None:
        pos_weight = _weight("pos_weight", pos_weight, input.shape[-1:] or (1,), input)
    values, result = _with_terms(list(terms), input, return_terms)
    of_sum = {"class_weight": pos_weight, "beside": values}
    return result(_elementwise("sum", sum_of, input, target, reduction, weight, **of_sum))


def _classes(name, options, input, target, reduction, weight=None, index_only=False, third=None, beside=None):
    """A loss of rows: classes on axis 1, or on the only one."""
    _tensor("input", input)
    _tensor("target", target, input)
    if input.dim() == 0:
        raise ValueError("input: expected at least one axis, the classes")
    axis = 1 if input.dim() > 1 else 0
    classes = input.shape[axis]
    rows = input.shape[:axis] + input.shape[axis + 1 :]
    if target.dtype in INDICES:
        if target.shape != rows:
            raise ValueError(f"target: expected shape {tuple(rows)}, got {tuple(target.shape)}")
        _dtype("input", input.dtype)
        input, target = input.contiguous(), target.contiguous()
    elif index_only or not target.is_floating_point():
        raise TypeError(f"target: expected class indices as int64, int32 or uint8, got {target.dtype}")
    else:
        input, target = _pair(input, target)
    if classes == 0:
        raise ValueError("input: expected at least one class")
    weight = _weight("weight", weight, (classes,), input)
    dims = (math.prod(input.shape[:axis]), classes, math.prod(input.shape[axis + 1 :]))
    batch = input.shape[0] if axis else 1
    spec = Spec(name, options, reduction, rows, dims=dims, batch=batch, beside=beside, class_weight=weight)
    return Loss.apply(spec, input, target, third)


def _ignore(index):
    return {"ignore_index": -100 if index is None else index, "has_ignore_index": int(index is not None)}


REPORTS = ("log_prob", "entropy", "lse", "hit", "argmax")


def cross_entropy(
    input,
    target,
    weight=None,
    *,
    ignore_index=-100,
    reduction="mean",
    label_smoothing=0.0,
    z_loss=0.0,
    softcap=None,
    report=(),
):
    """Cross-entropy of logits and class indices, or probabilities of the input's shape.

    `z_loss` adds `z_loss * logsumexp(input)^2`; `softcap` bends logits to `softcap * tanh(input / softcap)` first.

    `report` names what else is wanted of each row from the same pass: any of log_prob (of the target), entropy, lse, hit (1 where the
    target is argmax) and argmax. They come as a dict beside the loss, without a gradient, 0 (argmax: -1) where a row is ignored.
    """
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap or 0.0}
    if target.dtype not in INDICES and ignore_index is not None and ignore_index >= 0:
        raise ValueError("ignore_index: not with probabilities as targets")
    for name in report:
        if name not in REPORTS:
            raise ValueError(f"report: expected some of {', '.join(REPORTS)}, got {name!r}")
    rows = _tensor("input", input).shape[:1] + input.shape[2:] if input.dim() > 1 else ()
    dtypes = {name: torch.int64 if name == "argmax" else torch.float32 for name in report}
    report = {name: torch.empty(rows, dtype=dtype, device=input.device) for name, dtype in dtypes.items()}
    loss = _classes("cross_entropy", options | _ignore(ignore_index), input, target, reduction, weight, beside=report)
    return (loss, report) if report else loss


def cross_entropy_probs(
    input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, epsilon=1e-7
):
    """Cross-entropy of probabilities, normalised and clipped first: Keras's form."""
    options = {"label_smoothing": label_smoothing, "epsilon": epsilon} | _ignore(ignore_index)
    return _classes("cross_entropy_probs", options, input, target, reduction, weight)


def nll_loss(input, target, weight=None, *, ignore_index=-100, reduction="mean"):
    """Negative log-likelihood of log-probabilities."""
    return _classes("nll", _ignore(ignore_index), input, target, reduction, weight, index_only=True)


def multi_margin_loss(input, target, p=1, margin=1.0, weight=None, *, reduction="mean"):
    """Multi-class margin."""
    if p not in (1, 2):
        raise ValueError(f"p: expected 1 or 2, got {p}")
    return _classes("multi_margin", {"p": p, "margin": margin}, input, target, reduction, weight, index_only=True)


def categorical_hinge_loss(input, target, *, reduction="mean"):
    """Categorical hinge: Keras's form, of one-hot targets or class indices."""
    return _classes("categorical_hinge", None, input, target, reduction)


def softmax_focal_loss(input, target, alpha=None, *, gamma=2.0, ignore_index=-100, reduction="mean"):
    """Focal loss of logits with a softmax over the classes; `alpha` is one weight a class."""
    options = {"gamma": gamma} | _ignore(ignore_index)
    return _classes("softmax_focal", options, input, target, reduction, alpha)


def distillation_loss(input, target, *, temperature=1.0, scale_by_t2=True, reduction="mean"):
    """KL divergence of the softmax of logits from that of a teacher's logits."""
    options = {"temperature": temperature, "scale_by_t2": int(scale_by_t2)}
    return _classes("distillation", options, input, target, reduction)


def cross_entropy_distillation(
    input,
    target,
    teacher,
    *,
    weights=(1.0, 1.0),
    label_smoothing=0.0,
    z_loss=0.0,
    ignore_index=-100,
    temperature=1.0,
    scale_by_t2=True,
    reduction="mean",
    return_terms=False,
):
    """`weights[0] * cross_entropy(input, target) + weights[1] * distillation_loss(input, teacher)` in one pass.

    Rows whose index is ignored are left out of both. The teacher has no gradient. With `return_terms`, also the values of
    cross_entropy, z_loss (which is a part of it) and distillation by their names, without the weights.
    """
    input, teacher = _pair(input, _tensor("teacher", teacher).detach())
    hard = {"label_smoothing": label_smoothing, "z_loss": z_loss} | _ignore(ignore_index)
    soft = {"temperature": temperature, "scale_by_t2": int(scale_by_t2)}
    sum_of = [(weights[0], "cross_entropy", hard), (weights[1], "distillation", soft)]
    values, result = _with_terms(["cross_entropy", "z_loss", "distillation"], input, return_terms)
    return result(_classes("sum", sum_of, input, target, reduction, index_only=True, third=teacher, beside=values))


def jsd_loss(input, target, *, beta=0.5, temperature=1.0, reduction="mean"):
    """Generalised Jensen-Shannon divergence of the softmaxes of a student's logits and a teacher's: TRL's."""
    return _classes("jsd", {"beta": beta, "temperature": temperature}, input, target, reduction)


def _vectors(name, options, losses, reduction, third=None, **tensors):
    """A loss of rows, the vectors of the last axis."""
    tensors = _alike(**tensors)
    rows, length = losses, tensors[0].shape[-1]
    dims = (math.prod(rows), length, 1)
    spec = Spec(name, options, reduction, rows, dims=dims, batch=rows[0] if rows else 1)
    return Loss.apply(spec, *tensors, *(() if third is None else (third,)))


def cosine_embedding_loss(input1, input2, target, margin=0.0, *, reduction="mean"):
    """Cosine embedding of rows, the last axis; `target` has 1 or -1 for each row."""
    rows = _tensor("input1", input1).shape[:-1]
    _tensor("target", target, input1)
    if input1.dim() == 0 or target.shape != rows:
        raise ValueError(f"target: expected shape {tuple(rows)}, got {tuple(target.shape)}")
    dtype = torch.promote_types(_dtype("input1", input1.dtype), _dtype("input2", _tensor("input2", input2).dtype))
    label = target.detach().to(dtype).contiguous()
    return _vectors("cosine_embedding", {"margin": margin}, rows, reduction, label, input1=input1, input2=input2)


def triplet_margin_loss(anchor, positive, negative, margin=1.0, p=2, eps=1e-6, swap=False, *, reduction="mean"):
    """Triplet margin of rows, the last axis; of Euclidean distances alone (`p=2`)."""
    if p != 2:
        raise ValueError(f"p: expected 2, got {p}")
    if _tensor("anchor", anchor).dim() == 0:
        raise ValueError("anchor: expected at least one axis, the features")
    options = {"margin": margin, "eps": eps, "swap": int(swap)}
    tensors = {"anchor": anchor, "positive": positive, "negative": negative}
    return _vectors("triplet_margin", options, anchor.shape[:-1], reduction, **tensors)


BOXES = {"iou": lib.FL_BOX_IOU, "giou": lib.FL_BOX_GIOU, "diou": lib.FL_BOX_DIOU, "ciou": lib.FL_BOX_CIOU}


def box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7, *, kind="iou"):
    """One minus the overlap of boxes (x1, y1, x2, y2) on the last axis, of the kind "iou", "giou", "diou" or "ciou"."""
    if _tensor("boxes1", boxes1).dim() == 0 or boxes1.shape[-1] != 4:
        raise ValueError(f"boxes1: expected (..., 4), got shape {tuple(boxes1.shape)}")
    options = {"kind": _one_of("kind", kind, BOXES), "eps": eps}
    return _vectors("box_iou", options, boxes1.shape[:-1], reduction, boxes1=boxes1, boxes2=boxes2)


def generalized_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """torchvision.ops.generalized_box_iou_loss."""
    return box_iou_loss(boxes1, boxes2, reduction, eps, kind="giou")


def distance_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """torchvision.ops.distance_box_iou_loss."""
    return box_iou_loss(boxes1, boxes2, reduction, eps, kind="diou")


def complete_box_iou_loss(boxes1, boxes2, reduction="none", eps=1e-7):
    """torchvision.ops.complete_box_iou_loss."""
    return box_iou_loss(boxes1, boxes2, reduction, eps, kind="ciou")


ACTIVATIONS = {None: lib.FL_ACTIVATION_NONE, "sigmoid": lib.FL_ACTIVATION_SIGMOID, "softmax": lib.FL_ACTIVATION_SOFTMAX}


def _region_tensors(input, target, activation, batch, include_background):
    """Input and target, the options that all region losses have, and where the channels are."""
    _tensor("input", input)
    _tensor("target", target, input)
    if input.dim() < 2:
        raise ValueError(f"input: expected (samples, channels, ...), got shape {tuple(input.shape)}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation: expected None, 'sigmoid' or 'softmax', got {activation!r}")
    samples, channels = input.shape[:2]
    if target.dtype in INDICES:
        expected = (samples, *input.shape[2:])
        if target.shape != expected:
            raise ValueError(f"target: expected shape {expected}, got {tuple(target.shape)}")
        _dtype("input", input.dtype)
        input, target = input.contiguous(), target.contiguous()
    else:
        input, target = _pair(input, target)
    options = {
        "activation": ACTIVATIONS[activation],
        "batch": int(batch),
        "include_background": int(include_background),
    }
    return input, target, options, (samples, channels, math.prod(input.shape[2:]))


def _regions(name, options, input, target, reduction, weight, activation, batch, include_background, together=False):
    input, target, common, dims = _region_tensors(input, target, activation, batch, include_background)
    samples, channels, _ = dims
    counted = channels if include_background else channels - 1
    weight = _weight("weight", weight, (counted,), input)
    losses = (() if batch else (samples,)) + (() if together else (counted,))
    batch = losses[0] if losses else 1
    spec = Spec(name, options | common, reduction, losses, dims=dims, batch=batch, class_weight=weight)
    return Loss.apply(spec, input, target)


def _dice_options(smooth_nr, smooth_dr, squared_pred, jaccard):
    return {"smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared_pred": int(squared_pred), "jaccard": int(jaccard)}


def _dice_and(other, options, input, target, factors, dice, regions, reduction, weight, return_terms):
    """Dice and another loss of the same logits in one pass. `regions`: activation, batch, include_background."""
    input, target, common, dims = _region_tensors(input, target, *regions)
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction: expected mean or sum, got {reduction!r}")
    weight = _weight("weight", weight, (dims[1],), input)
    values, result = _with_terms(["dice", other], input, return_terms)
    sum_of = [(factors[0], "dice", dice | common), (factors[1], other, options)]
    spec = Spec("sum", sum_of, reduction, (), dims=dims, beside=values, class_weight=weight)
    return result(Loss.apply(spec, input, target))


def dice_loss(
    input,
    target,
    *,
    activation=None,
    smooth_nr=1.0,
    smooth_dr=1.0,
    batch=False,
    include_background=True,
    squared_pred=False,
    jaccard=False,
    weight=None,
    reduction="mean",
):
    """Dice loss of (samples, channels, ...) and masks of that shape, or class indices: MONAI's options."""
    options = _dice_options(smooth_nr, smooth_dr, squared_pred, jaccard)
    return _regions("dice", options, input, target, reduction, weight, activation, batch, include_background)


def dice_ce_loss(
    input,
    target,
    *,
    lambda_dice=1.0,
    lambda_ce=1.0,
    label_smoothing=0.0,
    smooth_nr=1e-5,
    smooth_dr=1e-5,
    batch=False,
    include_background=True,
    squared_pred=False,
    jaccard=False,
    weight=None,
    reduction="mean",
    return_terms=False,
):
    """`lambda_dice` times Dice after a softmax and `lambda_ce` times cross-entropy, in one pass: MONAI's `DiceCELoss(softmax=True)`.

    `weight` has one number for each channel, and is both losses'. With `return_terms`, also the values of dice and cross_entropy by
    their names, without the factors.
    """
    dice, regions = _dice_options(smooth_nr, smooth_dr, squared_pred, jaccard), ("softmax", batch, include_background)
    other, factors = ("cross_entropy", {"label_smoothing": label_smoothing}), (lambda_dice, lambda_ce)
    return _dice_and(*other, input, target, factors, dice, regions, reduction, weight, return_terms)


def dice_focal_loss(
    input,
    target,
    *,
    lambda_dice=1.0,
    lambda_focal=1.0,
    gamma=2.0,
    alpha=None,
    activation="sigmoid",
    smooth_nr=1e-5,
    smooth_dr=1e-5,
    batch=False,
    include_background=True,
    squared_pred=False,
    jaccard=False,
    weight=None,
    reduction="mean",
    return_terms=False,
):
    """`lambda_dice` times Dice and `lambda_focal` times focal loss of the same logits, in one pass: MONAI's `DiceFocalLoss`.

    `activation` is sigmoid, with masks of the input's shape and `alpha`, or softmax, with class indices and `weight` for each channel.
    (MONAI's softmax focal loss also divides by the channels.) With `return_terms`, also the values of dice and sigmoid_focal or
    softmax_focal by their names, without the factors.
    """
    if activation not in ("sigmoid", "softmax"):
        raise ValueError(f"activation: expected sigmoid or softmax, got {activation!r}")
    if activation == "softmax" and alpha is not None:
        raise ValueError("alpha: expected None with a softmax, whose classes are weighed by weight")
    dice, regions = _dice_options(smooth_nr, smooth_dr, squared_pred, jaccard), (activation, batch, include_background)
    options = {"gamma": gamma} if activation == "softmax" else {"gamma": gamma, "alpha": -1.0 if alpha is None else alpha}
    other, factors = (f"{activation}_focal", options), (lambda_dice, lambda_focal)
    return _dice_and(*other, input, target, factors, dice, regions, reduction, weight, return_terms)


def tversky_loss(
    input,
    target,
    *,
    alpha=0.5,
    beta=0.5,
    focal=1.0,
    activation=None,
    smooth_nr=1.0,
    smooth_dr=1.0,
    batch=False,
    include_background=True,
    weight=None,
    reduction="mean",
):
    """Tversky loss: Dice with a price each for false positives (alpha) and false negatives (beta), to the power of `focal`."""
    options = {"alpha": alpha, "beta": beta, "focal": focal, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr}
    return _regions("tversky", options, input, target, reduction, weight, activation, batch, include_background)


DICE_WEIGHTS = {
    "square": lib.FL_DICE_WEIGHT_SQUARE,
    "simple": lib.FL_DICE_WEIGHT_SIMPLE,
    "uniform": lib.FL_DICE_WEIGHT_UNIFORM,
}


def generalized_dice_loss(
    input,
    target,
    *,
    activation=None,
    w_type="square",
    smooth_nr=1e-5,
    smooth_dr=1e-5,
    batch=False,
    include_background=True,
    reduction="mean",
):
    """Generalised Dice loss, one of all channels of a sample: MONAI's."""
    options = {"weight": _one_of("w_type", w_type, DICE_WEIGHTS), "smooth_nr": smooth_nr, "smooth_dr": smooth_dr}
    regions = (activation, batch, include_background)
    return _regions("generalized_dice", options, input, target, reduction, None, *regions, together=True)


def _lovasz(name, options, input, target, reduction, batch):
    index = name == "lovasz_softmax"
    if (getattr(target, "dtype", None) in INDICES) != index:
        expected = "class indices (samples, ...)" if index else "masks of the input's shape and type"
        raise TypeError(f"target: expected {expected}, got {getattr(target, 'dtype', type(target).__name__)}")
    input, target, common, dims = _region_tensors(input, target, None, batch, True)
    losses = (dims[1],) if batch else dims[:2]
    spec = Spec(name, options | {"batch": common["batch"]}, reduction, losses, dims=dims, batch=losses[0])
    return Loss.apply(spec, input, target)


def lovasz_hinge_loss(input, target, *, batch=False, reduction="mean"):
    """Lovasz hinge of logits (samples, channels, ...) and masks of that shape: the Jaccard index, made convex.

    A region is a channel of each sample, or with `batch` of all of them: Berman's `lovasz_hinge(per_image=not batch)`.
    """
    return _lovasz("lovasz_hinge", {}, input, target, reduction, batch)


def lovasz_softmax_loss(input, target, *, batch=True, all_classes=False, ignore_index=None, reduction="mean"):
    """Lovasz-Softmax of logits (samples, classes, ...) and class indices (samples, ...): the mean Jaccard index, made differentiable.

    Berman's `lovasz_softmax(softmax(input, 1), target, classes="present", per_image=not batch)`; with `all_classes`, `classes="all"`.
    """
    options = {"all_classes": int(all_classes)} | _ignore(ignore_index)
    return _lovasz("lovasz_softmax", options, input, target, reduction, batch)


MODES = {
    "non_saturating": lib.FL_GAN_NON_SATURATING,
    "minimax": lib.FL_GAN_MINIMAX,
    "least_squares": lib.FL_GAN_LEAST_SQUARES,
    "wasserstein": lib.FL_GAN_WASSERSTEIN,
    "hinge": lib.FL_GAN_HINGE,
    "probabilities": lib.FL_GAN_PROBABILITIES,
}
PLAYERS = {"real": lib.FL_GAN_REAL, "fake": lib.FL_GAN_FAKE, "generator": lib.FL_GAN_GENERATOR}


def _alone(name, options, input, reduction, losses, dims=None):
    """A loss without targets."""
    _dtype("input", _tensor("input", input).dtype)
    batch = input.shape[0] if input.dim() else 1
    return Loss.apply(Spec(name, options, reduction, losses, dims=dims, batch=batch), input.contiguous(), None)


def gan_loss(input, term, *, mode="non_saturating", real_label=1.0, reduction="mean"):
    """One term of a GAN loss of what the discriminator said of a batch: its terms "real" and "fake", or the "generator"'s."""
    options = {"mode": _one_of("mode", mode, MODES), "term": _one_of("term", term, PLAYERS), "real_label": real_label}
    return _alone("gan", options, input, reduction, input.shape)


def gradient_penalty(input_grad, *, kind="wgan_gp", weight=10.0, reduction="mean"):
    """Penalty of the discriminator's gradients, a sample each along axis 0: "wgan_gp" or "r1"."""
    options = {
        "kind": _one_of("kind", kind, {"wgan_gp": lib.FL_PENALTY_WGAN_GP, "r1": lib.FL_PENALTY_R1}),
        "weight": weight,
    }
    if _tensor("input_grad", input_grad).dim() < 2:
        raise ValueError(f"input_grad: expected (samples, ...), got shape {tuple(input_grad.shape)}")
    samples = input_grad.shape[0]
    dims = (samples, math.prod(input_grad.shape[1:]), 1)
    return _alone("gradient_penalty", options, input_grad, reduction, (samples,), dims)


def relativistic_pair_loss(high, low, *, reduction="mean"):
    """`softplus(low - high)`: the discriminator wants (real, fake), the generator (fake, real)."""
    return _elementwise("relativistic_pair", None, low, high, reduction)


def relativistic_average_loss(real, fake, *, generator=False):
    """Relativistic average GAN: the mean over both batches, of any sizes."""
    real, fake = _alike(same_shape=False, real=real, fake=fake)
    spec = Spec("relativistic_average", {"generator": int(generator)}, "mean", (), both=True)
    return Loss.apply(spec, real, fake)

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

from .autograd import DTYPES, INDICES, Loss, Spec
from .library import lib

__all__ = [
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_hinge_loss",
    "cross_entropy",
    "cross_entropy_probs",
    "dice_loss",
    "distillation_loss",
    "gan_loss",
    "gradient_penalty",
    "hinge_loss",
    "huber_loss",
    "kl_div",
    "kl_div_probs",
    "l1_loss",
    "mse_loss",
    "multi_margin_loss",
    "nll_loss",
    "relativistic_average_loss",
    "relativistic_pair_loss",
    "sigmoid_focal_loss",
    "smooth_l1_loss",
    "softmax_focal_loss",
    "squared_hinge_loss",
    "tversky_loss",
]


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


def _pair(input, target, same_shape=True):
    """Input and dense targets in one type, contiguous."""
    _tensor("input", input)
    _tensor("target", target, input)
    dtype = _dtype("input", input.dtype)
    _dtype("target", target.dtype)
    if same_shape and input.shape != target.shape:
        raise ValueError(f"target: expected shape {tuple(input.shape)}, got {tuple(target.shape)}")
    if target.dtype != dtype:
        dtype = torch.promote_types(dtype, target.dtype)
        input, target = input.to(dtype), target.to(dtype)
    return input.contiguous(), target.contiguous()


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


def _classes(name, options, input, target, reduction, weight=None, index_only=False):
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
    spec = Spec(name, options, reduction, rows, dims=dims, batch=batch, class_weight=weight)
    return Loss.apply(spec, input, target)


def _ignore(index):
    return {"ignore_index": -100 if index is None else index, "has_ignore_index": int(index is not None)}


def cross_entropy(
    input, target, weight=None, *, ignore_index=-100, reduction="mean", label_smoothing=0.0, z_loss=0.0, softcap=None
):
    """Cross-entropy of logits and class indices, or probabilities of the input's shape.

    `z_loss` adds `z_loss * logsumexp(input)^2`; `softcap` bends logits to `softcap * tanh(input / softcap)` first.
    """
    options = {"label_smoothing": label_smoothing, "z_loss": z_loss, "softcap": softcap or 0.0}
    if target.dtype not in INDICES and ignore_index is not None and ignore_index >= 0:
        raise ValueError("ignore_index: not with probabilities as targets")
    return _classes("cross_entropy", options | _ignore(ignore_index), input, target, reduction, weight)


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


ACTIVATIONS = {None: lib.FL_ACTIVATION_NONE, "sigmoid": lib.FL_ACTIVATION_SIGMOID, "softmax": lib.FL_ACTIVATION_SOFTMAX}


def _regions(name, options, input, target, reduction, weight, activation, batch, include_background):
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
    options |= {
        "activation": ACTIVATIONS[activation],
        "batch": int(batch),
        "include_background": int(include_background),
    }
    counted = channels if include_background else channels - 1
    weight = _weight("weight", weight, (counted,), input)
    losses = (counted,) if batch else (samples, counted)
    dims = (samples, channels, math.prod(input.shape[2:]))
    spec = Spec(name, options, reduction, losses, dims=dims, batch=losses[0], class_weight=weight)
    return Loss.apply(spec, input, target)


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
    options = {"smooth_nr": smooth_nr, "smooth_dr": smooth_dr, "squared_pred": int(squared_pred), "jaccard": int(jaccard)}
    return _regions("dice", options, input, target, reduction, weight, activation, batch, include_background)


def tversky_loss(
    input,
    target,
    *,
    alpha=0.5,
    beta=0.5,
    activation=None,
    smooth_nr=1.0,
    smooth_dr=1.0,
    batch=False,
    include_background=True,
    weight=None,
    reduction="mean",
):
    """Tversky loss: Dice with a price each for false positives (alpha) and false negatives (beta)."""
    options = {"alpha": alpha, "beta": beta, "smooth_nr": smooth_nr, "smooth_dr": smooth_dr}
    return _regions("tversky", options, input, target, reduction, weight, activation, batch, include_background)


MODES = {
    "non_saturating": lib.FL_GAN_NON_SATURATING,
    "minimax": lib.FL_GAN_MINIMAX,
    "least_squares": lib.FL_GAN_LEAST_SQUARES,
    "wasserstein": lib.FL_GAN_WASSERSTEIN,
    "hinge": lib.FL_GAN_HINGE,
    "probabilities": lib.FL_GAN_PROBABILITIES,
}
TERMS = {"real": lib.FL_GAN_REAL, "fake": lib.FL_GAN_FAKE, "generator": lib.FL_GAN_GENERATOR}


def _alone(name, options, input, reduction, losses, dims=None):
    """A loss without targets."""
    _dtype("input", _tensor("input", input).dtype)
    batch = input.shape[0] if input.dim() else 1
    return Loss.apply(Spec(name, options, reduction, losses, dims=dims, batch=batch), input.contiguous(), None)


def gan_loss(input, term, *, mode="non_saturating", real_label=1.0, reduction="mean"):
    """One term of a GAN loss of what the discriminator said of a batch: its terms "real" and "fake", or the "generator"'s."""
    options = {"mode": _one_of("mode", mode, MODES), "term": _one_of("term", term, TERMS), "real_label": real_label}
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
    real, fake = _pair(real, fake, same_shape=False)
    spec = Spec("relativistic_average", {"generator": int(generator)}, "mean", (), both=True)
    return Loss.apply(spec, real, fake)

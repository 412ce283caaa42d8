"""Losses of products of matrices, whose logits are never held."""

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.loss import ClipLoss

from harness import Draw, Options, add, exact, out
from rowwise import cross_entropy

GRAD_OUTPUT = 4.0  # that of every call in tests/head


def head(name, source, loss, reference, tensors, options, **rest):
    """Run `reference(*tensors)` and record it, with the gradient of every tensor; `rest` is recorded as it is."""
    tensors = {key: exact(x).requires_grad_() for key, x in tensors.items()}
    value = reference(*tensors.values())
    assert value.dtype == torch.float64, name
    value.backward(torch.tensor(GRAD_OUTPUT).to(value))
    record = {"name": name, "source": source, "loss": loss, "options": options, "reduction": "mean",
              "grad_output": GRAD_OUTPUT, **rest, "value": out(value)}
    for key, x in tensors.items():
        record |= {key: out(x.detach(), 17), f"grad_{key}": out(x.grad)}
    add(record)


def linear_cross_entropy(name, shape, *, bias=False, class_weight=None, **options):
    tokens, hidden, classes = shape
    d = Draw(name)
    target = d.labels(classes, tokens, ignore=-100)
    tensors = {"input": d.logits(tokens, hidden), "weight": d.logits(classes, hidden)}
    tensors |= {"bias": d.logits(classes)} if bias else {}
    o = Options(options, reduction="mean", class_axis=1, class_weight=None)
    rest = {"shape": shape, "target": target.tolist()}
    if class_weight is not None:
        o["class_weight"] = exact(class_weight)
        rest["class_weight"] = out(o["class_weight"], 17)
    reference = lambda *tensors: cross_entropy(F.linear(*tensors), torch.tensor(target), o)
    head(name, "torch.nn.functional.cross_entropy of linear", "linear_cross_entropy", reference, tensors, options,
         **rest)


def info_nce(name, shape, scale, *, normalised=False, **options):
    pairs, candidates, hidden = shape
    d = Draw(name)
    first, second = d.full(pairs, hidden), d.full(candidates, hidden)
    if normalised:
        first, second = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second))
    tensors = {"first": first, "second": second, "scale": scale}

    def one_way(first, second, scale):
        return F.cross_entropy(scale * first @ second.T, torch.arange(pairs), **options)

    both = pairs == candidates
    reference, source = (ClipLoss(), "open_clip.loss.ClipLoss") if both else (one_way, cross_entropy.source)
    assert not both or not options
    head(name, source, "info_nce", reference, tensors, options | {"both": both}, shape=shape)


def cases():
    linear_cross_entropy("linear_cross_entropy_plain", (5, 3, 4))
    linear_cross_entropy("linear_cross_entropy_everything", (6, 3, 5), bias=True, label_smoothing=0.125,
                         z_loss=0.015625, softcap=2.0, class_weight=Draw("head").weights(5))
    linear_cross_entropy("linear_cross_entropy_33_classes", (3, 2, 33), bias=True, label_smoothing=0.125)
    info_nce("info_nce_clip", (5, 5, 4), 14.0, normalised=True)
    info_nce("info_nce_not_normalised", (4, 4, 3), 0.75)
    info_nce("info_nce_negatives", (3, 7, 4), 2.0)
    info_nce("info_nce_negatives_smoothed", (3, 7, 4), 2.0, label_smoothing=0.125)

"""What every case shares: one record, its data and its reductions."""

import math
import zlib

import keras
import numpy as np
import torch
from keras.src.backend.common import dtypes as keras_dtypes

keras.config.set_floatx("float64")
# On every backend but TensorFlow, Keras turns float64 into float32 inside mean, maximum and others:
# the values then have seven digits under a float64 dtype.
keras_dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
assert keras.backend.result_type("float64", "float32") == "float64"
torch.use_deterministic_algorithms(True)

CASES = []


class Options(dict):
    """What a reference may look at: exactly the fields that the case records, as tensors."""

    __getattr__ = dict.__getitem__


def exact(values):
    """The float64 tensor of `values` rounded to float32: what a kernel can be handed."""
    return torch.tensor(np.asarray(values, np.float32).astype(np.float64))


def out(tensor, digits=13):
    """Flat list for JSON, or a number for a scalar."""

    def number(v):
        return float(f"{v:.{digits}g}") if math.isfinite(v) else str(v)

    return number(tensor.item()) if tensor.ndim == 0 else [number(v) for v in tensor.flatten().tolist()]


def source(name):
    def mark(reference):
        reference.source = name
        return reference

    return mark


def case(name, reference, loss, input, target=None, *, reduction="mean", grad_output=1.0, weight=None,
         class_weight=None, grad_target=False, third=None, grad_third=False, also=None, expect=None, expect_grad=None,
         **options):
    """Run `reference(input, target, options)` and record it; `also` gives more to record. `expect*` are known values to assert."""
    x = exact(input).requires_grad_()
    record = {"name": name, "source": reference.source, "loss": loss,
              "options": {k: str(v) if v in (math.inf, -math.inf) else v for k, v in options.items()},
              "reduction": reduction, "grad_output": grad_output, "input": out(x, 17), "shape": list(x.shape)}
    o = Options(options, reduction=reduction, weight=None, class_weight=None, pos_weight_per_class=None)
    t = None
    if target is not None and np.ndim(target) < x.ndim:  # no class axis: indices
        t = torch.tensor(np.asarray(target), dtype=torch.int64)
        record |= {"target": t.flatten().tolist(), "target_kind": "index", "target_shape": list(t.shape)}
    elif target is not None:
        t = exact(target).requires_grad_(grad_target)
        assert t.shape == x.shape, name
        record |= {"target": out(t, 17), "target_kind": "dense"}
    if third is not None:
        o["third"] = exact(third).requires_grad_(grad_third)
        record["third"] = out(o["third"].detach(), 17)
    for key, vector in (("weight", weight), ("class_weight", class_weight)):
        if vector is not None:
            o[key] = exact(vector)
            record[key] = out(o[key], 17)
    if "pos_weight_per_class" in options:
        o["pos_weight_per_class"] = exact(options["pos_weight_per_class"])
        record["options"]["pos_weight_per_class"] = out(o["pos_weight_per_class"], 17)

    value = reference(x, t, o)
    if isinstance(value, tuple):
        value, terms = value
        record["terms"] = [out(term) for term in terms]
    assert value.dtype == torch.float64, name
    upstream = torch.full_like(value, grad_output) if value.ndim == 0 else Draw(name).weights(value.shape)
    value.backward(torch.as_tensor(upstream, dtype=torch.float64))
    record |= {"grad_output": out(torch.as_tensor(upstream), 17), "value": out(value), "grad_input": out(x.grad)}
    if grad_target:
        assert t.grad.isfinite().all(), name
        record["grad_target"] = out(t.grad)
    if grad_third:
        record["grad_third"] = out(o["third"].grad)
    if also is not None:
        record |= {key: out(tensor) for key, tensor in also(x.detach(), t, o).items()}
    # The known values have nine digits and were taken before the inputs were rounded.
    for known, got in ((expect, value), (expect_grad, x.grad)):
        if known is not None:
            np.testing.assert_allclose(got.detach().numpy().ravel(), np.ravel(known), 2e-7, 1e-9, err_msg=name)
    add(record)


def with_terms(value, weights, terms):
    """A sum, and what each of its terms is without its weight."""
    torch.testing.assert_close(sum(w * term for w, term in zip(weights, terms, strict=True)), value)
    return value, terms


def add(record):
    assert all(record["name"] != other["name"] for other in CASES), record["name"]
    CASES.append(record)


class Draw:
    """Random data, seeded by a name, so that a new case of one loss leaves the data of the others."""

    def __init__(self, name):
        self.rng = np.random.default_rng(zlib.crc32(name.encode()))

    def grid(self, low, high, shape):
        """Multiples of 1/256: exact in float16 below 8."""
        return self.rng.integers(round(low * 256), round(high * 256), shape, endpoint=True) / 256

    def logits(self, *shape):
        return np.clip(np.round(self.rng.normal(0, 1.5, shape) * 256) / 256, -6, 6)

    def full(self, *shape, scale=1.5):
        """All 24 bits of a float32."""
        return np.float32(self.rng.normal(0, scale, shape))

    def probs(self, *shape):
        return self.grid(1 / 64, 1 - 1 / 64, shape)

    def weights(self, shape):
        return self.grid(0.25, 2, shape)

    def bits(self, *shape):
        return self.rng.integers(0, 2, shape).astype(float)

    def rows(self, *shape, axis=1):
        """Probabilities that sum to 1 along `axis` (up to the rounding to float32)."""
        e = np.exp(self.rng.normal(0, 1, shape))
        return np.float32(e / e.sum(axis, keepdims=True))

    def log_rows(self, *shape, axis=1):
        return np.log(self.rows(*shape, axis=axis))

    def labels(self, classes, *shape, ignore=None):
        """Class indices; with `ignore`, about a quarter of them (and the first) carry that value."""
        labels = self.rng.integers(0, classes, shape)
        if ignore is not None:
            labels[self.rng.random(shape) < 0.25] = ignore
            labels.flat[0] = ignore
        return labels


REDUCTIONS = ("mean", "sum", "none")
KERAS_REDUCTION = {"mean": "sum_over_batch_size", "batchmean": "sum_over_batch_size", "sum": "sum", "none": None}
INF, NAN = math.inf, math.nan

# Data that known values of several files share.
Z, W = [[1, 2, 3], [0, 0, 5], [-1, 4, 0.5]], [0.5, 1, 2]
Q = [[0.2, 0.3, 0.5], [0, 1, 0], [0.1, 0.1, 0.8]]


def reduce(loss, reduction, mean_over=None):
    """Mean over the elements, or over the given denominator."""
    if reduction == "mean":
        return loss.sum() / (loss.numel() if mean_over is None else mean_over)
    return loss.sum() if reduction == "sum" else loss

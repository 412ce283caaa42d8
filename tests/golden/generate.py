"""Golden values: every loss and its gradients from the framework that defines it.

    pip install numpy torch torchvision keras monai segmentation-models-pytorch open-clip-torch
    python tests/golden/generate.py            # rewrites golden.json beside this file

golden.json was made on a CPU with Python 3.11, torch 2.15.0, torchvision 0.29.2, keras 3.15.1 (torch
backend), monai 1.6.1, segmentation_models_pytorch 0.6.0, open_clip 3.3.0, numpy 2.4.6; its "versions" field
records what the last run really used.

How to read a case
- Everything is computed in float64 with autograd, but each input (targets, weights and upstream
  gradients too) is a float32. Random logits, weights and upstream gradients lie on a 1/256 grid that
  float16 holds as well; `_f32` in a name says that all 24 bits are used. Inputs are written in full,
  outputs are rounded to 13 digits.
- Scalar options (epsilon 1e-7, smooth 1e-5, label_smoothing 0.1) are the float64 of what is written.
- "inf", "-inf" and "nan" are strings, as JSON has no such numbers.
- `grad_output` is the upstream gradient, a list when the reduction is "none".
- `target_kind` "index": class indices of shape `target_shape`. "dense": shaped like the input.
- `weight` has one entry per element, `class_weight` one per class.
- An absent option is at its PyTorch default (alpha of sigmoid_focal is always given, -1 is off).
- `class_axis` says where the classes are; `value` of an unreduced case has that axis removed.
- cross_entropy, z_loss and softcap: z' = cap tanh(z/cap), loss = CE(z') + z_loss logsumexp(z')^2, the
  second term unweighted; the mean divides the sum of both by the denominator of the CE alone.
- softmax_focal: the mean divides by the number of rows that are not ignored, weights or not.
- tversky: alpha weighs false positives, beta false negatives; with `gamma`, each region's loss is raised to
  that power before it is reduced.
- lovasz_hinge, lovasz_softmax: a value for each channel of each sample, or with `batch`, which is
  per_image=False, of all samples; `all_classes` is classes="all".
- combined, combined_regions: `weights` are those of the two losses that the options name. No alpha is None.
- terms: what each term of a reduced sum is without its weight; of combined_rows cross-entropy, z-loss, distillation.
- log_prob, entropy, lse, argmax, hit: what is reported of each row; of one that is ignored 0, and the class -1.
- task_uncertainty: `third` is the logarithm of the variance.
- linear_cross_entropy, info_nce (read by tests/head): a gradient for each tensor; `shape` is tokens, hidden,
  classes, or pairs, candidates, hidden; `both` is for both ways.
- gan: `value` is the sum of the terms of the named part, each term a mean. Nothing is detached.
"""

import json
import math
import os
import platform
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # no __pycache__ in a Rust tree
os.environ["KERAS_BACKEND"] = "torch"  # one autograd for all sources; must precede the imports
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ["ATEN_CPU_CAPABILITY"] = "avx2"  # torch's vectors, whose length is in the last of 13 digits

import keras
import monai
import numpy as np
import open_clip
import segmentation_models_pytorch
import torch
import torchvision

import adversarial
import beyond
import elementwise
import head
import region
import rowwise
from harness import CASES, Z

SOURCES = (torch, torchvision, keras, monai, segmentation_models_pytorch, open_clip, np)


def check_identities():
    """What must hold between cases, so that a slip in this script cannot pass as a golden value."""
    by_name = {c["name"]: c for c in CASES}

    def same(a, b, factor=1.0, keys=("value", "grad_input")):
        for key in keys:
            got, want = np.multiply(by_name[a][key], factor), by_name[b][key]
            np.testing.assert_allclose(got, want, 1e-6, 1e-9, err_msg=f"{a} {b} {key}")

    # KL on log_softmax and CE differ by the entropy of the target: through log_softmax, one gradient.
    kl = np.reshape(by_name["kl_div_known"]["grad_input"], (3, 3))
    kl = kl - np.exp(Z) / np.exp(Z).sum(1, keepdims=True) * kl.sum(1, keepdims=True)
    np.testing.assert_allclose(kl.ravel(), by_name["cross_entropy_dense_known"]["grad_input"], 1e-6, 1e-7)
    same("cross_entropy_one_hot_is_index", "cross_entropy_scaled_65536", keys=("value",))
    same("huber_known", "smooth_l1_known", 2.0)  # Huber(d) = d SmoothL1(d)
    same("cross_entropy_shifted", "cross_entropy_known")
    assert by_name["cross_entropy_known"]["grad_input"][6:] == [0, 0, 0]
    for part in ("discriminator", "generator"):  # moving real and fake together changes nothing
        pair = by_name[f"gan_relativistic_average_{part}"]
        np.testing.assert_allclose(sum(pair["grad_real"]), -sum(pair["grad_fake"]), 1e-9)
    # gamma = .5, x = 20: the gradient that 1 - sigmoid(x) in float32 loses
    saturated = by_name["sigmoid_focal_saturated_gamma_0_5"]
    assert math.isclose(saturated["value"][3], 9.3576e-14, rel_tol=1e-4)
    for c in CASES:
        if c["loss"] == "cross_entropy" and not c["options"].keys() & {"z_loss", "softcap"}:
            grad = np.nan_to_num(np.array(c["grad_input"], float)).reshape(c["shape"])
            row_sums = grad.sum(c["options"]["class_axis"]) / np.max(c["grad_output"])
            np.testing.assert_allclose(row_sums, 0, atol=1e-7, err_msg=c["name"])  # dense rows sum to 1 + 1e-7


def main():
    elementwise.cases()
    rowwise.cases()
    region.cases()
    adversarial.cases()
    beyond.cases()
    head.cases()
    check_identities()
    versions = {"python": platform.python_version(), "keras_backend": keras.backend.backend()}
    versions |= {m.__name__: m.__version__ for m in SOURCES}
    lines = ",\n".join(json.dumps(c, separators=(",", ":"), allow_nan=False) for c in CASES)
    text = f'{{"versions":{json.dumps(versions)},\n"cases":[\n{lines}\n]}}\n'
    Path(__file__).with_name("golden.json").write_text(text)
    print(f"{len(CASES)} cases, {len(text) / 1000:.0f} kB")


if __name__ == "__main__":
    main()

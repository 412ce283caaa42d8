"""The terms of GAN losses, and gradient penalties."""

import numpy as np
import torch
import torch.nn.functional as F

from harness import Draw, add, case, exact, out, source

REAL, FAKE = [1.2, -0.3, 0.8], [-0.5, 0.4, -1.1]


def softplus(x):
    return -F.logsigmoid(-x)  # F.softplus is a straight line beyond 20


def gan_terms(mode, part, r, f, real_label):
    """The terms of one side; each is averaged on its own."""
    discriminator = part == "discriminator"
    if mode in ("non_saturating", "minimax"):
        if discriminator:
            return [F.binary_cross_entropy_with_logits(r, torch.full_like(r, real_label)), softplus(f)]
        return [softplus(-f) if mode == "non_saturating" else -softplus(f)]
    if mode == "bce_probs":
        if discriminator:
            return [F.binary_cross_entropy(r, torch.full_like(r, real_label)),
                    F.binary_cross_entropy(f, torch.zeros_like(f))]
        return [F.binary_cross_entropy(f, torch.ones_like(f))]
    if mode == "least_squares":
        return [(r - real_label) ** 2, f**2] if discriminator else [(f - 1) ** 2]
    if mode == "wasserstein":
        return [-r, f] if discriminator else [-f]
    if mode == "hinge":
        return [F.relu(1 - r), F.relu(1 + f)] if discriminator else [-f]
    if mode == "relativistic_average":
        up, down = (r, f) if discriminator else (f, r)
        return [0.5 * softplus(-(up - down.mean())), 0.5 * softplus(down - up.mean())]
    assert mode == "relativistic_pairing"
    return [softplus(f - r) if discriminator else softplus(r - f)]


GAN_SOURCE = {"bce_probs": "torch.nn.functional.binary_cross_entropy", "least_squares": "torch.square",
              "wasserstein": "torch.mean", "hinge": "torch.nn.functional.relu"}


def gan(name, mode, part, real, fake, *, real_label=1.0, grad_output=1.0, expect=None):
    r, f = exact(real).requires_grad_(), exact(fake).requires_grad_()
    value = sum(term.mean() for term in gan_terms(mode, part, r, f, real_label))
    value.backward(torch.tensor(grad_output).to(value))
    if expect is not None:
        np.testing.assert_allclose(value.item(), expect, 2e-7, 1e-9, err_msg=name)
    options = {"mode": mode, "part": part} | ({"real_label": real_label} if real_label != 1.0 else {})
    record = {"name": name, "source": GAN_SOURCE.get(mode, "torch.nn.functional.logsigmoid"), "loss": "gan",
              "options": options, "reduction": "mean", "grad_output": grad_output, "real": out(r, 17),
              "fake": out(f, 17), "value": out(value)}
    if r.grad is not None:
        record["grad_real"] = out(r.grad)
    add(record | {"grad_fake": out(f.grad)})


@source("torch.linalg.vector_norm")
def gradient_penalty(x, _, o):
    if o.kind == "r1":
        return o.gamma / 2 * x.square().sum(1).mean()
    return o["lambda"] * (torch.linalg.vector_norm(x, dim=1) - 1).square().mean()


def cases():
    known = {"non_saturating": (1.054388646, 0.958142521), "minimax": (1.054388646, -0.558142521),
             "least_squares": (1.13, 2.34), "wasserstein": (-0.966666667, 0.4), "hinge": (1.133333333, 0.4),
             "relativistic_average": (0.362272429, 1.328939096), "relativistic_pairing": (0.470119612, None)}
    parts = ("discriminator", "generator")
    for mode, expected in known.items():
        d = Draw(mode)
        for part, expect in zip(parts, expected, strict=True):
            gan(f"gan_{mode}_{part}_known", mode, part, REAL, FAKE, expect=expect)
            fakes = 11 if mode == "relativistic_pairing" else 7
            gan(f"gan_{mode}_{part}", mode, part, d.full(11), d.full(fakes), grad_output=0.25)
    d = Draw("gan")
    for part in parts:
        gan(f"gan_bce_probs_{part}", "bce_probs", part, d.probs(11), d.probs(7))
    for mode in ("non_saturating", "minimax", "least_squares", "bce_probs"):
        draw = d.probs if mode == "bce_probs" else d.logits
        gan(f"gan_{mode}_discriminator_real_label", mode, "discriminator", draw(5), draw(6), real_label=0.875)
    gan("gan_non_saturating_generator_scaled_65536", "non_saturating", "generator", d.logits(4), d.logits(5),
        grad_output=65536.0)
    # Far from the boundary: one gradient saturates, the other does not.
    for mode in ("non_saturating", "minimax"):
        gan(f"gan_{mode}_generator_far", mode, "generator", [0], [-10, -30, 10])

    d, f, loss = Draw("gradient_penalty"), gradient_penalty, "gradient_penalty"
    case("gradient_penalty_wgan_gp", f, loss, d.logits(3, 5), kind="wgan_gp", **{"lambda": 10.0})
    case("gradient_penalty_wgan_gp_f32", f, loss, d.full(2, 37, scale=0.2), kind="wgan_gp", grad_output=0.25,
         **{"lambda": 0.5})
    case("gradient_penalty_wgan_gp_zero_row", f, loss, [[0, 0, 0], [1, -2, 2]], kind="wgan_gp", **{"lambda": 10.0},
         expect=25)
    case("gradient_penalty_r1", f, loss, d.logits(3, 5), kind="r1", gamma=10.0)
    case("gradient_penalty_r1_f32", f, loss, d.full(2, 37, scale=0.2), kind="r1", gamma=0.5, grad_output=65536.0)
    case("gradient_penalty_r1_zero_row", f, loss, [[0, 0, 0], [1, -2, 2]], kind="r1", gamma=2.0, expect=4.5)

"""The same small network, from the same weights and on the same batches, trained with PyTorch's losses and with ours: the curves are one.

Real data: 8x8 images of digits. In float32, and with the network's outputs in float16 and bfloat16 under a loss scale, where PyTorch
computes its loss from the same rounded outputs in float32, as torch.autocast has it."""

import os
import pathlib
import unittest

import torch
import torch.nn.functional as P

import fused_loss.functional as F

DEVICE = torch.device(os.environ.get("FUSED_LOSS_TEST_DEVICE", "cpu"))
torch.set_default_device(DEVICE)
DIGITS = pathlib.Path(__file__).resolve().parents[2] / "examples/data/digits.csv"
STEPS, BATCH, SCALE = 120, 64, 1024.0
# How far apart the curves may be, in units of where they begin. Measured on a CPU: 3e-7 in float32 (roundings of the values; the
# weights stay the same), 3e-4 in float16 and 2e-3 in bfloat16, where each gradient is rounded once by both, but from numbers that
# differ in their last bits, so that a few of them are rounded to the other side.
APART = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


def digits():
    rows = torch.tensor([[float(x) for x in line.split(",")] for line in DIGITS.read_text().splitlines()])
    return rows[:, :64] / 16, rows[:, 64].long()


IMAGES, CLASSES = digits()
NOISE = torch.randn(IMAGES.shape, generator=torch.Generator("cpu").manual_seed(1), device="cpu").to(DEVICE)
NOISY, MASKS = IMAGES + 0.5 * NOISE, (IMAGES > 7 / 16).float()
ODD = (CLASSES % 2).float()[:, None]
TEACHER = (2 * P.one_hot(CLASSES, 10) + 0.3 * IMAGES[:, 20:30]).softmax(1)


def dice(x, t):
    p = torch.sigmoid(x)
    return (1 - (2 * (p * t).sum(2) + 1) / (p.sum(2) + t.sum(2) + 1)).mean()


def focal(x, t):
    p = torch.sigmoid(x)
    hit = p * t + (1 - p) * (1 - t)
    return ((0.25 * t + 0.75 * (1 - t)) * P.binary_cross_entropy_with_logits(x, t, reduction="none") * (1 - hit) ** 2).mean()


# Of each: how many outputs, what they should be, our loss and PyTorch's. Inputs are the images; with a mask they are noisy.
LOSSES = {
    "MSE": (64, MASKS, F.mse_loss, P.mse_loss),
    "MAE": (64, MASKS, F.l1_loss, P.l1_loss),
    "Huber": (64, MASKS, lambda x, t: F.huber_loss(x, t, delta=0.3), lambda x, t: P.huber_loss(x, t, delta=0.3)),
    "BCE": (1, ODD, F.binary_cross_entropy_with_logits, P.binary_cross_entropy_with_logits),
    "cross-entropy": (10, CLASSES, F.cross_entropy, P.cross_entropy),
    "hinge": (1, 2 * ODD - 1, F.hinge_loss, lambda x, t: (1 - x * t).clamp(min=0).mean()),
    "Dice": (
        64,
        MASKS[:, None],
        lambda x, t: F.dice_loss(x[:, None], t, activation="sigmoid"),
        lambda x, t: dice(x[:, None], t),
    ),
    "KL": (
        10,
        TEACHER,
        lambda x, t: F.kl_div(x.log_softmax(1), t, reduction="batchmean"),
        lambda x, t: P.kl_div(x.log_softmax(1), t, reduction="batchmean"),
    ),
    "focal": (64, MASKS, lambda x, t: F.sigmoid_focal_loss(x, t, reduction="mean"), focal),
}


def network(inputs, outputs, seed):
    generator = torch.Generator("cpu").manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(inputs, 32), torch.nn.Tanh(), torch.nn.Linear(32, outputs))
    with torch.no_grad():
        for parameter in net.parameters():
            fan = parameter.shape[-1]
            parameter.copy_(torch.randn(parameter.shape, generator=generator, device="cpu") / fan**0.5)
    return net


def narrow(x, dtype, ours):
    """Outputs of this type; PyTorch's loss gets the same numbers as float32."""
    x = x.to(dtype)
    return x if ours or dtype == torch.float32 else x.float()


def step(loss, optimizer, dtype):
    """A step down the gradient of the loss, by way of a loss scale where gradients are narrow."""
    scale = 1.0 if dtype == torch.float32 else SCALE
    optimizer.zero_grad()
    (loss * scale).backward()
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad /= scale
    optimizer.step()
    return loss.item()


def train(name, dtype, ours):
    outputs, targets, our_loss, their_loss = LOSSES[name]
    inputs = NOISY if outputs == 64 else IMAGES
    net = network(64, outputs, seed=2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    curve = []
    for i in range(STEPS):
        batch = torch.arange(i * BATCH, (i + 1) * BATCH) % len(inputs)
        x, t = narrow(net(inputs[batch]), dtype, ours), targets[batch]
        t = narrow(t, dtype, ours) if t.is_floating_point() else t
        curve.append(step((our_loss if ours else their_loss)(x, t), optimizer, dtype))
    return curve


def train_gan(dtype, ours):
    """Images of digits, and a generator that wants to be taken for them."""
    generator, discriminator = network(16, 64, seed=3), network(64, 1, seed=4)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.5) for net in (generator, discriminator)]
    noise = torch.randn(STEPS, BATCH, 16, generator=torch.Generator("cpu").manual_seed(5), device="cpu").to(DEVICE)

    def term(x, name):
        x = narrow(x, dtype, ours)
        if ours:
            return F.gan_loss(x, name)
        return P.binary_cross_entropy_with_logits(x, torch.full_like(x, float(name != "fake")))

    curve = []
    for i in range(STEPS):
        real = IMAGES[torch.arange(i * BATCH, (i + 1) * BATCH) % len(IMAGES)]
        fake = torch.sigmoid(generator(noise[i]))
        seen = term(discriminator(real), "real") + term(discriminator(fake.detach()), "fake")
        curve.append(step(seen, optimizers[1], dtype))
        curve.append(step(term(discriminator(fake), "generator"), optimizers[0], dtype))
    return curve


class Training(unittest.TestCase):
    def test_curves_are_those_of_pytorch(self):
        for name in [*LOSSES, "GAN"]:
            for dtype, apart in APART.items():
                with self.subTest(loss=name, dtype=dtype):
                    run = (lambda ours: train_gan(dtype, ours)) if name == "GAN" else (lambda ours: train(name, dtype, ours))
                    ours, theirs = torch.tensor(run(True)), torch.tensor(run(False))
                    gap = ((ours - theirs).abs().max() / theirs[:4].abs().max()).item()
                    print(f"{name:13} {dtype}: from {theirs[0]:.4f} to {theirs[-4:].mean():.4f}, {gap:.1e} apart at most")
                    self.assertLess(gap, apart)
                    # It has learnt; a GAN's losses need not fall.
                    if name != "GAN":
                        self.assertLess(ours[-8:].mean(), 0.9 * ours[:8].mean())


if __name__ == "__main__":
    unittest.main()

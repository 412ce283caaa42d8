"""PyTorch as a contender: `peer_torch.py eager|compile cpu|cuda`.

`torch.autograd.grad` is asked for the input's gradient alone. That writes a new tensor; keeping `x.grad` and zeroing it
is slower, as PyTorch then makes the new tensor all the same and adds it. torch.compile compiles the loss; its backward
is a graph of its own, as in a training step where a model comes before the loss.
"""

import sys
import warnings

import cases
import server

# Bytes that are written between turns on a GPU, so that no contender finds its inputs in the L2 cache.
FLUSH = 1 << 28
# Cycles that the GPU then waits, about ten milliseconds, so that the host has enqueued a call before it begins: PyTorch takes one to do
# so, which is longer than many a call runs. (Not yet run: the record of 2026-11-26 was made without.)
AHEAD = 20_000_000


def losses():
    import torch
    import torch.nn.functional as F

    def focal(x, t):
        """As torchvision writes it."""
        p = torch.sigmoid(x)
        ce = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        p_t = p * t + (1 - p) * (1 - t)
        loss = ce * (1 - p_t) ** 2
        return ((0.25 * t + 0.75 * (1 - t)) * loss).mean()

    def dice(x, t):
        """As MONAI's DiceLoss(sigmoid=True, smooth_nr=1, smooth_dr=1) does it, but for sums in f32: a region of 2^20
        elements overflows f16."""
        p = torch.sigmoid(x)
        overlap, p, t = (torch.sum(x, dim=-1, dtype=torch.float32) for x in (t * p, p, t))
        total = t + p
        return (1.0 - (2.0 * overlap + 1.0) / (total + 1.0)).mean()

    return {
        "mse": F.mse_loss,
        "mae": F.l1_loss,
        "huber[delta=1]": F.huber_loss,
        "hinge[signed]": lambda x, t: torch.clamp(1 - t * x, min=0).mean(),
        "bce": F.binary_cross_entropy,
        "bce_with_logits": F.binary_cross_entropy_with_logits,
        "sigmoid_focal[gamma=2": focal,
        "kl_div": F.kl_div,
        "gan[NonSaturating+generator]": lambda x, t: F.softplus(-x).mean(),
        "dice[sigmoid]": dice,
        "cross_entropy": F.cross_entropy,
    }


class TorchProblem(server.Problem):
    """Also the base of the contenders that are PyTorch extensions: they replace `call`, and may replace `value_of`."""

    def __init__(self, value_of, device, loss, dtype, shape, given):
        import torch

        self.torch, self.value_of, self.device = torch, value_of, device
        kind = {"f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}[dtype]
        input_kind, target_kind, _ = cases.LOSSES[loss]
        if given:
            index = target_kind == "class"
            x = torch.tensor(given[0]).reshape(shape)
            t = torch.tensor(given[1]) if index else torch.tensor(given[1]).reshape(shape)
            x, t = x.to(device, kind), t.to(device) if index else t.to(device, kind)
        else:
            generator = torch.Generator(device).manual_seed(7)
            x, t = (draw(which, shape, kind, generator) for which in (input_kind, target_kind))
        self.x, self.t = x.requires_grad_(), t
        self.half = torch.tensor(0.5, device=device, dtype=kind)
        self.new_grad_bytes = x.nbytes
        if device == "cuda":
            self.flush = torch.empty(FLUSH, dtype=torch.uint8, device=device)

    def call(self):
        self.value = self.value_of(self.x, self.t)
        # The type of the value is the library's choice.
        half = self.half if self.value.dtype == self.half.dtype else self.half.to(self.value.dtype)
        (self.grad,) = self.torch.autograd.grad(self.value, self.x, grad_outputs=half)

    def turn(self):
        if self.device == "cpu":
            return super().turn()
        # Events on the stream, as the GPU sees it; the flush also gives the host time to run ahead.
        cuda = self.torch.cuda
        self.prepare()
        start, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        self.flush.zero_()
        cuda._sleep(AHEAD)
        start.record()
        self.call()
        end.record()
        cuda.synchronize()
        return round(start.elapsed_time(end) * 1e6)

    def results(self):
        return self.value.item(), self.grad.float().flatten().tolist()

    def peak_bytes(self):
        if self.device == "cpu":
            return super().peak_bytes()
        cuda = self.torch.cuda
        self.prepare()
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        self.call()
        cuda.synchronize()
        return max(0, cuda.max_memory_allocated() - before - self.new_grad_bytes)


def draw(which, shape, kind, generator):
    """Random numbers of a kind that `cases.py` lists."""
    import torch

    device = generator.device
    if which == "nothing":
        return None
    if which == "class":
        return torch.randint(shape[1], shape[:1], generator=generator, device=device)
    if which in ("hard", "signed"):
        bits = torch.randint(2, shape, generator=generator, device=device, dtype=torch.int8)
        return (bits if which == "hard" else 2 * bits - 1).to(kind)
    low, high = {"logit": (-8.0, 8.0), "probability": (0.02, 0.98), "log_probability": (-8.0, -0.02)}[which]
    return torch.empty(shape, device=device).uniform_(low, high, generator=generator).to(kind)


def hello(program, device, version=None):
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("PyTorch finds no CUDA device")
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    threads = torch.get_num_threads()
    return {"program": program, "version": version or torch.__version__, "device": name, "threads": threads}


def main(mode, device):
    warnings.filterwarnings("ignore")  # kl_div says every time that `mean` is not the divergence
    table = {}

    def problem(loss, dtype, shape, given):
        import torch

        table.update(table or losses())
        value_of = table[loss]
        if mode == "compile":
            torch._dynamo.reset()  # each problem is the first: no recompilation for dynamic shapes
            value_of = torch.compile(value_of, dynamic=False)
        return TorchProblem(value_of, device, loss, dtype, shape, given)

    program = "torch eager" if mode == "eager" else "torch.compile"
    server.serve(lambda: hello(program, device), problem)


if __name__ == "__main__":
    main(*sys.argv[1:3])

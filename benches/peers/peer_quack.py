"""quack as a contender, on a GPU: `peer_quack.py dx|autograd`, its cross-entropy.

`dx` is its one-pass kernel, which gives the losses of rows and their gradients at once, into buffers that are kept
here. It has neither mean nor upstream scale, so the gradient that is timed is not divided by the rows and not halved:
less than what the others do, and the best that quack has. (The check scales it afterwards, untimed.) `autograd` is the
function that users call, the same computation as the others', in two kernels and the mean.
Not yet run on a GPU.
"""

import importlib.metadata
import sys

import peer_torch
import server


class OnePass(peer_torch.TorchProblem):
    def __init__(self, loss, dtype, shape, given):
        only_cross_entropy(loss)
        super().__init__(None, "cuda", loss, dtype, shape, given)
        self.x = self.x.detach()
        self.rows = self.torch.empty(shape[0], dtype=self.torch.float32, device="cuda")
        self.buffer = self.torch.empty_like(self.x)
        self.new_grad_bytes = 0

    def call(self):
        from quack.cross_entropy import cross_entropy_fwd_out

        # x, target, target_logit, loss, lse, dx, weight
        cross_entropy_fwd_out(self.x, self.t, None, self.rows, None, self.buffer, None)

    def results(self):
        grad = self.buffer.float() * (0.5 / self.rows.numel())
        return self.rows.mean().item(), grad.flatten().tolist()


def autograd(loss, dtype, shape, given):
    from quack.cross_entropy import cross_entropy

    only_cross_entropy(loss)
    value_of = lambda x, t: cross_entropy(x, t, reduction="mean")
    return peer_torch.TorchProblem(value_of, "cuda", loss, dtype, shape, given)


def only_cross_entropy(loss):
    if loss != "cross_entropy":
        raise NotImplementedError("quack has no such loss")


def hello(mode):
    import quack.cross_entropy  # so that its absence is said at once

    program = "quack return_dx" if mode == "dx" else "quack autograd"
    return peer_torch.hello(program, "cuda", importlib.metadata.version("quack-kernels"))


if __name__ == "__main__":
    mode = sys.argv[1]
    server.serve(lambda: hello(mode), OnePass if mode == "dx" else autograd)

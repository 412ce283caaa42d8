"""Liger-Kernel as a contender, on a GPU: cross-entropy and KL divergence, the two of these losses that it has.

Its cross-entropy writes the gradient over the logits: they are put back before every turn, untimed. It scales that
gradient by an upstream gradient other than 1 in another pass, which is what a training step with a loss scale pays.
Not yet run on a GPU. In Triton's interpreter on a CPU the cross-entropy passes the check; the KL divergence does not
run there (the interpreter gives its kernel `eps` as a plain number): that call is only read from the source.
"""

import importlib.metadata

import peer_torch
import server


class LigerProblem(peer_torch.TorchProblem):
    def __init__(self, loss, dtype, shape, given):
        super().__init__(value_of(loss), "cuda", loss, dtype, shape, given)
        if loss == "cross_entropy":
            self.logits = self.x.detach().clone()
            self.new_grad_bytes = 0

    def prepare(self):
        super().prepare()
        if hasattr(self, "logits"):
            self.x.data.copy_(self.logits)


def value_of(loss):
    if loss == "cross_entropy":
        from liger_kernel.transformers.functional import liger_cross_entropy

        return liger_cross_entropy
    if loss == "kl_div":
        from liger_kernel.transformers.kl_div import LigerKLDIVLoss

        kl_div = LigerKLDIVLoss(reduction="mean")
        # It takes rows; their length is of no consequence for the mean.
        return lambda x, t: kl_div(x.view(-1, 4096), t.view(-1, 4096))
    raise NotImplementedError("Liger-Kernel has no such loss")


def hello():
    import liger_kernel.ops  # so that its absence is said at once

    return peer_torch.hello("Liger-Kernel", "cuda", importlib.metadata.version("liger-kernel"))


if __name__ == "__main__":
    server.serve(hello, LigerProblem)

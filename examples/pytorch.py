"""The README's quick start for PyTorch."""

import torch

import fused_loss.functional as F  # in place of: import torch.nn.functional as F

logits = torch.randn(4, 10, requires_grad=True)
loss = F.cross_entropy(logits, torch.tensor([1, 0, 4, 9]), label_smoothing=0.1)
loss.backward()
print(loss.item(), logits.grad.shape)

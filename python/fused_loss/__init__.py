"""Deep-learning losses whose value and gradient are computed in one pass, for PyTorch.

    import fused_loss.functional as F

has the names and defaults of torch.nn.functional, on CPU and CUDA tensors in float32, float16 and bfloat16.
"""

from . import functional
from .library import FusedLossError, check

__all__ = ["FusedLossError", "check", "functional"]

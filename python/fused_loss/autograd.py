"""One torch.autograd.Function for all losses."""

import struct

import torch
from torch.autograd.function import once_differentiable

from .library import ffi, handles, lib, raise_for

DTYPES = {torch.float32: lib.FL_F32, torch.float16: lib.FL_F16, torch.bfloat16: lib.FL_BF16}
INDICES = {torch.int64: lib.FL_TARGET_I64, torch.int32: lib.FL_TARGET_I32, torch.uint8: lib.FL_TARGET_U8}
REDUCTIONS = {
    "none": lib.FL_NONE,
    "mean": lib.FL_MEAN,
    "sum": lib.FL_SUM,
    "batchmean": lib.FL_BATCH_MEAN,
    "weighted_mean": lib.FL_WEIGHTED_MEAN,
}
# The losses that can be terms of a sum.
TERMS = ffi.typeof("fl_term_loss").elements.items()
TERMS = {name.removeprefix("FL_TERM_").lower(): number for number, name in sorted(TERMS)}
# A buffer of a call is a pointer and a length. Packed, they are written in a fifth of the time that cffi's fields take: a call
# of 2^20 elements takes 300 us, and all that Python does for it counts.
BUFFER = struct.Struct("@PN")
OFFSETS = {name: ffi.offsetof("fl_call", name) for name, field in ffi.typeof("fl_call").fields if field.type.kind == "struct"}


class Spec:
    """A call without its tensors: the loss, its options, and how it is reduced. Weights have no gradient, so they are here."""

    __slots__ = ("batch", "beside", "between", "both", "dims", "kept", "losses", "reduction", "run", "weights")

    def __init__(self, name, options, reduction, losses, dims=None, batch=0, both=False, beside=None, **weights):
        self.run = getattr(lib, f"fl_{name}")
        # What a function takes between the handle and the call. Those that have no options do not take null either.
        if name == "sum":
            # A weight, a loss and its options for each term.
            self.kept = [new_options(loss, options) for _, loss, options in options]
            terms_of = [(TERMS[loss], weight, kept) for (weight, loss, _), kept in zip(options, self.kept)]
            self.between = (ffi.new("fl_term[]", terms_of), len(terms_of))
        else:
            self.between = () if options is None else (new_options(name, options),)
        # Where what is computed beside the value goes, by the names of the call's fields.
        self.beside = beside or {}
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction: expected one of {', '.join(REDUCTIONS)}, got {reduction!r}")
        self.reduction = REDUCTIONS[reduction]
        # The shape of the losses, and where the classes are.
        self.losses, self.dims, self.batch = losses, dims, batch
        # Whether gradients are to be had for both tensors or neither.
        self.both = both
        self.weights = {name: weight for name, weight in weights.items() if weight is not None}

    def __call__(self, input, target, third, value=None, grads=(None, None, None), upstream=None):
        call = ffi.new("fl_call*")
        lib.fl_call_init(call)
        call.dtype, call.reduction, call.batch = DTYPES[input.dtype], self.reduction, self.batch
        if self.dims is not None:
            call.outer, call.classes, call.inner = self.dims
        memory = ffi.buffer(call)
        fill(memory, "input", input)
        if target is None:
            call.target_kind = lib.FL_TARGET_NONE
        else:
            fill(memory, "target", target)
            call.target_kind = INDICES.get(target.dtype, lib.FL_TARGET_DENSE)
        if third is not None:
            fill(memory, "third", third)
        for name, weight in self.weights.items():
            fill(memory, name, weight)
        if value is not None:
            fill(memory, "value", value)
        for name, grad in zip(("grad_input", "grad_target", "grad_third"), grads):
            if grad is not None:
                fill(memory, name, grad)
        if upstream is not None and self.reduction == lib.FL_NONE:
            fill(memory, "grad_outputs", upstream)
        elif upstream is not None:
            call.grad_output_at = ffi.cast("float*", upstream.data_ptr())
        if value is not None:
            for name, tensor in self.beside.items():
                fill(memory, name, tensor)
        raise_for(self.run(handles.of(input.device), *self.between, call))


def new_options(name, options):
    """The options of a loss; null, which is the defaults, without any."""
    if not options:
        return ffi.NULL
    new = ffi.new(f"fl_{name}_options*")
    getattr(lib, f"fl_{name}_options_init")(new)
    for key, value in options.items():
        setattr(new, key, value)
    return new


def fill(memory, name, tensor):
    BUFFER.pack_into(memory, OFFSETS[name], tensor.data_ptr(), tensor.numel())


class Loss(torch.autograd.Function):
    """Value and gradient in one pass. The gradient waits for the backward call, which multiplies it by the upstream gradient.

    It is computed there instead, with the upstream gradient in it, where that is as fast or more exact: unreduced; in float16, whose
    gradients of a mean underflow before a loss scale arrives; in bfloat16 on a GPU; and when backward is called once more.
    """

    @staticmethod
    def forward(ctx, spec, input, target, third=None):
        value = torch.empty(spec.losses if spec.reduction == lib.FL_NONE else (), dtype=torch.float32, device=input.device)
        ctx.spec, ctx.grads = spec, None
        needed = ctx.needs_input_grad[1:]
        if any(needed):
            ctx.save_for_backward(input, target, third)
        at_once = input.dtype == torch.float32 or (input.dtype == torch.bfloat16 and not input.is_cuda)
        if any(needed) and at_once and spec.reduction != lib.FL_NONE:
            ctx.grads = new_grads(spec, needed, input, target, third)
            spec(input, target, third, value, ctx.grads)
        else:
            spec(input, target, third, value)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx, upstream):
        tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[1:]
        grads, ctx.grads = ctx.grads, None
        if grads is None:
            grads = new_grads(ctx.spec, needed, *tensors)
            ctx.spec(*tensors, None, grads, upstream.contiguous())
        elif upstream.is_cuda:
            for grad in grads:
                grad is None or grad.mul_(upstream)
        elif (factor := upstream.item()) != 1.0:
            for grad in grads:
                grad is None or grad.mul_(factor)
        return None, *(grad if need else None for grad, need in zip(grads, needed))


def new_grads(spec, needed, input, *others):
    """Where the gradients go; no loss has one without that for its input."""
    wanted = zip(others, needed[1:])
    return torch.empty_like(input), *(torch.empty_like(x) if x is not None and (need or spec.both) else None for x, need in wanted)

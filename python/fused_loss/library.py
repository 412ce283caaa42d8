"""The C library, and its handles."""

import os
import re
import threading
from pathlib import Path

import cffi
import torch

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent


class FusedLossError(RuntimeError):
    """What the library refuses; nothing was written."""


def _first(*candidates):
    return next((path for path in candidates if path and Path(path).exists()), None)


def _load():
    header = _first(HERE / "fused_loss.h", CHECKOUT / "capi/include/fused_loss.h")
    if header is None:
        raise ImportError("fused_loss.h is missing: was the package installed by `pip install ./python`?")
    ffi = cffi.FFI()
    # Without the preprocessor's lines, but for the guards' insides, it is what cffi reads.
    text = re.sub(r'#ifdef __cplusplus.*?#endif[^\n]*', "", Path(header).read_text(), flags=re.S)
    ffi.cdef("\n".join(line for line in text.splitlines() if not line.startswith("#")))
    name = _first(os.environ.get("FUSED_LOSS_LIBRARY"), HERE / "libfused_loss.so") or "libfused_loss.so.0.1"
    try:
        return ffi, ffi.dlopen(str(name))
    except OSError as error:
        raise ImportError(f"{error}: install by `pip install ./python`, or set FUSED_LOSS_LIBRARY") from None


ffi, lib = _load()

_STATUS_ERRORS = {lib.FL_ERROR_LENGTH: ValueError, lib.FL_ERROR_OPTION: ValueError, lib.FL_ERROR_CLASS_INDEX: IndexError}


def raise_for(status):
    """Nothing for FL_OK, else the exception that fits the status code."""
    if status != lib.FL_OK:
        raise _STATUS_ERRORS.get(status, FusedLossError)(ffi.string(lib.fl_last_error()).decode())


class _Handles:
    """One handle for the CPU, and one for each stream of a GPU.

    A handle allocates when it is made, which a stream that is being captured may not. So there is always one to spare.
    """

    def __init__(self):
        self.lock = threading.Lock()
        self.cpu = None
        self.streams = {}
        self.spare = {}

    @staticmethod
    def _new(make):
        out = ffi.new("fl_handle**")
        raise_for(make(out))
        return out[0]

    def of(self, device):
        if device.type == "cpu":
            if self.cpu is None:
                self.cpu = self._new(lib.fl_cpu)
            return self.cpu
        if device.type != "cuda":
            raise TypeError(f"expected tensors on the CPU or a CUDA device, got {device}")
        stream = torch.cuda.current_stream(device).cuda_stream
        handle = self.streams.get((device.index, stream))
        return handle or self._on_new_stream(device.index, stream)

    def _on_new_stream(self, index, stream):
        def new():
            return self._new(lambda out: lib.fl_cuda(index, ffi.cast("void*", stream), out))

        with self.lock:
            handle = self.spare.pop(index, None)
            if handle is None:
                handle = new()
            else:
                raise_for(lib.fl_set_stream(handle, ffi.cast("void*", stream)))
            self.streams[index, stream] = handle
            if not torch.cuda.is_current_stream_capturing():
                self.spare[index] = new()
            return handle


handles = _Handles()


def check(device="cuda"):
    """Waits for the device's current stream, and raises IndexError if a call on it met a class index that is none.

    On the CPU the call itself raises."""
    device = torch.device(device)
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    raise_for(lib.fl_check(handles.of(device)))

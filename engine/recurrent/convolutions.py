"""Convolutions of each channel by itself, the short ones of recurrent layers, as sums of their few taps.

MLX's own are not used on two devices. On its CPU device they take several times as long as the sum. On CUDA
(0.32.4) they go through cuDNN, and a pass that frees what they read while they run can get wrong numbers or
an illegal access: mlx-lm's mamba2 with 256 channels, token by token, shows it in nearly every pass, and
is right where the convolution's input is kept.
"""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.recurrent_gemma import Conv1d as GriffinConvolution

from ..pass_functions import Function, PassFunctions, Replacement

Convolve = Callable[[mx.array, mx.array], mx.array]
"""Takes (rows, tokens, channels) and weights (channels, taps, 1); returns as many tokens, less taps - 1."""


def sum_taps(x: mx.array, weight: mx.array) -> mx.array:
    """Convolve in the type of x."""
    parts, taps = _parts(x, weight)
    out = parts[0] * taps[0]
    for part, tap in zip(parts[1:], taps[1:], strict=True):
        out = out + part * tap
    return out


def sum_taps_at_once(x: mx.array, weight: mx.array) -> mx.array:
    """Convolve in float32, as cuDNN does, in one kernel that MLX compiles; return the type of x."""
    return _fused_sum(*(part for pair in zip(*_parts(x, weight), strict=True) for part in pair))


def _parts(x: mx.array, weight: mx.array) -> tuple[list[mx.array], list[mx.array]]:
    """Return what each tap is multiplied with, (rows, tokens, channels), and the taps, (channels,)."""
    num_taps = weight.shape[1]
    length = x.shape[1] - num_taps + 1
    return [x[:, tap : tap + length] for tap in range(num_taps)], [weight[:, i, 0] for i in range(num_taps)]


@mx.compile
def _fused_sum(*parts: mx.array) -> mx.array:
    """Return the sum of the products of each part and the tap behind it."""
    floats = [part.astype(mx.float32) for part in parts]
    out = floats[0] * floats[1]
    for part, tap in zip(floats[2::2], floats[3::2], strict=True):
        out = out + part * tap
    return out.astype(parts[0].dtype)


def convolution_form(theirs: Function, convolve: Convolve, min_tokens: int) -> Function:
    """Return the form of `nn.Conv1d.__call__`; theirs serves results of less than min_tokens."""

    def call(self: nn.Conv1d, x: mx.array) -> mx.array:
        channels, num_taps, per_group = self.weight.shape
        is_plain = per_group == 1 and self.groups == channels and self.stride == self.dilation == 1
        if not is_plain or self.padding != 0 or x.shape[1] - num_taps + 1 < min_tokens:
            result: mx.array = theirs(self, x)
            return result
        out = convolve(x, self.weight)
        return out + self.bias if "bias" in self else out

    return call


def griffin_convolution_form(convolve: Convolve) -> Function:
    """Return the form of `Conv1d.__call__` of mlx-lm's recurrent_gemma, which has a class of its own."""

    def call(self: Any, x: mx.array, cache: mx.array | None = None) -> tuple[mx.array, mx.array]:
        kept = self.weight.shape[1] - 1
        before = mx.zeros((len(x), kept, x.shape[2]), x.dtype) if cache is None else cache
        x = mx.concatenate([before, x], axis=1)
        return convolve(x, self.weight) + self.bias, x[:, x.shape[1] - kept :]

    return call


def convolutions_on_cuda(model: nn.Module) -> PassFunctions:
    """Return the replacements of the convolutions of `model` and its parts: unpadded ones of stride 1."""
    forms: list[tuple[Any, Function]] = [
        (nn.Conv1d, convolution_form(nn.Conv1d.__call__, sum_taps_at_once, 1)),
        (GriffinConvolution, griffin_convolution_form(sum_taps_at_once)),
    ]
    modules = model.modules()
    found = [
        Replacement(kind, "__call__", kind.__call__, form)
        for kind, form in forms
        if any(isinstance(module, kind) for module in modules)
    ]
    return PassFunctions(tuple(found))

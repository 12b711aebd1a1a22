"""What MLX computes wrongly on CUDA: replaced in all passes of a model, and in those that judge them."""

import mlx.nn as nn

from .experts.unsorted_products import products_on_cuda
from .pass_functions import PassFunctions, on_cuda
from .recurrent.convolutions import convolutions_on_cuda


def mended_functions(model: nn.Module) -> PassFunctions:
    """Return the replacements for `model` on this device; none but on CUDA."""
    return on_cuda(mended_on_cuda(model))


def mended_on_cuda(model: nn.Module) -> PassFunctions:
    """Return the replacements for `model` on CUDA."""
    return products_on_cuda(model).beside(convolutions_on_cuda(model))

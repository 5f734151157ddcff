"""Linear layers in 8-bit integers on a CPU: weights once, by output; activations at every forward, by token.

By token, so that a row's result does not depend on its neighbours: with one scale for a whole batch, as
`torch.ao.quantization.quantize_dynamic` has it (deprecated besides), the largest value of any row sets the precision of
all. torchao quantises by token too, but in eager mode spends most of what it saves on the conversions around each
layer.

The integers are multiplied by oneDNN's kernel, which PyTorch's own quantised graphs use. On a processor without
instructions for it (AVX512-VNNI, AMX) the kernel gains less, and adds two products in 16 bits, which overflow without
a word: weights have 7 bits there.
"""

from __future__ import annotations

import logging

import torch
from torch import nn

from ray_pipelines.errors import ModelLoadError

__all__ = ["Int8Linear", "check_machine", "quantize_linears"]

logger = logging.getLogger(__name__)

ZERO_POINT = 128
"""Where zero lies among the 8-bit integers of an activation, which oneDNN wants without a sign."""
LARGEST_WEIGHT, LARGEST_WEIGHT_WITHOUT_VNNI = 127, 63
"""2 * 255 * 63 is the most that two products make, and fits into 16 bits."""


class Int8Linear(nn.Module):
    """A linear layer whose inputs and weights are multiplied as 8-bit integers.

    Args:
        linear: The layer to replace, in float32.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        values = linear.weight.detach().float()
        largest = LARGEST_WEIGHT if torch.cpu._is_vnni_supported() else LARGEST_WEIGHT_WITHOUT_VNNI
        scale = (values.abs().amax(dim=1) / largest).clamp_min(torch.finfo(torch.float32).tiny)
        integers = (values / scale[:, None]).round().clamp(-largest, largest).to(torch.int8)
        bias = linear.bias.detach().float() if linear.bias is not None else torch.zeros(linear.out_features)
        self.weight = nn.Buffer(torch.ops.onednn.qlinear_prepack(integers, None))
        self.scale = nn.Buffer(scale)
        self.zero_points = nn.Buffer(torch.zeros(linear.out_features, dtype=torch.int64))
        self.bias = nn.Buffer(bias)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """The layer's outputs, float32, of inputs of any number of leading axes."""
        rows = inputs.reshape(-1, self.in_features)
        # `aminmax` needs one pass instead of two, and three times as long: it is not vectorised along an axis.
        scale = rows.abs().amax(dim=1, keepdim=True).div_(127).clamp_min_(torch.finfo(torch.float32).tiny)
        # The half makes rounding out of the cut that `to` makes: all values are positive here.
        integers = rows.div(scale).add_(ZERO_POINT + 0.5).to(torch.uint8)
        product = torch.ops.onednn.qlinear_pointwise(
            integers, 1.0, ZERO_POINT, self.weight, self.scale, self.zero_points, None, 1.0, 0, torch.float32,
            "none", [], "",
        )  # fmt: skip
        outputs = torch.addcmul(self.bias, product, scale)
        return outputs.reshape(*inputs.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def check_machine() -> None:
    """Refuses a PyTorch without the kernel.

    Raises:
        ModelLoadError: The kernel is missing.
    """
    if not hasattr(torch.ops.onednn, "qlinear_pointwise") or not torch._C._has_mkldnn:
        raise ModelLoadError(f"optimize.int8: expected a PyTorch with oneDNN; got {torch.__version__} without it.")
    if not torch.cpu._is_vnni_supported():
        logger.warning("optimize.int8: this processor has no instructions for it (VNNI); expect a smaller gain.")


def quantize_linears(model: nn.Module) -> int:
    """Replaces the linear layers below the model's head in place, and says how many there are.

    The head keeps its precision: it is small, and decides between labels. So do embeddings that are tied to it, and
    layers whose weights other modules read (`nn.MultiheadAttention`).

    Raises:
        ModelLoadError: The model is not in float32, or has no such layers.
    """
    name = type(model).__name__
    dtype = next((parameter.dtype for parameter in model.parameters()), torch.float32)
    if dtype is not torch.float32:
        raise ModelLoadError(
            f"optimize.int8: expected weights in float32; {name} has {dtype}. Set model.dtype: float32."
        )
    body = getattr(model, "base_model", model)
    output_embeddings = getattr(model, "get_output_embeddings", lambda: None)()
    found = [
        (parent, child, layer)
        for parent in body.modules()
        for child, layer in parent.named_children()
        if type(layer) is nn.Linear and layer is not output_embeddings
    ]
    if not found:
        raise ModelLoadError(f"optimize.int8: expected a model with linear layers; {name} has none. Drop it.")
    for parent, child, layer in found:
        setattr(parent, child, Int8Linear(layer))
    return len(found)

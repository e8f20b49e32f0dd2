"""A short causal convolution, channel by channel."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Taps(torch.autograd.Function):
    """y_t = sum_i x_t+i * weight_i: (B, T + size - 1, C), (size, C) -> (B, T, C).

    The library's depthwise convolution wants time as its last axis, and its backward pass took a sixth of a whole
    training step; shifted products on the layout at hand need a quarter of that.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        size, length = weight.shape[0], x.shape[1] - weight.shape[0] + 1
        y = x[:, :length] * weight[0]
        for i in range(1, size):
            y.addcmul_(x[:, i : i + length], weight[i])
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        length = grad.shape[1]
        to_x = torch.zeros_like(x)
        for i in range(weight.shape[0]):
            to_x[:, i : i + length].addcmul_(grad, weight[i])
        to_weight = torch.stack([(grad * x[:, i : i + length]).sum((0, 1)) for i in range(weight.shape[0])])
        return to_x, to_weight


class ShortConvolution(nn.Module):
    """y_t = sum_i w_i x_t-size+1+i, each channel with its own w (size,). Its state is the last size - 1 inputs."""

    def __init__(self, channels: int, size: int):
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.empty(size, channels).uniform_(-1, 1) / size**0.5)

    def forward(self, x: Tensor, past: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """x (B, T, channels), past (B, size-1, channels) -> y of x's shape, and the new past."""
        joined = torch.cat([past.to(x.dtype), x], 1)
        y = _Taps.apply(joined, self.weight.to(x.dtype))
        assert isinstance(y, Tensor)
        if lengths is None:
            return y, joined[:, x.shape[1] :].clone()  # not a view, which would keep the whole piece alive
        last = lengths[:, None] + torch.arange(self.size - 1, device=x.device)
        return y, joined.gather(1, last[..., None].expand(-1, -1, x.shape[-1]))

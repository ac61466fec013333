"""Activations with known Lipschitz constants; values, derivatives and tangent products in one pass.

An activation is phi(x), or the concatenation [phi(x), phi(-x)] along the channels with phi(-x) = phi(x) - x. Its outputs
divided by `bound` have a Lipschitz constant of at most 1; networks fold that division into the weights of the next layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ActivationName: TypeAlias = Literal["clipswish", "lipswish", "leakylswish", "crelu", "relu", "elu", "tanh", "sigmoid"]
Shape: TypeAlias = Literal["swish", "relu", "elu", "tanh", "sigmoid"]

SWISH_BOUND = 1.1  # sup |d/dx x sigmoid(beta x)| = 1.09984 for every beta (Chen et al. 2019)
CLIPSWISH_BOUND = 1.004  # Lipschitz constant of [LipSwish(x), LipSwish(-x)] <= 1.00397 (Perugachi-Diaz et al. 2021, Eq. B.25)
FIRST_BETA = 0.5  # initial value before the softplus
FIRST_LEAK = -3.0  # initial value before the sigmoid


class Curve(NamedTuple):
    """Parameters of phi(x) = leak x + gain x sigmoid(beta x). None is 0 for the leak and 1 for the gain."""

    leak: Tensor | None
    gain: Tensor | None
    beta: Tensor | None


class Activation(nn.Module):
    """An activation by name. The swish family learns beta; LeakyLSwish also learns its leak.

    LipSwish, CLipSwish and LeakyLSwish are Eqs. 4.3.7, 4.3.8 and 4.5.2 of Perugachi-Diaz 2024.
    """

    def __init__(self, name: ActivationName) -> None:
        super().__init__()
        self.name = name
        self.concatenated = name in ("clipswish", "crelu")
        self.shape: Shape = "swish" if name.endswith("swish") else cast(Shape, name.removeprefix("c"))
        self.bound = {"clipswish": SWISH_BOUND * CLIPSWISH_BOUND, "lipswish": SWISH_BOUND}.get(name, 1.0)
        self.beta: nn.Parameter
        self.leak: nn.Parameter
        if self.shape == "swish":
            self.beta = nn.Parameter(torch.tensor(FIRST_BETA))
        if name == "leakylswish":
            self.leak = nn.Parameter(torch.tensor(FIRST_LEAK))

    @property
    def width(self) -> int:
        """Output channels per input channel."""
        return 2 if self.concatenated else 1

    def curve(self) -> Curve:
        """Current parameters of the swish family; all None for other activations."""
        if self.shape != "swish":
            return Curve(None, None, None)
        beta = F.softplus(self.beta)
        if self.name != "leakylswish":
            return Curve(None, None, beta)
        leak = torch.sigmoid(self.leak)
        return Curve(leak, (1 - leak) / SWISH_BOUND, beta)

    def forward(self, x: Tensor) -> Tensor:
        """The activation with Lipschitz constant at most 1, by operations that are differentiable any number of times."""
        return self.raw(x) / self.bound

    def raw(self, x: Tensor) -> Tensor:
        """`forward` without the division by `bound`."""
        if self.shape == "swish":
            leak, gain, beta = self.curve()
            assert beta is not None
            y = x * torch.sigmoid(beta * x)
            y = y if gain is None or leak is None else leak * x + gain * y
        else:
            known: dict[str, Callable[[Tensor], Tensor]] = {
                "relu": F.relu,
                "elu": F.elu,
                "tanh": torch.tanh,
                "sigmoid": torch.sigmoid,
            }
            y = known[self.shape](x)
        return torch.cat([y, y - x], dim=1) if self.concatenated else y

    def stacked(self, stacked: Tensor, bias: Tensor, count: int, curve: Curve | None = None) -> tuple[Tensor, Tensor]:
        """Values and tangent products in one pass.

        The first `count` rows of `stacked` are inputs without their bias; the other rows are blocks of `count` tangents of
        those inputs. Returns the raw outputs in the same order and the slopes phi'(x) of the inputs. `curve` is the result of
        `curve()`; None computes it.
        """
        curve = self.curve() if curve is None else curve
        out, slope = _Stacked.apply(stacked, bias, *curve, self.shape, self.concatenated, count)
        return out, slope

    def pull_back(self, cotangent: Tensor, slope: Tensor) -> Tensor:
        """Vector-Jacobian product of a cotangent of the raw output, given the slopes of `stacked`."""
        if not self.concatenated:
            return cotangent * slope
        first, second = cotangent.chunk(2, dim=1)
        return (first + second).mul_(slope).sub_(second)


def stacked_curves(activations: Sequence[Activation]) -> list[Curve]:
    """Curves of activations of the same name, computed together; empty for activations without parameters."""
    if not activations or activations[0].shape != "swish":
        return []
    if activations[0].name == "leakylswish":
        return [one.curve() for one in activations]
    betas = F.softplus(torch.stack([one.beta for one in activations]))
    return [Curve(None, None, beta) for beta in betas.unbind(0)]


def _value_and_slope(shape: Shape, x: Tensor, curve: Curve) -> tuple[Tensor, Tensor, Tensor]:
    """phi(x), phi'(x) and, for the swish family, the sigmoid (x as a placeholder for others)."""
    if shape == "swish":
        leak, gain, beta = curve
        assert beta is not None
        s = torch.sigmoid(beta * x)
        y = x * s
        slope = torch.addcmul(s, y * beta, 1 - s)
        if leak is not None and gain is not None:
            return torch.addcmul(leak * x, gain, y), torch.addcmul(leak.expand_as(s), gain, slope), s
        return y, slope, s
    if shape == "relu":
        return F.relu(x), (x > 0).to(x.dtype), x
    if shape == "elu":
        y = F.elu(x)
        return y, torch.where(x > 0, torch.ones_like(x), y + 1), x
    if shape == "tanh":
        y = torch.tanh(x)
        return y, 1 - y * y, x
    y = torch.sigmoid(x)
    return y, y * (1 - y), x


def _curvature(shape: Shape, x: Tensor, s: Tensor, slope: Tensor, curve: Curve) -> tuple[Tensor, Tensor, Tensor]:
    """phi''(x), and for the swish family d = beta x s (1 - s) and u = (1 - s) s (2 + beta x (1 - 2 s)) for `_to_curve`.

    With s + d the slope of x sigmoid(beta x), u = d + 2 s (1 - slope).
    """
    if shape == "swish":
        leak, gain, beta = curve
        assert beta is not None
        slope = slope if leak is None or gain is None else (slope - leak) / gain
        d = slope - s
        u = torch.addcmul(d, s, 1 - slope, value=2)
        return (beta if gain is None else beta * gain) * u, d, u
    if shape == "relu":
        return torch.zeros_like(x), x, x
    if shape == "elu":
        return torch.where(x > 0, torch.zeros_like(x), x.exp()), x, x
    if shape == "tanh":
        y = torch.tanh(x)
        return -2 * y * (1 - y * y), x, x
    y = torch.sigmoid(x)
    return y * (1 - y) * (1 - 2 * y), x, x


class _Stacked(torch.autograd.Function):
    """See `Activation.stacked`. One sigmoid forward and none backward; only the backward pass uses the second derivative."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        stacked: Tensor,
        bias: Tensor,
        leak: Tensor | None,
        gain: Tensor | None,
        beta: Tensor | None,
        shape: Shape,
        concatenated: bool,
        count: int,
    ) -> tuple[Tensor, Tensor]:
        curve = Curve(leak, gain, beta)
        x = stacked[:count] + bias.view(-1, *(1,) * (stacked.ndim - 2))
        y, slope, s = _value_and_slope(shape, x, curve)
        tangents, width = stacked[count:], x.shape[1]
        out = _empty(stacked, width * (2 if concatenated else 1))
        out[:count, :width] = y
        if len(tangents):
            torch.mul(_blocks(tangents, count), slope, out=_blocks(out[count:, :width], count))
        if concatenated:
            torch.sub(y, x, out=out[:count, width:])
            torch.sub(out[count:, :width], tangents, out=out[count:, width:])
        ctx.save_for_backward(x, s, tangents, slope, leak, gain, beta)  # type: ignore[arg-type]
        ctx.shape, ctx.concatenated = shape, concatenated  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(slope)
        return out, slope

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, s, tangents, slope, leak, gain, beta = ctx.saved_tensors  # type: ignore[attr-defined]
        shape, concatenated = ctx.shape, ctx.concatenated  # type: ignore[attr-defined]
        count, width, curve = len(x), x.shape[1], Curve(leak, gain, beta)
        upstream = gradients[0]
        direct = upstream[:, width:] if concatenated else None
        upstream = upstream if direct is None else upstream[:, :width] + direct
        values, products = upstream[:count], upstream[count:]
        to_stacked = torch.empty_like(upstream)
        torch.mul(values, slope, out=to_stacked[:count])
        bent = None
        second, d, u = _curvature(shape, x, s, slope, curve)
        if len(products):
            torch.mul(_blocks(products, count), slope, out=_blocks(to_stacked[count:], count))
            bent = _blocks(products, count)[0] * tangents[:count]
            for turn in range(1, len(products) // count):
                bent.addcmul_(_blocks(products, count)[turn], _blocks(tangents, count)[turn])
            to_stacked[:count].addcmul_(bent, second)
        if direct is not None:
            to_stacked.sub_(direct)
        dims = [0, *range(2, x.ndim)]
        to_bias = to_stacked[:count].sum(dims)
        if shape != "swish":
            return to_stacked, to_bias, None, None, None, None, None, None
        return (to_stacked, to_bias, *_to_curve(x, s, values, bent, d, u, curve), None, None, None)


def _empty(like: Tensor, channels: int) -> Tensor:
    """Uninitialized (B, channels, ...) in the memory layout of `like`."""
    shape = (len(like), channels, *like.shape[2:])
    last = like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.empty(shape, dtype=like.dtype, device=like.device, memory_format=layout)


def _blocks(stacked: Tensor, count: int) -> Tensor:
    """View with blocks of `count` rows along a new first dimension."""
    return stacked.view(-1, count, *stacked.shape[1:])


def _to_curve(
    x: Tensor, s: Tensor, values: Tensor, bent: Tensor | None, d: Tensor, u: Tensor, curve: Curve
) -> tuple[Tensor | None, Tensor | None, Tensor]:
    """Gradients of leak, gain and beta. `bent` is the sum over the tangents of gradient times tangent."""
    leak, gain, beta = curve
    assert beta is not None
    by_slope = values * (d / beta)
    by_beta = ((by_slope if bent is None else by_slope.addcmul_(bent, u)) * x).sum()
    if leak is None or gain is None:
        return None, None, by_beta
    by_leak, by_gain = (values * x).sum(), (values * x * s).sum()
    if bent is not None:
        by_leak = by_leak + bent.sum()
        by_gain = by_gain + (bent * (s + d)).sum()
    return by_leak, by_gain, gain * by_beta

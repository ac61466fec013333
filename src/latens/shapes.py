"""Shape annotations of jaxtyping, or bare array types if it is not installed (a GPU machine that only trains)."""

from __future__ import annotations

try:
    from jaxtyping import Bool, Float, Int, Int8, Shaped, UInt8
except ImportError:

    class _Array:
        """`Float[Tensor, "B C H W"]` is `Tensor`."""

        def __class_getitem__(cls, item: tuple[type, str]) -> type:
            return item[0]

    Bool = Float = Int = Int8 = Shaped = UInt8 = _Array  # type: ignore[assignment]

__all__ = ["Bool", "Float", "Int", "Int8", "Shaped", "UInt8"]

"""Names and shapes of the style-based papers' published state dicts, typed from their specs (section 6 and 5)."""

from __future__ import annotations

from collections.abc import Callable

Keys = dict[str, tuple[int, ...]]
"""Learned tensors and spectral norms' vectors, by official name."""


def channels(side: int, multiplier: int) -> int:
    """Channels of a level of that side, in both networks."""
    return 512 if side <= 32 else 256 * multiplier * 64 // side


def generator_keys(resolution: int, multiplier: int, attention: Callable[[int, int], Keys]) -> Keys:
    """`attention`: from a level's side and channels to the keys of a block's attention."""
    keys: Keys = {"input.input": (1, 512, 4, 4)}
    for layer in range(1, 9):
        keys |= {f"style.{layer}.weight": (512, 512), f"style.{layer}.bias": (512,)}
    last = resolution.bit_length() - 3
    for level in range(last + 1):
        side, beyond = 4 << level, min(8 << level, resolution)
        width, rgb = channels(side, multiplier), channels(beyond, multiplier)
        block = {
            **{f"norm{number}.style.weight": (2 * width, 512) for number in (1, 2)},
            **{f"norm{number}.style.bias": (2 * width,) for number in (1, 2)},
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
            **attention(side, width),
        }
        for number in (0, 1):
            keys |= {f"layers.{level}.blocks.{number}.{name}": shape for name, shape in block.items()}
        if level < last:
            up = {"alpha": (1,), "norm.weight": (width,), "norm.bias": (width,), "reduction.weight": (rgb, width)}
            keys |= {f"layers.{level}.upsample.{name}": shape for name, shape in up.items()}
        head = {"conv.weight": (3, rgb, 1, 1), "conv.bias": (3,), "bias": (1, 3, 1, 1)}
        keys |= {f"to_rgbs.{level}.{name}": shape for name, shape in head.items()}
    return keys


def discriminator_keys(resolution: int) -> Keys:
    """The published discriminators': channel multiplier 2, spectral norm."""

    def normed(name: str, *shape: int) -> Keys:
        rest = 1
        for size in shape[1:]:
            rest *= size
        return {f"{name}.weight_orig": shape, f"{name}.weight_u": shape[:1], f"{name}.weight_v": (rest,)}

    keys: Keys = {}
    scales = resolution.bit_length() - 4
    widths = [channels(resolution, 2), *(channels(resolution >> (scale + 1), 2) for scale in range(1, scales + 1))]
    for scale, width in enumerate(widths):
        keys |= normed(f"from_rgbs.{scale}.conv.0", width, 12, 1, 1) | {f"from_rgbs.{scale}.conv.1.bias": (width,)}
    for scale, (width, narrower) in enumerate(zip(widths, widths[1:], strict=False)):
        keys |= normed(f"convs.{scale}.conv1.0", width, width, 3, 3) | {f"convs.{scale}.conv1.1.bias": (width,)}
        keys |= normed(f"convs.{scale}.conv2.1", narrower, width, 3, 3) | {f"convs.{scale}.conv2.2.bias": (narrower,)}
    keys |= normed("final_conv.0", 512, 513, 3, 3) | {"final_conv.1.bias": (512,)}
    keys |= normed("final_linear.0", 512, 8192) | {"final_linear.0.bias": (512,), "final_linear.1.bias": (512,)}
    return keys | normed("final_linear.2", 1, 512) | {"final_linear.2.bias": (1,)}

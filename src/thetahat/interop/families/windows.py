"""Which layers of which families have a window, in configs that do not list the types of their layers."""

from collections.abc import Sequence
from typing import Any, cast

from thetahat.interop.fields import Fields, Plain, refused
from thetahat.interop.layers import Windows


def reach(fields: Fields, default: int | None = None) -> int | None:
    """The farthest position seen: a window of W positions counts one's own."""
    if fields.or_default("sliding_window", default) is None:
        return None
    return max(fields.number("sliding_window", default) - 1, 1)


def width(distance: int | None) -> int | None:
    """The inverse."""
    return None if distance is None else distance + 1


def everywhere(default: int | None) -> Windows:
    """All layers, as in Mistral; `default` is the width where the field is absent, which null is not."""

    def slides(fields: Fields, num_layers: int) -> list[bool]:
        return [reach(fields, default) is not None] * num_layers

    def writes(slides: Sequence[bool], distance: int | None) -> Plain:
        return {"sliding_window": width(distance)}

    return Windows(slides, lambda fields: reach(fields, default), writes, has_types=False)


def _used(fields: Fields) -> int | None:
    distance = reach(fields, 4096)
    return distance if fields.get("use_sliding_window", default=False) else None


def _upper(fields: Fields, num_layers: int) -> list[bool]:
    first = fields.or_default("max_window_layers", 28)
    if not isinstance(first, int):
        raise refused("max_window_layers", first, "an integer")
    return [_used(fields) is not None and layer >= first for layer in range(num_layers)]


def _writes_upper(slides: Sequence[bool], distance: int | None) -> Plain:
    first = list(slides).index(True) if any(slides) else len(slides)
    used = {"use_sliding_window": any(slides), "sliding_window": width(distance)}
    return used | {"max_window_layers": first}


UPPER = Windows(_upper, _used, _writes_upper)
"""The layers from `max_window_layers` on, as in Qwen 2."""


def _unrotated(fields: Fields, num_layers: int) -> list[bool]:
    return [is_plain and _used(fields) is not None for is_plain in without_rope(fields, num_layers)]


def without_rope(fields: Fields, num_layers: int) -> list[bool]:
    """Which layers have no rotary positions, as in SmolLM 3."""
    every = fields.number("no_rope_layer_interval", 4)
    default = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    has_rope = fields.get("no_rope_layers", default)
    if not isinstance(has_rope, list) or len(cast("list[Any]", has_rope)) != num_layers:
        raise refused("no_rope_layers", has_rope, f"a list of {num_layers} times 0 or 1")
    return [not each for each in cast("list[Any]", has_rope)]


UNROTATED = Windows(
    _unrotated,
    _used,
    lambda slides, distance: {"use_sliding_window": any(slides), "sliding_window": width(distance)},
)
"""The layers without rotary positions, as in SmolLM 3."""


def every(names: Sequence[str], period: int, *, default: int = 4096) -> Windows:
    """All but the last of every `period` layers; the period may be said in fields."""

    def slides(fields: Fields, num_layers: int) -> list[bool]:
        own = period
        for name in reversed(names):
            own = fields.number(name, own)
        return [bool((layer + 1) % own) for layer in range(num_layers)]

    def writes(slides: Sequence[bool], distance: int | None) -> Plain:
        own = list(slides).index(False) + 1 if not all(slides) else len(slides) + 1
        return {"sliding_window": width(distance)} | dict.fromkeys(names, own)

    return Windows(slides, lambda fields: reach(fields, default), writes)

"""Which layers of which families have a window, in configs that do not list the types of their layers."""

from collections.abc import Sequence

from thetahat.interop.fields import Fields, Plain
from thetahat.interop.layers import Windows


def reach(fields: Fields, default: int | None = None) -> int | None:
    """The farthest position seen: a window of W positions counts one's own."""
    width = fields.or_default("sliding_window", default)
    return None if width is None else max(int(width) - 1, 1)


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
    first = int(fields.get("max_window_layers", 28))
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
    every = int(fields.get("no_rope_layer_interval", 4))
    default = [int((layer + 1) % every != 0) for layer in range(num_layers)]
    return [not has_rope for has_rope in fields.get("no_rope_layers", default)]


UNROTATED = Windows(
    _unrotated,
    _used,
    lambda slides, distance: {"use_sliding_window": any(slides), "sliding_window": width(distance)},
)
"""The layers without rotary positions, as in SmolLM 3."""


def every(names: Sequence[str], period: int, *, default: int = 4096) -> Windows:
    """All but the last of every `period` layers; the period may be said in fields."""

    def slides(fields: Fields, num_layers: int) -> list[bool]:
        said = [fields.get(name) for name in names]
        own = next((number for number in said if number is not None), period)
        return [bool((layer + 1) % int(own)) for layer in range(num_layers)]

    def writes(slides: Sequence[bool], distance: int | None) -> Plain:
        own = list(slides).index(False) + 1 if not all(slides) else len(slides) + 1
        return {"sliding_window": width(distance)} | dict.fromkeys(names, own)

    return Windows(slides, lambda fields: reach(fields, default), writes)

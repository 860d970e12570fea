"""Rotary positions and windows, layer by layer, in the spellings of transformers 4 and 5."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log
from typing import Any, cast, final

from msgspec.structs import replace

from thetahat.core.config import kind_of, to_plain
from thetahat.core.errors import ModelError
from thetahat.interop.fields import MOST_LAYERS, Fields, MisfitError, Plain, refused
from thetahat.model.config import (
    AttendingMixer,
    AttentionMixer,
    LinearScaling,
    Llama3Scaling,
    ModelConfig,
    Rotary,
    RotaryScaling,
    YarnScaling,
)

FULL, SLIDING = "full_attention", "sliding_attention"
_SCALINGS = "default, linear, llama3 or yarn"
_KEYS = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": {
        *("factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    },
}


@final
@dataclass(frozen=True)
class RopeNames:
    """How a family spells its rotary positions where they are no `rope_parameters`, and what holds without them."""

    base: str = "rope_theta"
    default: float = 10_000.0
    local: str = ""  # the base in layers with a window, where they have their own
    local_default: float = 10_000.0
    share: str = ""
    share_default: float = 1.0
    scales_local: bool = False  # whether `rope_scaling` is for layers with a window, too


@final
@dataclass(frozen=True)
class Windows:
    """Which layers have a window, and how far it reaches."""

    slides: Callable[[Fields, int], Sequence[bool]]  # by layer, in configs without `layer_types`
    distance: Callable[[Fields], int | None]
    writes: Callable[[Sequence[bool], int | None], Plain]  # of both, as older fields
    has_types: bool = True  # whether `layer_types` is a field of the family


@final
@dataclass(frozen=True)
class Layers:
    """`layers` and `rope_base` of ours."""

    rope: RopeNames = RopeNames()
    windows: Windows | None = None
    unrotated: Callable[[Fields, int], Sequence[bool]] | None = None  # which layers have no rotary positions
    writes_unrotated: Callable[[Sequence[bool]], Plain] | None = None

    def read(self, fields: Fields) -> Plain:  # noqa: D102
        num_layers = fields.number("num_hidden_layers", most=MOST_LAYERS)
        slides, distance = _windows(self.windows, fields, num_layers)
        kinds = rotaries(self.rope, fields)
        plain = self.unrotated(fields, num_layers) if self.unrotated else [False] * num_layers
        mixers = [
            {
                "kind": "attention",
                "positions": {"kind": "none"} if is_plain else kinds[SLIDING if is_near else FULL],
                "distance": distance if is_near else None,
            }
            for is_near, is_plain in zip(slides, plain, strict=True)
        ]
        return {"layers": mixers}

    def write(self, config: ModelConfig) -> Plain:  # noqa: D102
        mixers = [one for one in config.attentions_of(config.num_layers) if isinstance(one, AttentionMixer)]
        if len(mixers) < config.num_layers:
            others = {kind_of(mixer) for mixer in config.layers} - {"attention"}
            raise MisfitError(f"layers of kind {', '.join(sorted(others))}")
        if any(mixer.num_global for mixer in mixers):
            raise MisfitError("positions that are seen from beyond a window")
        slides = [mixer.distance is not None for mixer in mixers]
        distances = {mixer.distance for mixer in mixers} - {None}
        if len(distances) > 1:
            raise MisfitError(f"windows of {len(distances)} widths")
        written = written_rotaries(self.rope, config, mixers)
        if self.windows:
            written |= self.windows.writes(slides, min(cast("set[int]", distances), default=None))
            if self.windows.has_types:
                written["layer_types"] = [SLIDING if is_near else FULL for is_near in slides]
        if self.writes_unrotated:
            written |= self.writes_unrotated([not isinstance(mixer.positions, Rotary) for mixer in mixers])
        return written


def _windows(windows: Windows | None, fields: Fields, num_layers: int) -> tuple[Sequence[bool], int | None]:
    if windows is None:
        return [False] * num_layers, None
    distance = windows.distance(fields)
    slides = windows.slides(fields, num_layers)
    types = fields.get("layer_types") if windows.has_types else None
    if types is not None:
        if not _are_types(types, num_layers):
            raise ModelError(
                f"config.json: layer_types={types!r} is not supported",
                allowed=f"{num_layers} times {FULL} or {SLIDING}, one for each layer",
            )
        slides = [kind == SLIDING for kind in cast("list[str]", types)]
    if any(slides) and distance is None:
        raise ModelError("config.json: layers have a window, and its width is not given", allowed="sliding_window")
    return slides, distance


def _are_types(types: Any, num_layers: int) -> bool:
    listed = cast("list[Any]", types) if isinstance(types, list) else []
    return len(listed) == num_layers and all(kind in (FULL, SLIDING) for kind in listed)


def rotaries(names: RopeNames, fields: Fields) -> dict[str, Plain]:
    """The rotary positions of layers of each kind. Where both spellings are there, they must say the same."""
    old = _old_rotaries(names, fields)
    new = fields.get("rope_parameters")
    if new is None:
        return old
    if not isinstance(new, dict):
        raise refused("rope_parameters", new, "a table")
    new = cast(Plain, new)
    is_nested = any(isinstance(value, dict) for value in new.values())
    share = {"partial_rotary_factor": old[FULL]["share"]}
    found: dict[str, Plain] = {}
    for kind in (FULL, SLIDING):
        given = (new.get(kind) or {}) if is_nested else new
        if not isinstance(given, dict):
            raise refused("rope_parameters", new, f"tables for {FULL} and {SLIDING}")
        base = names.local_default if kind == SLIDING and names.local else names.default
        found[kind] = _rotary({"rope_theta": base, **share, **cast(Plain, given)}, fields)
    if is_nested and set(new) - {FULL, SLIDING}:
        raise refused("rope_parameters", sorted(new), f"{FULL} and {SLIDING}")
    _refuse_contradiction(names, fields, found, old)
    return found


def _refuse_contradiction(names: RopeNames, fields: Fields, new: dict[str, Plain], old: dict[str, Plain]) -> None:
    spelled = [(names.base, FULL, "base"), ("rope_scaling", FULL, "scaling")]
    spelled += [(names.local, SLIDING, "base")] if names.local else []
    for name, kind, key in spelled:
        if fields.get(name) is not None and new[kind][key] != old[kind][key]:
            raise ModelError(
                f"config.json: rope_parameters and {name} describe different rotary positions",
                cure="remove from config.json what is wrong",
            )


def _old_rotaries(names: RopeNames, fields: Fields) -> dict[str, Plain]:
    scaling = fields.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise refused("rope_scaling", scaling, f"a table whose rope_type is {_SCALINGS}")
    share = fields.get(names.share, names.share_default) if names.share else names.share_default
    given = {"partial_rotary_factor": share, **cast(Plain, scaling)}
    full = _rotary({"rope_theta": fields.get(names.base, names.default), **given}, fields)
    if not names.local:
        return {FULL: full, SLIDING: full}
    near = given if names.scales_local else {"partial_rotary_factor": share}
    base = fields.get(names.local, names.local_default)
    return {FULL: full, SLIDING: _rotary({"rope_theta": base, **near}, fields)}


def _rotary(given: Plain, fields: Fields) -> Plain:
    """One table of theirs as one of ours."""
    kind = given.get("rope_type") or given.get("type") or "default"
    if not isinstance(kind, str) or kind not in _KEYS:
        raise ModelError(
            f"config.json: rotary positions of the kind {kind!r} are not supported", allowed=f"rope_type {_SCALINGS}"
        )
    strange = set(given) - _KEYS[kind] - {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
    if strange := sorted(name for name in strange if given[name] is not None):
        raise ModelError(
            f"config.json: {strange[0]}={given[strange[0]]!r} is unknown for rotary positions of the kind {kind!r}",
            allowed=", ".join(sorted(_KEYS[kind])) or "rope_theta and partial_rotary_factor alone",
        )
    return {
        "kind": "rotary",
        "base": given["rope_theta"],
        "share": given["partial_rotary_factor"],
        "scaling": _scaling(kind, given, fields),
    }


def _scaling(kind: str, given: Plain, fields: Fields) -> Plain | None:
    if kind == "default":
        return None
    factor = given.get("factor")
    if not isinstance(factor, int | float):
        raise ModelError(f"config.json: rotary positions of the kind {kind!r} have no factor")
    scaling: Plain = {"kind": kind, "factor": factor}
    if kind == "linear":
        return scaling
    context = fields.get("original_max_position_embeddings") or given.get("original_max_position_embeddings")
    scaling["context"] = context or fields.need("max_position_embeddings")
    if kind == "llama3":
        low, high = given.get("low_freq_factor"), given.get("high_freq_factor")
        return scaling | {"low_frequency_factor": low, "high_frequency_factor": high}
    return scaling | {
        "beta_fast": given.get("beta_fast") or 32.0,
        "beta_slow": given.get("beta_slow") or 1.0,
        "attention_factor": _attention_factor(float(factor), given),
        "truncates": given.get("truncate") is not False,
    }


def _attention_factor(factor: float, given: Plain) -> float | None:
    """What cosines and sines are multiplied by; DeepSeek's `mscale` and `mscale_all_dim` are two ways to say it."""
    scale, scale_all = given.get("mscale"), given.get("mscale_all_dim")
    if given.get("attention_factor") is not None or factor <= 1:
        return given.get("attention_factor")
    if not (isinstance(scale, int | float) and isinstance(scale_all, int | float) and scale and scale_all):
        return None
    return (0.1 * scale * log(factor) + 1) / (0.1 * scale_all * log(factor) + 1)


def written_rotaries(names: RopeNames, config: ModelConfig, mixers: Sequence[AttendingMixer]) -> Plain:
    """All spellings: `rope_parameters` is what version 5 reads, the others what everyone else does."""
    full = _shared(config, [mixer for mixer in mixers if mixer.distance is None or not names.local])
    near = _shared(config, [mixer for mixer in mixers if mixer.distance is not None]) if names.local else full
    full, near = full or near, near or full
    if full is None or near is None:
        raise MisfitError("no layer with rotary positions")
    scaling = _written_scaling(full.scaling)
    written: Plain = {names.base: full.base, "rope_scaling": scaling}
    if names.share:
        written[names.share] = full.share
    if not names.local:
        return written | {"rope_parameters": _written(full, has_share=bool(names.share))}
    tables = {FULL: _written(full, has_share=False), SLIDING: _written(near, has_share=False)}
    return written | {names.local: near.base, "rope_parameters": tables}


def _shared(config: ModelConfig, mixers: Sequence[AttendingMixer]) -> Rotary | None:
    """The one rotary that these layers have, as far as they have any."""
    found = {resolved(mixer.positions, config) for mixer in mixers if isinstance(mixer.positions, Rotary)}
    if len(found) > 1:
        raise MisfitError("layers of one kind with different rotary positions")
    return next(iter(found), None)


def resolved(rotary: Rotary, config: ModelConfig) -> Rotary:
    """With its base spelled out."""
    return replace(rotary, base=config.rope_base) if rotary.base is None else rotary


def _written(rotary: Rotary, *, has_share: bool) -> Plain:
    scaling = {name: value for name, value in (_written_scaling(rotary.scaling) or {}).items() if name != "type"}
    share = {"partial_rotary_factor": rotary.share} if has_share else {}
    return {"rope_type": "default", **scaling, "rope_theta": rotary.base, **share}


def _written_scaling(scaling: RotaryScaling | None) -> Plain | None:
    match scaling:
        case None:
            return None
        case LinearScaling():
            return {"rope_type": "linear", "type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency_factor,
                "high_freq_factor": scaling.high_frequency_factor,
                "original_max_position_embeddings": scaling.context,
            }
        case YarnScaling():
            plain = to_plain(scaling)
            written = {name: plain[name] for name in ("factor", "beta_fast", "beta_slow")}
            if scaling.attention_factor is not None:
                written["attention_factor"] = scaling.attention_factor
            context = {"original_max_position_embeddings": scaling.context, "truncate": scaling.truncates}
            return {"rope_type": "yarn", "type": "yarn", **written, **context}

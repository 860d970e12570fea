"""A config.json as a config of ours, and back. A config is exported as the family that reads the same from it."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

from msgspec.structs import replace

from thetahat.core.config import differences, from_plain, kind_of
from thetahat.core.errors import ConfigError, ModelError
from thetahat.interop.families import FAMILIES
from thetahat.interop.family import ASSUMED, BOOKKEEPING, GENERATION, Family
from thetahat.interop.fields import MOST_LAYERS, Fields, MisfitError, Part, Plain, nested, refused
from thetahat.interop.layers import resolved
from thetahat.model.config import (
    AttendingMixer,
    DecoderConfig,
    EncoderDecoderConfig,
    LatentMixer,
    Mixer,
    ModelConfig,
    Rotary,
    SumConfig,
    YarnScaling,
)
from thetahat.model.layers.rope import attention_factor


def family_of(plain: Mapping[str, Any]) -> Family:
    """The family that a config.json belongs to; ModelError where it is none of ours, or not one of its models."""
    named = plain.get("model_type")
    known = {family.model_type: family for family in FAMILIES}
    if not isinstance(named, str) or named not in known:
        why = "has no model_type" if named is None else f"describes a model of the type {named!r}, which is unsupported"
        raise ModelError(f"config.json {why}", allowed=", ".join(sorted(known)))
    family = known[named]
    given = plain.get("architectures") or []
    if not isinstance(given, list):
        raise refused("architectures", given, "a list of names")
    given = cast("list[Any]", given)
    if strange := [name for name in given if name not in family.architectures]:
        raise ModelError(
            f"config.json describes a {strange[0]}, which is no language model that is read here",
            allowed=", ".join(family.architectures),
        )
    return family


def read_config(plain: Mapping[str, Any], *, has_head: bool = True) -> ModelConfig:
    """The model that a config.json describes, which may lack the head of a language model.

    A field that is unknown, or that is assumed to have another value, is refused by name.
    """
    family, fields = family_of(plain), Fields(plain)
    ours: Plain = {"kind": family.kind.__struct_config__.tag}
    for part in _parts(family, has_head=has_head):
        ours |= part.read(fields)
    _check_assumed(family, fields)
    if max(ours["num_layers"], ours.get("num_encoder_layers", 0)) > MOST_LAYERS:
        raise ModelError(
            f"config.json describes a model of {ours['num_layers']} layers", allowed=f"at most {MOST_LAYERS}"
        )
    if unknown := [name for name in plain if not (name in fields.known or is_inert(family, name))]:
        raise ModelError(
            f"config.json has the field {unknown[0]!r}, of which nothing is known for the model type "
            f"{family.model_type!r}: {unknown[0]}={plain[unknown[0]]!r}",
            cure=f"remove {unknown[0]!r} from config.json if it changes nothing about what the model computes",
        )
    try:
        return canonical(from_plain(nested(ours), family.kind))
    except ConfigError as error:
        raise ModelError(f"config.json describes no model: {error.what}", allowed=error.allowed) from error


def write_config(family: Family, config: ModelConfig, *, has_head: bool = True) -> Plain:
    """The fields that describe a model, in the spellings of transformers 4 and 5; MisfitError where they cannot."""
    written: Plain = {"model_type": family.model_type, **family.written}
    written["architectures"] = [family.architecture if has_head else family.bare]
    if family.kind is EncoderDecoderConfig:
        written["is_encoder_decoder"] = True
    for part in _parts(family, has_head=has_head):
        written |= part.write(config)
    return written


def family_for(config: ModelConfig, model_type: str | None = None, *, has_head: bool = True) -> Family:
    """The first family, or the named one, if it reads this config from what it writes.

    Otherwise a ModelError says what hinders the nearest. Dropout is a setting of training, and not written.
    """
    ours = canonical(config)
    found: list[tuple[int, list[str], Family]] = []
    if model_type not in {None, *(family.model_type for family in FAMILIES)}:
        raise ModelError(
            f"{model_type!r} is no family of models that is written here",
            allowed=", ".join(sorted(family.model_type for family in FAMILIES)),
        )
    for family in FAMILIES:
        is_asked = model_type in {None, family.model_type}
        if is_asked and isinstance(config, family.kind) and (has_head or family.bare):
            distance, hindrances = _hindrances(family, ours, has_head=has_head)
            if not hindrances:
                return family
            found.append((distance, hindrances, family))
    if not found:
        raise ModelError(f"{model_type} is no {kind_of(config)}" + ("" if has_head else ", or needs a head"))
    _, hindrances, nearest = min(found, key=lambda one: one[0])
    what = f"no family that transformers knows has this shape; {nearest.model_type} comes nearest, but for"
    raise ModelError(
        f"{f'{model_type} does not have this shape:' if model_type else what} {'; '.join(hindrances)}",
        allowed=", ".join(family.model_type for *_, family in found),
    )


def _hindrances(family: Family, ours: ModelConfig, *, has_head: bool) -> tuple[int, list[str]]:
    """How far the config is from the family, and what separates them."""
    try:
        theirs = read_config(write_config(family, ours, has_head=has_head), has_head=has_head)
    except (MisfitError, ModelError) as error:
        return 100, [str(error).splitlines()[0]]
    found = differences(theirs, ours)
    return len(found), found


def canonical(config: ModelConfig) -> ModelConfig:
    """The same model in one way of saying it.

    Layers are the shortest pattern; a base that most layers have is `rope_base`; a scale that is the default is not
    given; what is none of the model's function, dropout, how matrices begin and what training alone reads, is the
    default.
    """
    depth = config.num_layers
    if isinstance(config, EncoderDecoderConfig):
        depth = max(depth, config.num_encoder_layers)
    mixers = [_resolved(config.mixer(layer), config) for layer in range(depth)]
    attentions = [mixer for mixer in mixers if isinstance(mixer, AttendingMixer)]
    rotated = [(mixer, mixer.positions) for mixer in attentions if isinstance(mixer.positions, Rotary)]
    far = [positions for mixer, positions in rotated if mixer.distance is None] or [one for _, one in rotated]
    base = far[0].base if far else None
    scale, residual = config.attention.scale, config.residual
    widths = set(map(config.key_width, attentions)) or {config.head_width}
    if isinstance(config, EncoderDecoderConfig):
        widths.add(config.head_width)  # of attention to the source
    usual_scale = widths.pop() ** -0.5 if len(widths) == 1 else None
    experts = config.experts
    if experts is not None and experts.inner_width == config.inner_width:
        experts = replace(experts, inner_width=None)
    others: Plain = {"num_future": 0} if isinstance(config, DecoderConfig) else {}
    attention = replace(config.attention, scale=None if scale == usual_scale else scale)
    if all(isinstance(mixer, LatentMixer) for mixer in mixers) and not isinstance(config, EncoderDecoderConfig):
        others |= {"num_kv_heads": config.num_heads}
        attention = replace(attention, query_key_norm="head", sharing=1)
    return replace(
        config,
        **others,
        experts=experts,
        dropout=0.0,
        rope_base=base or 10_000.0,
        layers=_shortest([_unresolved(mixer, base) for mixer in mixers]),
        residual=SumConfig(scale=residual.scale) if isinstance(residual, SumConfig) else residual,
        attention=attention,
    )


def _resolved(mixer: Mixer, config: ModelConfig) -> Mixer:
    if isinstance(mixer, LatentMixer) and mixer.norm_epsilon == config.norm_epsilon:
        mixer = replace(mixer, norm_epsilon=None)
    if not isinstance(mixer, AttendingMixer) or not isinstance(mixer.positions, Rotary):
        return mixer
    return replace(mixer, positions=_plain(resolved(mixer.positions, config)))


def _plain(rotary: Rotary) -> Rotary:
    """With the attention factor of YaRN left out where it is the default."""
    scaling = rotary.scaling
    if not isinstance(scaling, YarnScaling):
        return rotary
    usual = replace(scaling, attention_factor=None)
    return replace(rotary, scaling=usual) if scaling.attention_factor == attention_factor(usual) else rotary


def _unresolved(mixer: Mixer, base: float | None) -> Mixer:
    if not isinstance(mixer, AttendingMixer) or not isinstance(mixer.positions, Rotary):
        return mixer
    if mixer.positions.base != base:
        return mixer
    return replace(mixer, positions=replace(mixer.positions, base=None))


def _shortest(mixers: Sequence[Mixer]) -> tuple[Mixer, ...]:
    periods = range(1, len(mixers) + 1)
    return tuple(mixers[: next(p for p in periods if all(a == b for a, b in zip(mixers, mixers[p:], strict=False)))])


def is_inert(family: Family, name: str) -> bool:
    """Whether a field changes nothing about what a model computes."""
    known = (*BOOKKEEPING, *GENERATION, *family.inert, *family.assumed, *ASSUMED, *family.written, family.context)
    return any(fnmatchcase(name, pattern) for pattern in known)


def _parts(family: Family, *, has_head: bool) -> tuple[Part, ...]:
    return (*family.parts, *(family.head_parts if has_head else family.bare_parts))


def _check_assumed(family: Family, fields: Fields) -> None:
    for name, value in {**ASSUMED, **family.assumed}.items():
        given = fields.plain.get(name)
        if given is not None and given != value:
            raise refused(name, given, "null, or absent" if value is None else f"{value!r}, or absent")

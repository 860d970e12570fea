"""Settings that cannot take effect. Each is an error, so that a config says exactly what ran."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from msgspec.structs import replace

from thetahat.core.config import kind_of, to_plain
from thetahat.core.errors import ConfigError
from thetahat.data.chat.template import TEMPLATES, load_template
from thetahat.data.config import ChatConfig, as_typed
from thetahat.distribution.mesh import MeshConfig
from thetahat.generation.config import SamplesConfig
from thetahat.model.config import AttendingMixer, EncoderDecoderConfig, LatentMixer, ModelConfig
from thetahat.objective.config import BalanceConfig, Masked, ObjectiveConfig
from thetahat.run.config import RunConfig


@dataclass(frozen=True, slots=True)
class Ignored:
    """A setting that has no effect, why, and what to type instead."""

    key: str
    value: object
    why: str
    cure: str


@dataclass(frozen=True, slots=True)
class OfBase:
    """What a base decides."""

    model: ModelConfig
    vocab_size: int  # of its tokenizer
    asked_vocab_size: int | None = None  # what its run asked for; None: it was no run of ours


def refuse_ignored(config: RunConfig) -> None:
    """Raises ConfigError for the first setting that differs from its default and has no effect."""
    of_model = [*_of_layers(config), *_of_windows(config), *_of_latents(config), *_of_experts(config)]
    of_model += _of_balance(config)
    of_run = [*_of_mesh(config.mesh), *_of_run(config)]
    for one in [*_of_objective(config.objective), *of_model, *_of_data(config), *of_run]:
        raise ConfigError(f"{one.key}={one.value} has no effect: {one.why}", cure=one.cure)


def _of_objective(objective: ObjectiveConfig) -> Iterator[Ignored]:
    if objective.length_exponent != ObjectiveConfig().length_exponent and objective.normalization != "length":
        why = f"objective.normalization={objective.normalization} has no exponent"
        cure = "objective.normalization=length, or leave the exponent out"
        yield Ignored("objective.length_exponent", objective.length_exponent, why, cure)
    choice, key = objective.factorization, "objective.factorization"
    if isinstance(choice, Masked) and choice.unit != "span" and choice.mean_span != Masked().mean_span:
        why = f"units of the kind {choice.unit} have no mean length"
        yield Ignored(f"{key}.mean_span", choice.mean_span, why, f"{key}.unit=span, or leave it out")


def _of_balance(config: RunConfig) -> Iterator[Ignored]:
    balance, experts = config.objective.balance, config.model.experts
    for name in balance.__struct_fields__:
        key, value = f"objective.balance.{name}", getattr(balance, name)
        if value == getattr(BalanceConfig(), name):
            continue
        if experts is None:
            yield Ignored(key, value, "the model has no experts", "model.experts.num_experts=8, or leave it out")
        elif name == "bias_rate" and not experts.has_bias:
            why = "model.experts.has_bias=false, so that routers have no bias to move"
            yield Ignored(key, value, why, "model.experts.has_bias=true, or leave it out")


def _of_experts(config: RunConfig) -> Iterator[Ignored]:
    """Groups of experts, none of which is left out."""
    experts, key = config.model.experts, "model.experts"
    if experts is None or config.base:
        return
    if experts.num_groups == 1 and experts.group_score != type(experts)().group_score:
        cure = f"{key}.num_groups=2, or leave it out"
        yield Ignored(f"{key}.group_score", experts.group_score, "experts stand in one group", cure)
    if experts.num_groups == experts.num_chosen_groups > 1:
        why = f"{key}.num_chosen_groups={experts.num_chosen_groups} chooses all groups"
        yield Ignored(f"{key}.num_groups", experts.num_groups, why, f"{key}.num_chosen_groups=1, or leave both out")


def _of_layers(config: RunConfig) -> Iterator[Ignored]:
    """Of a list that is repeated over the depth, what stands behind the last layer. Those of a base are its own."""
    model = config.model
    depth = max(model.num_layers, model.num_encoder_layers if isinstance(model, EncoderDecoderConfig) else 0)
    if not config.base and len(model.layers) > depth:
        tail = ",".join(map(kind_of, model.layers[depth:]))
        why = f"the list has {len(model.layers)} layers, and model.num_layers={depth}"
        cure = f"model.num_layers={len(model.layers)}, or a list of at most {depth}"
        yield Ignored("model.layers", f"...,{tail}", why, cure)


def _of_latents(config: RunConfig) -> Iterator[Ignored]:
    """What attentions of the other kind, and those to a source, read."""
    model, why = config.model, "model.layers are latent attention"
    if config.base or isinstance(model, EncoderDecoderConfig):
        return
    if all(isinstance(mixer, LatentMixer) for mixer in model.layers):
        choices = model.attention
        if choices.query_key_norm != type(choices)().query_key_norm:
            cure = "leave it out: latents have norms of their own"
            yield Ignored("model.attention.query_key_norm", choices.query_key_norm, why, cure)
        if choices.sharing > 1:
            yield Ignored("model.attention.sharing", choices.sharing, why, "model.attention.sharing=1")


def _of_windows(config: RunConfig) -> Iterator[Ignored]:
    """Those of a base were chosen for its own context."""
    model, data = config.model, config.data
    room = max(data.context, data.source_room if isinstance(model, EncoderDecoderConfig) else 0)
    for number, mixer in enumerate(() if config.base else model.layers):
        if not isinstance(mixer, AttendingMixer):
            continue
        if mixer.distance is not None and mixer.distance + mixer.num_global >= room - 1:
            key, most = "data.context" if room == data.context else "data.source_context", room - 2 - mixer.num_global
            why = f"of {key}={room} positions none is farther from another"
            why += f", but for num_global={mixer.num_global} that all see" if mixer.num_global else ""
            own = f"model.layers.{number}.distance"
            cure = f"{own}=none, or a larger {key}"
            yield Ignored(own, mixer.distance, why, f"{own}={most}, {cure}" if most > 0 else cure)


def _of_data(config: RunConfig) -> Iterator[Ignored]:
    data, layout = config.data, config.objective.factorization.layout
    if data.sources and data.train not in ("", type(data)().train):
        cure = "data.sources.NAME.path for it, or leave it out (data.train= unsets that of a file); or data.sources={}"
        yield Ignored("data.train", as_typed(data.train), "data.sources says what to train on", cure)
    if data.source_context is not None and not layout.has_source:
        why = "nothing is read by an encoder for a decoder"
        yield Ignored("data.source_context", data.source_context, why, "data.context=N, and data.source_context=none")
    if data.labels and not layout.predicts_label:
        why = "only objective.factorization.kind=labels has labels"
        yield Ignored("data.labels", list(data.labels), why, "the recipe classification, or leave them out")
    if data.tokenizer_bytes != type(data)().tokenizer_bytes and (data.tokenizer or config.base):
        by = "base" if config.base else "data.tokenizer"
        why = f"no tokenizer is trained: {by} names one"
        yield Ignored("data.tokenizer_bytes", data.tokenizer_bytes, why, f"leave it out, or {by}=none")
    if data.chat:
        yield from _of_chat(data.chat)


def _of_chat(chat: ChatConfig) -> Iterator[Ignored]:
    source = load_template(chat).source
    if chat.named and (chat.template in TEMPLATES or chat.template.endswith(".jinja")):
        why = f"data.chat.template={chat.template} is one template"
        yield Ignored("data.chat.named", chat.named, why, "data.chat.named=none")
    for name, value in chat.variables.items():
        if not re.search(rf"\b{re.escape(name)}\b", source):
            why = f"data.chat.template={chat.template} never reads it"
            yield Ignored(f"data.chat.variables.{name}", value, why, "another name, or leave it out")
    if chat.date is not None and "strftime_now" not in source:
        why = f"data.chat.template={chat.template} asks for no date"
        yield Ignored("data.chat.date", chat.date, why, "data.chat.date=none")


def _of_mesh(mesh: MeshConfig) -> Iterator[Ignored]:
    if mesh.turns > 1 and mesh.pipeline == 1:
        yield Ignored("mesh.turns", mesh.turns, "there is no pipeline", "mesh.pipeline=2, or mesh.turns=1")
    if mesh.offload and mesh.shards == 1:
        yield Ignored("mesh.offload", "true", "there are no shards", "mesh.shards=2, or mesh.offload=false")


def _of_run(config: RunConfig) -> Iterator[Ignored]:
    if config.float8 and config.dtype != "bfloat16":
        why = f"of products in {config.dtype} none is made in float8"
        yield Ignored("float8", "true", why, "dtype=bfloat16, or float8=false")
    if config.ledger.tokens and config.ledger.every == 0:
        why = "ledger.every=0 writes no ledger"
        yield Ignored("ledger.tokens", "true", why, "ledger.every=1, or ledger.tokens=false")
    if config.skip_steps and config.skip_steps[-1] > config.max_steps:
        why = f"max_steps={config.max_steps} ends the run before"
        yield Ignored("skip_steps", list(config.skip_steps), why, "steps that it has, or a larger max_steps")
    if config.evaluation.ema and config.optimization.ema is None:
        yield Ignored("evaluation.ema", "true", "no moving average is kept", "optimization.ema=0.999")
    if config.samples.prompts and config.objective.factorization.layout.predicts_label:
        why = "a classifier writes no text"
        yield Ignored("samples.prompts", list(config.samples.prompts), why, "leave it out")
    for name in ("every", "max_tokens", "temperature"):
        value = getattr(config.samples, name)
        if value != getattr(SamplesConfig(), name) and not config.samples.prompts:
            yield Ignored(f"samples.{name}", value, "nothing is written", "samples.prompts=TEXT")
    for key in ("base_digest", "base_vocab_size", "base_rows"):
        value = getattr(config, key)
        if value and not config.base:
            yield Ignored(key, value, "there is no base", "base=MODEL, or leave it out")


def refuse_beside_tokenizer(config: RunConfig, typed: Mapping[str, Any]) -> None:
    """Raises ConfigError for a vocabulary size that was typed beside a tokenizer, which has its own."""
    if "data.vocab_size" in typed and config.data.tokenizer and not config.base:
        raise ConfigError(
            f"data.vocab_size={config.data.vocab_size} has no effect: data.tokenizer has its own",
            cure="leave data.vocab_size out; or data.tokenizer=none, for a tokenizer of that size",
        )


def refuse_beside_base(config: RunConfig, base: OfBase, typed: Mapping[str, Any]) -> None:
    """Raises ConfigError for typed settings that differ from what the base decides: its shape and its tokenizer.

    `typed` are the keys and values of the command line and of a config file, not those of a recipe.
    """
    decided = {"model": to_plain(base.model)}
    for key, value in typed.items():
        if key.startswith("model.") and key != "model.dropout":
            theirs = _value_at(decided, key.split("."))
            if value != theirs:
                _refuse(config, key, value, "none" if theirs is None else theirs)
    if "data.tokenizer" in typed and config.data.tokenizer is not None:
        _refuse(config, "data.tokenizer", config.data.tokenizer, "none: the base brings its own")
    asked = base.asked_vocab_size or base.vocab_size
    if "data.vocab_size" in typed and config.data.vocab_size not in {base.vocab_size, asked}:
        _refuse(config, "data.vocab_size", config.data.vocab_size, asked)


def _value_at(plain: Any, path: Sequence[str]) -> Any:
    """What a config says at a path, which may name items of lists by their numbers; None: nothing."""
    for name in path:
        if isinstance(plain, list):
            plain = dict(enumerate(cast("list[Any]", plain))).get(int(name) if name.isdigit() else -1)
        else:
            plain = cast("dict[str, Any]", plain).get(name) if isinstance(plain, dict) else None
    return plain


def _refuse(config: RunConfig, key: str, value: object, theirs: object) -> None:
    raise ConfigError(
        f"{key}={value} has no effect: base={config.base} decides it",
        allowed=f"{key}={theirs}",
        cure=f"leave {key} out; or train without a base",
    )


def beside_base(config: RunConfig, base: OfBase) -> RunConfig:
    """The config with what the base decides: its shape except dropout, and its tokenizer."""
    shape = replace(base.model, dropout=config.model.dropout)
    data = replace(config.data, vocab_size=base.asked_vocab_size or config.data.vocab_size, tokenizer=None)
    return replace(config, model=shape, data=data)

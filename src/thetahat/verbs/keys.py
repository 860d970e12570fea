"""Every key that KEY=VALUE and a config.toml may set: what it means, what it may be, what it is by default."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

import msgspec

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.core.schema import allowed, alternatives, choice, fields, items, meanings, near_keys, tag, variants
from thetahat.run.config import InferenceConfig, RunConfig

REQUIRED = "required"
CHAPTERS: Mapping[str, str] = {
    "": "README.md#on-your-own-text",
    "seed": "README.md#the-run-folder",
    "heartbeat": "docs/06-runs.md#when-a-rank-is-lost",
    "device": "README.md#on-your-own-text",
    "threads": "README.md#the-run-folder",
    "deterministic": "docs/01-the-objective.md#what-rounding-does",
    "dtype": "docs/01-the-objective.md#what-rounding-does",
    "float8": "docs/01-the-objective.md#what-rounding-does",
    "compile": "docs/01-the-objective.md#what-rounding-does",
    "data": "docs/01-the-objective.md#the-dataset",
    "data.train": "docs/08-data.md#where-it-lies",
    "data.split_on": "docs/08-data.md#formats",
    "data.sources": "docs/08-data.md#mixtures",
    "data.temperature": "docs/08-data.md#mixtures",
    "data.on_bad_record": "docs/08-data.md#records-that-cannot-be-read",
    "data.context": "docs/08-data.md#a-context-that-fits",
    "data.columns": "docs/08-data.md#columns",
    "data.trees": "docs/02-factorizations.md#records",
    "data.preference": "docs/02-factorizations.md#records",
    "data.source_context": "docs/02-factorizations.md#two-streams-encoder-and-decoder",
    "data.over_long": "docs/02-factorizations.md#what-is-too-long",
    "data.source_weights": "docs/02-factorizations.md#who-counts-how-much",
    "data.unsupervised": "docs/02-factorizations.md#who-counts-how-much",
    "data.packing": "docs/01-the-objective.md#micro-batches-packing-padding-ranks",
    "data.chat": "docs/02-factorizations.md#dialogues-all-turns-in-one-pass",
    "data.labels": "docs/03-tasks.md#classification",
    "model": "docs/05-models-of-others.md#in",
    "base": "docs/02-factorizations.md#starting-from-a-trained-model",
    "adapter": "docs/02-factorizations.md#starting-from-a-trained-model",
    "frozen": "docs/02-factorizations.md#starting-from-a-trained-model",
    "objective": "docs/01-the-objective.md#the-sum-and-its-divisor-z",
    "objective.factorization": "docs/02-factorizations.md#records",
    "objective.future": "docs/01-the-objective.md#tokens-behind-the-next-one",
    "model.num_future": "docs/01-the-objective.md#tokens-behind-the-next-one",
    "objective.normalization": "docs/01-the-objective.md#normalisation-is-a-declared-choice",
    "objective.length_exponent": "docs/01-the-objective.md#normalisation-is-a-declared-choice",
    "optimization": "docs/01-the-objective.md#what-does-change-the-objective",
    "batch_size": "docs/01-the-objective.md#micro-batches-packing-padding-ranks",
    "micro_batch_size": "docs/01-the-objective.md#micro-batches-packing-padding-ranks",
    "max_steps": "README.md#commands",
    "max_tokens": "README.md#commands",
    "evaluation": "docs/01-the-objective.md#how-held-out-likelihood-is-computed",
    "checkpoint": "README.md#the-run-folder",
    "evaluation.ema": "docs/04-likelihood.md#which-checkpoint",
    "optimization.ema": "docs/04-likelihood.md#which-checkpoint",
    "samples": "docs/06-runs.md#watching",
    "track": "docs/06-runs.md#trackers",
    "ledger": "docs/04-likelihood.md#the-ledger-of-a-run",
}
"""Where the documentation says more, by the beginning of a key; the longest counts."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key; `[]` in it stands for each item of a list, NAME for any name."""

    key: str
    default: str  # as it is typed; `required`: there is none; empty: a table, whose keys have theirs
    allowed: str
    meaning: str
    where: tuple[str, ...]  # what must be set for it, KEY=VALUE, one of these; empty: it is always there
    chapter: str  # a page of the documentation with its heading
    is_table: bool  # it holds the keys below it
    asks: bool  # it may be set when a trained model is asked, too


def keys(prefix: str = "", find: str = "") -> list[Key]:
    """The keys of a run at or below a prefix, those that hold `find` in their name or their meaning.

    A key with other defaults or meanings in other variants is listed for each. Raises ConfigError where there is none.
    """
    prefix, word = prefix.strip("."), find.casefold()
    found = [
        key
        for key in all_keys(RunConfig)
        if not prefix or key.key == prefix or key.key.startswith((f"{prefix}.", f"{prefix}["))
    ]
    if not found:
        names = [key.key for key in all_keys(RunConfig)]
        near = sorted({name for name in names if prefix.rpartition(".")[2] in name.rpartition(".")[2]})
        near = near or near_keys(prefix.split("."), RunConfig)
        cure = " or ".join(f"thetahat keys {name}" for name in near[:3]) or f"thetahat keys --find {quote(prefix)}"
        raise ConfigError(f"no key begins with {prefix!r}", cure=cure)
    found = [key for key in found if word in key.key.casefold() or word in key.meaning.casefold()]
    if not found:
        raise ConfigError(f"no key{f' below {prefix}' if prefix else ''} has {find!r} in its name or its meaning")
    return found


def all_keys(kind: type[Config]) -> list[Key]:
    """Every key of a config, those of its tables included."""
    return list(_below(kind, "", msgspec.UNSET))


def _below(hint: Any, prefix: str, given: Any) -> Iterator[Key]:
    """The keys of a table; `given` is the table that is there by default."""
    kinds = variants(hint)
    if len(kinds) > 1 or (kinds and tag(kinds[0])):
        told = "; ".join(choice(kind).rstrip(".") for kind in kinds)
        default = tag(type(given)) if isinstance(given, msgspec.Struct) else REQUIRED
        yield _key(f"{prefix}kind", default, ", ".join(map(tag, kinds)), f"{told}.")
    for name in dict.fromkeys(name for kind in kinds for name in meanings_of(kind)):
        for owners, hint_here, default in _groups(kinds, name):
            is_everywhere = len(owners) == len(kinds)
            where = () if is_everywhere else tuple(f"{prefix}kind={tag(owner)}" for owner in owners)
            yield from _one(f"{prefix}{name}", hint_here, default, (meanings_of(owners[0])[name], where))


def _one(name: str, hint: Any, default: Any, told: tuple[str, tuple[str, ...]]) -> Iterator[Key]:
    """A key, and those below it."""
    tables, held = variants(hint), items(hint)
    shown = "" if tables and type(None) not in alternatives(hint) else _typed(default)
    yield _key(name, shown, allowed(hint), *told, is_table=bool(tables))
    if tables:
        yield from _below(hint, f"{name}.", default)
    if held is not None and variants(held):
        yield from _below(held, f"{name}[].", variants(held)[0]())


def meanings_of(kind: type) -> dict[str, str]:
    """The meaning of every field, empty where there is none."""
    told = meanings(kind)
    return {field.encode_name: told.get(field.name, "") for field in msgspec.structs.fields(kind)}


def _groups(kinds: Sequence[type], name: str) -> list[tuple[list[type], Any, Any]]:
    """The variants that have a field, those together in which it means the same, with its type and its default."""
    found: dict[tuple[str, str, str], tuple[list[type], Any, Any]] = {}
    for kind in kinds:
        if name in meanings_of(kind):
            hint, default = fields(kind)[name], _default(kind, name)
            same = (meanings_of(kind)[name], allowed(hint), _typed(default))
            found.setdefault(same, ([], hint, default))[0].append(kind)
    return list(found.values())


def _key(
    name: str, default: str, choices: str, meaning: str, where: tuple[str, ...] = (), *, is_table: bool = False
) -> Key:
    beginnings = [".".join(name.split(".")[:depth]) for depth in range(name.count(".") + 1, -1, -1)]
    chapter = next(CHAPTERS[beginning] for beginning in beginnings if beginning in CHAPTERS)
    asks = name in _OF_ASKING
    return Key(name, default, choices, meaning, where, chapter, is_table, asks)


def _names(hint: Any, prefix: str = "") -> Iterator[str]:
    for name, below in fields(hint).items():
        yield prefix + name
        yield from _names(below, f"{prefix}{name}.")


_OF_ASKING = frozenset(_names(InferenceConfig)) | {"data.split_on", "data.columns", "data.on_bad_record"}


def _default(kind: type, name: str) -> Any:
    field = next(field for field in msgspec.structs.fields(kind) if field.encode_name == name)
    if field.default is not msgspec.NODEFAULT:
        return field.default
    return field.default_factory() if field.default_factory is not msgspec.NODEFAULT else msgspec.UNSET


def _typed(value: Any) -> str:
    """A value as it is typed behind KEY=."""
    match value:
        case None:
            return "none"
        case msgspec.UnsetType():
            return REQUIRED
        case bool():
            return str(value).lower()
        case str():
            return value if value else "''"
        case int() | float():
            return repr(value)
        case _:
            return _inline(msgspec.to_builtins(value))


def _inline(value: Any) -> str:
    """A list or a table as TOML has it on one line; what is none is left out."""
    if isinstance(value, dict):
        known = [(name, one) for name, one in value.items() if one is not None]
        return f"{{{', '.join(f'{name} = {_inline(one)}' for name, one in known)}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_inline, value))}]"
    return json.dumps(value, ensure_ascii=False)

"""A model card: what a model is, of which data, how likely it makes what was held out, and how to see that again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from thetahat.core.plain import counted
from thetahat.ledger.summary import Summary, count_of

_LICENCE = "Not said yet: it is for whoever publishes the model to say under which licence, and what its data allow."


@final
@dataclass(frozen=True, kw_only=True)
class CorpusFacts:
    """One part of the data, without a path."""

    part: str  # "train" or "held-out"
    fingerprint: str  # of its records, tokenizer and layout
    num_documents: int | None = None  # None: the run did not note it
    num_tokens: int | None = None


@final
@dataclass(frozen=True, kw_only=True)
class Measured:
    """How likely a text is under the exported parameters."""

    summary: Summary
    policy: str
    command: str


@final
@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """All that a card says. None of it names a place on a machine."""

    title: str
    library: str  # "transformers" or "peft"
    task: str | None  # the hub's name for what it does
    base: str | None = None  # owner/name on the hub
    tags: Sequence[str] = ()
    lines: Sequence[str] = ()  # what it is, a sentence each
    corpora: Sequence[CorpusFacts] = ()
    measured: Measured | None = None
    why_not: str = ""  # measured
    config: str = ""  # TOML
    versions: Mapping[str, str] = field(default_factory=dict[str, str])


def model_card(facts: ModelFacts) -> str:
    """The text of README.md, with the front matter that the hub reads."""
    sections = [
        f"# {facts.title}\n\n" + "\n".join(f"- {line}" for line in facts.lines),
        "## Likelihood\n\n" + _likelihood(facts),
        "## Data\n\n" + _data(facts.corpora),
    ]
    if facts.config:
        sections.append(f"## Config\n\nWhat the result depends on, but for names of files:\n\n{_toml(facts.config)}")
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    sections += [f"## Versions\n\n{versions}", f"## Licence\n\n{_LICENCE}"]
    return "\n\n".join([_front_matter(facts), *sections]) + "\n"


def _front_matter(facts: ModelFacts) -> str:
    lines = [f"library_name: {facts.library}"]
    lines += [f"pipeline_tag: {facts.task}"] if facts.task else []
    lines += [f"base_model: {json.dumps(facts.base)}"] if facts.base else []
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in facts.tags)]
    lines += ["# license: apache-2.0, or another identifier that the hub knows"]
    return "\n".join(["---", *lines, "---"])


def _likelihood(facts: ModelFacts) -> str:
    if facts.measured is None:
        return f"Not measured: {facts.why_not}."
    summary = facts.measured.summary
    rows = [
        ("bits per byte", summary.bits_per_byte, summary.bits_per_byte_ci95),
        ("nats per token", summary.nats_per_token, summary.nats_per_token_ci95),
        ("perplexity per token", summary.perplexity, summary.perplexity_ci95),
    ]
    table = ["| what was held out | | 95 % interval |", "|---|---|---|"]
    table += [f"| {name} | {value:.4f} | {_interval(ends)} |" for name, value, ends in rows]
    size = f"{counted(summary.num_documents, 'document')}, {summary.num_tokens:,} tokens, {summary.num_bytes:,} bytes"
    units = count_of(summary.num_interval_units, summary.interval_unit)
    caution = f" {summary.caution[0].upper()}{summary.caution[1:]}." if summary.caution else ""
    how = f"Of {size}, each token asked once: {facts.measured.policy}. Intervals are over {units}.{caution}"
    return "\n".join([*table, "", how, "", "```console", f"$ {facts.measured.command}", "```"])


def _interval(ends: tuple[float, float] | None) -> str:
    return f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else "too little text for one"


def _data(corpora: Sequence[CorpusFacts]) -> str:
    if not corpora:
        return "Not known: the model was not trained here."
    table = ["| part | documents | tokens | digest of texts, tokenizer and layout |", "|---|---|---|---|"]
    table += [
        f"| {one.part} | {_count(one.num_documents)} | {_count(one.num_tokens)} | `{one.fingerprint}` |"
        for one in corpora
    ]
    return "\n".join(table)


def _count(number: int | None) -> str:
    return "not noted" if number is None else f"{number:,}"


def _toml(text: str) -> str:
    return f"```toml\n{text.strip()}\n```"


def without_paths(plain: Mapping[str, Any], known: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A config as nested dictionaries, its paths replaced by the names of their keys in capitals.

    `known` has for each dotted key of a path the beginnings of values that are none and stay.
    """
    kept: dict[str, Any] = json.loads(json.dumps(plain))
    for key, beginnings in known.items():
        *above, leaf = key.split(".")
        place = kept
        for name in above:
            place = place.get(name) or {}
        value = place.get(leaf)
        if isinstance(value, str) and not value.startswith(tuple(beginnings)):
            place[leaf] = leaf.upper()
    return kept

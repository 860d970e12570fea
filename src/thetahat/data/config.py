"""What to train on, what to hold out, and how documents are laid into the model's context."""

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from msgspec import Meta, field
from msgspec.structs import force_setattr

from thetahat.core.config import Config, override
from thetahat.core.errors import ConfigError
from thetahat.core.plain import tidied, unescaped

OverLong = Literal["error", "split", "truncate-left", "truncate-right", "drop", "keep-last-turns"]
Packing = Literal["best-fit", "none"]
Unsupervised = Literal["error", "skip"]
OnBadRecord = Literal["error", "skip"]
Trees = Literal["best", "all"]
Preference = Literal["chosen"]
Rule = Literal["hash", "tail", "none", "path"]  # by which documents are held out
Place = str | tuple[str, ...]  # of files

MARKS = frozenset({"text", "label", "prompt", "completion", "messages"})  # fields that a record is made of
COLUMNS = MARKS | {"answers", "tools", "id", "source", "weight"}  # all of a record that data.columns may name
OF_QUESTIONS = frozenset({"query", "context", "context_options", "choices", "continuation", "gold", "good", "bad"})
"""What it may name of a question with choices, beside `messages`, `tools`, `id` and `source`."""
OF_READING = ("split_on", "columns", "trees", "preference")  # the keys of ReadOptions
Plain = bool | int | float | str  # what a template may be given by name
Weight = Annotated[float, Meta(ge=0, lt=1e300)]
_FORMS = "hash:F (whole documents, by digest), tail:F (the end of the data), PATH, none; F between 0 and 1"


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How what stands in files becomes records; beside the files, all that it depends on."""

    split_on: str | None = None  # what stands between the documents of a .txt; None: it is one
    columns: Mapping[str, str] | None = None  # under which names the fields of a record stand
    trees: Trees | None = None  # which replies of a tree of messages are learned; None: there may be none
    preference: Preference | None = None  # which answer of a preference is learned; None: there may be none

    def told(self) -> list[Any]:
        """What data is told apart by."""
        return [self.split_on, self.columns or None, self.trees, self.preference]

    def or_as(self, other: "ReadOptions") -> "ReadOptions":
        """These, and where they say nothing, as the others say."""
        return ReadOptions(
            self.split_on if self.split_on is not None else other.split_on,
            self.columns or other.columns,
            self.trees or other.trees,
            self.preference or other.preference,
        )


def is_of_reading(pair: str) -> bool:
    """Whether KEY=VALUE sets one of the options that say how records are taken from files."""
    above, _, name = pair.partition("=")[0].partition(".")
    return above == "data" and name.partition(".")[0] in OF_READING


def named(place: Place) -> tuple[str, ...]:
    """What names files, one or several."""
    return (place,) if isinstance(place, str) else place


def tidied_place(place: Place) -> Place:
    """The same files, named as shortly as can be, so that one place is one config."""
    return tidied(place) if isinstance(place, str) else tuple(map(tidied, place))


def as_typed(place: Place) -> str:
    """What names files, as it is typed behind KEY=."""
    return place if isinstance(place, str) else json.dumps(place, ensure_ascii=False)


class ChatConfig(Config, frozen=True, kw_only=True):
    """Which template a dialogue is written with."""

    template: str = "chatml"
    """The chat template: the name of one that comes along, or the path of a .jinja file, a tokenizer_config.json or
    a folder.
    """
    named: str | None = None
    """Which template of a folder that has several; none: its default."""
    special_tokens: tuple[str, ...] = ()
    """Special tokens that a .jinja file writes; a tokenizer_config.json names its own."""
    ends_turn: tuple[str, ...] = ()
    """What ends a turn of the assistant, where it is not the last special token of the turn."""
    bos_token: str | None = None
    """The token that the template is given as `bos_token`; none: the template's own."""
    eos_token: str | None = None
    """The token that the template is given as `eos_token`; none: the template's own."""
    variables: dict[str, Plain] = field(default_factory=dict)
    """What the template asks for by name, for example data.chat.variables.enable_thinking=false."""
    date: str | None = None
    """The day, like 2025-01-31, for templates that ask for it: training must not depend on the clock."""

    def __post_init__(self) -> None:
        if self.date is not None:
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError as error:
                raise ConfigError(f"date={self.date!r} is no day", allowed="like 2025-01-31") from error


class SourceConfig(Config, frozen=True, kw_only=True):
    """A source of a mixture: where its records are, and how much of the training they are."""

    path: Place = ""
    """Where its records are: a file, a folder, a glob or a URL, or a list of these."""
    weight: Annotated[float, Meta(gt=0, lt=1e300)] | None = None
    """Its share of the rows, in proportion to the weights of the others; none: by data.temperature."""
    max_epochs: Annotated[int, Meta(ge=1, le=2**40)] | None = None
    """After so many epochs of its own it is used up, and its share goes to the others; none: it is repeated."""
    held_out: Place | None = None
    """What of it, or which other files, is held out under its name, as data.held_out says; none: as that says."""

    def __post_init__(self) -> None:
        force_setattr(self, "path", tidied_place(self.path))
        force_setattr(self, "held_out", None if self.held_out is None else tidied_place(self.held_out))


class DataConfig(Config, frozen=True, kw_only=True):
    """The dataset, its division in two, and the policies that turn documents into rows."""

    train: Place = "bundled:tinyshakespeare"
    """What to train on: a file, a folder, a glob, a URL (s3://, https://, ...), - for standard input, or bundled:NAME;
    or a list of these. Empty beside data.sources.
    """
    sources: dict[str, SourceConfig] = field(default_factory=dict[str, SourceConfig])
    """Several sources instead of data.train, by name: data.sources.wiki.path=wiki/, data.sources.wiki.weight=3."""
    temperature: Annotated[float, Meta(gt=0, lt=1e300)] | None = None
    """Where sources have no weights: T, and their shares of the rows are as (targets of the source)^(1/T); none: 1."""
    held_out: Place = "hash:0.1"
    """What is not trained on but scored: hash:F (whole documents, by digest), tail:F (the end of the data), other
    files, or none.
    """
    columns: Annotated[dict[str, str], Meta(examples=["text"])] = field(default_factory=dict[str, str])
    """Where a record has its fields: data.columns.prompt=question reads the field `question` as the prompt. Of
    questions (thetahat choose) data.columns.query=question, .choices=options, .gold=answer, and so on.
    """
    trees: Trees | None = None
    """Which replies of a tree of messages are learned: the best ranked of each message, or all; none: a file with
    trees is refused.
    """
    preference: Preference | None = None
    """Which answer of a preference is learned: the chosen one, and the rejected one is not read; none: such a file is
    refused.
    """
    split_on: str | None = None
    r"""What stands between the documents of a .txt, with \n, \t and \r as escapes; none: the file is one document."""
    context: Annotated[int, Meta(ge=2, le=2**22)] = 1024
    """Positions that the model reads at once: the context length."""
    source_context: Annotated[int, Meta(ge=2, le=2**22)] | None = None
    """Positions that an encoder reads for a decoder; none: as many as data.context."""
    over_long: OverLong = "error"
    """What becomes of a document with more tokens than the context has positions."""
    source_weights: dict[str, Weight] = field(default_factory=dict[str, Weight])
    """A loss weight for all records of a source, beside their own: data.source_weights.books=0.5; 1 for sources that
    are not named.
    """
    unsupervised: Unsupervised = "error"
    """What becomes of a record in which nothing is a target."""
    on_bad_record: OnBadRecord = "error"
    """What becomes of a record that cannot be read; `skip` leaves it out, counts it and names it."""
    packing: Packing = "best-fit"
    """How pieces are laid into rows: best-fit fills a row with several, none gives each a row of its own."""
    shifts_splits: bool = False
    """Whether each epoch splits over-long documents at other places."""
    vocab_size: Annotated[int, Meta(ge=257, le=2**24)] = 4096
    """Size of the vocabulary that is trained on the training part; not beside data.tokenizer or a base."""
    tokenizer_bytes: Annotated[int, Meta(ge=1)] = 40_000_000
    """Bytes of text, about, that a tokenizer is trained on: of more data a sample, chosen by digests of its records."""
    tokenizer: str | None = None
    """The path of a tokenizer.json, or of the folder of one, to use as it is; none: one is trained."""
    chat: ChatConfig | None = None
    """How dialogues are written; none: there are no dialogues."""
    special_tokens: tuple[str, ...] = ()
    """Tokens that the vocabulary gets beside <|endoftext|> and what the objective needs."""
    labels: tuple[str, ...] = ()
    """The labels of a classification, in the order of the head; empty: those of the training part."""

    def __post_init__(self) -> None:
        force_setattr(self, "train", tidied_place(self.train))
        force_setattr(self, "held_out", tidied_place(self.held_out))
        force_setattr(self, "tokenizer", self.tokenizer and tidied(self.tokenizer))
        if ("" in named(self.train) or not self.train) and not (self.sources and self.train == ""):
            allowed = "a file, a folder, a glob, - or bundled:tinyshakespeare, or a list of these"
            raise ConfigError("data.train is empty", allowed=allowed)
        if self.split_on == "":
            raise ConfigError("data.split_on is empty", cure="data.split_on=none, or the text between documents")
        if unknown := sorted(self.columns.keys() - COLUMNS - OF_QUESTIONS):
            allowed = f"{', '.join(sorted(COLUMNS))}; of questions {', '.join(sorted(OF_QUESTIONS))}"
            raise ConfigError(f"data.columns.{unknown[0]} names nothing of a record", allowed=allowed)
        self._check_sources()
        _division(self.held_out, "data.held_out")

    def _check_sources(self) -> None:
        if bad := [name for name in self.sources if not name or "/" in name]:
            raise ConfigError(f"data.sources: {bad[0]!r} is no name", allowed="letters that are not /")
        if empty := [name for name, source in self.sources.items() if not source.path or "" in named(source.path)]:
            key = f"data.sources.{empty[0]}.path"
            raise ConfigError(f"{key} is missing", allowed="a file, a folder or a glob, or a list", cure=f"{key}=...")
        for name, source in self.sources.items():
            if source.held_out is not None:
                _division(source.held_out, f"data.sources.{name}.held_out")
                if self.division[0] == "path":
                    both = f"data.sources.{name}.held_out beside data.held_out={as_typed(self.held_out)}"
                    raise ConfigError(f"{both}, which is of all sources", cure="leave one of the two out")
        weighed = [name for name, source in self.sources.items() if source.weight is not None]
        if self.temperature is not None and (weighed or not self.sources):
            why = f"data.sources.{weighed[0]}.weight says it" if weighed else "there are no data.sources"
            raise ConfigError(f"data.temperature={self.temperature} has no effect: {why}", cure="leave one of them out")
        if weighed and len(weighed) < len(self.sources):
            (other, *_) = self.sources.keys() - set(weighed)
            cure = f"data.sources.{other}.weight=1, or no weights and data.temperature"
            raise ConfigError(f"data.sources.{weighed[0]} has a weight, and data.sources.{other} has none", cure=cure)
        if self.sources and (unknown := sorted(self.source_weights.keys() - self.sources.keys())):
            raise ConfigError(f"data.source_weights.{unknown[0]} is no source", allowed=", ".join(sorted(self.sources)))

    @property
    def read_options(self) -> ReadOptions:
        """How records are taken from the files."""
        return ReadOptions(self.separator, self.columns, self.trees, self.preference)

    @property
    def separator(self) -> str | None:
        """What stands between the documents of a .txt, and belongs to neither: `split_on`, its escapes read."""
        return None if self.split_on is None else unescaped(self.split_on)

    @property
    def source_room(self) -> int:
        """Positions that an encoder reads for a decoder."""
        return self.source_context or self.context

    @property
    def division(self) -> tuple[Rule, Fraction]:
        """The rule by which documents are held out, and its fraction (0 where it has none)."""
        return _division(self.held_out, "data.held_out")

    @property
    def rules(self) -> set[Rule]:
        """The rules by which documents are held out: of several sources, those of each."""
        own = [one.held_out for one in self.sources.values()] or [None]
        return {_division(self.held_out if one is None else one, "data.held_out")[0] for one in own}

    @property
    def places(self) -> dict[str, Place]:
        """By its key, everything that names files: to train on, and to hold out."""
        train = {f"data.sources.{name}.path": one.path for name, one in self.sources.items()}
        own = {f"data.sources.{name}.held_out": one.held_out for name, one in self.sources.items() if one.held_out}
        found = (train or {"data.train": self.train}) | {"data.held_out": self.held_out} | own
        return {
            key: place for key, place in found.items() if "held_out" not in key or _division(place, key)[0] == "path"
        }

    @property
    def told(self) -> str:
        """What is trained on, in a line: the place, or the names of several sources."""
        return " + ".join(sorted(self.sources)) if self.sources else as_typed(self.train)


def _division(held_out: Place, key: str) -> tuple[Rule, Fraction]:
    """The rule that a value of `key` says, and its fraction; raises ConfigError where it says none."""
    if "" in named(held_out) or not held_out:
        raise ConfigError(f"{key} is empty", allowed=_FORMS)
    if not isinstance(held_out, str):
        return "path", Fraction(0)
    if held_out == "none":
        return "none", Fraction(0)
    rule, colon, number = held_out.partition(":")
    if not colon or (rule != "hash" and rule != "tail"):
        return "path", Fraction(0)
    try:
        fraction = Fraction(number)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"{key}={held_out!r} has no number behind its colon", allowed=_FORMS) from error
    if not 0 < fraction < 1:
        raise ConfigError(f"{key}={held_out!r} leaves one part empty", allowed=_FORMS)
    return rule, fraction


class _Data(Config, frozen=True, kw_only=True):
    data: DataConfig = field(default_factory=DataConfig)


def data_of(pairs: Sequence[str]) -> DataConfig:
    """What data.KEY=VALUE pairs say where nothing is trained; errors name keys as they were typed."""
    return override(_Data(), pairs).data

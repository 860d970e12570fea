"""What to train on, what to hold out, and how documents are laid into the model's context."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Any, Literal

from msgspec import Meta, field

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.core.plain import unescaped

OverLong = Literal["error", "split", "truncate-left", "truncate-right", "drop", "keep-last-turns"]
Packing = Literal["best-fit", "none"]
Unsupervised = Literal["error", "skip"]
OnBadRecord = Literal["error", "skip"]
Trees = Literal["best", "all"]
Preference = Literal["chosen"]
Place = str | tuple[str, ...]  # of files

MARKS = frozenset({"text", "label", "prompt", "completion", "messages"})  # fields that a record is made of
COLUMNS = MARKS | {"answers", "tools", "id", "source", "weight"}  # all that data.columns may name
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


def as_typed(place: Place) -> str:
    """What names files, as it is typed behind KEY=."""
    return place if isinstance(place, str) else json.dumps(place, ensure_ascii=False)


class ChatConfig(Config, frozen=True, kw_only=True):
    """Which template a dialogue is written with."""

    template: str = "chatml"  # one of TEMPLATES, or the path of a .jinja file, a tokenizer_config.json or a folder
    named: str | None = None  # which template of a folder that has several; None: its default
    special_tokens: tuple[str, ...] = ()  # of a .jinja file
    ends_turn: tuple[str, ...] = ()  # what ends a turn of the assistant, where it is not the last special token of it
    bos_token: str | None = None  # instead of the template's own
    eos_token: str | None = None
    variables: dict[str, Plain] = field(
        default_factory=dict
    )  # what the template asks for, for example enable_thinking=false
    date: str | None = None  # the day, 2025-01-31, for templates that ask for it: training must not depend on the clock

    def __post_init__(self) -> None:
        if self.date is not None:
            try:
                datetime.date.fromisoformat(self.date)
            except ValueError as error:
                raise ConfigError(f"date={self.date!r} is no day", allowed="like 2025-01-31") from error


class DataConfig(Config, frozen=True, kw_only=True):
    """The dataset, its division in two, and the policies that turn documents into rows."""

    train: Place = "bundled:tinyshakespeare"  # a file, a folder, a glob, - or bundled:NAME; or a list of these
    held_out: Place = "hash:0.1"  # hash:F, tail:F, none, or other files
    columns: dict[str, str] = field(default_factory=dict[str, str])  # of a record: prompt=question completion=answer
    trees: Trees | None = None  # replies of a tree of messages that are learned: the best ranked, or all
    preference: Preference | None = None  # chosen: of a preference the chosen answer is learned, the other not read
    split_on: str | None = None  # what stands between the documents of a .txt, or \n, \t, \r for it
    context: Annotated[int, Meta(ge=2, le=2**22)] = 1024  # positions that the model reads at once
    source_context: Annotated[int, Meta(ge=2, le=2**22)] | None = (
        None  # what an encoder reads for a decoder; None: same
    )
    over_long: OverLong = "error"  # what becomes of a document that has more targets than that
    source_weights: dict[str, Weight] = field(default_factory=dict[str, Weight])  # beside records' own; others: 1
    unsupervised: Unsupervised = "error"  # what becomes of a record of which nothing is asked
    on_bad_record: OnBadRecord = "error"  # what becomes of a record that cannot be read; all are named and counted
    packing: Packing = "best-fit"
    shifts_splits: bool = False  # whether each epoch splits over-long documents at other places
    vocab_size: Annotated[int, Meta(ge=257, le=2**24)] = 4096
    tokenizer: str | None = None  # the path of a tokenizer.json, or of the folder of one, to use as it is
    chat: ChatConfig | None = None  # how dialogues are written; None: there are none
    special_tokens: tuple[str, ...] = ()  # to be in the vocabulary beside <|endoftext|> and what the objective needs
    labels: tuple[str, ...] = ()  # of a classification; empty: those of the training part

    def __post_init__(self) -> None:
        if "" in named(self.train) or not self.train:
            allowed = "a file, a folder, a glob, - or bundled:tinyshakespeare, or a list of these"
            raise ConfigError("data.train is empty", allowed=allowed)
        if self.split_on == "":
            raise ConfigError("data.split_on is empty", cure="data.split_on=none, or the text between documents")
        if unknown := sorted(self.columns.keys() - COLUMNS):
            raise ConfigError(
                f"data.columns.{unknown[0]} names nothing of a record", allowed=", ".join(sorted(COLUMNS))
            )
        if empty := sorted(name for name in MARKS if self.columns.get(name) == ""):
            raise ConfigError(f"data.columns.{empty[0]} is empty", allowed="the name of a field", cure="leave it out")
        rule, fraction = self.division
        if rule in {"hash", "tail"} and not 0 < fraction < 1:
            what = f"data.held_out={as_typed(self.held_out)!r} leaves one part empty"
            raise ConfigError(what, allowed=_FORMS)

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
    def division(self) -> tuple[Literal["hash", "tail", "none", "path"], Fraction]:
        """The rule by which documents are held out, and its fraction (0 where it has none)."""
        if "" in named(self.held_out) or not self.held_out:
            raise ConfigError("data.held_out is empty", allowed=_FORMS)
        if not isinstance(self.held_out, str):
            return "path", Fraction(0)
        if self.held_out == "none":
            return "none", Fraction(0)
        rule, colon, number = self.held_out.partition(":")
        if colon and (rule == "hash" or rule == "tail"):
            return rule, _fraction(number, self.held_out)
        return "path", Fraction(0)


def _fraction(number: str, value: str) -> Fraction:
    try:
        return Fraction(number)
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f"data.held_out={value!r} has no number behind its colon", allowed=_FORMS) from error

"""What to train on, what to hold out, and how documents are laid into the model's context."""

import datetime
from fractions import Fraction
from typing import Annotated, Literal

from msgspec import Meta, field

from thetahat.core.config import Config
from thetahat.core.errors import ConfigError
from thetahat.core.plain import unescaped

OverLong = Literal["error", "split", "truncate-left", "truncate-right", "drop", "keep-last-turns"]
Packing = Literal["best-fit", "none"]
Unsupervised = Literal["error", "skip"]
OnBadRecord = Literal["error", "skip"]

MARKS = frozenset({"text", "label", "prompt", "completion", "messages"})  # fields that a record is made of
COLUMNS = MARKS | {"answers", "tools", "id", "source", "weight"}  # all that data.columns may name
Plain = bool | int | float | str  # what a template may be given by name
Weight = Annotated[float, Meta(ge=0, lt=1e300)]
_FORMS = "hash:F (whole documents, by digest), tail:F (the end of the data), PATH, none; F between 0 and 1"


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

    train: str = "bundled:tinyshakespeare"  # a file, a folder, a glob, - or bundled:NAME
    held_out: str = "hash:0.1"  # hash:F, tail:F, none, or other files
    columns: dict[str, str] = field(default_factory=dict[str, str])  # of a record: prompt=question completion=answer
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
        if not self.train:
            raise ConfigError("data.train is empty", allowed="a file, a folder, a glob, - or bundled:tinyshakespeare")
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
            raise ConfigError(f"data.held_out={self.held_out!r} leaves one part empty", allowed=_FORMS)

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
        if not self.held_out:
            raise ConfigError("data.held_out is empty", allowed=_FORMS)
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

"""Renders chat templates behind a fence: a process that knows jinja2 and no other file of this package.

A template is a program that came with somebody's model. Here it can neither reach a file, a socket or an import nor run
on for ever: the sandbox of jinja2, and under it limits of the operating system for the case that the sandbox leaks.
Run as a script it answers each line of JSON on stdin, a list of requests, with one on stdout.
"""

import datetime
import json
import math
import resource
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

if TYPE_CHECKING:
    from thetahat.data.chat.traced import Run, joined, plain, runs_of
    from thetahat.data.chat.tracing import Fields, Trace, called, kept, tracing
else:  # beside this file, in a process that knows no other part of the package
    sys.path.append(str(Path(__file__).parent))
    from traced import Run, joined, plain, runs_of
    from tracing import Fields, Trace, called, kept, tracing

_NAME = "<template>"
Told = tuple[list[Run] | None, list[tuple[int, str]]]
Answer = tuple[bool, str, Told]
# Imports whatever rendering imports, while files can still be opened.
_FIRST: dict[str, Any] = {
    "source": "{{ [1.5, '\\n'] | tojson }}{{ none.x.y }}",
    "messages": [],
    "variables": {},
    "date": None,
    "jobs": [[False], [True]],
}


@final
class _Generation(Extension):
    """`{% generation %}`: where others mark what an assistant says. It changes nothing that is written."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


@final
class _Tracing(ImmutableSandboxedEnvironment):
    """The same for texts that know what they are made of."""

    intercepted_binops = frozenset("%")

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as jinja2 has it
        return called(super().call, __context, __obj, args, kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        return kept(self.binop_table[operator], (left, right), {})


def environment(date: str | None, kind: type[ImmutableSandboxedEnvironment]) -> ImmutableSandboxedEnvironment:
    """What templates are written for: the settings, filters and functions of Hugging Face, without chance and clock."""
    found = kind(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation])
    del found.filters["random"], found.globals["lipsum"]
    found.filters["tojson"] = _to_json
    functions: dict[str, Any] = found.globals
    functions["raise_exception"] = _raise
    if date is not None:
        functions["strftime_now"] = datetime.datetime.fromisoformat(date).strftime
    if kind is _Tracing:
        tracing(found, _to_json)
    return found


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Not the filter of jinja2, which writes for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise(message: Any) -> None:
    raise TemplateError(str(message))


@lru_cache(maxsize=16)
def _compiled(
    source: str, date: str | None, kind: type[ImmutableSandboxedEnvironment] = ImmutableSandboxedEnvironment
) -> jinja2.Template:
    made = environment(date, kind)
    return made.template_class.from_code(made, made.compile(source, filename=_NAME), made.make_globals(None))


def render(request: dict[str, Any], max_characters: int) -> list[Answer]:
    """For each job whether it was rendered, with the text or why not; then its runs, and the fields that were read.

    A job is `[add_generation_prompt, [start, stop], ...]`: the messages of these ranges, one behind the other. The text
    is what the template writes of plain texts. It is rendered once more with texts that are followed where no prompt is
    asked for: from that come its runs, none (null) where it is another text.
    """
    answers: list[Answer] = []
    traced = _Traced(request)
    for add_generation_prompt, *ranges in request["jobs"]:
        more = {**request["variables"], "add_generation_prompt": add_generation_prompt}
        try:
            pieces = _compiled(request["source"], request["date"]).generate(
                **more, messages=_between(request["messages"], ranges)
            )
            text = _joined(pieces, max_characters)
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            answers.append((False, _told(error), (None, [])))
            continue
        if add_generation_prompt:
            answers.append((True, text, ([], [])))
        else:
            answers.append((True, text, traced.runs(more, ranges, text, max_characters)))
    return answers


def _between(messages: Sequence[Any], ranges: Sequence[tuple[int, int]]) -> list[Any]:
    return list(chain.from_iterable(messages[start:stop] for start, stop in ranges))


@final
class _Traced:
    """What a template is given, followed."""

    def __init__(self, request: dict[str, Any]) -> None:
        trace = Trace()
        self._source, self._date = request["source"], request["date"]
        self._read = [set[str]() for _ in request["messages"]]
        self._messages = [
            Fields(trace.message(message), read) for message, read in zip(request["messages"], self._read, strict=True)
        ]
        self._tools = trace.of(request["variables"].get("tools"))

    def runs(
        self, variables: dict[str, Any], ranges: Sequence[tuple[int, int]], text: str, max_characters: int
    ) -> Told:
        """The runs of a text, and the fields that were read so far, by message."""
        more = {**variables, "tools": self._tools} if self._tools else variables
        try:
            pieces = _compiled(self._source, self._date, _Tracing).generate(
                **more, messages=_between(self._messages, ranges)
            )
            found = _joined(pieces, max_characters)
        except Exception:  # noqa: BLE001 - a template may raise anything
            return None, []
        read = [(index, name) for index, names in enumerate(self._read) for name in sorted(names)]
        return (list(runs_of(found)) if plain(found) == plain(text) else None), read


def _joined(pieces: Iterable[str], max_characters: int) -> str:
    found: list[str] = []
    room = max_characters
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            raise TemplateError(f"it writes more than {max_characters:,} characters")
        found.append(piece)
    text = joined(found)
    text.encode()  # half a surrogate pair is no text
    return text


def _told(error: Exception) -> str:
    """What went wrong, and in which line of the template."""
    what = str(error) if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
    if isinstance(error, MemoryError):
        what = "it needs too much memory"
    line = error.lineno if isinstance(error, TemplateSyntaxError) else None
    frame = error.__traceback__
    while frame is not None and not isinstance(error, TemplateSyntaxError):
        line = frame.tb_lineno if frame.tb_frame.f_code.co_filename == _NAME else line
        frame = frame.tb_next
    return what if line is None else f"{what} (line {line} of the template)"


def _fence(memory: int) -> None:
    """No new file or socket, nothing written, no other process, so much memory."""
    limits: Sequence[tuple[int, int]] = (
        (resource.RLIMIT_NOFILE, 3),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_AS, memory),
    )
    for kind, limit in limits:
        with suppress(ValueError, OSError):  # macOS does not know all of them
            resource.setrlimit(kind, (limit, limit))


def _allow(seconds: int) -> None:
    """So much more processor time, then the system ends this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(used.ru_utime + used.ru_stime) + seconds, hard))


def serve(seconds: int, memory: int, max_characters: int) -> None:
    """Answers requests until stdin ends, as it does with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which may want to finish its work
    render(_FIRST, max_characters)
    _fence(memory)
    for line in sys.stdin.buffer:
        _allow(seconds)
        try:
            reply = json.dumps([render(request, max_characters) for request in json.loads(line)])
        except MemoryError as error:
            reply = json.dumps(_told(error))
        sys.stdout.buffer.write(reply.encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    serve(*map(int, sys.argv[1:]))

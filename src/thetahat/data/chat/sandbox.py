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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Any, final

import jinja2
from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

_NAME = "<template>"
# Imports whatever rendering imports, while files can still be opened.
_FIRST: dict[str, Any] = {
    "source": "{{ [1.5, '\\n'] | tojson }}{{ none.x.y }}",
    "messages": [],
    "variables": {},
    "date": None,
    "jobs": [[False]],
}


@final
class _Generation(Extension):
    """`{% generation %}`: where others mark what an assistant says. It changes nothing that is written."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def environment(date: str | None) -> ImmutableSandboxedEnvironment:
    """What templates are written for: the settings, filters and functions of Hugging Face, without chance and clock."""
    found = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    del found.filters["random"], found.globals["lipsum"]
    found.filters["tojson"] = _to_json
    functions: dict[str, Any] = found.globals
    functions["raise_exception"] = _raise
    if date is not None:
        functions["strftime_now"] = datetime.datetime.fromisoformat(date).strftime
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
def _compiled(source: str, date: str | None) -> jinja2.Template:
    made = environment(date)
    return made.template_class.from_code(made, made.compile(source, filename=_NAME), made.make_globals(None))


def render(request: dict[str, Any], max_characters: int) -> list[tuple[bool, str]]:
    """For each job whether it was rendered, with the text or why not.

    A job is `[add_generation_prompt, [start, stop], ...]`: the messages of these ranges, one behind the other.
    """
    answers: list[tuple[bool, str]] = []
    for add_generation_prompt, *ranges in request["jobs"]:
        messages = list(chain.from_iterable(request["messages"][start:stop] for start, stop in ranges))
        variables = {**request["variables"], "messages": messages, "add_generation_prompt": add_generation_prompt}
        try:
            pieces = _compiled(request["source"], request["date"]).generate(**variables)
            answers.append((True, _joined(pieces, max_characters)))
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            answers.append((False, _told(error)))
    return answers


def _joined(pieces: Iterator[str], max_characters: int) -> str:
    kept: list[str] = []
    room = max_characters
    for piece in pieces:
        room -= len(piece)
        if room < 0:
            raise TemplateError(f"it writes more than {max_characters:,} characters")
        kept.append(piece)
    text = "".join(kept)
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

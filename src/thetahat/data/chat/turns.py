"""From a dialogue to the texts whose likelihood is wanted: for each turn what stood before it, and what was said."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast, final

from thetahat.core.errors import DataError
from thetahat.data.chat.rendering import Job, Refusal, Renderer, Scene
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.read.dialogue import Dialogue, Message
from thetahat.data.tokens.tree import agreement

Range = tuple[int, int]
_MARKS = ("\x7f", *map(chr, range(0xE000, 0xF900)))  # what may hide a name: characters that hardly any text has


@dataclass(frozen=True, slots=True)
class Turn:
    """A message that is asked for, as text: `completion` is what the live rendering adds behind `prompt`."""

    name: str
    message: Message
    index: int  # of the message, among messages and then answers
    num_before: int  # messages before it
    left_out: Range = (0, 0)  # of these, to make room
    prompt: str = ""
    completion: str = ""
    note: str = ""

    @property
    def before(self) -> tuple[Range, Range]:
        """The messages that it is read after."""
        start, stop = self.left_out
        return (0, start), (stop, self.num_before)

    @property
    def is_whole(self) -> bool:
        """Whether all messages before it are read."""
        return self.left_out[0] == self.left_out[1]


@final
class Script:
    """A dialogue on its way through a template.

    Names of special tokens inside a message are text, and stay text: a mark that occurs nowhere else is put into each
    before rendering, and taken out when the rest of the rendering has become ids.
    """

    def __init__(
        self, dialogue: Dialogue, template: ChatTemplate, names: re.Pattern[str], renderer: Renderer, where: str
    ) -> None:
        self.messages = (*dialogue.messages, *dialogue.answers)
        self.where = where
        self._template, self._names, self._renderer = template, names, renderer
        given: Any = [[message.fields for message in self.messages], list(dialogue.tools) or None]
        self.mark = self._unused_mark(given) if any(names.search(text) for text in _strings(given)) else ""
        messages, tools = _changed(given, self._hidden) if self.mark else given
        variables = {
            "tools": tools,
            "documents": None,
            "bos_token": template.bos_token,
            "eos_token": template.eos_token,
            **template.variables,
        }
        self._scene = Scene(where, template.source, messages, variables, template.date)

    def asked(self, dialogue: Dialogue) -> list[Turn]:
        """All that are asked for, without their texts."""
        num_messages = len(dialogue.messages)
        asked = [
            Turn(f"turn-{index}", message, index, index)
            for index, message in enumerate(dialogue.messages)
            if message.weight > 0
        ]
        asked += [
            Turn(f"turn-{num_messages}.{number}", message, num_messages + number - 1, num_messages)
            for number, message in enumerate(dialogue.answers, 1)
            if message.weight > 0
        ]
        return asked

    def jobs(self, turns: Sequence[Turn]) -> tuple[Scene, list[Job]]:
        """What must be rendered for some turns: two texts for each."""
        jobs: list[Job] = []
        for turn in turns:
            asks = turn.message.role == "assistant"
            jobs += [(asks, *turn.before), (False, *turn.before, (turn.index, turn.index + 1))]
        return self._scene, jobs

    def divided(self, turns: Sequence[Turn], texts: Sequence[str | Refusal]) -> list[Turn]:
        """The turns with their texts."""
        return [self._divided(turn, *texts[2 * i : 2 * i + 2]) for i, turn in enumerate(turns)]

    def _divided(self, turn: Turn, prompt: str | Refusal, live: str | Refusal) -> Turn:
        if isinstance(live, Refusal):
            raise self._refused(turn, live)
        note = ""
        if turn.num_before == 0 and (isinstance(prompt, Refusal) or not live.startswith(prompt)):
            bos = self._template.bos_token  # many templates render nothing where there is no message
            prompt = bos if live.startswith(bos) else ""
            note = f"{turn.name}: nothing stands before it but {bos or 'the beginning'}"
        if isinstance(prompt, Refusal):
            raise self._refused(turn, prompt)
        if not live.startswith(prompt):
            prompt, note = self._fallback(turn, prompt, live)
        completion = live[len(prompt) : self._end(live, len(prompt))]
        if not completion:
            raise DataError(f"{self.where}: the template writes nothing for {turn.name}", cure="give it weight 0")
        return replace(turn, prompt=prompt, completion=completion, note=note)

    def _fallback(self, turn: Turn, prompt: str, live: str) -> tuple[str, str]:
        """What stands before the turn where its live rendering does not begin with the inference prompt.

        What both have in common, down to the last special token or line, since it may end within a word; and no less
        than the messages before, which is what a template writes without the prompt.
        """
        ((history,),) = self._renderer.render([(self._scene, [(False, *turn.before)])])
        if isinstance(history, Refusal):
            raise self._refused(turn, history)
        common = prompt[: agreement(prompt, live)]
        common = common[: max([common.rfind("\n") + 1, *(match.end() for match in self._names.finditer(common))])]
        bare = self._bare(history)
        if not live.startswith(bare):
            raise DataError(
                f"{self.where}: the template writes the messages before {turn.name} otherwise once it is there, so "
                f"what belongs to it cannot be told: {prompt[len(common) :][:60]!r}, then {live[len(common) :][:60]!r}",
                cure="another template",
            )
        full = history if live.startswith(history) else bare
        kept, what = (common, "as much of it as both have") if len(common) >= len(full) else (full, "the messages only")
        return kept, f"{turn.name}: its rendering does not begin with the inference prompt; read before it: {what}"

    def _bare(self, text: str) -> str:
        """Without the special tokens and white space at its end, which some templates write where nothing follows."""
        end = len(text.rstrip())
        for match in reversed(list(self._names.finditer(text))):
            if match.end() != end:
                break
            end = len(text[: match.start()].rstrip())
        return text[:end]

    def _end(self, live: str, start: int) -> int:
        """Where the turn ends: behind what ends a turn, else behind the last special token if nothing else follows."""
        found = list(self._names.finditer(live, start))
        ends = [match.end() for match in found if match[0] in self._template.ends_turn]
        if ends:
            return ends[-1]
        return found[-1].end() if found and not live[found[-1].end() :].strip() else len(live)

    def _unused_mark(self, given: Sequence[Any]) -> str:
        used = {*self._template.source, *self._names.pattern}.union(*map(set, _strings(given)))
        return next(mark for mark in _MARKS if mark not in used)

    def _hidden(self, text: str) -> str:
        """The text with a mark behind the first character of each name of a special token."""
        while match := self._names.search(text):
            cut = match.start() + 1
            text = text[:cut] + self.mark + text[cut:]
        return text

    def _refused(self, turn: Turn, refusal: Refusal) -> DataError:
        cure = "date=2025-01-31, or another day" if "strftime_now" in refusal.why else ""
        what = f"{self.where}: the template {self._template.name} does not render {turn.name}: {refusal.why}"
        return DataError(what, cure=cure)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, below in cast("Mapping[str, Any]", value).items():
            yield name
            yield from _strings(below)
    elif isinstance(value, list):
        for below in cast("list[Any]", value):
            yield from _strings(below)


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {change(name): _changed(below, change) for name, below in cast("Mapping[str, Any]", value).items()}
    if isinstance(value, list):
        return [_changed(below, change) for below in cast("list[Any]", value)]
    return value

"""Dialogues as token ids: every turn of the assistant behind exactly what a model reads before it, in one pass."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, final

from thetahat.core.errors import DataError, ModelError
from thetahat.data.config import OverLong
from thetahat.data.dialogue import Dialogue, Message
from thetahat.data.encoded import Asked, Encoded, Span
from thetahat.data.rendering import Renderer, shared
from thetahat.data.template import ChatTemplate
from thetahat.data.tokenizer import Tokenizer
from thetahat.data.tree import Tree
from thetahat.data.turns import Script, Turn

Ids = list[int]


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How dialogues become sequences."""

    template: ChatTemplate
    context: int = 1024  # positions that a row holds
    shares_prefixes: bool = True  # False: each turn is a sequence of its own, its history read again
    over_long: OverLong | Literal["keep-last-turns"] = "error"  # only the last is done here, the others where rows are
    streams: Literal[1, 2] = 1  # 2: for an encoder that reads the history and a decoder that is asked the turn


@dataclass(frozen=True, slots=True)
class _Path:
    """A turn as ids: P_k, then C_k."""

    turn: Turn
    prompt: Ids
    completion: Ids

    def positions(self, streams: int) -> int:
        """What is read of it at once; an encoder reads the prompt alone."""
        return len(self.prompt) + len(self.completion) - 1 if streams == 1 else len(self.prompt)


@final
class DialogueEncoder:
    r"""Encodes dialogues with one tokenizer and one template.

    For each message k with a weight the path is $P_k C_k$: $P_k$ the inference prompt, which is the rendering of the
    messages before k with `add_generation_prompt`, tokenised whole; $C_k$ what the rendering of the messages up to k
    adds behind it, to the end-of-turn token. So $\log \Pr_\theta(C_k \mid P_k)$ is what generation will see, whether or
    not the template writes a turn the same way once others follow. Paths share their beginnings.
    """

    def __init__(self, tokenizer: Tokenizer, options: ChatOptions, renderer: Renderer | None = None) -> None:
        self._tokenizer, self._options, self._renderer = tokenizer, options, renderer or shared()
        missing = [name for name in options.template.special_tokens if name not in tokenizer.special]
        if missing:
            raise ModelError(
                f"the tokenizer lacks special tokens of the template {options.template.name}: {', '.join(missing)}",
                cure="a tokenizer that is trained with them, or the one of the model",
            )

    def encode(self, dialogue: Dialogue, where: str) -> Encoded:
        """The record as parts and sequences; errors name `where`."""
        script = Script(dialogue, self._options.template, self._tokenizer.special_names, self._renderer, where)
        paths = self._paths(script, script.turns(dialogue))
        if self._options.over_long == "keep-last-turns":
            paths = [self._fitting(script, path) for path in paths]
        laid = _Laid(self._options, self._tokenizer.end_of_text, [message.role for message in script.messages])
        for path in paths:
            laid.add(path)
        return laid.encoded()

    def _paths(self, script: Script, turns: Sequence[Turn]) -> list[_Path]:
        texts = [text for turn in turns for text in (turn.prompt, turn.completion)]
        ids = self._tokenizer.encode_rendered(texts, script.mark)
        beginning = [self._tokenizer.end_of_text]  # what is read before anything is written
        return [_Path(turn, ids[2 * i] or beginning, ids[2 * i + 1]) for i, turn in enumerate(turns)]

    def _fitting(self, script: Script, path: _Path) -> _Path:
        """The path without its oldest messages: as few as must go, cut before a message of the user where there is one.

        The system message and the turn itself stay, even where they alone are too long.
        """
        if path.positions(self._options.streams) <= self._options.context:
            return path
        ((_, stop),) = path.turn.held
        first = int(script.messages[0].role == "system" and stop > 0)
        starts = [k for k in range(first + 1, stop) if script.messages[k].role == "user"] or list(range(first + 1, stop))
        if not starts:
            return path

        def shortened(start: int) -> _Path:
            note = f"{path.turn.name}: {start - first} of the messages before it are left out, it is too long with them"
            held = ((0, first), (start, stop)) if first else ((start, stop),)
            (turn,) = script.rendered([replace(path.turn, held=held)])
            (found,) = self._paths(script, [turn])
            return replace(found, turn=replace(turn, note="; ".join(filter(None, (turn.note, note)))))

        fits = lambda start: shortened(start).positions(self._options.streams) <= self._options.context  # noqa: E731
        return shortened(starts[min(bisect_left(starts, True, key=fits), len(starts) - 1)])


def encode_dialogue(dialogue: Dialogue, where: str, tokenizer: Tokenizer, options: ChatOptions) -> Encoded:
    """One dialogue; for many of them make a `DialogueEncoder`."""
    return DialogueEncoder(tokenizer, options).encode(dialogue, where)


@final
class _Laid:
    """The parts and sequences of one record, as they grow."""

    def __init__(self, options: ChatOptions, end_of_text: int, roles: Sequence[str]) -> None:
        self._options, self._end_of_text, self._roles = options, end_of_text, roles
        self._parts: list[Asked] = []
        self._sequences: list[tuple[Span, ...]] = []
        self._tree, self._here = Tree(), list[_Path]()  # the tree that grows, and its paths
        self._notes: list[str] = []

    def add(self, path: _Path) -> None:
        if path.turn.note:
            self._notes.append(path.turn.note)
        if self._options.streams == 2:
            self._add_streams(path)
        elif not self._options.shares_prefixes or path.positions(1) > self._options.context:
            tokens = tuple(path.prompt + path.completion)
            prompt, turn = self._new_parts(path, path.turn.held)
            part = (prompt,) * len(path.prompt) + (turn,) * len(path.completion)
            self._sequences.append((Span(tokens, part),))
        else:
            self._add_shared(path)

    def encoded(self) -> Encoded:
        self._close()
        return Encoded(tuple(self._parts), tuple(self._sequences), notes=tuple(self._notes))

    def _add_shared(self, path: _Path) -> None:
        if self._tree.positions + self._tree.added(path.prompt, path.completion) > self._options.context:
            self._close()
        is_new = self._tree.shared(path.prompt) < len(path.prompt)
        parts = self._new_parts(path, self._not_held(path), has_prompt=is_new)
        self._tree.add(path.prompt, path.completion, parts)
        self._here.append(path)

    def _add_streams(self, path: _Path) -> None:
        prompt, turn = self._new_parts(path, path.turn.held)
        source = Span(tuple(path.prompt), (prompt,) * len(path.prompt))
        target = (self._end_of_text, *path.completion)
        self._sequences.append((source, Span(target, (turn,) * len(target), parent=0, position=0)))

    def _close(self) -> None:
        self._sequences += self._tree.sequences()
        self._tree, self._here = Tree(), []

    def _new_parts(
        self, path: _Path, held: Sequence[tuple[int, int]], *, has_prompt: bool = True
    ) -> tuple[int, int]:
        """The parts of what leads to a turn (the messages of these ranges) and of the turn itself."""
        if has_prompt:
            roles = [self._roles[index] for start, stop in held for index in range(start, stop)]
            name = f"before-{path.turn.name}"
            self._parts.append(Asked(name, "+".join(dict.fromkeys(roles)), is_prompt=True))
        message: Message = path.turn.message
        self._parts.append(Asked(path.turn.name, message.role, message.weight))
        return max(len(self._parts) - 2, 0), len(self._parts) - 1

    def _not_held(self, path: _Path) -> Sequence[tuple[int, int]]:
        """The messages before a turn that the tree does not hold as this turn reads them, as far as can be told."""
        start = path.turn.held[0][0]
        for other in self._here:
            if other.turn.held[0] != (0, other.turn.index) or path.turn.held[0][0] > 0 or len(path.turn.held) > 1:
                continue
            if path.prompt[: len(other.prompt)] == other.prompt:
                whole = other.prompt + other.completion
                is_kept = path.prompt[: len(whole)] == whole
                start = max(start, other.turn.index + is_kept)
        return [(start, path.turn.held[-1][1])] if len(path.turn.held) == 1 else path.turn.held

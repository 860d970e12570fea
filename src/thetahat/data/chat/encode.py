"""Dialogues as token ids: every turn of the assistant behind exactly what a model reads before it, in one pass."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, final

from thetahat.core.errors import DataError, ModelError
from thetahat.core.special import Frame
from thetahat.data.chat.ends import TurnEnds, trials
from thetahat.data.chat.forms import forms_of
from thetahat.data.chat.rendering import BrokenTemplateError, Refusal, Rendered, Renderer, shared
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.chat.turns import Script, Turn
from thetahat.data.config import OverLong
from thetahat.data.read.bad import TooLongError
from thetahat.data.read.dialogue import Dialogue
from thetahat.data.tokens.encoded import Encoded, EncodedPart, Span, target_span
from thetahat.data.tokens.sizes import Tokens
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.data.tokens.tree import Tree

Ids = list[int]
_AT_ONCE = 64  # records that are rendered and tokenised together


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How dialogues become sequences."""

    template: ChatTemplate
    context: int = 1024  # positions that a row holds; with two streams, of what the encoder reads
    shares_prefixes: bool = True  # False: each turn is a sequence of its own, its history read again
    over_long: OverLong = (
        "error"  # of turns too long with their history; of one stream only "keep-last-turns" acts here
    )
    streams: Literal[1, 2] = 1  # 2: an encoder reads the history, a decoder predicts the turn


@dataclass(frozen=True, slots=True)
class _Path:
    """A turn as ids: P_k, then C_k."""

    turn: Turn
    prompt: Ids
    said: Tokens
    prompt_cut: int = 0  # of P_k, left out

    @property
    def completion(self) -> Ids:
        """C_k."""
        return self.said.ids

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
        if short := [name for name in tokenizer.special if len(name) < 2]:
            raise ModelError(
                f"the tokenizer has special tokens of one character, {', '.join(map(repr, short))}, which cannot be "
                "told from the same character in a message",
                cure="another tokenizer",
            )
        missing = [name for name in options.template.special_tokens if name not in tokenizer.special]
        if missing:
            raise ModelError(
                f"the tokenizer lacks special tokens of the template {options.template.name}: {', '.join(missing)}",
                cure="a tokenizer that is trained with them, or the one of the model",
            )
        self._forms = forms_of(options.template, self._renderer)

    def encode(self, dialogues: Iterable[tuple[Dialogue, str]]) -> Iterator[Encoded]:
        """Each record, given with the place that errors name, as parts and sequences."""
        waiting = iter(dialogues)
        while some := list(itertools.islice(waiting, _AT_ONCE)):
            yield from self._encoded(some)

    def encode_usable(
        self, dialogues: Iterable[tuple[Dialogue, str]], on_error: Callable[[DataError], None]
    ) -> Iterator[Encoded | None]:
        """The same, with None for a record that cannot be encoded; `on_error` gets what is wrong with it."""
        waiting = iter(dialogues)
        while some := list(itertools.islice(waiting, _AT_ONCE)):
            try:
                yield from self._encoded(some)
            except BrokenTemplateError:
                raise
            except DataError:
                yield from [self._alone(one, on_error) for one in some]  # which tells which they are

    def _alone(self, one: tuple[Dialogue, str], on_error: Callable[[DataError], None]) -> Encoded | None:
        try:
            return self._encoded([one])[0]
        except BrokenTemplateError:
            raise
        except DataError as error:
            on_error(error)
            return None

    def _encoded(self, some: Sequence[tuple[Dialogue, str]]) -> list[Encoded]:
        scripts = [self._script(dialogue, where) for dialogue, where in some]
        turns = [script.turns(dialogue) for script, (dialogue, _) in zip(scripts, some, strict=True)]
        texts = self._texts(scripts, turns)
        found = self._paths(scripts, turns, texts)
        return [
            self._laid(script, written, paths) for script, written, paths in zip(scripts, texts, found, strict=True)
        ]

    def _laid(self, script: Script, written: Sequence[Rendered | Refusal], paths: list[_Path]) -> Encoded:
        said = script.account([path.turn for path in paths], written)
        if self._options.over_long == "keep-last-turns":
            paths = [self._shortened(script, path) for path in paths]
        laid = _Laid(self._options, self._tokenizer.frames.target, script, said)
        for path in paths:
            laid.add(path)
        return laid.encoded()

    def turn_ends(self) -> TurnEnds:
        """What ends a turn of the assistant in this template: what it is told to, and what ends turns of many kinds."""
        special = self._tokenizer.special
        found = TurnEnds(frozenset(special[name] for name in self._options.template.ends_turn))
        for dialogue in trials():
            script = self._script(dialogue, "a trial of the template")
            turns = [script.turns(dialogue)]
            with suppress(DataError):  # what a template refuses ends nothing
                for path in self._paths([script], turns, self._texts([script], turns))[0]:
                    last = path.completion[-1]
                    found |= TurnEnds(frozenset({last} & {*special.values()}), path.turn.end)
        return found

    def _script(self, dialogue: Dialogue, where: str) -> Script:
        template, names = self._options.template, self._tokenizer.special_names
        return Script(dialogue, template, names, self._renderer, where, self._forms)

    def _texts(self, scripts: Sequence[Script], turns: Sequence[Sequence[Turn]]) -> list[list[Rendered | Refusal]]:
        """The turns of each script, rendered; all together, since that is faster."""
        return self._renderer.render([script.jobs(some) for script, some in zip(scripts, turns, strict=True)])

    def _paths(
        self,
        scripts: Sequence[Script],
        turns: Sequence[Sequence[Turn]],
        texts: Sequence[Sequence[Rendered | Refusal]],
    ) -> list[list[_Path]]:
        """The turns of each script, tokenised."""
        whole = [script.divided(some, written) for script, some, written in zip(scripts, turns, texts, strict=True)]
        found = iter(self._tokenizer.rendered([turn.texts for some in whole for turn in some]))
        beginning = [*self._tokenizer.frames.text.before]  # what is read before anything is written
        paths = [[(turn, *next(found)) for turn in some] for some in whole]
        return [[_Path(turn, prompt.ids or beginning, said) for turn, prompt, said in some] for some in paths]

    def _shortened(self, script: Script, path: _Path) -> _Path:
        """The path without its oldest messages: as few as must go, cut before a message of the user where there is one.

        The system message and the turn itself stay, even where they alone are too long.
        """
        roles = [message.role for message in script.messages[: path.turn.num_before]]
        first = int(roles[:1] == ["system"])
        starts = [index for index in range(first + 1, len(roles)) if roles[index] == "user"]
        starts = starts or list(range(first + 1, len(roles)))

        def without(start: int) -> _Path:
            shorter = [[replace(path.turn, left_out=(first, start))]]
            ((found,),) = self._paths([script], shorter, self._texts([script], shorter))
            turn = found.turn
            what = f"({start - first} of {path.turn.num_before})"
            note = f"{turn.name}: the oldest messages are not read, since with them the turn would be too long {what}"
            turn = replace(turn, note=f"{turn.note}\n{note}" if turn.note else note)
            return replace(found, turn=turn, prompt_cut=len(path.prompt) - len(found.prompt))

        def fits(found: _Path) -> bool:
            return found.positions(self._options.streams) <= self._options.context

        return path if fits(path) or not starts else _first(starts, without, fits)


def encode_dialogue(dialogue: Dialogue, where: str, tokenizer: Tokenizer, options: ChatOptions) -> Encoded:
    """One dialogue; many of them are faster through a `DialogueEncoder`."""
    (encoded,) = DialogueEncoder(tokenizer, options).encode([(dialogue, where)])
    return encoded


@final
class _Laid:
    """The parts and sequences of one record, as they grow."""

    def __init__(self, options: ChatOptions, frame: Frame, script: Script, said: Sequence[str]) -> None:
        self._options, self._frame, self._script = options, frame, script
        self._parts: list[EncodedPart] = []
        self._sequences: list[tuple[Span, ...]] = []
        self._tree, self._in_tree = Tree(), list[_Path]()  # the tree that grows, and its paths
        self._tokens_cut = self._prompt_cut = 0
        self._notes = [*said]

    def add(self, path: _Path) -> None:
        """Adds one turn."""
        self._notes += [path.turn.note] if path.turn.note else []
        self._prompt_cut += path.prompt_cut
        if self._options.streams == 2:
            self._add_streams(path)
        elif self._options.shares_prefixes and path.positions(1) <= self._options.context:
            self._add_shared(path)
        else:
            prompt, turn = self._new_parts(path)
            part = (prompt,) * len(path.prompt) + (turn,) * len(path.completion)
            self._sequences.append((Span(tuple(path.prompt + path.completion), part),))

    def encoded(self) -> Encoded:
        """The record."""
        self._finish_tree()
        return Encoded(
            tuple(self._parts), tuple(self._sequences), self._tokens_cut, self._prompt_cut, tuple(self._notes)
        )

    def _add_shared(self, path: _Path) -> None:
        shared = self._tree.shared(path.prompt)
        added = len(path.prompt) + len(path.completion) - (shared or 1)
        if self._tree.positions + added > self._options.context:
            self._finish_tree()
            shared = 0
        parts = self._new_parts(path, since=self._held(path), has_prompt=shared < len(path.prompt))
        self._tree.add(path.prompt, path.completion, parts)
        self._in_tree.append(path)

    def _finish_tree(self) -> None:
        self._sequences += self._tree.sequences()
        self._tree, self._in_tree = Tree(), []

    def _add_streams(self, path: _Path) -> None:
        parts = self._new_parts(path)
        read = self._fitted(path)
        self._prompt_cut += len(path.prompt) - len(read)
        if not read:
            self._tokens_cut += len(path.completion)
            return
        source = Span(tuple(read), parts[:1] * len(read))
        self._sequences.append((source, target_span(self._frame, path.completion, parts)))

    def _fitted(self, path: _Path) -> Ids:
        """What an encoder reads of a history; nothing: the turn is dropped."""
        room = self._options.context
        match self._options.over_long:
            case _ if len(path.prompt) <= room:
                return path.prompt
            case "truncate-right":
                return path.prompt[:room]
            case "truncate-left" | "keep-last-turns":
                return path.prompt[-room:]
            case "drop":
                return []
            case "error" | "split":
                raise TooLongError(
                    f"{self._script.where}: the messages before {path.turn.name} have {len(path.prompt)} tokens where "
                    f"the encoder reads {room}, and what is read at once is not split",
                    key="data.source_context",
                    needed=len(path.prompt),
                    others="data.over_long=keep-last-turns (or truncate-left, truncate-right, drop)",
                )

    def _new_parts(self, path: _Path, since: int = 0, *, has_prompt: bool = True) -> tuple[int, int]:
        """The parts of what leads to a turn, with the roles of its messages from `since` on, and of the turn itself."""
        turn = path.turn
        if has_prompt:
            indexes = [index for start, stop in turn.before for index in range(max(start, since), stop)]
            roles = dict.fromkeys(self._script.messages[index].role for index in indexes)
            self._parts.append(EncodedPart(f"before-{turn.name}", "+".join(roles), is_prompt=True))
        said, weight = path.said, turn.message.weight
        sizes = None if said.sizes is None else tuple(said.sizes)
        self._parts.append(EncodedPart(turn.name, turn.message.role, weight, sizes=sizes, is_lossless=said.is_lossless))
        return max(len(self._parts) - 2, 0), len(self._parts) - 1

    def _held(self, path: _Path) -> int:
        """How many messages before this turn the tree holds as this turn reads them, as far as earlier turns tell."""
        held = 0
        for other in self._in_tree:
            if other.turn.is_whole and path.turn.is_whole and other.prompt == path.prompt[: len(other.prompt)]:
                whole = other.prompt + other.completion
                is_kept = other.turn.index < path.turn.num_before and whole == path.prompt[: len(whole)]
                held = max(held, other.turn.num_before + is_kept)
        return held


def _first(starts: Sequence[int], without: Callable[[int], _Path], fits: Callable[[_Path], bool]) -> _Path:
    """The path without as few messages as let it fit, found by halving; without all of them if none does."""
    low, high = 0, len(starts) - 1
    best = without(starts[high])
    while low < high:
        middle = (low + high) // 2
        found = without(starts[middle])
        if fits(found):
            best, high = found, middle
        else:
            low = middle + 1
    return best

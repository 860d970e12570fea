"""From a dialogue to the texts whose likelihood is wanted: for each turn what stood before it, and what was said."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

from thetahat.core.errors import DataError
from thetahat.data.chat.account import Range, clipped, covered, leaves_of, missing, unread, unwritten
from thetahat.data.chat.forms import Forms
from thetahat.data.chat.rendering import Job, Refusal, Rendered, Renderer, Run, Scene
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.read.dialogue import Dialogue, Message
from thetahat.data.tokens.rendered import special_in
from thetahat.data.tokens.tree import agreement


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
    runs: Sequence[Run] = ()  # of both, one behind the other: what comes from the messages
    end: str = ""  # the text behind what is said, where no special token ends it
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

    @property
    def texts(self) -> tuple[tuple[str, list[Range]], tuple[str, list[Range]]]:
        """Prompt and completion, each with the ranges in which the name of a special token is text."""
        start = len(self.prompt)
        both = clipped(self.runs, 0, start), clipped(self.runs, start, start + len(self.completion))
        prompt, completion = ([(first, last) for first, last, _ in runs] for runs in both)
        return (self.prompt, prompt), (self.completion, completion)


@final
class Script:
    """A dialogue on its way through a template.

    The template is given what was said, as it was said. What of its text comes from the messages is followed: there
    names of special tokens are text, and what of the messages is nowhere is told.
    """

    def __init__(
        self,
        dialogue: Dialogue,
        template: ChatTemplate,
        names: re.Pattern[str],
        renderer: Renderer,
        where: str,
        forms: Forms,
    ) -> None:
        self.messages = (*dialogue.messages, *dialogue.answers)
        self.where = where
        self._template, self._names, self._renderer, self._forms = template, names, renderer, forms
        given = [forms.given(message) for message in self.messages]
        self._said = [notes for _, notes in given]
        self._fields = [fields for fields, _ in given]
        variables = template.given(dialogue.tools)
        self._leaves = leaves_of(self._fields, variables["tools"])
        self._scene = Scene(where, template.source, self._fields, variables, template.date)

    def turns(self, dialogue: Dialogue) -> list[Turn]:
        """All that are asked for, without their texts."""
        num_messages = len(dialogue.messages)
        turns = [
            Turn(f"turn-{index}", message, index, index)
            for index, message in enumerate(dialogue.messages)
            if message.weight > 0
        ]
        turns += [
            Turn(f"turn-{num_messages}.{number}", message, num_messages + number - 1, num_messages)
            for number, message in enumerate(dialogue.answers, 1)
            if message.weight > 0
        ]
        return turns

    def jobs(self, turns: Sequence[Turn]) -> tuple[Scene, list[Job]]:
        """What must be rendered for some turns: two texts for each."""
        jobs: list[Job] = []
        for turn in turns:
            asks = turn.message.role == "assistant"
            jobs += [(asks, *turn.before), (False, *turn.before, (turn.index, turn.index + 1))]
        return self._scene, jobs

    def divided(self, turns: Sequence[Turn], texts: Sequence[Rendered | Refusal]) -> list[Turn]:
        """The turns with their texts."""
        return [self._divided(turn, *texts[2 * i : 2 * i + 2]) for i, turn in enumerate(turns)]

    def account(self, turns: Sequence[Turn], texts: Sequence[Rendered | Refusal]) -> list[str]:
        """What is to be said of all of the dialogue: above all what is not written, field by field."""
        lives = [text for text in texts[1::2] if isinstance(text, Rendered)]
        indexes = {index for turn in turns for index in (*range(turn.num_before), turn.index)}
        said = [note for index in sorted(indexes) for note in self._said[index]]
        name = self._template.name
        if any(text.runs is None for text in lives):
            said.append(f"what of it {name} does not write cannot be told")
        elif turns:
            leaves = [leaf for leaf in self._leaves if leaf.message in indexes or leaf.message < 0]
            written = covered(run for turn in turns for run in turn.runs)
            said += unwritten(leaves, written, [message.role for message in self.messages], name)
            read = unread(self._fields, {one for text in lives for one in text.read}, name)
            said += [note for index, note in read.items() if index in indexes]
        if turns and len(indexes) < len(self.messages):
            said.append("messages behind the last one that is asked, and answers of weight 0, are not read")
        return list(dict.fromkeys(said))

    def _divided(self, turn: Turn, prompt: Rendered | Refusal, live: Rendered | Refusal) -> Turn:
        if isinstance(live, Refusal):
            raise self._refused(turn, live)
        if live.runs is None and any(self._names.search(leaf.text) for leaf in self._leaves):
            raise DataError(
                f"{self.where}: names of special tokens are in the messages, and what the template "
                f"{self._template.name} makes of messages cannot be followed, so that they stay text",
                cure="a template without `safe`, `escape` and bytes, or other messages",
            )
        start, note = self._prompt(turn, prompt, live.text)
        stop = self._end(live, start)
        turn = replace(
            turn,
            prompt=live.text[:start],
            completion=live.text[start:stop],
            runs=clipped(live.runs or (), 0, stop),
        )
        if not turn.completion:
            raise DataError(f"{self.where}: the template writes nothing for {turn.name}", cure="give it weight 0")
        notes = [note] if note else []
        if live.runs is not None:
            notes += self._judged(turn, live.runs)
            turn = replace(turn, end=self._text_end(turn))
            notes += [f"no special token ends it, but the text {turn.end!r} does"] if turn.end else []
        return replace(turn, note="\n".join(f"{turn.name}: {one}" for one in notes))

    def _prompt(self, turn: Turn, prompt: Rendered | Refusal, live: str) -> tuple[int, str]:
        """How much of the live rendering stands before the turn, and what is to be said of that."""
        text = prompt.text if isinstance(prompt, Rendered) else None
        if turn.num_before == 0 and (text is None or not live.startswith(text)):
            bos = self._template.bos_token  # many templates render nothing where there is no message
            return len(bos) if live.startswith(bos) else 0, f"nothing stands before it but {bos or 'the beginning'}"
        if isinstance(prompt, Refusal):
            raise self._refused(turn, prompt)
        return (len(prompt.text), "") if live.startswith(prompt.text) else self._fallback(turn, prompt.text, live)

    def _judged(self, turn: Turn, runs: Sequence[Run]) -> list[str]:
        """What is to be said of a turn; it is refused if nothing of what was said is asked."""
        start = len(turn.prompt)
        said = [leaf for leaf in self._leaves if leaf.message == turn.index and leaf.says]
        written = covered(clipped(runs, start, start + len(turn.completion)))
        is_empty = all(rest == leaf.text for leaf, rest in missing(said, written))
        has_words = any(leaf.text.strip() for leaf in said)
        if is_empty and (has_words or not turn.message.says_weight):
            fields = ", ".join(dict.fromkeys(leaf.field for leaf in said)) or "content"
            raise DataError(
                f"{self.where}: the template {self._template.name} writes nothing of {turn.name} ({fields}), so that "
                f"only {turn.completion[:60]!r} would be learned",
                cure="another template, or weight 0",
            )
        notes = ["it says nothing, and its end alone is asked"] if is_empty else []
        header = turn.completion[: max(min((first for first, _, _ in runs if first >= start), default=0) - start, 0)]
        if header and not is_empty and not self._forms.asks and turn.message.role == "assistant":
            notes.append(f"the template has no add_generation_prompt, so that {header!r} is asked as well")
        return notes

    def _text_end(self, turn: Turn) -> str:
        """The text that ends a turn of the assistant where no special token does; without either it is refused."""
        (_, _), (completion, said) = turn.texts
        tokens = special_in(completion, self._names, said)
        if turn.message.role != "assistant" or (tokens and tokens[-1].end() == len(completion)):
            return ""
        behind = completion[said[-1][1] if said else 0 :].rstrip()
        if behind.strip():
            return behind
        raise DataError(
            f"{self.where}: the template {self._template.name} writes nothing that ends {turn.name}, so that a model "
            "could not learn where to stop",
            allowed="a special token, or a text that stands behind every answer",
            cure='in the template <|im_end|> behind each answer, and data.chat.special_tokens=["<|im_end|>"]',
        )

    def _fallback(self, turn: Turn, prompt: str, live: str) -> tuple[int, str]:
        """How much stands before the turn where its live rendering does not begin with the inference prompt.

        What both have in common, down to the last special token or line, since it may end within a word; and no less
        than the messages before, which is what a template writes without the prompt.
        """
        ((history,),) = self._renderer.render([(self._scene, [(False, *turn.before)])])
        if isinstance(history, Refusal):
            raise self._refused(turn, history)
        common = prompt[: agreement(prompt, live)]
        said = [(start, stop) for start, stop, _ in history.runs or ()]
        ends = [match.end() for match in special_in(common, self._names, [one for one in said if one[1] < len(common)])]
        common = common[: max([common.rfind("\n") + 1, *ends])]
        bare = self._bare(history.text, said)
        if not live.startswith(bare):
            raise DataError(
                f"{self.where}: the template writes the messages before {turn.name} otherwise once it is there, so "
                f"what belongs to it cannot be told: {prompt[len(common) :][:60]!r}, then {live[len(common) :][:60]!r}",
                cure="another template",
            )
        full = len(history.text if live.startswith(history.text) else bare)
        kept, what = (len(common), "as much of it as both have") if len(common) >= full else (full, "the messages only")
        return kept, f"its rendering does not begin with the inference prompt; read before it: {what}"

    def _bare(self, text: str, said: Sequence[Range]) -> str:
        """Without the special tokens and white space at its end, which some templates write where nothing follows."""
        end = len(text.rstrip())
        for match in reversed(special_in(text, self._names, said)):
            if match.end() != end:
                break
            end = len(text[: match.start()].rstrip())
        return text[:end]

    def _end(self, live: Rendered, start: int) -> int:
        """Where the turn ends: behind what ends a turn, else behind the last special token if nothing else follows."""
        said = [(first - start, last - start) for first, last, _ in live.runs or ()]
        found = special_in(live.text[start:], self._names, [one for one in said if one[1] > 0])
        ends = [start + match.end() for match in found if match[0] in self._template.ends_turn]
        if ends:
            return ends[-1]
        last = start + found[-1].end() if found else len(live.text)
        return len(live.text) if live.text[last:].strip() else last

    def _refused(self, turn: Turn, refusal: Refusal) -> DataError:
        cure = "data.chat.date=2025-01-31, or another day" if "strftime_now" in refusal.why else ""
        what = f"{self.where}: the template {self._template.name} does not render {turn.name}: {refusal.why}"
        return DataError(what, cure=cure)

"""Records to token ids, in the layout that a factorization reads."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from thetahat.core.errors import DataError
from thetahat.core.layout import STREAM, Layout
from thetahat.core.special import Frame, Frames
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import TEMPLATES
from thetahat.data.config import OnBadRecord, OverLong, Unsupervised
from thetahat.data.read.bad import TooLongError
from thetahat.data.read.record import Record
from thetahat.data.tokens.encoded import Encoded, EncodedPart, Span, target_span
from thetahat.data.tokens.sizes import Tokens
from thetahat.data.tokens.tokenizer import Tokenizer

OnError = Callable[[DataError], None]
LABEL_UNREAD = "its text is learned, its label is not read: objective.factorization.kind=labels learns labels"


@dataclass(frozen=True, slots=True)
class Encoding:
    """How records become token ids; beside the tokenizer, all that it depends on."""

    layout: Layout = STREAM
    labels: tuple[str, ...] = ()  # of labelled texts: the only completions there are
    room: int = 1 << 30  # positions for what an encoder reads, of pairs and of labelled texts
    over_long: OverLong = "error"  # what becomes of a prompt that needs more
    chat: ChatOptions | None = None  # how dialogues are written; None: there may be none
    unsupervised: Unsupervised = "error"  # what becomes of a dialogue in which every message has weight 0
    on_bad_record: OnBadRecord = "error"  # what becomes of a record that cannot be encoded; all are named and counted

    def settings(self) -> dict[str, str]:
        """What a corpus is told apart by; nothing for plain text, which all layouts but one keep alike."""
        told: dict[str, str] = {}
        if not self.layout.is_one_stream:
            labels = "\0".join(self.labels)
            told = {"layout": self.layout.name, "labels": labels, "room": str(self.room), "over_long": self.over_long}
        if self.chat:
            chat = {name: getattr(self.chat, name) for name in ("context", "shares_prefixes", "over_long", "streams")}
            told |= {"chat": json.dumps(chat | {"template": self.chat.template.digest})}
            told |= {"unsupervised": "skip"} if self.unsupervised == "skip" else {}
        return told


def encode_records(
    records: Sequence[Record], tokenizer: Tokenizer, encoding: Encoding, on_error: OnError
) -> Iterator[Encoded | None]:
    """Each record as token ids; prompt and completion are tokenised apart, as they are when a completion is generated.

    Of a labelled text only the text is read, and a note says so, where nothing asks for labels. The bytes of tokens add
    up to the text, also where the tokenizer loses some of it. `on_error` gets what is wrong with a record, which is
    None then.
    """
    is_one_text = encoding.layout.is_one_stream
    prompts = iter(tokenizer.tokens([record.prompt for record in records if record.prompt is not None]))
    alone = iter(tokenizer.tokens([record.text for record in records if _is_alone(record, is_one_text)]))
    behind = [record.text for record in records if record.dialogue is None and not _is_alone(record, is_one_text)]
    completions = iter(tokenizer.tokens(behind, goes_on=True))
    dialogues = _dialogues(records, tokenizer, encoding, on_error)
    for record in records:
        if record.dialogue is not None:
            yield next(dialogues)
            continue
        text = next(alone if _is_alone(record, is_one_text) else completions)
        prompt = None if record.prompt is None else next(prompts)
        try:
            if prompt is not None and record.is_label and is_one_text:
                found = replace(_encode(record, None, prompt, tokenizer.frames, encoding), notes=(LABEL_UNREAD,))
            else:
                found = _encode(record, prompt, text, tokenizer.frames, encoding)
        except DataError as error:
            on_error(error)
            found = None
        yield found


def _is_alone(record: Record, is_one_text: bool) -> bool:
    """Whether its text begins a text, and does not go on with a prompt."""
    return record.dialogue is None and (record.prompt is None or not is_one_text)


def _dialogues(
    records: Sequence[Record], tokenizer: Tokenizer, encoding: Encoding, on_error: OnError
) -> Iterator[Encoded | None]:
    some = [(record.dialogue, record.where or record.id) for record in records if record.dialogue is not None]
    if not some:
        return iter(())
    if encoding.layout.is_whole:
        raise DataError(
            f"{some[0][1]}: a dialogue, which is neither masked, labelled nor left out in spans",
            allowed="a decoder (causal, prefix), or an encoder-decoder (conditional)",
        )
    if encoding.chat is None:
        raise DataError(
            f"{some[0][1]}: a dialogue, and no template to write it with",
            allowed=f"{', '.join(TEMPLATES)}, or the path of a .jinja file",
            cure="data.chat.template=chatml",
        )
    asked = [dialogue.is_supervised or encoding.unsupervised == "skip" for dialogue, _ in some]
    found = DialogueEncoder(tokenizer, encoding.chat).encode_usable(itertools.compress(some, asked), on_error)
    named = zip(asked, some, strict=True)
    return (next(found) if is_asked else on_error(_silent(where)) for is_asked, (_, where) in named)


def _silent(where: str) -> DataError:
    return DataError(
        f"{where}: every message has weight 0",
        cure="remove it, since it has nothing to predict, or data.unsupervised=skip",
    )


def _part(name: str, tokens: Tokens, frame: Frame) -> EncodedPart:
    """A part whose targets are a text and what ends it; bytes for which no token stands go to the end."""
    if tokens.sizes is None:
        return EncodedPart(name)
    ends = [0] * len(frame.after)
    ends[:1] = [tokens.num_left]
    return EncodedPart(name, sizes=(*tokens.sizes, *ends), is_lossless=tokens.is_lossless)


def _prompt(tokens: Tokens | None, before: int, after: int = 0) -> EncodedPart:
    """A part that is read, with so many tokens around it; of a span the first is read and belongs to no part."""
    if tokens is None or tokens.sizes is None:
        return EncodedPart("prompt", is_prompt=True)
    sizes = (*[0] * before, *tokens.sizes, *[0] * after)[1:]
    return EncodedPart("prompt", is_prompt=True, sizes=sizes, is_lossless=tokens.is_lossless)


def _encode(record: Record, prompt: Tokens | None, text: Tokens, frames: Frames, encoding: Encoding) -> Encoded:
    if encoding.layout.predicts_label:
        return _labelled(record, prompt, frames, encoding)
    if encoding.layout.has_source:
        return _pair(record, prompt, text, frames, encoding)
    frame = frames.text
    first, given = frame.before[0], [*frame.before[1:], *(prompt.ids if prompt else ())]
    tokens = (first, *given, *text.ids, *frame.after)
    if prompt is None and not given:
        return Encoded((_part("document", text, frame),), ((Span(tokens, (0,) * len(tokens)),),))
    name = "document" if prompt is None else "completion"
    parts = _prompt(prompt, len(frame.before)), _part(name, text, frame)
    part = (0,) * (1 + len(given)) + (1,) * (len(tokens) - len(given) - 1)
    return Encoded(parts, ((Span(tokens, part),),))


def _pair(record: Record, prompt: Tokens | None, text: Tokens, frames: Frames, encoding: Encoding) -> Encoded:
    if prompt is None:
        raise DataError(
            f"{record.id}: a text alone, where an encoder reads the prompt and a decoder writes the completion",
            allowed='{"prompt": ..., "completion": ...}, or dialogues',
            cure="objective.factorization.kind=spans for plain text",
        )
    frame, (before, after) = frames.target, (len(frames.source.before), len(frames.source.after))
    read = _fitted(prompt, encoding.room - before - after, encoding, record.id)
    parts = _prompt(read, before, after + len(frame.before) - 1), _part("completion", text, frame)
    if read is None:
        return Encoded(parts, (), tokens_cut=len(text.ids) + len(frame.after), prompt_cut=len(prompt.ids))
    source = frames.source.around(read.ids)
    target = target_span(frame, (*text.ids, *frame.after), (0, 1))
    cut = len(prompt.ids) - len(read.ids)
    return Encoded(parts, ((Span(tuple(source), (0,) * len(source)), target),), prompt_cut=cut)


def _labelled(record: Record, prompt: Tokens | None, frames: Frames, encoding: Encoding) -> Encoded:
    labels = encoding.labels
    if prompt is None:
        raise DataError(f"{record.id}: a text without a label", allowed='{"text": ..., "label": ...}')
    if record.text not in labels:
        shown = ", ".join(labels[:8]) + (f", ... ({len(labels)} in all)" if len(labels) > 8 else "")
        raise DataError(f"{record.id}: the label {record.text!r} is not one of those declared", allowed=shown)
    before, after = len(frames.text.before), len(frames.text.after)
    read = _fitted(prompt, encoding.room - before - after, encoding, record.id)
    parts = _prompt(read, before, after), EncodedPart("label", num_bytes=0)
    if read is None:
        return Encoded(parts, (), tokens_cut=1, prompt_cut=len(prompt.ids))
    tokens = (*frames.text.around(read.ids), labels.index(record.text))
    part = (0,) * (len(tokens) - 1) + (1,)
    return Encoded(parts, ((Span(tokens, part),),), prompt_cut=len(prompt.ids) - len(read.ids))


def _fitted(prompt: Tokens, room: int, encoding: Encoding, name: str) -> Tokens | None:
    """What an encoder reads of a prompt; None: the record is dropped."""
    match encoding.over_long:
        case _ if len(prompt.ids) <= room:
            return prompt
        case "truncate-right":
            return prompt.cut(slice(room))
        case "truncate-left" | "keep-last-turns":
            return prompt.cut(slice(-room, None))
        case "drop":
            return None
        case "error" | "split":
            layout = encoding.layout
            what = name if layout.predicts_label else f"the prompt of {name}"
            raise TooLongError(
                f"{what} has {len(prompt.ids)} tokens where the encoder reads {room}, and what is read "
                "at once is not split",
                key="data.source_context" if layout.has_source else "data.context",
                needed=encoding.room + len(prompt.ids) - room + layout.num_added,
                others="data.over_long=truncate-left (or truncate-right, drop)",
            )

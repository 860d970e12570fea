"""Records to token ids, in the layout that a factorization reads."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from thetahat.core.errors import DataError, ModelError
from thetahat.core.layout import STREAM, Layout
from thetahat.data.chat.encode import ChatOptions, DialogueEncoder
from thetahat.data.chat.template import TEMPLATES
from thetahat.data.config import OverLong, Unsupervised
from thetahat.data.read.record import Record
from thetahat.data.tokens.encoded import Encoded, EncodedPart, Span
from thetahat.data.tokens.tokenizer import Tokenizer

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

    def settings(self) -> dict[str, str]:
        """What a cache is told apart by; nothing for plain text, which all layouts but one keep alike."""
        told: dict[str, str] = {}
        if not self.layout.is_one_stream:
            labels = "\0".join(self.labels)
            told = {"layout": self.layout.name, "labels": labels, "room": str(self.room), "over_long": self.over_long}
        if self.chat:
            chat = {name: getattr(self.chat, name) for name in ("context", "shares_prefixes", "over_long", "streams")}
            told |= {"chat": json.dumps(chat | {"template": self.chat.template.digest})}
            told |= {"unsupervised": "skip"} if self.unsupervised == "skip" else {}
        return told


def encode_records(records: Sequence[Record], tokenizer: Tokenizer, encoding: Encoding) -> Iterator[Encoded]:
    """Each record as token ids; prompt and completion are tokenised apart, as they are when a completion is generated.

    Of a labelled text only the text is read, and a note says so, where nothing asks for labels.
    Byte-level tokens must add up to the text, or the tokenizer loses some and is refused.
    """
    prompts = iter(tokenizer.encode([record.prompt for record in records if record.prompt is not None]))
    texts = iter(tokenizer.encode([record.text for record in records if record.dialogue is None]))
    dialogues = _dialogues(records, tokenizer, encoding)
    for record in records:
        if record.dialogue is not None:
            yield next(dialogues)
            continue
        text = next(texts)
        check_bytes(record.text, text, tokenizer, record.id)
        prompt = None
        if record.prompt is not None:
            prompt = next(prompts)
            check_bytes(record.prompt, prompt, tokenizer, record.id)
        if prompt is not None and record.is_label and encoding.layout.is_one_stream:
            yield replace(_encode(record, None, prompt, tokenizer.end_of_text, encoding), notes=(LABEL_UNREAD,))
        else:
            yield _encode(record, prompt, text, tokenizer.end_of_text, encoding)


def _dialogues(records: Sequence[Record], tokenizer: Tokenizer, encoding: Encoding) -> Iterator[Encoded]:
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
    silent = [where for dialogue, where in some if not dialogue.is_supervised]
    if silent and encoding.unsupervised == "error":
        raise DataError(
            f"{silent[0]}: every message has weight 0",
            cure="remove it, since it has nothing to predict, or data.unsupervised=skip",
        )
    return DialogueEncoder(tokenizer, encoding.chat).encode(some)


def _encode(record: Record, prompt: list[int] | None, text: list[int], end: int, encoding: Encoding) -> Encoded:
    if encoding.layout.predicts_label:
        return _labelled(record, prompt, end, encoding)
    if encoding.layout.has_source:
        return _pair(record, prompt, text, end, encoding)
    if prompt is None:
        return Encoded((EncodedPart("document"),), ((Span((end, *text, end), (0,) * (len(text) + 2)),),))
    tokens = (end, *prompt, *text, end)
    part = (0,) * (len(prompt) + 1) + (1,) * (len(text) + 1)
    return Encoded((EncodedPart("prompt", is_prompt=True), EncodedPart("completion")), ((Span(tokens, part),),))


def _pair(record: Record, prompt: list[int] | None, text: list[int], end: int, encoding: Encoding) -> Encoded:
    if prompt is None:
        raise DataError(
            f"{record.id}: a text alone, where an encoder reads the prompt and a decoder writes the completion",
            allowed='{"prompt": ..., "completion": ...}, or dialogues',
            cure="objective.factorization.kind=spans for plain text",
        )
    parts = EncodedPart("prompt", is_prompt=True), EncodedPart("completion")
    read = _fitted(prompt, encoding.room - 1, encoding, record.id)
    if read is None:
        return Encoded(parts, (), tokens_cut=len(text) + 1, prompt_cut=len(prompt))
    source = Span((end, *read), (0,) * (len(read) + 1))
    target = Span((end, *text, end), (1,) * (len(text) + 2), parent=0)
    return Encoded(parts, ((source, target),), prompt_cut=len(prompt) - len(read))


def _labelled(record: Record, prompt: list[int] | None, end: int, encoding: Encoding) -> Encoded:
    labels = encoding.labels
    if prompt is None:
        raise DataError(f"{record.id}: a text without a label", allowed='{"text": ..., "label": ...}')
    if record.text not in labels:
        shown = ", ".join(labels[:8]) + (f", ... ({len(labels)} in all)" if len(labels) > 8 else "")
        raise DataError(f"{record.id}: the label {record.text!r} is not one of those declared", allowed=shown)
    parts = EncodedPart("prompt", is_prompt=True), EncodedPart("label", num_bytes=len(record.text.encode()))
    read = _fitted(prompt, encoding.room - 2, encoding, record.id)
    if read is None:
        return Encoded(parts, (), tokens_cut=1, prompt_cut=len(prompt))
    tokens = (end, *read, end, labels.index(record.text))
    return Encoded(parts, ((Span(tokens, (0,) * (len(read) + 2) + (1,)),),), prompt_cut=len(prompt) - len(read))


def _fitted(prompt: list[int], room: int, encoding: Encoding, name: str) -> list[int] | None:
    """What an encoder reads of a prompt; None: the record is dropped."""
    match encoding.over_long:
        case _ if len(prompt) <= room:
            return prompt
        case "truncate-right":
            return prompt[:room]
        case "truncate-left" | "keep-last-turns":
            return prompt[-room:]
        case "drop":
            return None
        case "error" | "split":
            raise DataError(
                f"the prompt of {name} has {len(prompt)} tokens where the encoder reads {room}, and what is read at "
                "once is not split",
                cure="data.over_long=truncate-left (or truncate-right, drop), or a larger data.source_context",
            )


def check_bytes(text: str, ids: Sequence[int], tokenizer: Tokenizer, name: str) -> None:
    """Raises ModelError unless the tokens add up to the text."""
    size, found = len(text.encode()), sum(map(tokenizer.sizes.__getitem__, ids))
    if found != size:
        raise ModelError(
            f"the tokenizer loses text: the tokens of {name} stand for {found} of its {size} bytes",
            cure="data.tokenizer=none trains one that loses nothing",
        )

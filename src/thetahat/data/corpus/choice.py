"""Questions as token ids: each joined text is tokenised once, and the tokens of the choice are its targets."""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from thetahat.core.errors import DataError
from thetahat.core.layout import STREAM, Layout
from thetahat.core.special import Frame, Frames
from thetahat.data.corpus.build import corpus_of_encoded
from thetahat.data.corpus.corpus import Corpus
from thetahat.data.read.bad import BadRecords
from thetahat.data.read.question import Question
from thetahat.data.read.record import Record
from thetahat.data.tokens.encoded import Encoded, EncodedPart, Span, target_span
from thetahat.data.tokens.sizes import Tokens
from thetahat.data.tokens.tokenizer import Tokenizer
from thetahat.data.tokens.tree import Tree

CHOICE, ALONE = "choice-{}", "alone-{}"  # parts of a record, rows of a ledger
WORTH = 32  # positions that a tree must save: with fewer, its mask costs more


@dataclass(frozen=True, slots=True)
class QuestionEncoding:
    """How questions become token ids, beside the tokenizer."""

    layout: Layout = STREAM
    context: int = 1 << 30  # positions that the model reads at once
    source_room: int = 1 << 30  # positions that an encoder reads for a decoder
    delimiter: str = " "  # between a context and a choice where neither brings a blank there; it counts with the choice
    over_long: Literal["error", "truncate-left", "window"] = "error"  # what becomes of a text that needs more positions
    cut_option: str = "--over-long truncate-left"  # what a person types to have contexts cut
    alone: bool = True  # whether each choice is also scored without its context
    shares: bool = (
        False  # whether what choices have in common is read once, where all of a question fits: a causal model
    )


@dataclass(frozen=True, slots=True)
class EncodedQuestions:
    """Questions and their corpus: a record a question, a part and a sequence a choice."""

    questions: tuple[Question, ...]
    corpus: Corpus
    straddling: tuple[int, ...]  # of each question: tokens that hold the end of a context and the start of its choice
    counted_context: tuple[
        int, ...
    ]  # ... whole tokens of a context that count with the choice, since another straddles


@dataclass(frozen=True, slots=True)
class _Text:
    """One choice behind its context, tokenised once."""

    first: tuple[int, ...]  # read before everything else: what a text begins with, or what a template does
    tokens: list[int]
    sizes: list[int] | None  # bytes of each; None: those of the tokenizer's table
    within: int  # how many of them lie in the context as a whole
    straddles: bool  # whether the next one lies in both
    is_lossless: bool = True
    last: tuple[int, ...] = ()  # behind what is given, of a source

    def given(self, start: int, stop: int) -> list[int]:
        """What is read before the token at `stop`, without those before `start`."""
        return [*self.first, *self.tokens[start:stop], *self.last]

    def part(self, name: str, start: int) -> EncodedPart:
        """The part whose targets are its tokens from `start` on."""
        sizes = None if self.sizes is None else tuple(self.sizes[start:])
        return EncodedPart(name, sizes=sizes, is_lossless=self.is_lossless)


def encode_questions(
    questions: Sequence[Question], tokenizer: Tokenizer, encoding: QuestionEncoding
) -> EncodedQuestions:
    r"""The corpus whose targets give $\log \Pr(\text{choice} \mid \text{context})$ of every choice, and of each alone.

    The joined text is tokenised once and a span of it is scored, so no token depends on where a context was cut off. A
    token with bytes of both counts with the choice. Choices with one context are scored from the same place, the first
    at which any of them straddles it: all are then continuations of the same tokens. What stands before a text is read
    and no target, and its end is no target: choices are no whole documents.

    Behind a dialogue in its template a choice is tokenised alone, as a reply is in training.
    """
    if encoding.layout.predicts_label:
        raise DataError("a model that tells labels apart has no likelihood of a text", cure="a decoder or an encoder")
    plain = [question for question in questions if not question.prompts]
    texts = _pairs(plain, tokenizer) if encoding.layout.has_source else _joined(plain, tokenizer, encoding.delimiter)
    rendered = _rendered([question for question in questions if question.prompts], tokenizer)
    straddling: list[int] = []
    counted: list[int] = []

    too_long = BadRecords("error", cure="shorter questions, or a model with a longer context")

    def encoded() -> Iterator[tuple[Record, Encoded]]:
        for question in questions:
            several = next(rendered if question.prompts else texts)
            starts = _starts(question, several)
            straddling.append(sum(text.straddles for text in several))
            counted.append(sum(text.within - start for text, start in zip(several, starts, strict=True)))
            try:
                yield question.record, _encode(question, several, starts, tokenizer.frames, encoding)
            except DataError as error:
                too_long(error)

    corpus = corpus_of_encoded(encoded(), tokenizer, encoding.layout)
    too_long.settle()
    return EncodedQuestions(tuple(questions), corpus, tuple(straddling), tuple(counted))


def _joined(questions: Sequence[Question], tokenizer: Tokenizer, delimiter: str) -> Iterator[list[_Text]]:
    pairs = [pair for question in questions for pair in zip(question.contexts, question.choices, strict=True)]
    joints = [context + (delimiter if _needs_blank(context, choice) else "") for context, choice in pairs]
    texts = [joint + choice for joint, (_, choice) in zip(joints, pairs, strict=True)]
    found = zip(pairs, tokenizer.tokens(texts), strict=True)
    for question in questions:
        several = itertools.islice(found, len(question.choices))
        yield [_cut(context, tokens, tokenizer) for (context, _), tokens in several]


def _needs_blank(context: str, choice: str) -> bool:
    return bool(context) and not context[-1].isspace() and not choice[:1].isspace()


def _cut(context: str, tokens: Tokens, tokenizer: Tokenizer) -> _Text:
    """By bytes: those of the tokens add up to the text."""
    first, sizes = tokenizer.frames.text.before, tokens.sizes or map(tokenizer.sizes.__getitem__, tokens.ids)
    size, ends = len(context.encode()), list(itertools.accumulate(sizes, initial=0))
    within = bisect_right(ends, size) - 1 if context else 0
    return _Text(first, tokens.ids, tokens.sizes, within, ends[within] < size, tokens.is_lossless)


def _pairs(questions: Sequence[Question], tokenizer: Tokenizer) -> Iterator[list[_Text]]:
    """For an encoder and a decoder: two texts, tokenised apart as in training."""
    contexts = iter(tokenizer.encode([context for question in questions for context in question.contexts]))
    choices = iter(tokenizer.tokens([choice for question in questions for choice in question.choices]))
    for question in questions:
        if not all(question.contexts):
            raise DataError(
                f"{question.record.where or question.record.id}: whole texts, where an encoder reads a context and a "
                "decoder writes the choice",
                cure="a decoder or an encoder for minimal pairs",
            )
        parts = [(next(contexts), next(choices)) for _ in question.choices]
        frame = tokenizer.frames.source
        yield [_behind(frame, context, choice, tokenizer) for context, choice in parts]


def _rendered(questions: Sequence[Question], tokenizer: Tokenizer) -> Iterator[list[_Text]]:
    """Behind dialogues: what a template writes is tokens already."""
    for question in questions:
        texts: list[_Text] = []
        for (first, *rest), choice in zip(question.prompts, question.choices, strict=True):
            goes_on = tokenizer.goes_on([first, *rest][-1])
            texts.append(_behind(Frame((first,)), rest, tokenizer.tokens([choice], goes_on=goes_on)[0], tokenizer))
        yield texts


def _behind(frame: Frame, context: list[int], choice: Tokens, tokenizer: Tokenizer) -> _Text:
    """A choice that was tokenised apart from its context."""
    given = [tokenizer.sizes[id] for id in context]
    sizes = None if choice.sizes is None else [*given, *choice.sizes]
    within, is_lossless = len(context), choice.is_lossless
    return _Text(frame.before, context + choice.ids, sizes, within, False, is_lossless, frame.after)


def _starts(question: Question, texts: Sequence[_Text]) -> list[int]:
    """The first target of each text: that of the choice, or the same for all choices where they share a beginning."""
    if not question.shares_context or len(texts) == 1:
        return [text.within for text in texts]
    same = itertools.takewhile(
        lambda column: len(set(column)) == 1, zip(*(text.tokens for text in texts), strict=False)
    )
    return [min(sum(1 for _ in same), *(text.within for text in texts))] * len(texts)


def _encode(
    question: Question, texts: Sequence[_Text], starts: Sequence[int], frames: Frames, encoding: QuestionEncoding
) -> Encoded:
    around = _num_around(texts[0], frames, encoding)
    texts, choice_cut = _with_choices_cut(texts, starts, around, encoding)
    cut = _num_cut(question, texts, starts, around, encoding)
    parts = [EncodedPart("context", is_prompt=True)]
    parts += [text.part(CHOICE.format(i), start) for i, (text, start) in enumerate(zip(texts, starts, strict=True))]
    pairs = [(text.given(cut, start), text.tokens[start:]) for text, start in zip(texts, starts, strict=True)]
    sequences = _sequences(pairs, frames, encoding)
    if encoding.alone and len(texts) > 1 and any(starts):
        nothing = frames.source.around(()) if encoding.layout.has_source else [*frames.text.before]
        sequences += [
            _sequence(nothing, targets, 1 + len(texts) + index, frames, encoding)
            for index, (_, targets) in enumerate(pairs)
        ]
        parts += [text.part(ALONE.format(i), start) for i, (text, start) in enumerate(zip(texts, starts, strict=True))]
    return Encoded(tuple(parts), tuple(sequences), tokens_cut=choice_cut, prompt_cut=cut)


def _num_around(text: _Text, frames: Frames, encoding: QuestionEncoding) -> int:
    """How many positions are read around context and choice; of a source, around the context."""
    layout, given = encoding.layout, len(text.first) + len(text.last)
    return given if layout.has_source else given + len(frames.text.after) if layout.reads_end else given - 1


def _sequences(
    pairs: Sequence[tuple[list[int], list[int]]], frames: Frames, encoding: QuestionEncoding
) -> list[tuple[Span, ...]]:
    """Each choice behind its context; or a tree, in which what contexts share stands once, where that is worth it."""
    tree = Tree()
    may_share = encoding.shares and len(pairs) > 1
    for index, (given, targets) in enumerate(pairs if may_share else ()):
        tree.add(given, targets, (0, 1 + index))
    saved = sum(len(given) + len(targets) - 1 for given, targets in pairs) - tree.positions
    if may_share and saved >= WORTH and tree.positions <= encoding.context:
        return list(tree.sequences())
    return [_sequence(given, targets, 1 + index, frames, encoding) for index, (given, targets) in enumerate(pairs)]


def _sequence(
    given: list[int], targets: list[int], part: int, frames: Frames, encoding: QuestionEncoding
) -> tuple[Span, ...]:
    if encoding.layout.has_source:
        return Span(tuple(given), (0,) * len(given)), target_span(frames.target, targets, (0, part))
    close = frames.text.after if encoding.layout.reads_end else ()
    return (Span((*given, *targets, *close), (0,) * len(given) + (part,) * len(targets) + (0,) * len(close)),)


def _with_choices_cut(
    texts: Sequence[_Text], starts: Sequence[int], around: int, encoding: QuestionEncoding
) -> tuple[Sequence[_Text], int]:
    """The texts without the beginning of each choice that alone does not fit, and how many tokens these are."""
    room = encoding.context - (0 if encoding.layout.has_source else around)
    over = [max(len(text.tokens) - start - room, 0) for text, start in zip(texts, starts, strict=True)]
    if encoding.over_long != "truncate-left" or not any(over):
        return texts, 0
    fitting = [
        replace(
            text,
            tokens=text.tokens[:start] + text.tokens[start + left_out :],
            sizes=text.sizes and text.sizes[:start] + text.sizes[start + left_out :],
        )
        for text, start, left_out in zip(texts, starts, over, strict=True)
    ]
    return fitting, sum(over)


def _num_cut(
    question: Question, texts: Sequence[_Text], starts: Sequence[int], around: int, encoding: QuestionEncoding
) -> int:
    """How many tokens are left out at the beginning of each context: as many for all choices."""
    if encoding.over_long == "window":
        return 0
    pairs = [(start, len(text.tokens) - start) for text, start in zip(texts, starts, strict=True)]
    if encoding.layout.has_source:
        over, around = max(given for given, _ in pairs) + around - encoding.source_room, 0
    else:
        over = max(map(sum, pairs)) + around - encoding.context
    name = question.record.where or question.record.id
    if max(targets for _, targets in pairs) + around > encoding.context:
        raise DataError(
            f"{name}: a choice alone is longer than the context of {encoding.context} tokens",
            cure="--over-long truncate-left leaves out the beginning of context and choice, and counts it",
        )
    if over > 0 and encoding.over_long == "error":
        raise DataError(
            f"{name}: context and choice are {over} tokens longer than what the model reads at once",
            cure=f"{encoding.cut_option} leaves out the beginning of the context, and counts it",
        )
    if over > (shortest := min(given for given, _ in pairs)):
        raise DataError(
            f"{name}: {over} tokens would have to be left out of each context, and one has {shortest}",
            cure="a question whose contexts differ less, or a model with a longer context",
        )
    return max(over, 0)

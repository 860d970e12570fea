"""Tokens as characters while they come, against decoding all of them at once."""

import itertools

import pytest
import tokenizers
import torch
from hypothesis import given, settings, strategies as st

from tests.examples import TINY, lively
from tests.oracles import beam as oracle
from thetahat.core.random import generator
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.generation.beam import Beam, search
from thetahat.generation.rows import begin_decoding
from thetahat.generation.sample import Sampling, draw
from thetahat.generation.writing import Ends, Writing
from thetahat.model.build import build_model

SCRIPTS = [
    "the quick fox — naïve",
    "αρχή του λόγου",
    "в начале было слово",
    "בְּרֵאשִׁית ברא",
    "في البدء كان الكلمة",
    "आदि में वचन था",
    "ในเริ่มแรกนั้น",
    "起初神創造天地𠮷",
    "はじめにカタカナが",
    "태초에 말씀이",
    "👩‍👩‍👧‍👦 👍🏽 🇪🇺 e\u0301",
]
TOKENIZER = train_tokenizer([text * 3 for text in SCRIPTS] + ["ab " * 9], 400, ["<|mask|>"])
LIBRARY = tokenizers.Tokenizer.from_str(TOKENIZER.to_json())
BYTES = TOKENIZER.token_bytes
END = TOKENIZER.frames.text.before[0]
TEXTS = st.lists(st.sampled_from(SCRIPTS) | st.text(max_size=5), max_size=3).map("".join)
BROKEN = st.lists(st.integers(0, TOKENIZER.vocab_size - 1), max_size=12)


def streamed(tokens, ends=None):
    """The text, and its pieces after each token."""
    writing = Writing(ends or Ends(frozenset({END}), max_tokens=len(tokens) + 1), BYTES)
    pieces = []
    for token in [*tokens, END]:
        writing.add(token)
        pieces.append(writing.take())
        if writing.ended:
            break
    return writing, pieces


@given(TEXTS, BROKEN)
def test_what_comes_piece_by_piece_is_what_is_decoded_at_once(text, broken):
    """As the library decodes it, too."""
    tokens = [token for token in [*TOKENIZER.encode([text])[0], *broken] if token != END]
    writing, pieces = streamed(tokens)
    assert writing.text == LIBRARY.decode(tokens, skip_special_tokens=True)
    assert "".join(pieces) == writing.text == TOKENIZER.decode(tokens)
    assert writing.tokens == tokens
    assert writing.ended == "end"


@given(TEXTS)
def test_no_piece_of_a_whole_text_has_half_a_character(text):
    _, pieces = streamed([BYTES.index(bytes([byte])) for byte in text.encode()])
    assert "".join(pieces) == text
    assert [len(piece) <= 1 for piece in pieces] == [True] * len(pieces)


def test_a_character_waits_until_it_is_whole_also_behind_others_that_came_with_it():
    whole = "こんにちは".encode()
    _, pieces = streamed_bytes([whole[:-1], whole[-1:]])
    assert pieces == ["こんにち", "は", ""]
    _, pieces = streamed_bytes([whole[:-1], b"a"])
    assert pieces == ["こんにち", "\ufffda", ""]
    _, pieces = streamed_bytes([whole[:-1]])
    assert pieces == ["こんにち", "\ufffd"]


def streamed_bytes(tokens, *stop, texts=(), max_tokens=99):
    writing = Writing(Ends(frozenset({0}), texts, stop, max_tokens), [b"", *tokens])
    pieces = []
    for token in [*range(1, len(tokens) + 1), 0]:
        if writing.ended is None:
            writing.add(token)
            pieces.append(writing.take())
    return writing, pieces


def divided(text, cuts):
    whole = text.encode()
    places = sorted({0, len(whole), *(cut % (len(whole) + 1) for cut in cuts)})
    return [whole[first:last] for first, last in itertools.pairwise(places)]


LETTERS = st.text("ab\u00e9", max_size=12)


@given(LETTERS, st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3), st.lists(st.integers(0, 99)))
def test_a_stop_text_is_found_whatever_the_borders_of_tokens(text, stops, cuts):
    """It ends where the first is complete, before the longest that is complete there."""
    complete = [(end, len(stop)) for end in range(len(text) + 1) for stop in stops if text[:end].endswith(stop)]
    first = min((end for end, _ in complete), default=None)
    expected = text if first is None else text[: first - max(size for end, size in complete if end == first)]
    writing, pieces = streamed_bytes(divided(text, cuts), *stops)
    assert writing.text == "".join(pieces) == expected
    assert writing.ended == ("end" if first is None else "stop")
    if first is not None:
        assert text.startswith(expected + writing.stop_text)


def test_only_what_may_begin_a_stop_text_waits():
    _, pieces = streamed_bytes([b"one ", b"U", b"s", b"x ", b"Use", b"r:", b"more"], "User:", "\n\n")
    assert pieces == ["one ", "", "", "Usx ", "", ""]
    writing, pieces = streamed_bytes([b"a Us"], "User:")
    assert pieces == ["a ", "Us"]
    assert writing.ended == "end"


def test_a_text_ends_for_the_first_reason_that_there_is():
    assert streamed_bytes([b"a"] * 3, max_tokens=3)[0].ended == "length"
    assert streamed_bytes([b"a"] * 2, max_tokens=3)[0].ended == "end"
    assert streamed_bytes([b"a", b"b", b"c"], "bc", max_tokens=3)[0].ended == "stop"
    assert streamed_bytes([b"a", b"b", b"c"], texts=("bc",), max_tokens=3)[0].ended == "end"
    assert streamed_bytes([b"a", b"b", b"c"], texts=("bc",))[0].text == "a"
    for room, ended in ((2, "context"), (3, "length"), (4, "length")):
        writing = Writing(Ends(max_tokens=3, room=room), [b"a"])
        while writing.ended is None:
            writing.add(0)
        assert (writing.ended, len(writing.tokens)) == (ended, min(room, 3))


@pytest.fixture(scope="module")
def model():
    return lively(build_model(TINY, TOKENIZER.vocab_size)).eval()


def test_streamed_batched_and_beams_of_one_are_the_same_text_in_every_script(model):
    """The likeliest tokens of a random model are bytes without sense, so borders of every kind are met."""
    prompts = [[END, *TOKENIZER.encode([text[:cut]])[0]] for text in SCRIPTS for cut in (1, 7)]
    ends = [Ends(frozenset({END}), (), ("\ufffd\ufffd\ufffd", "a"), 12)] * len(prompts)
    how = Sampling(temperature=0, max_tokens=12)
    alone = []
    for prompt, some in zip(prompts, ends, strict=True):
        text = Writing(some, BYTES)
        rows = begin_decoding(model, [prompt], 64, how.max_tokens)
        alone.append("".join(text.take() for _ in draw(rows, how, [generator(0, "any")], [text])))
    together = [Writing(some, BYTES) for some in ends]
    for _ in draw(
        begin_decoding(model, prompts, 64, how.max_tokens), how, [generator(0, "any")] * len(prompts), together
    ):
        pass
    texts = [Writing(some, BYTES) for some in ends]
    beams = search(begin_decoding(model, prompts, 64, how.max_tokens), Beam(num_beams=1, max_tokens=12), texts)
    assert alone == [text.text for text in together] == [text.text for text in beams]
    assert [text.ended for text in together] == [text.ended for text in beams]
    assert len({text.ended for text in together}) > 1


def test_a_row_that_a_stop_text_ended_costs_no_more_steps(model):
    reads, prompts = [], [[END, 5], [END, 9], [END, 7]]
    texts = [Writing(Ends(stop=stop, max_tokens=6), BYTES) for stop in ((), tuple(chr(x) for x in range(32, 127)), ())]
    rows = begin_decoding(model, prompts, 64, 6)
    for _ in draw(rows, Sampling(temperature=0, max_tokens=6), [generator(0, "any")] * 3, texts):
        reads.append(len(rows.texts))
    assert texts[1].ended in {"stop", "length"}
    assert reads[-1] == 3 - (texts[1].ended == "stop")


@settings(max_examples=15)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=3), st.sampled_from([0.0, 1.0, 2.0]), st.integers(1, 4))
def test_beams_with_stop_texts_are_those_of_the_oracle(prompt, exponent, num_beams):
    small = lively(build_model(TINY, 4)).eval()
    small.head.weight.data *= 0.3
    pieces, stops = [b"", b"a", b"b", b"ab"], ("ba", "bb")
    ends = Ends(frozenset({0}), (), stops, 4)
    beam = Beam(num_beams=num_beams, length_exponent=exponent, max_tokens=4)
    (found,) = search(begin_decoding(small, [prompt], 64, 4), beam, [Writing(ends, pieces)])

    @torch.no_grad()
    def ask(text):
        return begin_decoding(small, [[*prompt, *text]], 64, 1).read()[0].log_softmax(-1).tolist()

    def stopped(text):
        return any(stop in b"".join(pieces[token] for token in text).decode() for stop in stops)

    assert found.tokens == oracle.search(ask, 4, exponent, 0, num_beams, stopped)

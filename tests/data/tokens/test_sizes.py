"""How bytes are shared out among the tokens of a text, in cases that can be read."""

import pytest

from tests.data.tokens.kinds import folder_of
from thetahat.data.tokens.sizes import Tokens, by_ends, joined
from thetahat.data.tokens.tokenizer import load_tokenizer


def sizes(tokenizer, text, **how):
    (tokens,) = tokenizer.tokens([text], **how)
    found = tokens.sizes if tokens.sizes is not None else [tokenizer.sizes[id] for id in tokens.ids]
    return dict(zip([tokenizer.piece(id) for id in tokens.ids], found, strict=True)), tokens.is_lossless


def test_a_token_has_the_bytes_up_to_its_end_and_the_last_one_the_rest():
    text = " to  b\u00e9 be \n"
    assert by_ends(text, [1, 0, 2], [3, 7, 10]) == Tokens([1, 0, 2], [3, 5, 5], is_lossless=False)
    assert by_ends("\u4e2d\u6587", [7, 8, 9, 9], [1, 1, 2, 2]).sizes == [3, 0, 3, 0]  # parts of one character
    assert by_ends("abcd", [1, 2, 3], [3, 1, 4]).sizes == [3, 0, 1]  # an end that lies before another
    assert by_ends(" \n", [], []) == Tokens([], [], is_lossless=False, num_left=2)
    assert by_ends("", [], []) == Tokens([], [])


def test_bytes_that_no_token_stands_for_go_to_the_next_one_or_the_last():
    table = [b"", b"ab", b"c"]
    nothing, some = Tokens([], [], is_lossless=False, num_left=3), Tokens([1, 2])
    assert joined([nothing, some], table) == Tokens([1, 2], [5, 1], is_lossless=False)
    assert joined([some, nothing], table) == Tokens([1, 2], [2, 4], is_lossless=False)
    assert joined([nothing], table) == nothing
    assert joined([some, some], table) == Tokens([1, 2, 1, 2])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return load_tokenizer(folder_of("llama", tmp_path_factory.mktemp("kind")))


def test_the_blank_that_a_tokenizer_puts_before_a_text_is_no_byte_of_it(llama):
    assert sizes(llama, "the") == ({" the": 3}, True)
    assert sizes(llama, " the") == ({" ": 0, " the": 4}, True)
    assert sizes(llama, " the", goes_on=True) == ({" the": 4}, True)
    assert llama.tokens(["\u4e2d"])[0].sizes == [0, 1, 1, 1]
    assert not sizes(llama, "a\u2581b")[1]


def test_composed_and_decomposed_letters_are_told_apart_by_document(tmp_path):
    found = load_tokenizer(folder_of("nfc", tmp_path))
    composed, decomposed = found.tokens(["caf\u00e9", "cafe\u0301"])
    assert composed.ids == decomposed.ids
    assert (composed.sizes, composed.is_lossless) == (None, True)
    assert (sum(decomposed.sizes or ()), decomposed.is_lossless) == (6, False)

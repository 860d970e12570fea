import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import tokenizers
from hypothesis import given, strategies as st
from tokenizers import decoders, models, pre_tokenizers, trainers

from thetahat.core.errors import ConfigError, DataError, ModelError
from thetahat.core.work import phases
from thetahat.data.read.files import find_files
from thetahat.data.tokens import bpe
from thetahat.data.tokens.bpe import LONGEST_PIECE
from thetahat.data.tokens.tokenizer import END_OF_TEXT, load_tokenizer, train_tokenizer

TEXT = find_files("bundled:tinyshakespeare")[0].read_text(encoding="utf-8")[:100_000]
AWKWARD = [
    END_OF_TEXT,
    f"a{END_OF_TEXT}b",
    "\x00",
    "\r\n",
    "   ",
    " \u00a0\u2028",
    "e\u0301",
    "\ufeff",
    "\U0001f468\u200d\U0001f469",
    "\ufffd",
    "don't",
]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], 600)


@given(st.text(max_size=200) | st.sampled_from(AWKWARD))
def test_any_text_comes_back_from_its_tokens(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert tokenizer.decode(ids) == text


@given(st.text(max_size=200) | st.sampled_from(AWKWARD))
def test_the_bytes_of_tokens_add_up_to_those_of_the_text(tokenizer, text):
    (ids,) = tokenizer.encode([text])
    assert int(tokenizer.num_bytes[np.array(ids, np.int64)].sum()) == len(text.encode())


@given(st.lists(st.sampled_from([TEXT[:50], *AWKWARD]), max_size=8))
def test_a_text_is_encoded_the_same_in_any_company(tokenizer, texts):
    assert tokenizer.encode(texts) == [tokenizer.encode([text])[0] for text in texts]


@pytest.mark.parametrize("text", [END_OF_TEXT, f"to be{END_OF_TEXT}", f"{END_OF_TEXT} or"])
def test_the_name_of_the_end_in_a_text_is_text(tokenizer, tmp_path, text):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    for one in (tokenizer, load_tokenizer(path)):
        (ids,) = one.encode([text])
        assert one.roles.eos[0] not in ids
        assert one.decode([one.roles.eos[0], *ids, one.roles.eos[0]]) == text
        assert int(one.num_bytes[one.roles.eos[0]]) == 0


def test_every_byte_has_a_token(tokenizer, byte_tokenizer):
    assert byte_tokenizer.vocab_size == 257
    assert sorted(byte_tokenizer.num_bytes.tolist()) == [0] + [1] * 256
    assert (tokenizer.num_bytes == 1).sum() >= 256


def test_a_text_too_small_for_the_vocabulary_gives_fewer_pieces():
    tokenizer = train_tokenizer(["aa aa aa"], 10_000)
    assert 257 < tokenizer.vocab_size < 270
    assert tokenizer.num_bytes.shape == (tokenizer.vocab_size,)


def test_nothing_to_train_on_is_an_error():
    with pytest.raises(DataError, match="no text"):
        train_tokenizer([], 300)


def test_training_does_not_depend_on_threads_or_on_the_order_of_texts(tokenizer):
    code = (
        "import sys, hashlib; from thetahat.data.tokens.tokenizer import train_tokenizer; text = sys.stdin.read()\n"
        "lines = text.splitlines(keepends=True); lines = lines[::-1] if sys.argv[1] == 'reversed' else lines\n"
        "print(hashlib.sha256(train_tokenizer(lines, 600).to_json().encode()).hexdigest())"
    )
    digests = set()
    for threads, order in [("1", "given"), ("4", "reversed")]:
        env = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", code, order]
        digests.add(subprocess.run(command, input=TEXT, text=True, capture_output=True, check=True, env=env).stdout)
    ours = train_tokenizer(TEXT.splitlines(keepends=True), 600)
    assert digests == {hashlib.sha256(ours.to_json().encode()).hexdigest() + "\n"}
    assert train_tokenizer([TEXT], 600).to_json() == tokenizer.to_json()


def uncut(texts, vocab_size):
    """As the library trains it, with words of any length."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    kwargs = {"special_tokens": [END_OF_TEXT], "initial_alphabet": alphabet, "show_progress": False}
    inner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **kwargs))
    return inner


@pytest.mark.parametrize("texts", [[TEXT], ["\u4e2d\u6587\u3002" * 99 + " -- " * 300, "a " * 999 + "\u00e9" * 63]])
def test_words_of_ordinary_length_train_what_they_train_uncut(texts):
    assert train_tokenizer(texts, 600).to_json() == uncut(texts, 600).to_str(pretty=True)


LONG = {
    "letters": "".join(random.Random(0).choices("ACGT", k=100_000)),
    "one letter": "x" * 100_000,
    "characters of several bytes": "".join(random.Random(1).choices("\u00e4\u4e2d\U00020000", k=40_000)),
    "blanks": " " * 100_000,
    "signs": "".join(random.Random(2).choices("+-*/", k=100_000)),
}


@pytest.mark.parametrize("text", LONG.values(), ids=LONG)
def test_a_word_of_any_length_trains_in_linear_time_short_pieces_that_encode_it_whole(text):
    started = time.process_time()
    tokenizer = train_tokenizer([text], 1024)
    (ids,) = tokenizer.encode([text])
    assert time.process_time() - started < 3  # uncut 20 to 40 s
    assert int(tokenizer.num_bytes.max()) <= LONGEST_PIECE
    assert tokenizer.decode(ids) == text
    assert int(tokenizer.num_bytes[ids].sum()) == len(text.encode())
    assert "Split" not in tokenizer.to_json()


def slowly():
    for _ in range(500):
        time.sleep(0.01)
        yield TEXT[:1000]


def test_training_is_interrupted_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a test may run without
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        train_tokenizer(slowly(), 600)
    assert time.monotonic() - started < 2
    signal.signal(signal.SIGINT, before)


def test_what_is_wrong_with_a_text_is_said_where_training_was_asked_for():
    def texts():
        yield TEXT
        raise DataError("line 7 is bad")

    with pytest.raises(DataError, match="line 7"):
        train_tokenizer(texts(), 600)


def test_a_training_can_be_watched(monkeypatch):
    monkeypatch.setattr(bpe, "_POLL", 0.001)
    seen = []

    def texts():
        for _ in range(20):
            yield TEXT[:1000]
            time.sleep(0.01)
            seen.append((phases.current().name, phases.current().total, phases.current().done))

    train_tokenizer(texts(), 600, num_bytes=20_000)
    assert {(name, total) for name, total, _ in seen} == {("tokenizer: counting words", 20_000)}
    assert 0 < seen[-1][2] <= 20_000
    assert phases.current() is None


def test_a_tokenizer_is_the_same_after_it_was_written_and_read(tokenizer, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json())
    again = load_tokenizer(path)
    assert (again.digest, again.vocab_size, again.roles.eos) == (tokenizer.digest, 600, tokenizer.roles.eos)
    assert again.to_json() == tokenizer.to_json()
    assert again.digest == hashlib.sha256(again.to_json().encode()).hexdigest()
    assert again.encode([TEXT[:999]]) == tokenizer.encode([TEXT[:999]])


def test_a_library_tokenizer_that_pads_cuts_and_adds_is_read_without_that(tokenizer, tmp_path):
    inner = tokenizers.Tokenizer.from_str(tokenizer.to_json())
    inner.enable_truncation(4)
    inner.enable_padding(length=64)
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)]
    )
    inner.save(str(tmp_path / "tokenizer.json"))
    assert load_tokenizer(tmp_path / "tokenizer.json").encode([TEXT[:100]]) == tokenizer.encode([TEXT[:100]])


def edited(tokenizer, change):
    description = json.loads(tokenizer.to_json())
    change(description)
    return json.dumps(description)


REFUSED = {
    "not json": (lambda tokenizer: "{", "is not a tokenizer.json"),
    "another json": (lambda tokenizer: '{"a": 1}', "is not a tokenizer.json"),
    "a list": (lambda tokenizer: "[]", "is not a tokenizer.json"),
    "dropout": (lambda tokenizer: edited(tokenizer, lambda d: d["model"].update(dropout=0.1)), "dropout"),
    "no end": (lambda tokenizer: edited(tokenizer, lambda d: d.update(added_tokens=[])), "no end-of-text"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_tokenizer_to_train_with_is_refused(tokenizer, tmp_path, case):
    content, message = REFUSED[case]
    path = tmp_path / "tokenizer.json"
    path.write_text(content(tokenizer))
    with pytest.raises(ModelError, match=message) as error:
        load_tokenizer(path)
    assert str(path) in str(error.value)


def test_a_tokenizer_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such tokenizer"):
        load_tokenizer(tmp_path / "tokenizer.json")


CHAT = ("<|im_start|>", "<|im_end|>", "<|im|>", "<|im")


def test_further_special_tokens_come_after_the_end_of_text_and_are_counted(tokenizer):
    one = train_tokenizer([TEXT], 600 + len(CHAT), CHAT)
    assert [one.special[name] for name in (END_OF_TEXT, *CHAT)] == [0, 1, 2, 3, 4]
    assert one.vocab_size == 604
    assert one.num_bytes[:5].tolist() == [0] * 5
    assert [id - 4 for id in one.encode([TEXT])[0]] == tokenizer.encode([TEXT])[0]
    assert train_tokenizer([TEXT], 600, (END_OF_TEXT,)).to_json() == tokenizer.to_json()
    assert tokenizer.digest == "856c637dc152a93759678b4ff9f0c694fe9b6732e57bc5088693e4195f60eb3f"


def test_special_tokens_are_added_at_the_end_of_a_tokenizer(tokenizer):
    one = tokenizer.with_special_tokens([END_OF_TEXT, *CHAT])
    assert one.special == {END_OF_TEXT: 0, **{name: 600 + index for index, name in enumerate(CHAT)}}
    assert one.vocab_size == 604
    assert one.num_bytes[600:].tolist() == [0] * 4
    assert one.encode([TEXT]) == tokenizer.encode([TEXT])
    assert one.with_special_tokens(CHAT[::-1]) is one
    assert tokenizer.vocab_size == 600


@given(st.lists(st.sampled_from([*CHAT, END_OF_TEXT, "|>", "<", "to be", " or", "\n", "é", "\x7f"]), max_size=9))
def test_names_of_special_tokens_are_special_where_a_template_wrote_them(chat_tokenizer, pieces):
    """As the library finds them, which prefers the longest that begins first."""
    text = "".join(pieces)
    library = tokenizers.Tokenizer.from_str(chat_tokenizer.to_json())
    ids = chat_tokenizer.encode_with_special(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert library.decode(ids, skip_special_tokens=False) == text
    said, plain = chat_tokenizer.encode_rendered([(text, [(0, len(text))]), ("".join(pieces[:1]), ())])
    assert [said] == chat_tokenizer.encode([text])
    assert plain == chat_tokenizer.encode_with_special("".join(pieces[:1]))


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([*CHAT, "<|im_", "end|>", "x", "\n", "<|im_end|"])), max_size=9)
)
def test_a_name_that_somebody_said_in_part_is_text(chat_tokenizer, pieces):
    text, said = "", []
    for is_said, piece in pieces:
        said += [(len(text), len(text) + len(piece))] * is_said
        text += piece
    (ids,) = chat_tokenizer.encode_rendered([(text, said)])
    special = {chat_tokenizer.special[name] for name in CHAT}
    wholly = "".join("\x00" * len(piece) if is_said else piece for is_said, piece in pieces)
    assert [id for id in ids if id in special] == [
        chat_tokenizer.special[match[0]] for match in chat_tokenizer.special_names.finditer(wholly)
    ]


@pytest.fixture(scope="module")
def chat_tokenizer(tokenizer):
    return tokenizer.with_special_tokens(CHAT)


def test_a_special_token_that_is_text_already_is_refused(tokenizer):
    pieces = json.loads(tokenizer.to_json())["model"]["vocab"]
    piece = next(piece for piece in pieces if len(piece) > 2 and piece.isalpha() and piece.isascii())
    for name in (piece, " ", "<"):
        with pytest.raises(ConfigError, match=r"cannot be a special token|two characters or more"):
            tokenizer.with_special_tokens([name])
    with pytest.raises(ConfigError, match="too small for the 256 bytes and 2 special tokens"):
        train_tokenizer([TEXT], 257, ["<x>"])

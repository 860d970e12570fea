"""Records that cannot be encoded are named at once, or left out and counted, like those that cannot be read."""

from dataclasses import replace

import pytest

from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR
from thetahat.data.chat import rendering
from thetahat.data.chat.encode import ChatOptions
from thetahat.data.chat.template import ChatTemplate
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.read import bad
from thetahat.data.read.cache import cache_folder
from thetahat.data.read.texts import Texts

FUSSY = ChatTemplate(
    "fussy",
    "{% for m in messages %}{% if 'no' in m['content'] %}{{ raise_exception('it says no') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    ("<|im_start|>", "<|im_end|>"),
)


def said(index):
    words, weight = "no" if index % 4 == 0 else "yes", 0 if index % 6 == 1 else 1
    answer = {"role": "assistant", "content": f"a{index}", "weight": weight}
    return {"messages": [{"role": "user", "content": words}, answer]}


def pair(index):
    return {"prompt": "p" * (99 if index % 5 == 0 else 3), "completion": f"c{index}"}


CASES = {
    "a template that refuses": (said, {0, 4, 8, 12, 16, 1, 7, 13, 19}, "it says no"),
    "prompts that are too long": (pair, {0, 5, 10, 15}, "the prompt of a.jsonl:1 has 99 tokens"),
}


@pytest.fixture(params=CASES)
def case(request, write, byte_tokenizer):
    make, wrong, what = CASES[request.param]
    bad.tell_skipped.cache_clear()
    tokenizer = byte_tokenizer.with_special_tokens(FUSSY.special_tokens)
    encoding = Encoding(chat=ChatOptions(FUSSY, 200)) if make is said else Encoding(PAIR, room=50)
    return Texts([write("a.jsonl", [make(index) for index in range(20)])]), tokenizer, encoding, wrong, what


def built(case, policy, cache):
    texts, tokenizer, encoding, *_ = case
    return build_corpus(texts, tokenizer, {}, cache, replace(encoding, on_bad_record=policy))


@pytest.mark.parametrize("cached", [True, False])
def test_all_that_cannot_be_encoded_are_named_at_once(case, cached):
    *_, wrong, what = case
    with pytest.raises(DataError) as error:
        built(case, "error", cache_folder("corpora") if cached else None)
    lines = str(error.value).splitlines()
    assert lines[0] == f"{len(wrong)} records cannot be used:"
    assert {
        int(line.partition("a.jsonl:")[2].split(" ")[0].strip(":")) - 1 for line in lines if "a.jsonl:" in line
    } == wrong
    assert what in str(error.value)
    assert lines[-1].endswith("or data.on_bad_record=skip to leave them out and count them")


@pytest.mark.parametrize("cached", [True, False])
def test_they_are_left_out_and_counted_where_that_is_wanted(case, cached, caplog):
    texts, *_, wrong, _ = case
    for _ in range(2):  # the second time from the cache
        bad.tell_skipped.cache_clear()
        caplog.clear()
        corpus = built(case, "skip", cache_folder("corpora") if cached else None)
        assert f"{len(wrong)} records left out by data.on_bad_record=skip:" in caplog.text
        kept = [record.digest for index, record in enumerate(texts) if index not in wrong]
        assert corpus.documents["digest"].to_pylist() == kept


def test_a_template_that_never_ends_is_not_tried_again_and_again(case, monkeypatch):
    asked = []

    def never(self, requests):
        asked.append(requests)
        return "it did not end within 5 seconds"

    *_, what = case
    if what != "it says no":
        return
    built(case, "skip", None)
    monkeypatch.setattr(rendering.Renderer, "_ask", never)
    with pytest.raises(DataError, match="the chat template cannot be used"):
        built(case, "skip", None)
    assert len(asked) <= 3

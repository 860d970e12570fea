"""One tokenisation of each joined text: where a choice begins, and what is counted where a token straddles."""

import json

import numpy as np
import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError
from thetahat.core.layout import PAIR, STREAM, WHOLE
from thetahat.data.corpus import choice as choosing
from thetahat.data.corpus.choice import QuestionEncoding, encode_questions
from thetahat.data.read.question import question
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer

TEXT = "answer the answer when thé sea answers; a whale, the whale and the wheel 123 été " * 40
TOKENIZER = train_tokenizer([TEXT], 330)
END = TOKENIZER.frames.text.before[0]
WRITING = st.text(st.sampled_from("answer théwl,; 1é"), min_size=1, max_size=14)


def asked(contexts, choices, **how):
    one = question(contexts, choices, 0, Record("", "q", "q", "test", where="file:3"))
    return encode_questions([one], TOKENIZER, QuestionEncoding(**how))


def sequences(found):
    """(given, asked) tokens of each part, by its name."""
    corpus, named = found.corpus, {}
    for span in range(len(corpus.lengths)):
        place = range(int(corpus.offsets[span]), int(corpus.offsets[span + 1]))
        part = [int(one) for one in corpus.part_of(np.array(place))]
        tokens = corpus.span(span).tolist()
        name = corpus.describe([max(part)])[0].name
        split = part.index(max(part))
        named[name] = tokens[:split], [token for token, one in zip(tokens, part, strict=True) if one == max(part)]
    return named


def paths(found):
    """The same where choices share what they come after: each span behind those that it continues."""
    corpus, named, above = found.corpus, {}, []
    for span in range(len(corpus.lengths)):
        place = np.arange(corpus.offsets[span], corpus.offsets[span + 1])
        own = list(zip(corpus.span(span).tolist(), corpus.part_of(place).tolist(), strict=True))
        parent = int(corpus.column["spans.parent"][span])
        path = above[span - parent][:-1] + own if parent else own
        if parent:  # the last token of the parent once more, at the same position
            assert own[0] == above[span - parent][-1]
            assert corpus.column["spans.position"][span] == len(above[span - parent]) - 1
        above.append(path)
        for part in {part for _, part in own[1:] if not corpus.column["parts.is_prompt"][part]}:
            split = [one for _, one in path].index(part)
            tokens = [token for token, _ in path]
            named[corpus.describe([part])[0].name] = tokens[:split], tokens[split:]
    return named


def bytes_of(tokens):
    return int(TOKENIZER.num_bytes[tokens].sum())


@given(context=WRITING, choices=st.lists(WRITING, min_size=1, max_size=3))
def test_the_span_of_a_choice_is_cut_from_one_tokenisation_by_bytes(context, choices):
    found = asked([context] * len(choices), choices, delimiter="")
    parts = sequences(found)
    size, straddling = len(context.encode()), 0
    starts = set()
    for index, choice in enumerate(choices):
        before, span = parts[f"choice-{index}"]
        (whole,) = TOKENIZER.encode([context + choice])
        assert [*before, *span] == [END, *whole]  # never tokenised again
        assert bytes_of(before) <= size
        edges = {bytes_of(whole[:count]) for count in range(len(whole) + 1)}
        straddling += size not in edges
        starts.add(tuple(before))
        if len(choices) == 1:  # nobody else to wait for: the last edge before the choice
            assert bytes_of(before) == max(edge for edge in edges if edge <= size)
        elif any(len(part[0]) > 1 for name, part in parts.items() if name.startswith("choice")):
            assert parts[f"alone-{index}"] == ([END], span)
    assert len(starts) == 1  # all are continuations of the same tokens
    assert found.straddling == (straddling,)


@given(
    contexts=st.lists(
        st.sampled_from(["", "the whale", "the whale and", "the sea, the whale"]), min_size=1, max_size=4
    ),
    choices=st.lists(WRITING, min_size=4, max_size=4),
    alone=st.booleans(),
)
def test_what_choices_share_is_read_once_and_each_is_asked_as_before(contexts, choices, alone):
    choices = choices[: len(contexts)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choosing, "WORTH", 0)
        apart, shared = (asked(contexts, choices, alone=alone, shares=shares) for shares in (False, True))
    assert paths(shared) == sequences(apart)
    assert shared.straddling == apart.straddling
    assert shared.counted_context == apart.counted_context
    sizes = [int((found.corpus.lengths - 1).sum()) for found in (apart, shared)]
    assert sizes[1] <= sizes[0]
    if len(contexts) > 1 and len(set(contexts)) == 1 and contexts[0]:
        given_tokens = len(sequences(apart)["choice-0"][0]) - 1
        assert sizes[0] - sizes[1] == max(given_tokens, 0) * (len(contexts) - 1)


@pytest.mark.parametrize(("repeats", "is_tree"), [(1, False), (8, True)])
def test_a_tree_is_made_where_it_saves_enough(repeats, is_tree):
    found = asked(["the whale, " * repeats] * 3, ["a", "the", "sea"], alone=False, shares=True)
    given = len(paths(found)["choice-0"][0]) - 1
    assert (2 * given >= choosing.WORTH) == is_tree
    assert len(found.corpus.lengths) == (4 if is_tree else 3)


def test_choices_that_do_not_fit_together_are_asked_one_by_one(monkeypatch):
    monkeypatch.setattr(choosing, "WORTH", 0)
    context, choices = "the whale and the sea", ["a sea", "the sea"]
    longest = max(len(given) + len(span) - 1 for given, span in sequences(asked([context] * 2, choices)).values())
    tight, wide = (asked([context] * 2, choices, alone=False, shares=True, context=longest + more) for more in (0, 9))
    assert [len(found.corpus.lengths) for found in (tight, wide)] == [2, 3]
    assert paths(tight) == paths(wide)


def test_a_token_that_straddles_counts_with_the_choice_and_is_counted():
    (whole,), (apart,) = TOKENIZER.encode(["the answer"]), TOKENIZER.encode(["the ans"])
    assert len(whole) < len(apart) + 1  # the pitfall: "the ans" is not where the tokens of "the answer" end
    found = asked(["the ans"], ["wer"], delimiter="")
    assert found.straddling == (1,)
    given, span = sequences(found)["choice-0"]
    assert TOKENIZER.decode(given) == "the"
    assert TOKENIZER.decode(span) == " answer"


def test_beside_a_choice_that_straddles_the_others_start_where_it_does():
    found = asked(["the ans"] * 2, ["wer", "1"], delimiter="")
    parts = sequences(found)
    assert [TOKENIZER.decode(parts[f"choice-{index}"][1]) for index in range(2)] == [" answer", " ans1"]
    assert found.straddling == (1,)
    assert found.counted_context[0] >= 1


@pytest.mark.parametrize(
    ("context", "choice", "joined"), [("a", "b", "a b"), ("a ", "b", "a b"), ("a", " b", "a b"), ("", "b", "b")]
)
def test_a_blank_is_added_where_neither_side_has_one(context, choice, joined):
    before, span = sequences(asked([context], [choice]))["choice-0"]
    assert TOKENIZER.decode([*before, *span]) == joined


def test_contexts_that_differ_are_each_cut_at_their_own_end():
    found = asked(["the whale", "the wheel and the sea"], ["answers"] * 2)
    parts = sequences(found)
    assert TOKENIZER.decode(parts["choice-0"][0]) == "the whale"
    assert TOKENIZER.decode(parts["choice-1"][0]) == "the wheel and the sea"
    assert parts["choice-0"][1] == parts["choice-1"][1] == parts["alone-0"][1]
    assert found.straddling == (0,)


def test_whole_texts_are_asked_from_their_first_token():
    parts = sequences(asked(["", ""], ["the whale", "the wheel"]))
    assert set(parts) == {"choice-0", "choice-1"}
    assert parts["choice-0"] == ([END], TOKENIZER.encode(["the whale"])[0])


def test_an_encoder_reads_the_end_and_is_not_asked_for_it():
    found = asked(["the whale"] * 2, ["answers", "sea"], layout=WHOLE)
    given, span = sequences(found)["choice-0"]
    assert found.corpus.span(0).tolist() == [*given, *span, END]


def test_an_encoder_and_a_decoder_get_a_text_each():
    found = asked(["the whale"] * 2, ["answers", "sea"], layout=PAIR)
    source, target = (found.corpus.span(index).tolist() for index in range(2))
    assert source == [END, *TOKENIZER.encode(["the whale"])[0]]
    assert target == [END, *TOKENIZER.encode(["answers"])[0]]
    with pytest.raises(DataError, match="file:3: whole texts"):
        asked(["", ""], ["answers", "sea"], layout=PAIR)


@pytest.mark.parametrize(("layout", "extra"), [(STREAM, 0), (WHOLE, 2), (PAIR, 0)])
def test_what_is_too_long_is_an_error_or_counted(layout, extra):
    context, choices = " ".join(["whale"] * 20), ["sea", "the answers"]
    how = {"layout": layout, "source_room": 9}
    whole = sequences(asked([context] * 2, choices, layout=layout))
    if layout is PAIR:
        given = TOKENIZER.encode([context])[0]
        context_size, left = 9, len(given) - 8
    else:
        longest = max(len(before) - 1 + len(span) for name, (before, span) in whole.items() if "choice" in name)
        context_size, left = 12, longest + extra - 12
    with pytest.raises(DataError, match=f"file:3: .* {left} tokens longer"):
        asked([context] * 2, choices, context=context_size, **how)
    found = asked([context] * 2, choices, context=context_size, over_long="truncate-left", **how)
    assert found.corpus.column["documents.prompt_cut"].tolist() == [left]
    parts = sequences(found)
    for name, (before, span) in parts.items():
        assert span == whole[name][1]
        if layout is not PAIR and "choice" in name:
            assert before == [END, *whole[name][0][1 + left :]]
    with pytest.raises(DataError, match="file:3: a choice alone is longer"):
        asked([context] * 2, ["sea", context * 3], context=context_size, **how)
    with pytest.raises(DataError, match=r"file:3: \d+ tokens would have to be left out of each context, and one has 1"):
        asked(["sea", context], ["sea", "sea"], context=context_size, over_long="truncate-left", **how)


def test_a_fingerprint_is_of_the_question_and_its_tokens():
    one = asked(["the whale"] * 2, ["answers", "sea"])
    assert one.corpus.fingerprint == asked(["the whale"] * 2, ["answers", "sea"]).corpus.fingerprint
    others = [asked(["the whale"] * 2, ["sea", "answers"]), asked(["the whale"] * 2, ["answers", "sea"], delimiter="")]
    assert len({one.corpus.fingerprint, *(other.corpus.fingerprint for other in others)}) == 3
    assert json.loads(one.questions[0].record.text) == [["the whale"] * 2, ["answers", "sea"], 0]


@pytest.mark.parametrize("layout", [STREAM, WHOLE, PAIR])
def test_a_choice_that_alone_is_too_long_is_cut_where_it_is_said_and_counted(layout):
    choices = ["sea", " ".join(["answers"] * 30)]
    how = {"layout": layout, "source_room": 16}
    whole = sequences(asked(["the whale"] * 2, choices, **how))
    found = asked(["the whale"] * 2, choices, context=12, over_long="truncate-left", **how)
    room = 12 - 2 * layout.reads_end
    before, kept = sequences(found)["choice-1"]
    assert kept[-room:] == whole["choice-1"][1][-room:]
    assert len(kept) == room + (layout is PAIR)  # a decoder's <|endoftext|>, which is read
    assert sequences(found)["choice-0"][1] == whole["choice-0"][1]
    assert found.corpus.column["documents.tokens_cut"].tolist() == [len(whole["choice-1"][1]) - len(kept)]
    if layout is not PAIR:
        assert before == [END]
        assert found.corpus.column["documents.prompt_cut"].tolist() == [len(whole["choice-1"][0]) - 1]


def test_all_questions_that_are_too_long_are_named_at_once():
    records = [Record("", str(i), str(i), "s", where=f"file:{i}") for i in range(4)]
    long, short = "whale " * 40, "whale"
    questions = [
        question([context] * 2, ["sea", "answers"], 0, record)
        for record, context in zip(records, [long, short, long, long], strict=True)
    ]
    with pytest.raises(DataError) as error:
        encode_questions(questions, TOKENIZER, QuestionEncoding(context=16))
    said = str(error.value)
    assert "3 records cannot be used" in said
    assert [f"file:{i}: " in said for i in range(4)] == [True, False, True, True]
    assert "--over-long truncate-left" in said

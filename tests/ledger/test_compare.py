import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace as change

from tests.oracles import interval as interval_oracle, paired as oracle
from thetahat.core.errors import DataError, NonFiniteError
from thetahat.core.plain import as_json
from thetahat.ledger.compare import compare_ledgers
from thetahat.ledger.ledger import LedgerRow, blocks_of
from thetahat.ledger.pairing import Scored, pair_rows
from thetahat.ledger.policy import Policy, read_policy
from thetahat.objective.config import Conditional, Masked, Prefix, Spans
from thetahat.statistics.interval import t_quantile

POLICY = Policy(context=256, stride=128)
METADATA = {"policy": POLICY.to_json(), "tokenizer_sha256": "12ab"}
PROMISED = {"nats_per_token_difference", "ci95", "p_value", "num_documents", "improved_share"}
seeds = st.integers(0, 2**32 - 1)


def row(i, **values):
    common = {"id": f"d{i}", "document": f"d{i}", "source": f"s{i % 3}", "num_tokens": 10 + i, "num_bytes": 40 + 3 * i}
    return LedgerRow(**common | {"context_length": 64, "log_prob": -25.0 - i, "digest": f"{i:032x}"} | values)


def ledgers(seed, num_rows=40, *, num_documents=None, effect=0.05):
    """Two ledgers of the same rows, which belong to so many documents."""
    draw = np.random.default_rng(seed)
    tokens = np.maximum(np.exp(draw.normal(4, 1, num_rows)).astype(int), 1)
    nats = -tokens * (3 + 0.3 * draw.standard_normal(num_rows))
    differences = tokens * (effect + 0.1 * draw.standard_t(4, num_rows))
    a = [
        row(
            i,
            document=f"d{i % (num_documents or num_rows)}",
            num_tokens=int(t),
            num_bytes=int(4 * t),
            log_prob=float(x),
        )
        for i, (t, x) in enumerate(zip(tokens, nats, strict=True))
    ]
    return a, [replace(one, log_prob=one.log_prob + float(d)) for one, d in zip(a, differences, strict=True)]


def compare(a, b, *, metadata_a=METADATA, metadata_b=METADATA, top=10):
    return compare_ledgers(Scored("a.parquet", a, metadata_a), Scored("b.parquet", b, metadata_b), top)


def plain_rows(a, b):
    return [(x.document, x.log_prob, y.log_prob, x.num_tokens, x.num_bytes) for x, y in zip(a, b, strict=True)]


@given(seeds, st.integers(2, 60), st.integers(2, 60))
def test_the_numbers_are_those_of_a_loop_over_documents(seed, num_rows, num_documents):
    a, b = ledgers(seed, num_rows, num_documents=num_documents)
    nats, tokens, size = zip(*oracle.documents(plain_rows(a, b)).values(), strict=True)
    found = compare(a, b).to_dict()
    n = len(nats)
    assert (found["num_documents"], found["num_tokens"], found["num_bytes"]) == (n, sum(tokens), sum(size))
    assert found["improved_share"] == sum(d > 0 for d in nats) / n
    assert found["log_likelihood_difference"] == pytest.approx(sum(nats), abs=1e-8)
    if n > 1:
        m, low, high = interval_oracle.ratio(nats, tokens, t_quantile(0.975, n - 1))
        assert found["nats_per_token_difference"] == pytest.approx(m)
        assert found["ci95"] == pytest.approx([low, high])
        bits = interval_oracle.ratio([d / math.log(2) for d in nats], size, t_quantile(0.975, n - 1))
        assert [found["bits_per_byte_saved"], *found["bits_per_byte_saved_ci95"]] == pytest.approx(bits)
    if n <= 9:
        assert found["p_value"] == pytest.approx(oracle.exact_p_value(nats))
    middle = sorted(d / t for d, t in zip(nats, tokens, strict=True))
    assert found["median_nats_per_token_difference"] == pytest.approx((middle[(n - 1) // 2] + middle[n // 2]) / 2)


@settings(max_examples=8)
@given(seeds, st.randoms(use_true_random=False))
def test_the_order_of_the_rows_of_either_ledger_changes_no_bit(seed, shuffling):
    a, b = ledgers(seed, 40, num_documents=30)
    orders = [shuffling.sample(range(40), 40) for _ in range(2)]
    shuffled = compare([a[i] for i in orders[0]], [b[i] for i in orders[1]])
    assert shuffled.to_dict() == compare(a, b).to_dict()


@settings(max_examples=8)
@given(seeds)
def test_with_a_and_b_exchanged_every_difference_changes_its_sign(seed):
    a, b = ledgers(seed)
    ours, theirs = compare(a, b).to_dict(), compare(b, a).to_dict()
    for name in ("nats_per_token_difference", "bits_per_byte_saved", "median_nats_per_token_difference"):
        assert ours[name] == pytest.approx(-theirs[name])
    assert ours["ci95"] == pytest.approx([-end for end in theirs["ci95"][::-1]])
    assert [case["id"] for case in ours["gains"]] == [case["id"] for case in theirs["losses"]]
    assert {ours["verdict"], theirs["verdict"]} in ({"A", "B"}, {"open"})


def test_turns_of_one_dialogue_are_one_document():
    a = [row(i, document=f"dialogue-{i // 4}", part=f"turn-{i % 4}") for i in range(80)]
    found = compare(a, [replace(one, log_prob=one.log_prob + 0.1) for one in a])
    assert found.whole.num_documents == 20
    assert found.whole.improved.estimate == 1.0


def test_what_others_rely_on_is_there_and_is_json():
    found = compare(*ledgers(0)).to_dict()
    assert set(found) >= PROMISED
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_a_positive_difference_speaks_for_b():
    a, b = ledgers(1, effect=0.5)
    found = compare(a, b)
    assert found.verdict == "B"
    assert found.whole.per_token.interval.low > 0
    assert found.to_dict()["bits_per_byte_a"] > found.to_dict()["bits_per_byte_b"]
    saved = found.to_dict()["bits_per_byte_a"] - found.to_dict()["bits_per_byte_b"]
    assert found.to_dict()["bits_per_byte_saved"] == pytest.approx(saved)
    assert compare(*ledgers(1, effect=-0.5)).verdict == "A"


def test_a_verdict_needs_the_interval_and_the_test():
    assert compare(*ledgers(2, effect=0.0)).verdict == "open"
    alike = [row(i) for i in range(4)]  # four documents that agree: a short interval, but p = 2/16
    found = compare(alike, [replace(one, log_prob=one.log_prob + 0.1 * one.num_tokens) for one in alike])
    assert found.whole.main.interval.low > 0
    assert found.verdict == "open"


def test_the_same_ledger_twice_is_the_same():
    a, _ = ledgers(3)
    found = compare(a, a)
    assert (found.verdict, found.whole.p_value, found.gains, found.losses) == ("same", 1.0, [], [])
    assert found.whole.improved.estimate == 0.0


def test_sources_are_compared_apart_and_pay_for_being_several():
    a, b = ledgers(4, 90)
    found = compare(a, b)
    alone = [compare(*[[one for one in rows if one.source == f"s{i}"] for rows in (a, b)]) for i in range(3)]
    by_name = {one.source: one for one in found.sources}
    assert sorted(by_name) == ["s0", "s1", "s2"]
    adjusted = oracle.holm([each.whole.p_value for each in alone])
    for i, each in enumerate(alone):
        assert by_name[f"s{i}"].difference.to_dict() == each.whole.to_dict()
        assert by_name[f"s{i}"].p_holm == pytest.approx(adjusted[i])


def test_a_bootstrap_stands_beside_the_interval_of_few_documents_only():
    assert compare(*ledgers(5, 199)).to_dict()["bootstrap_ci95"] is not None
    assert compare(*ledgers(5, 200)).to_dict()["bootstrap_ci95"] is None


def test_the_largest_gains_and_losses_come_first():
    a, b = ledgers(6)
    found = compare(a, b, top=4)
    ranked = sorted(y.log_prob - x.log_prob for x, y in zip(a, b, strict=True))
    assert [case.difference for case in found.gains] == ranked[::-1][:4]
    assert [case.difference for case in found.losses] == ranked[:4]
    assert compare(a, b, top=0).gains == []
    everywhere = compare(a, [replace(one, log_prob=one.log_prob + 1.0) for one in a])
    assert (len(everywhere.gains), everywhere.losses) == (10, [])


def test_one_document_has_no_interval():
    found = compare([row(1)], [row(1, log_prob=-20.0)]).to_dict()
    assert found["ci95"] is found["bits_per_byte_saved_ci95"] is found["bootstrap_ci95"] is None
    assert (found["p_value"], found["verdict"], found["num_documents"]) == (1.0, "open", 1)
    json.dumps(found, allow_nan=False)


def test_with_other_tokenizers_only_bytes_are_compared():
    a, b = ledgers(7)
    b = [replace(one, num_tokens=one.num_tokens + 3) for one in b]
    found = compare(a, b, metadata_b=METADATA | {"tokenizer_sha256": "34cd"})
    plain = found.to_dict()
    assert plain["nats_per_token_difference"] is plain["ci95"] is plain["num_tokens"] is None
    assert plain["bits_per_byte_saved"] == compare(a, ledgers(7)[1]).to_dict()["bits_per_byte_saved"]
    assert found.unit == "bits per byte"
    assert "different tokenizers" in found.notes[0]
    unknown = {"policy": POLICY.to_json()}
    assert compare(a, a, metadata_a=unknown, metadata_b=unknown).whole.per_token is None


def test_rows_that_only_one_has_are_named():
    a = [row(i) for i in range(6)]
    with pytest.raises(DataError, match=r"only a\.parquet has 4 rows: d2, d3, d4, \.\.\."):
        compare(a, a[:2])
    with pytest.raises(DataError, match=r"only b\.parquet has 1 row: d0"):
        compare(a[1:], a)
    with pytest.raises(DataError, match=r"only a\.parquet has 1 row: d0 \(turn-1\)"):
        compare([*a, row(0, part="turn-1")], a)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"digest": "other"}, "hold another text: 1 row: d2"),
        ({"num_bytes": 7}, "count other bytes: 1 row: d2"),
        ({"document": "d1"}, "belong to another document: 1 row: d2"),
        ({"source": "web"}, "come from another source: 1 row: d2"),
        ({"num_tokens": 7}, "other numbers of scored tokens: 1 row: d2"),
    ],
)
def test_rows_of_other_text_are_named(values, message):
    a = [row(i) for i in range(4)]
    with pytest.raises(DataError, match=message):
        compare(a, [*a[:2], replace(a[2], **values), a[3]])


def test_without_digests_ids_and_bytes_are_trusted_and_that_is_said():
    a = [row(i) for i in range(4)]
    found = compare(a, [replace(one, digest="") for one in a])
    assert any("of 4 rows only id and bytes" in note for note in found.notes)
    assert not any("digest" in note for note in compare(a, a).notes)


def test_several_rows_of_one_id_and_part_are_refused():
    a = [row(i) for i in range(4)]
    with pytest.raises(DataError, match=r"b\.parquet has several rows of one id and part: d1"):
        compare(a, [*a, replace(a[1], step=3)])


def test_an_empty_ledger_is_refused():
    with pytest.raises(DataError, match="has no rows"):
        compare([], [])


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_a_likelihood_that_is_not_finite_is_named(value):
    a = [row(i) for i in range(4)]
    with pytest.raises(NonFiniteError, match=r"b\.parquet has 1 row whose likelihood is not finite: d3"):
        compare(a, [*a[:3], replace(a[3], log_prob=value)])


@pytest.mark.parametrize("value", [1.0, 1e300])
def test_a_positive_log_probability_is_refused_and_rounding_is_not(value):
    a = [row(i) for i in range(4)]
    with pytest.raises(DataError, match=r"b\.parquet has 1 row whose log-probability is positive.*: d3"):
        compare(a, [*a[:3], replace(a[3], log_prob=value)])
    assert compare(a, [*a[:3], replace(a[3], log_prob=1e-6)]).verdict == "open"


@pytest.mark.parametrize("size", [1e150, 1e200, 1e308])
def test_however_unlikely_a_comparison_is_can_be_told_as_json(size):
    a, b = ([replace(row(i), log_prob=-scale * (i + 1)) for i in range(6)] for scale in (size / 8, size / 7))
    json.dumps(as_json(compare(a, b).to_dict()), allow_nan=False)


def policies(ours, theirs, read="whole"):
    a, told = [row(i) for i in range(4)], METADATA | {"read": read}
    scored = (Scored(name, a, told | {"policy": policy.to_json()}) for name, policy in (("A", ours), ("B", theirs)))
    return pair_rows(*scored)


def by(factorization, policy=POLICY, **changes):
    return change(policy, factorization=factorization, **changes)


@pytest.mark.parametrize("changes", [{"dtype": "bfloat16"}, {"batch_size": 3}, {"deterministic": True}])
def test_what_changes_the_last_digits_only_is_no_other_policy_and_is_said(changes):
    assert policies(POLICY, change(POLICY, **changes))
    found = compare([row(1)], [row(1)], metadata_b=METADATA | {"policy": change(POLICY, dtype="bfloat16").to_json()})
    assert any("bfloat16" in note for note in found.notes)


def test_turns_read_in_one_pass_and_alone_are_compared():
    assert policies(POLICY, change(POLICY, reads_parts_together=True), "in part through windows or limits")


def test_another_window_counts_only_where_a_document_is_not_read_whole():
    wider = change(POLICY, context=1024, stride=512)
    assert policies(POLICY, wider)
    assert policies(by(Conditional()), by(Prefix(), wider))
    for read in ("in part through windows or limits", ""):
        with pytest.raises(DataError, match="different ways"):
            policies(POLICY, wider, read)
        assert policies(POLICY, POLICY, read)
        assert policies(by(Conditional()), POLICY, read)


def test_a_pseudo_likelihood_is_not_compared_with_a_likelihood_nor_with_another_of_its_kind():
    for other in (by(Masked()), by(Spans())):
        with pytest.raises(DataError, match="different ways"):
            policies(POLICY, other)
    with pytest.raises(DataError, match="1 in 8 masked at once"):
        policies(by(Masked()), by(Masked(), passes=8))
    assert policies(by(Masked(rate=0.1)), by(Masked(rate=0.4)))  # of how it learned, which asks nothing else


@pytest.mark.parametrize("changes", [{"delimiter": ", "}, {"over_long": "truncate-left"}])
def test_questions_put_otherwise_are_other_questions_whatever_commas_they_hold(changes):
    asked = change(POLICY, delimiter=" ", over_long="error")
    assert policies(asked, asked)
    with pytest.raises(DataError, match="different ways"):
        policies(asked, change(asked, **changes))


def test_every_option_of_a_policy_is_in_its_json_and_comes_back():
    other = Policy(9, 3, 5, "float64", True, Spans(rate=0.2), 4, True, "\n, ", "error", True, "training", "turn")
    assert all(getattr(other, name) != getattr(POLICY, name) for name in Policy.__struct_fields__)
    assert read_policy({"policy": other.to_json()}, "A") == other


@pytest.mark.parametrize(
    "text",
    [
        "window(stride=128), context=256, dtype=float32",
        "training: causal, normalization=token, context=64, dtype=float32",
        '{"context": 1}',
        "{",
        "[]",
    ],
)
def test_a_policy_in_words_is_refused_by_name(text):
    with pytest.raises(DataError, match=r"(?s)b\.parquet does not say how it was scored.*thetahat score"):
        read_policy({"policy": text}, "b.parquet")


@pytest.mark.parametrize("during", ["training", "one step"])
def test_rows_of_training_are_not_compared_as_if_they_were_scores(during):
    step = change(POLICY, during=during, normalization="token")
    for other in (POLICY, step):
        with pytest.raises(DataError, match=f"(?s)different ways.*{during}: causal, normalization=token, context=256"):
            policies(step, other)


def test_a_policy_that_says_nothing_of_training_is_one_of_scoring():
    known = json.loads(POLICY.to_json())
    older = {name: known[name] for name in known if name not in {"during", "normalization"}}
    assert read_policy({"policy": json.dumps(older)}, "A") == POLICY


def test_spans_are_compared_with_the_same_spans_only():
    drawn = by(Spans())
    assert policies(drawn, drawn)
    with pytest.raises(DataError, match="different ways"):
        policies(drawn, by(Spans(mean_span=6.0)))
    rows = [row(i) for i in range(4)]
    said = [{"policy": drawn.to_json(), "tokenizer_sha256": name} for name in "ab"]
    with pytest.raises(DataError, match="two tokenizers"):
        compare(rows, rows, metadata_a=said[0], metadata_b=said[1])


def test_a_document_without_a_byte_counts_nowhere_where_bytes_are_compared():
    rows = [row(i, num_bytes=0 if i == 3 else 20) for i in range(8)]
    found = compare(rows, rows, metadata_a={}, metadata_b={})
    assert found.whole.num_documents == sum(one.difference.num_documents for one in found.sources) == 7


def test_rows_without_bytes_cannot_be_compared_without_tokens():
    a = [row(i, num_bytes=0) for i in range(4)]
    with pytest.raises(DataError, match="nothing can be compared"):
        compare(a, a, metadata_a={}, metadata_b={})
    assert compare(a, a).whole.per_byte is None


def test_a_ledger_of_choices_is_refused():
    a, b = ledgers(0)
    with pytest.raises(DataError, match="right and wrong choices"):
        compare(a, b, metadata_b=METADATA | {"rows": "choices"})


def test_what_was_not_in_sight_is_said_and_who_was_scored():
    a, b = ledgers(0)
    whole, part = ({**METADATA, "read": read, "model": f"runs/{read}"} for read in ("whole", "in part"))
    assert not compare(a, b, metadata_a=whole, metadata_b=whole).notes
    found = compare(a, b, metadata_a=whole, metadata_b=part)
    assert "A was read whole, B in part" in found.notes[0]
    assert (found.model_a, found.model_b) == ("runs/whole", "runs/in part")


def test_few_documents_and_cut_tokens_are_said():
    a = [row(i, tokens_cut=i) for i in range(4)]
    notes = compare(a, a).notes
    assert any("fewer than 30 documents" in note for note in notes)
    assert any("6 in A, 6 in B" in note for note in notes)


def of_one_document(seed, tokens, effect):
    """A row of one document with its blocks, under A and under B."""
    draw = np.random.default_rng(seed)
    nats = -draw.exponential(3, tokens)
    size = draw.integers(1, 6, tokens)
    pair = [nats, nats + effect + 0.1 * draw.standard_normal(tokens)]
    return [
        [row(0, num_tokens=tokens, num_bytes=int(size.sum()), log_prob=math.fsum(some), blocks=blocks_of(some, size))]
        for some in pair
    ]


@given(seeds, st.integers(1025, 9000), st.sampled_from([0.02, -0.02]))
@settings(max_examples=20)
def test_one_document_is_compared_by_its_blocks_and_says_so(seed, tokens, effect):
    a, b = of_one_document(seed, tokens, effect)
    found = compare(a, b)
    nats = [y.log_prob - x.log_prob for x, y in zip(a[0].blocks, b[0].blocks, strict=True)]
    sizes = [block.num_tokens for block in a[0].blocks]
    m, low, high = interval_oracle.ratio(nats, sizes, t_quantile(0.975, len(nats) - 1))
    plain = found.to_dict()
    assert plain["nats_per_token_difference"] == pytest.approx(m)
    assert plain["ci95"] == pytest.approx([low, high])
    assert plain["improved_share"] == sum(d > 0 for d in nats) / len(nats)
    assert (plain["num_documents"], plain["num_units"]) == (1, len(nats))
    assert plain["interval_unit"] == "blocks of 1,024 tokens of one document"
    assert "it says nothing of other documents" in found.notes[0]
    assert f"{len(nats)} blocks of 1,024 tokens of one document" in found.numbers


def test_one_document_that_has_no_blocks_in_common_has_no_interval_and_says_what_to_do():
    long, short = of_one_document(0, 5000, 0.02), of_one_document(0, 900, 0.02)
    other = METADATA | {"tokenizer_sha256": "34cd"}
    for (a, b), metadata, why in ((long, other, "two tokenizers"), (short, METADATA, "fewer than two blocks")):
        found = compare(a, b, metadata_b=metadata)
        assert why in found.notes[0]
        assert "data.split_on=TEXT" in found.notes[0]
        assert "no interval" in found.numbers
        assert "1 document)" in found.numbers
        assert found.verdict == "open"


@given(seeds, st.integers(2, 40), st.randoms(use_true_random=False))
def test_ledgers_of_one_text_under_other_names_are_compared(seed, num_documents, shuffling):
    a, b = ledgers(seed, num_documents=num_documents)
    renamed = [replace(one, id=f"new-{one.id}", document=f"f#{one.document}", source=f"f/{one.source}") for one in b]
    shuffling.shuffle(renamed)
    there, expected = compare(a, renamed).to_dict(), compare(a, b).to_dict()
    assert there == expected
    same = [replace(one, digest="0" * 32, num_bytes=7, num_tokens=3) for one in a]  # one text, many times
    again = [replace(one, id=f"new-{one.id}") for one in same]
    assert [(pair.a.id, pair.b.id) for pair in pair_rows(scored(same), scored(again))] == [
        (one.id, f"new-{one.id}") for one in a
    ]


def scored(rows):
    return Scored("x.parquet", rows, METADATA)


def test_what_was_renamed_is_said_and_other_documents_and_texts_are_refused(caplog):
    a, b = ledgers(0, num_documents=10)
    renamed = [replace(one, id=f"new-{one.id}") for one in b]
    compare(a, renamed)
    assert "a.parquet and b.parquet have other ids (d0, d1, d2, ...; new-d0, new-d1, new-d2, ...)" in caplog.text
    with pytest.raises(DataError, match="belong to another document"):
        compare(a, [replace(one, document="all") for one in renamed])
    with pytest.raises(DataError, match=r"only a\.parquet has 40 rows"):
        compare(a, [*renamed[1:], replace(renamed[0], digest="f" * 32)])
    with pytest.raises(DataError, match=r"only a\.parquet has 40 rows"):
        compare([replace(one, digest="") for one in a], [replace(one, digest="") for one in renamed])

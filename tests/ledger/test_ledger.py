import json
import math
import random
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, strategies as st

from thetahat.core.errors import DataError, DiskFullError
from thetahat.ledger.ledger import (
    Block,
    LedgerRow,
    blocks_of,
    read_ledger,
    write_ledger,
)
from thetahat.ledger.summary import interval_units, summarize
from thetahat.statistics.interval import BLOCK_TOKENS, bits_per_byte_interval

METADATA = {"model": "sha256:12ab", "policy": "window(stride=128), context=256, dtype=float32", "unit": "nats"}
KEYS = {
    "num_documents",
    "num_tokens",
    "num_bytes",
    "log_likelihood",
    "nats_per_token",
    "bits_per_byte",
    "perplexity",
    "nats_per_token_ci95",
    "bits_per_byte_ci95",
    "perplexity_ci95",
    "num_interval_units",
    "lossless",
    "unknown_tokens",
    "unknown_bytes",
}
counts = st.integers(0, 2**40)
nats = st.floats(max_value=0, allow_nan=False, allow_infinity=False)
blocks = st.tuples(counts, counts, nats)
texts = st.text(st.characters(exclude_categories=["Cs"]))
rows = st.fixed_dictionaries(
    {name: texts for name in ("id", "document", "source", "part", "role", "digest")}
    | {name: counts for name in ("num_tokens", "num_bytes", "context_length", "tokens_cut")}
    | {
        "log_prob": nats | st.just(-math.inf),
        "weight": st.floats(0, 1),
        "step": st.none() | counts,
        "blocks": st.lists(blocks, max_size=3),
        "is_lossless": st.booleans(),
        "num_unknown": counts,
        "unknown_bytes": counts,
    }
)


def row(i, **values):
    common = {"id": f"d{i}", "document": f"d{i}", "num_tokens": 100 + i, "num_bytes": 400 + 3 * i}
    return LedgerRow(**(common | {"context_length": 64, "log_prob": -250.0 - 7.1 * i * math.sin(i)} | values))


@given(drawn=st.lists(rows, max_size=5), metadata=st.dictionaries(texts.filter(lambda key: key != "ledger"), texts))
def test_a_ledger_reads_as_it_was_written(tmp_path_factory, drawn, metadata):
    written = [LedgerRow(**values | {"blocks": tuple(Block(*block) for block in values["blocks"])}) for values in drawn]
    path = tmp_path_factory.mktemp("ledger") / "a.parquet"
    write_ledger(path, written, metadata)
    assert read_ledger(path) == (written, metadata)


def test_any_parquet_reader_can_use_a_ledger(tmp_path):
    write_ledger(tmp_path / "a.parquet", [row(1), row(2)], METADATA)
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("log_prob").type == pa.float64()
    assert table.column_names[:2] == ["id", "document"]
    assert json.loads(table.schema.metadata[b"thetahat"])["model"] == METADATA["model"]


def test_a_likelihood_that_is_not_finite_is_kept(tmp_path):
    write_ledger(tmp_path / "a.parquet", [row(1, log_prob=math.nan)], METADATA)
    assert math.isnan(read_ledger(tmp_path / "a.parquet")[0][0].log_prob)


def test_a_ledger_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    write_ledger(path, [row(i) for i in range(5)], METADATA)
    whole = path.read_bytes()
    for length in range(0, len(whole), 23):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.parquet"):
            read_ledger(path)


def test_one_flipped_bit_is_refused_or_changes_nothing(tmp_path):
    path = tmp_path / "a.parquet"
    written = [row(i, blocks=(Block(1, 2, -3.0),) * (i % 3)) for i in range(20)]
    write_ledger(path, written, METADATA)
    whole, draw, num_refused = path.read_bytes(), random.Random(0), 0
    for _ in range(400):
        damaged, bit = bytearray(whole), draw.randrange(8 * len(whole))
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            assert read_ledger(path) == (written, METADATA)
        except DataError:
            num_refused += 1
    assert num_refused > 200


def test_a_folder_whose_name_looks_like_a_column_adds_none(tmp_path):
    path = tmp_path / "seed=1" / "a.parquet"
    write_ledger(path, [row(1)], METADATA)
    assert read_ledger(path) == ([row(1)], METADATA)


def test_what_is_not_a_ledger_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    with pytest.raises(DataError, match="does not exist"):
        read_ledger(path)
    pq.write_table(pa.table({"text": ["a"]}), path)
    with pytest.raises(DataError, match="not a ledger"):
        read_ledger(path)
    pq.write_table(pa.table({"a": [1]}).replace_schema_metadata({"thetahat": '{"ledger": 99}'}), path)
    with pytest.raises(DataError, match="version 99"):
        read_ledger(path)


def test_a_full_disk_is_named_and_leaves_the_old_ledger(tmp_path):
    path = tmp_path / "a.parquet"
    write_ledger(path, [row(1)], METADATA)
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2048, limits[1]))
    try:
        with pytest.raises(DiskFullError, match=r"a\.parquet"):
            write_ledger(path, [row(i) for i in range(1000)], METADATA)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_the_old_ledger(tmp_path):
    path = tmp_path / "a.parquet"
    write_ledger(path, [row(1)], METADATA)

    def failing():
        yield row(1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_ledger(path, failing(), METADATA)
    assert read_ledger(path)[0] == [row(1)]
    assert list(tmp_path.iterdir()) == [path]


def test_ledgers_need_no_torch():
    code = "import sys, thetahat.ledger.ledger; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_summary_divides_sums_by_sums():
    summary = summarize(
        [row(1, num_tokens=1, num_bytes=2, log_prob=-2.0), row(2, num_tokens=9, num_bytes=8, log_prob=-90.0)]
    )
    assert summary.log_likelihood == -92.0
    assert summary.nats_per_token == pytest.approx(9.2)
    assert summary.perplexity == pytest.approx(math.exp(9.2))
    assert summary.bits_per_byte == pytest.approx(92 / 10 / math.log(2))


@given(st.permutations(range(40)))
def test_the_order_of_the_rows_changes_no_bit(order):
    ledger = [row(i, document=f"d{i % 35}") for i in range(40)]
    assert summarize([ledger[i] for i in order]) == summarize(ledger)


def test_a_summary_is_printed_with_the_keys_that_others_rely_on():
    printed = summarize([row(i) for i in range(40)]).to_dict()
    assert set(printed) == KEYS
    assert json.loads(json.dumps(printed, allow_nan=False)) == printed
    for name in ("nats_per_token", "bits_per_byte", "perplexity"):
        low, high = printed[f"{name}_ci95"]
        assert low < printed[name] < high
    assert printed["perplexity_ci95"] == [math.exp(end) for end in printed["nats_per_token_ci95"]]


@pytest.mark.parametrize(("log_prob", "text"), [(math.nan, "nan"), (-math.inf, "inf")])
def test_numbers_that_are_not_finite_are_printed_as_text(log_prob, text):
    printed = summarize([row(1), row(2, log_prob=log_prob)]).to_dict()
    assert printed["nats_per_token"] == printed["bits_per_byte"] == printed["perplexity"] == text
    json.dumps(printed, allow_nan=False)


def test_a_perplexity_beyond_float64_is_infinite():
    assert summarize([row(1, num_tokens=1, log_prob=-1000.0)]).to_dict()["perplexity"] == "inf"


def test_nothing_scored_is_an_error():
    with pytest.raises(DataError, match="nothing was scored"):
        summarize([])
    with pytest.raises(DataError, match="nothing was scored"):
        summarize([row(1, num_tokens=0)])


def test_one_short_document_has_no_interval():
    summary = summarize([row(1)])
    assert summary.bits_per_byte_ci95 is None
    assert summary.to_dict()["bits_per_byte_ci95"] is None


def test_from_30_documents_on_an_interval_is_over_documents():
    few, enough = [row(i) for i in range(29)], [row(i) for i in range(30)]
    assert summarize(few).interval_unit == "blocks of 1,024 tokens"
    assert summarize(enough).interval_unit == "documents"
    assert len(interval_units(enough)[1]) == 30


def test_turns_of_one_dialogue_are_one_unit():
    turns = [row(i, document=f"dialogue-{i // 3}", part=f"turn-{i % 3}") for i in range(120)]
    unit, units = interval_units(turns)
    assert (unit, len(units)) == ("documents", 40)
    low, high = summarize(turns).bits_per_byte_ci95
    clustered = bits_per_byte_interval([block.log_prob for block in units], [block.num_bytes for block in units])
    assert (low, high) == (clustered.low, clustered.high)


def test_a_long_document_is_cut_into_blocks_that_add_up():
    found = blocks_of([-1.5] * 2500, [2] * 2500)
    assert [block.num_tokens for block in found] == [1024, 1024, 452]
    assert sum(block.num_bytes for block in found) == 5000
    assert sum(block.log_prob for block in found) == -3750.0
    assert blocks_of([], []) == ()


def test_an_interval_over_one_long_document_is_over_its_blocks():
    draw = random.Random(0)
    tokens = [draw.gauss(-3, 1) for _ in range(5000)]
    long = row(1, num_tokens=5000, num_bytes=10000, log_prob=math.fsum(tokens), blocks=blocks_of(tokens, [2] * 5000))
    summary = summarize([long])
    assert summary.interval_unit == "blocks of 1,024 tokens"
    low, high = summary.bits_per_byte_ci95
    assert low < summary.bits_per_byte < high


def test_short_turns_of_one_document_join_into_whole_blocks():
    turns = [row(i, document="one", num_tokens=300, num_bytes=600) for i in range(10)]
    units = interval_units(turns)[1]
    assert [unit.num_tokens for unit in units] == [1200, 1200, 600]
    assert math.fsum(unit.log_prob for unit in units) == pytest.approx(math.fsum(turn.log_prob for turn in turns))


def test_long_rows_without_blocks_have_no_interval():
    long = [row(i, num_tokens=BLOCK_TOKENS + 1) for i in range(3)]
    assert summarize(long).bits_per_byte_ci95 is None

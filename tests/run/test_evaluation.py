"""Evaluations in the loop: of a declared part of what is held out, which is the same whatever else changes."""

import json

import numpy as np
import pytest
from msgspec.structs import replace

from tests.examples import TINY, run_config
from tests.verbs.test_families import DIALOGUES, LABELS, PAIRS, TEXTS, sentence
from thetahat.core.config import override
from thetahat.core.layout import LABEL, PAIR, STREAM
from thetahat.data.chat.encode import ChatOptions
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig, DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.encode import Encoding
from thetahat.data.corpus.subset import chosen_documents, part_of_corpus
from thetahat.data.read.texts import read_records
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.distribution.launch import launch
from thetahat.run.config import EvaluationTimes, WatchConfig
from thetahat.run.log.metrics import METRICS
from thetahat.run.start import result
from thetahat.run.train import train
from thetahat.verbs.load import load
from thetahat.verbs.score import score

CHAT = ChatOptions(load_template(ChatConfig(template="qwen3")), 200)
ENCODINGS = {
    "texts": (TEXTS, Encoding(STREAM)),
    "pairs": (PAIRS, Encoding(PAIR)),
    "labels": (LABELS, Encoding(LABEL, labels=("air", "land", "sea"))),
    "dialogues": (DIALOGUES, Encoding(STREAM, chat=CHAT)),
}


def written(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def corpus_of(records, texts, encoding):
    special = list(encoding.chat.template.special_tokens) if encoding.chat else []
    return build_corpus(records, train_tokenizer(texts, 300, special), {}, None, encoding)


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_part_of_a_corpus_has_the_tables_that_its_records_alone_would_have(kind, tmp_path):
    lines, encoding = ENCODINGS[kind]
    records = list(read_records(written(tmp_path / "a.jsonl", lines)))
    texts = [text for record in records for text in record.texts]
    whole = corpus_of(records, texts, encoding)
    part = part_of_corpus(whole, 5)
    kept = set(part.documents["id"].to_pylist())
    assert len(kept) == part.num_clusters == 5
    alone = corpus_of([record for record in records if record.id in kept], texts, encoding)
    np.testing.assert_array_equal(part.tokens, alone.tokens)
    for name, values in alone.column.items():
        np.testing.assert_array_equal(part.column[name], values, name)
    for name, table in part.tables.items():
        assert table.to_pylist() == alone.tables[name].select(table.column_names).to_pylist(), name
    places = np.arange(len(part.tokens))
    np.testing.assert_array_equal(part.bytes_at(places), alone.bytes_at(places))
    assert part_of_corpus(whole, len(records)) is whole


def test_which_documents_are_chosen_depends_on_their_content_alone():
    names, digests = [f"d{i // 2}" for i in range(60)], [bytes([i]) * 16 for i in range(60)]
    chosen = chosen_documents(names, digests, 7)
    assert len(chosen) == 7
    order = np.random.default_rng(0).permutation(60).tolist()
    assert chosen_documents([names[i] for i in order], [digests[i] for i in order], 7) == chosen
    assert chosen_documents([f"other/{name}" for name in names], digests, 7) == {f"other/{name}" for name in chosen}
    assert chosen_documents(names, digests, 6) < chosen
    rest = [i for i in range(60) if names[i] not in chosen]
    assert not chosen & chosen_documents([names[i] for i in rest], [digests[i] for i in rest], 30)


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    path = written(tmp_path / "text.jsonl", [{"text": f"{sentence(i, 11)} {i}"} for i in range(120)])
    data = DataConfig(train=path, held_out="hash:0.3", context=32, over_long="split", vocab_size=300)
    config = run_config(replace(TINY, num_layers=1), data=data, max_steps=6, dtype="float64", threads=1)
    return override(config, ["evaluation.every=3", "evaluation.max_documents=9", "checkpoint.every=1"])


def evaluations(run):
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines if "held_out_bits_per_byte" in line]


def _train(config, folder):
    list(train(config, folder))


@pytest.mark.multi
def test_the_number_and_its_documents_are_the_same_for_two_ranks_and_after_a_resume(config, tmp_path):
    seen = []
    list(train(config, tmp_path / "one", evaluating=lambda done, total: seen.append((done, total))))
    assert seen
    assert seen[-1][0] == seen[-1][1]
    for _ in range(4):
        list(train(config, tmp_path / "paused", max_minutes=0.0))
    list(train(config, tmp_path / "paused"))
    launch(_train, 2, config, tmp_path / "two")
    one, paused, two = (evaluations(tmp_path / name) for name in ("one", "paused", "two"))
    assert one == paused
    assert [line["step"] for line in one] == [line["step"] for line in two] == [3, 6]
    for ours, theirs in zip(one, two, strict=True):
        assert ours["held_out_num_documents"] == theirs["held_out_num_documents"] == 9
        assert ours["held_out_max_documents"] == 9
        assert ours["held_out_of_documents"] == theirs["held_out_of_documents"] > 20
        assert ours["held_out_num_bytes"] == theirs["held_out_num_bytes"]
        assert ours["held_out_log_likelihood"] == pytest.approx(theirs["held_out_log_likelihood"], rel=1e-9)
    scored = score(load(str(tmp_path / "one")))
    assert scored.evaluated.log_likelihood == one[-1]["held_out_log_likelihood"]
    assert scored.summary.num_documents == one[-1]["held_out_of_documents"]
    outcome = result(tmp_path / "one", config)
    assert outcome["held_out_bits_per_byte"] == one[-1]["held_out_bits_per_byte"]
    assert (outcome["held_out_num_documents"], outcome["held_out_step"]) == (9, 6)
    assert outcome["held_out_of_documents"] == one[-1]["held_out_of_documents"]


def test_the_best_is_chosen_among_evaluations_of_the_same_documents(config, tmp_path):
    """The value of another part may be less without being better: after a change the best is found anew."""
    run = tmp_path / "run"
    config = override(config, ["evaluation.every=1", "checkpoint.keep=9", "optimization.matrices.learning_rate=0.5"])
    for _ in range(3):
        list(train(config, run, max_minutes=0.0))
    other = override(config, ["evaluation.max_documents=none"])
    list(train(other, run))
    found = [line for line in evaluations(run) if "held_out_max_documents" not in line]
    assert [line["step"] for line in found] == [4, 5, 6]
    best = min(found, key=lambda line: line["held_out_bits_per_byte"])["step"]
    assert (run / "checkpoints" / "best").read_text() == f"step-{best:08d}"
    assert result(run, other)["held_out_of_documents"] is None
    assert score(load(str(run))).evaluated is None


def test_without_a_final_evaluation_the_last_step_is_not_evaluated(config, tmp_path):
    list(train(override(config, ["evaluation.final=false"]), tmp_path / "run"))
    assert [line["step"] for line in evaluations(tmp_path / "run")] == [3]
    assert result(tmp_path / "run", config)["held_out_step"] == 3
    (report,) = train(config, tmp_path / "run")  # it is due now
    assert report.step is None
    assert report.held_out_of > report.held_out.num_documents == 9


@pytest.mark.parametrize("final", [True, False])
@pytest.mark.parametrize("every", [0, 1, 3, 4, 7, 20])
def test_the_evaluations_that_are_due_are_counted(final, every):
    watch = WatchConfig(evaluation=EvaluationTimes(every=every, final=final))
    for step in range(14):
        expected = sum(watch.evaluates(one, 12) for one in range(step + 1, 13))
        assert watch.evaluations_after(step, 12) == expected

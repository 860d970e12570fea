"""A run with adapters as a plain model: the same likelihood, without its base."""

import json
import resource
import shutil

import numpy as np
import pytest
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.cli.test_generate import thetahat
from tests.examples import SENTENCE, run_config
from tests.run.test_base import LABELS, SHAPE, dialogues, ran, write
from thetahat.core import store
from thetahat.core.errors import ConfigError, DiskFullError, FolderError, ModelError
from thetahat.core.plain import as_json
from thetahat.data.config import DataConfig
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.config import DecoderConfig, EncoderConfig
from thetahat.objective.config import Labels, Masked, ObjectiveConfig
from thetahat.run.config import CheckpointConfig
from thetahat.run.folder.checkpoint import TOKENIZER, read_config
from thetahat.run.folder.files import MODEL, read_progress
from thetahat.verbs.load import load
from thetahat.verbs.merge import merge
from thetahat.verbs.score import score

ADAPTER = LoRAConfig(rank=3, alpha=12.0, also=("embedding.*", "head.*"))
DTYPES = {"float64": 1e-12, "float32": 1e-6}  # how far log-likelihoods may be apart, relatively


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A base and a run with adapters on it, in each dtype."""
    place = tmp_path_factory.mktemp("merge")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THETAHAT_CACHE", str(place / "cache"))
        texts = write(place / "texts.jsonl", [{"text": f"{SENTENCE} {i}"} for i in range(12)])
        data = DataConfig(train=texts, held_out="none", context=64, over_long="split", vocab_size=300)
        for dtype in DTYPES:
            ran(run_config(DecoderConfig(**SHAPE), data=data, max_steps=2, dtype=dtype), place / f"base-{dtype}")
            config = dialogues(place, str(place / f"base-{dtype}"), adapter=ADAPTER, dtype=dtype)
            every = CheckpointConfig(every=2, keep=9)
            ran(replace(config, max_steps=6, checkpoint=every, frozen=("*.query.base.*",)), place / f"tuned-{dtype}")
        yield place


def data_of(place):
    return [str(place / "dialogues.jsonl")]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_likelihood_of_every_turn_stays_what_it_was(place, tmp_path, dtype):
    folder, merged = merge(str(place / f"tuned-{dtype}"), tmp_path / "plain")
    before, after, base = (
        score(load(str(name)), data_of(place)) for name in (place / f"tuned-{dtype}", folder, place / "tuned-float64@0")
    )
    assert [row.log_prob for row in after.rows] == pytest.approx(
        [row.log_prob for row in before.rows], rel=DTYPES[dtype]
    )
    assert before.summary.log_likelihood != pytest.approx(base.summary.log_likelihood, rel=1e-2)  # it has learned
    assert (merged.step, merged.rank, merged.alpha, merged.num_matrices) == (6, 3, 12.0, 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_matrix_is_the_sum_in_float64_rounded_once(place, tmp_path, dtype):
    folder, _ = merge(str(place / f"tuned-{dtype}"), tmp_path / "plain")
    base, plain = (load_file(path / MODEL) for path in (load(str(place / f"base-{dtype}")).folder, folder))
    tuned = load_file(load(str(place / f"tuned-{dtype}")).folder / MODEL)
    adapted = [name.removesuffix(".lora_in") for name in tuned if name.endswith(".lora_in")]
    assert len(adapted) == 7
    for name in adapted:
        thin = (tuned[f"{name}.{end}"].double().numpy() for end in ("lora_out", "lora_in"))
        exact = base[f"{name}.weight"].double().numpy() + 12.0 / 3 * np.einsum("or,ri->oi", *thin)
        found = plain[f"{name}.weight"].numpy()
        assert str(found.dtype) == dtype
        half = 0.5001 * np.spacing(np.abs(found)) if dtype == "float32" else 0.0  # of the last place
        assert (np.abs(found - exact) <= half + 1e-15).all()
    for name in set(plain) - {f"{name}.weight" for name in adapted}:
        assert plain[name].equal(tuned.get(name, base.get(name)))


def test_the_folder_stands_alone_and_says_what_it_was_made_of(place, tmp_path):
    folder, merged = merge(str(place / "tuned-float32"), tmp_path / "plain")
    store.verify(folder)
    tuned = load(str(place / "tuned-float32"))
    config, told = read_config(folder), read_progress(folder)["merged"]
    assert (config.adapter, config.base, config.base_digest, config.frozen) == (None, None, None, ())
    assert config.model == tuned.card.model
    assert told == as_json(merged)
    assert told["base"] == str(place / "base-float32")
    assert told["checkpoint"] == str(tuned.folder)
    assert (folder / TOKENIZER).read_bytes() == (tuned.folder / TOKENIZER).read_bytes()
    assert {name.rpartition(".")[2] for name in load_file(folder / MODEL)} == {"weight", "gain"}
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]
    assert not list(place.glob(".*writing"))


def test_a_step_names_its_checkpoint_and_an_adapter_that_has_not_learned_is_its_base(place, tmp_path):
    folder, merged = merge(f"{place}/tuned-float64@0", tmp_path / "first")
    assert merged.step == 0
    base, plain = (load_file(path / MODEL) for path in (load(str(place / "base-float64")).folder, folder))
    assert all(plain[name][: len(value)].equal(value) for name, value in base.items())
    names = [merge(f"{place}/tuned-float64{at}")[0].name for at in ("", "@2", "/checkpoints/step-00000004")]
    assert names == ["tuned-float64-merged", "tuned-float64-2-merged", "step-00000004-merged"]
    assert [read_progress(load(f"{place}/{name}").folder)["step"] for name in names[:2]] == [6, 2]


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_training_goes_on_from_it(place, tmp_path, adapter):
    folder, _ = merge(str(place / "tuned-float32"), tmp_path / "plain")
    config = dialogues(tmp_path, str(folder), adapter=adapter, dtype="float32", checkpoint=CheckpointConfig(keep=9))
    last = ran(config, tmp_path / "again")
    first, plain = load_file(last.parent / "step-00000000" / MODEL), load_file(folder / MODEL)
    assert all(first[name].equal(plain[name]) for name in set(first) & set(plain))
    of = [score(load(str(name)), data_of(place)).summary.log_likelihood for name in (folder, last)]
    assert of[1] > of[0]


def test_adapters_on_a_run_with_adapters_become_one_matrix(place, tmp_path):
    ran(dialogues(tmp_path, str(place / "tuned-float64"), adapter=LoRAConfig(rank=2)), tmp_path / "twice")
    folder, _ = merge(str(tmp_path / "twice"))
    before, after = (score(load(str(name)), data_of(place)).rows for name in (tmp_path / "twice", folder))
    assert [row.log_prob for row in after] == pytest.approx([row.log_prob for row in before], rel=1e-12)


def test_a_classifier_keeps_its_labels(place, tmp_path, monkeypatch):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    data = DataConfig(train=str(place / "texts.jsonl"), held_out="none", context=64, over_long="split", vocab_size=300)
    masked = ObjectiveConfig(factorization=Masked())
    ran(run_config(EncoderConfig(**SHAPE), data=data, objective=masked, max_steps=1), tmp_path / "masked")
    data = DataConfig(train=write(tmp_path / "labels.jsonl", LABELS), held_out="none", context=64)
    labels, adapter = ObjectiveConfig(factorization=Labels()), LoRAConfig(rank=2, also=("head.*",))
    config = run_config(EncoderConfig(), data=data, objective=labels, base=str(tmp_path / "masked"), adapter=adapter)
    ran(config, tmp_path / "labels")
    folder, _ = merge(str(tmp_path / "labels"))
    assert load(str(folder)).card.labels == ("even", "odd")
    before, after = (score(load(str(name)), [data.train]).rows for name in (tmp_path / "labels", folder))
    assert [row.log_prob for row in after] == pytest.approx([row.log_prob for row in before], rel=1e-12)


def test_without_its_base_the_merged_model_is_read_and_the_run_is_not(place, tmp_path):
    shutil.copytree(place / "base-float64", tmp_path / "base-float64")
    config = dialogues(tmp_path, str(tmp_path / "base-float64"), adapter=ADAPTER)
    ran(config, tmp_path / "own")
    folder, _ = merge(str(tmp_path / "own"))
    shutil.rmtree(tmp_path / "base-float64")
    assert score(load(str(folder)), data_of(place)).summary.num_tokens > 0
    with pytest.raises(ModelError, match=r"base=.*base-float64 is gone, which this run was started from"):
        merge(str(tmp_path / "own"), tmp_path / "other")
    assert not list(tmp_path.glob("*other*"))


def test_what_cannot_be_merged_is_named_and_leaves_nothing(place, tmp_path):
    ran(dialogues(tmp_path, str(place / "base-float64")), tmp_path / "whole")
    with pytest.raises(ConfigError, match="no adapters to merge: it was trained from the beginning"):
        merge(str(place / "base-float64"), tmp_path / "plain")
    with pytest.raises(ConfigError, match=r"started from base=.*base-float64 and trained as a whole"):
        merge(str(tmp_path / "whole"), tmp_path / "plain")
    with pytest.raises(ModelError, match="nothing is not a model"):
        merge(str(tmp_path / "nothing"), tmp_path / "plain")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(FolderError, match="taken exists, and nothing is written over"):
        merge(str(place / "tuned-float64"), tmp_path / "taken")
    cut = tmp_path / "cut"
    shutil.copytree(load(str(place / "tuned-float64")).folder, cut)
    (cut / MODEL).write_bytes((cut / MODEL).read_bytes()[:-9])
    with pytest.raises(ModelError, match=r"cut/model\.safetensors has \d+ bytes where \d+ were written"):
        merge(str(cut), tmp_path / "plain")
    assert {path.name for path in tmp_path.iterdir()} == {"dialogues.jsonl", "whole", "taken", "cut"}


def test_a_full_disk_leaves_nothing(place, tmp_path):
    """No file may grow to what the parameters need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(DiskFullError, match=r"no space left while writing .*plain"):
            merge(str(place / "tuned-float64"), tmp_path / "plain")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_the_model_is_and_what_it_was_made_of(place, tmp_path):
    out = str(tmp_path / "plain")
    said = json.loads(thetahat("merge", str(place / "tuned-float32"), "--out", out, "--json", "-q"))
    assert (said["model"], said["step"], said["rank"], said["num_matrices"]) == (out, 6, 3, 7)
    assert "has no adapters to merge" in thetahat("merge", out, code=2)
    assert "exists, and nothing is written over" in thetahat(
        "merge", str(place / "tuned-float32"), "--out", out, code=7
    )

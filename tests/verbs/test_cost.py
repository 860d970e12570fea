"""`thetahat cost`: what is shown, what is refused, and what is proposed fits."""

import json
import sys

import pytest
from msgspec.structs import replace

from thetahat.cli.main import main
from thetahat.core.config import override
from thetahat.model.size import num_parameters
from thetahat.recipes.catalogue import RECIPES, find_recipe
from thetahat.run.cost.mesh import Mesh
from thetahat.run.diagnosis.needed import training_memory
from thetahat.verbs.cost import Machines, cost, look_at


def said(*typed, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["thetahat", "cost", *typed])
    main()
    return capsys.readouterr()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_has_a_cost(recipe):
    config = RECIPES[recipe]()
    found = cost(config, on=Machines(("h100", "l4")))
    assert found.num_parameters == num_parameters(config.model, config.data.vocab_size)
    assert found.num_parameters == sum(found.parameters.values())
    operations = found.estimate.operations
    assert operations.total > operations.forward > 0
    assert operations.num_tokens == config.batch_size * config.data.context
    h100, l4 = found.estimate.placed
    assert h100.tokens_per_second > l4.tokens_per_second > 0
    assert h100.hours * 3600 == pytest.approx(h100.seconds * config.max_steps)
    assert h100.kwh == pytest.approx(h100.hours * 0.7)  # 700 W


def test_what_is_said_on_a_terminal_and_as_json(capsys, monkeypatch):
    shown = said("gpt2-124m", "--on", "h100", "--on", "l4", capsys=capsys, monkeypatch=monkeypatch)
    assert "123,588,864 parameters" in shown.out
    assert "854.7 MFLOP" in shown.out
    assert "no" in next(line for line in shown.out.splitlines() if line.startswith("l4"))
    found = json.loads(
        said("gpt2-124m", "--on", "l4", "--json", capsys=capsys, monkeypatch=monkeypatch).out.splitlines()[-1]
    )
    (placed,) = found["estimate"]["placed"]
    room, config = placed["room"], find_recipe("gpt2-124m")
    smaller = override(config, placed["cure"].split())
    model = look_at(smaller).on_meta()
    assert training_memory(model, smaller, config.data.vocab_size, 0).total <= room
    assert training_memory(model, config, config.data.vocab_size, 0).total > room


def test_float8_saves_copies_of_matrices_and_its_times_are_not_said(capsys, monkeypatch):
    words = ("gpt2-124m", "--on", "h100")
    told = said(*words, "float8=true", capsys=capsys, monkeypatch=monkeypatch).out
    assert "Times are those of products in bfloat16" in told
    assert "Times are" not in said(*words, capsys=capsys, monkeypatch=monkeypatch).out
    plain = find_recipe("gpt2-124m")
    ours, theirs = (cost(override(plain, pairs), on=Machines(("h100",))).estimate for pairs in (["float8=true"], []))
    width, inner = plain.model.width, plain.model.inner_width
    matrices = plain.model.num_layers * (4 * width**2 + (3 if plain.model.mlp.is_gated else 2) * width * inner)
    assert theirs.memory.activations - ours.memory.activations == 2 * matrices
    assert ours.placed[0].seconds == theirs.placed[0].seconds
    assert ours.placed[0].needed == theirs.placed[0].needed - 2 * matrices


@pytest.mark.parametrize(("recipe", "gpu"), [("gpt2-124m", "h100"), ("gpt2-124m", "l4"), ("translation", "l4")])
def test_one_row_more_than_there_is_room_for_has_none(recipe, gpu):
    config = find_recipe(recipe)
    (placed,) = cost(config, on=Machines((gpu,))).estimate.placed
    model = look_at(config).on_meta()

    def needed(rows):
        more = replace(config, micro_batch_size=rows, batch_size=rows)
        return training_memory(model, more, config.data.vocab_size, 0).total

    assert needed(placed.most_rows) <= placed.room < needed(placed.most_rows + 1)


def test_where_a_row_has_no_room_there_are_none():
    config = override(find_recipe("gpt2-124m"), ["data.context=65536", "model.width=8192", "model.inner_width=32768"])
    (placed,) = cost(config, on=Machines(("l4",))).estimate.placed
    assert placed.most_rows == 0


def test_a_key_is_changed_and_drawn(tmp_path, capsys, monkeypatch):
    typed = ["quickstart", "--on", "h100", "--over", "data.context=64,128,256"]
    shown = said(*typed, "--plot", capsys=capsys, monkeypatch=monkeypatch).out
    assert "memory of training over data.context" in shown
    found = cost(find_recipe("quickstart"), on=Machines(("h100",)), over="data.context=64,128,256")
    attention = [one.operations.attention / one.operations.num_tokens for one in found.points]
    assert attention[1] - attention[0] == pytest.approx((attention[2] - attention[1]) / 2)  # linear a token
    pytest.importorskip("matplotlib")
    said(*typed, "--out", str(tmp_path / "cost.svg"), capsys=capsys, monkeypatch=monkeypatch)
    assert (tmp_path / "cost.svg").read_text().startswith("<?xml")


def test_documents_that_are_packed_cost_less_attention():
    config = replace(find_recipe("quickstart"))
    whole, short = (cost(config, on=Machines(("h100",)), piece=piece).estimate.operations for piece in (None, 16))
    assert short.attention == pytest.approx(whole.attention * 17 / (config.data.context + 1))
    assert short.blocks == whole.blocks


def test_several_gpus_share_the_work(capsys, monkeypatch):
    typed = ["gpt2-124m", "--on", "h100"]
    one = cost(find_recipe("gpt2-124m"), on=Machines(("h100",))).estimate.placed[0]
    eight = cost(find_recipe("gpt2-124m"), on=Machines(("h100",), 8))
    assert 4 < eight.estimate.placed[0].tokens_per_second / one.tokens_per_second <= 8
    assert eight.layouts[0].seconds == eight.estimate.placed[0].seconds
    shown = said(*typed, "mesh.shards=4", "mesh.replicas=2", capsys=capsys, monkeypatch=monkeypatch).out
    assert "8 h100" in shown
    given = cost(find_recipe("gpt2-124m"), on=Machines(("h100",), 8, Mesh(replicas=2, shards=4)))
    assert given.estimate.placed[0].seconds >= eight.layouts[0].seconds


def test_the_shards_of_a_config_are_those_of_the_estimate():
    config = override(find_recipe("gpt2-124m"), ["mesh.shards=4"])
    (placed,) = cost(config, on=Machines(("h100",))).estimate.placed
    assert placed.num_gpus == 4
    assert str(placed.layout.mesh) == "mesh.shards=4"


def test_what_is_offloaded_lies_on_the_host(capsys, monkeypatch):
    keys = ("mesh.shards=4", "micro_batch_size=2")
    plain, config = (override(find_recipe("gpt2-124m"), [*keys, *more]) for more in ([], ["mesh.offload=true"]))
    usual, offloaded = (cost(one, on=Machines(("h100",))).estimate.placed[0].layout.memory for one in (plain, config))
    assert usual.host == offloaded.parameters == offloaded.optimizer == 0
    assert usual.gradients == offloaded.gradients  # of several micro-batches: whole until the last
    one = usual.parameters + usual.optimizer
    assert offloaded.host == one + usual.parameters  # with the gradients of its pieces
    assert offloaded.total == usual.total - one
    typed = ["gpt2-124m", *keys, "mesh.offload=true", "--on", "h100"]
    shown = said(*typed, capsys=capsys, monkeypatch=monkeypatch).out
    assert "of the host: mesh.shards=4 mesh.offload=true" in " ".join(shown.split())


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        (("quickstart", "mesh.offload=true", "--on", "h100"), "mesh.offload=true is for shards"),
        (("quickstart", "--on", "h1000"), "h100, h200"),
        (("quickstart", "mesh.shard=2"), "mesh.shards=N"),
        (("quickstart", "mesh.shards=x"), "mesh.shards=8"),
        (("quickstart", "mesh.shards=2", "--gpus", "3"), "--gpus 2"),
        (("quickstart", "--over", "data.context"), "KEY=VALUE,VALUE"),
        (("quickstart", "--on", "h100", "--over", "dtype=float32,bfloat16", "--plot"), "numbers as values"),
        (("quickstrat",), "quickstart"),
    ],
)
def test_what_cannot_be_is_refused(typed, expected, capsys, monkeypatch):
    with pytest.raises(SystemExit) as ended:
        said(*typed, capsys=capsys, monkeypatch=monkeypatch)
    assert ended.value.code == 2
    assert expected in capsys.readouterr().err

"""A run in pieces is the run of one process: whole runs are compared, which also shows stale and aliased memory."""

import pytest
import torch

from tests.scale.conftest import KINDS, batches, distance, held_out, lines, names, newest, tensors, trained, written
from thetahat.run.folder.tensors import load_tensors

pytestmark = pytest.mark.multi

LAYOUTS = {  # ranks, and how they are laid out
    "2": (2, ["mesh.shards=2"]),
    "3": (3, ["mesh.shards=3"]),
    "2x2": (4, ["mesh.shards=2"]),
    "4": (4, ["mesh.shards=4"]),
    "context": (2, ["mesh.context=2"]),
    "both": (4, ["mesh.shards=2", "mesh.context=2"]),
    "tensor": (2, ["mesh.tensor=2"]),
    "2x-tensor": (4, ["mesh.tensor=2"]),
    "shards-tensor": (4, ["mesh.shards=2", "mesh.tensor=2"]),
    "context-tensor": (4, ["mesh.context=2", "mesh.tensor=2"]),
    "2x-shards-tensor": (8, ["mesh.shards=2", "mesh.tensor=2"]),
}


@pytest.fixture(scope="module")
def alone(bench):
    """The run of each kind in one process, made once."""
    made = {}

    def run(kind):
        if kind not in made:
            if "base=base" in KINDS[kind] and not (bench / "base").exists():
                trained(bench, "base", 1, "max_steps=3")
            made[kind] = trained(bench, f"alone-{kind}", 1, *KINDS[kind])
        return made[kind]

    return run


CASES = (
    [(kind, "2") for kind in KINDS if kind != "biases"]
    + [("decoder", layout) for layout in ("3", "2x2", "both", "shards-tensor")]
    + [("encoder-decoder", "context"), ("states", "context"), ("biases", "tensor")]
)
SLOW = [
    pytest.param(kind, layout, marks=pytest.mark.slow)
    for kind in KINDS
    for layout in LAYOUTS
    if (kind, layout) not in CASES and not (kind in {"new-rows", "states", "latent"} and "tensor" in layout)
]


@pytest.mark.parametrize(("kind", "layout"), [*CASES, *SLOW])
def test_a_run_in_pieces_equals_that_of_one_process(bench, alone, kind, layout):
    (size, mesh), whole = LAYOUTS[layout], alone(kind)
    run = trained(bench, f"{kind}-{layout}", size, *mesh, *KINDS[kind])
    assert names(run) == names(whole)
    assert distance(tensors(run), tensors(whole))[0] < 1e-12
    assert batches(run) == batches(whole)
    assert held_out(run) == pytest.approx(held_out(whole), rel=1e-13)
    assert written(run) == written(whole)


FLOAT8 = ("dtype=bfloat16", "float8=true", "model.inner_width=32")


@pytest.mark.parametrize("products", [("dtype=float32",), ("dtype=bfloat16",), FLOAT8], ids="-".join)
def test_two_ranks_in_pieces_have_the_bits_of_two_whole_ones(bench, products):
    """Sums of two have no order, and shards are gathered in the numbers that float8 is made of."""
    keys, name = (*products, "max_steps=6"), "-".join(products)
    whole = trained(bench, f"whole-{name}", 2, *keys)
    pieces = trained(bench, f"pieces-{name}", 2, *keys, "mesh.shards=2")
    ours, theirs = tensors(pieces), tensors(whole)
    assert [name for name in theirs if not torch.equal(ours[name], theirs[name])] == []
    for name in ("model.safetensors", "optimizer.safetensors", "average.safetensors"):
        assert (newest(pieces) / name).read_bytes() == (newest(whole) / name).read_bytes()
    assert held_out(pieces) == held_out(whole)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["tensor", "shards-tensor"])
def test_bfloat16_differs_by_its_rounding(bench, layout):
    """Partial sums are rounded before they are added up."""
    size, mesh = LAYOUTS[layout]
    exact = gradient_norm(trained(bench, f"exact-{layout}", 1, "dtype=float32", "max_steps=1"))
    for dtype, bound in (("float32", 1e-5), ("bfloat16", 2e-2)):
        found = gradient_norm(trained(bench, f"{dtype}-{layout}", size, f"dtype={dtype}", "max_steps=1", *mesh))
        assert found == pytest.approx(exact, rel=bound)


def test_ranks_that_share_rows_or_layers_multiply_in_float8_as_one_does(bench):
    """Scales are those of one process; what is rounded is not, so some numbers of float8 tip."""
    first = (*FLOAT8, "max_steps=1")
    exact = gradient_norm(trained(bench, "float8", 1, *first))
    assert abs(gradient_norm(trained(bench, "no-float8", 1, *first, "float8=false")) / exact - 1) > 0.02
    for axis in ("context", "pipeline"):
        run = trained(bench, f"float8-{axis}", 2, *first, f"mesh.{axis}=2")
        assert gradient_norm(run) == pytest.approx(exact, rel=0.01)


def gradient_norm(run):
    """Of its first step."""
    return next(line["gradient_norm"] for line in lines(run) if "gradient_norm" in line)


def test_another_layout_goes_on_with_the_same_sequences(bench, alone):
    """Each start makes one step, and the last one the rest."""
    for size, keys in (LAYOUTS["2x2"], LAYOUTS["2"], (1, []), LAYOUTS["shards-tensor"], LAYOUTS["3"], (2, [])):
        run = trained(bench, "relay", size, *keys, "--max-minutes=0")
    run = trained(bench, "relay", 2, "mesh.shards=2")
    assert batches(run) == batches(alone("decoder"))
    assert distance(tensors(run), tensors(alone("decoder")))[0] < 1e-12
    assert held_out(run) == pytest.approx(held_out(alone("decoder")), rel=1e-13)


@pytest.mark.slow
def test_the_same_state_has_the_same_files_in_every_layout(bench):
    """That of step 0, which is not computed: to the bit."""
    keys = ("max_steps=1", "checkpoint.keep=9", *KINDS["biases"])
    alone = trained(bench, "first", 1, *keys) / "checkpoints" / "step-00000000"
    files = sorted(path.name for path in alone.glob("*.safetensors"))
    assert len(files) == 3
    for layout in ("2x2", "tensor", "2x-tensor", "shards-tensor", "context-tensor"):
        size, mesh = LAYOUTS[layout]
        ours = trained(bench, f"first-{layout}", size, *mesh, *keys) / "checkpoints" / "step-00000000"
        assert [name for name in files if (ours / name).read_bytes() != (alone / name).read_bytes()] == []


def test_a_trained_state_has_the_same_files_in_every_layout(bench, alone):
    """Each layout begins with the state of one checkpoint, and saves it before its first step."""
    before = tensors(alone("decoder"))
    small = [["thetahat.run.folder.tensors", "LARGEST", 12000]]  # bytes of a file
    files = {}
    for name, (size, mesh) in {"1": (1, []), **{name: LAYOUTS[name] for name in ("3", "shards-tensor")}}.items():
        keys = ("max_steps=13", "checkpoint.keep=9", *mesh)
        run = trained(bench, f"same-{name}", size, *keys, recipe=("--branch", "alone-decoder"), sets=small)
        folder = run / "checkpoints" / "step-00000012"
        files[name] = {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors"))}
        for kind in ("model", "optimizer", "average"):
            assert sum(one.startswith(f"{kind}-0") for one in files[name]) > 1
            ours = load_tensors(folder / f"{kind}.safetensors")
            theirs = {key: tensor for (of, key), tensor in before.items() if of == kind}
            assert ours.keys() == theirs.keys()
            assert [key for key, tensor in theirs.items() if not torch.equal(ours[key], tensor)] == []
    assert files["1"] == files["3"] == files["shards-tensor"]


@pytest.mark.slow
def test_dropout_is_the_same_on_all_ranks_of_a_product(bench):
    keys = ("model.dropout=0.2", "max_steps=6")
    whole = trained(bench, "dropout", 1, *keys)
    run = trained(bench, "dropout-tensor", 2, *keys, "mesh.tensor=2")
    assert distance(tensors(run), tensors(whole))[0] < 1e-12


def test_a_run_in_pieces_is_taken_back_to_its_beginning(bench):
    keys = ("optimization.matrices.learning_rate=1e200", "diagnosis.policies.non-finite=rewind")
    run = trained(bench, "taken-back", 2, "mesh.shards=2", "diagnosis.max_rewinds=1", *keys, code=10)
    assert [path.name for path in (run / "checkpoints").glob("step-*[0-9]")] != []
    assert len((run / "rewinds.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize("key", ["mesh.shards=2", pytest.param("mesh.tensor=2", marks=pytest.mark.slow)])
def test_a_rank_names_the_sequences_that_are_not_finite(bench, key):
    run = trained(bench, f"odd-step-{key}", 2, key, "optimization.matrices.learning_rate=1e200", code=5)
    assert not (run / "checkpoints" / "step-00000002").exists()
    assert lines(run)[-1]["step"] == 1

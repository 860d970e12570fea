"""Trees on a GPU: read in blocks, they are what they are under the mask, in less memory, and compiled once.

Run with `pytest -m gpu --device=cuda tests/gpu/test_flex.py`. What is exact is the mask in float64, which the kernels
do not know: there the model takes the other way by itself.
"""

import json
import subprocess
import sys
from statistics import fmean

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tests.examples import SENTENCE, lively, trees
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.visibility import Visibility
from thetahat.model.attention import kernels
from thetahat.model.attention.flex import attend_in_blocks, obstacle
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.precision import computing_in
from thetahat.objective.config import ObjectiveConfig
from thetahat.objective.factorization import causal, prefix
from thetahat.objective.log_prob import reference
from thetahat.objective.objective import log_likelihood
from thetahat.recipes.catalogue import find_recipe
from thetahat.verbs.verify import verify

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore")]  # the compiler has many
VOCAB = 97
SHAPE = DecoderConfig(num_layers=3, width=128, num_heads=4, num_kv_heads=2, head_width=32, inner_width=192)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch, device):
    monkeypatch.setenv("THETAHAT_CACHE", str(tmp_path / "cache"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def under_the_mask(monkeypatch):
    monkeypatch.setattr(kernels, "obstacle", lambda *_: "asked for")


def tree_visibility(seed, num_rows, positions, device):
    return causal(trees(seed, num_rows, positions, VOCAB), row_length=positions).inputs.visibility.to(device)


def drawn(visibility, heads, kv_heads, width, dtype, *, requires_grad=False):
    rows, positions = visibility.piece.shape
    draw = torch.Generator(visibility.piece.device).manual_seed(0)
    shapes = [(rows, count, positions, width) for count in (heads, kv_heads, kv_heads)]
    device = visibility.piece.device
    values = [torch.randn(shape, generator=draw, device=device) for shape in shapes]
    return [value.to(dtype).requires_grad_(requires_grad) for value in values]


def distance(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 4, 16), (4, 2, 32), (6, 2, 64), (4, 1, 24)])
@pytest.mark.parametrize("positions", [129, 256, 1000])
def test_attention_and_its_gradient_are_as_near_to_float64_as_under_the_mask(
    dtype, heads, kv_heads, width, positions, device
):
    visibility = tree_visibility(positions, 2, positions, device)
    why = obstacle(device, dtype, width, positions)
    if why is not None:
        pytest.skip(why)
    ways = {}
    mask = visibility.mask()[:, None]
    for name, attend, of in (
        ("exact", lambda *qkv: scaled_dot_product_attention(*qkv, attn_mask=mask, enable_gqa=True), torch.float64),
        ("mask", lambda *qkv: scaled_dot_product_attention(*qkv, attn_mask=mask, enable_gqa=True), dtype),
        ("blocks", attend_in_blocks(visibility), dtype),
    ):
        leaves = [x.detach().to(of).requires_grad_() for x in drawn(visibility, heads, kv_heads, width, dtype)]
        out = attend(*leaves)
        along = torch.randn(out.shape, device=device, generator=torch.Generator(device).manual_seed(1))
        ways[name] = [out, *torch.autograd.grad((out.to(torch.promote_types(of, torch.float32)) * along).sum(), leaves)]
    rounding = {torch.float32: 1e-6, torch.bfloat16: 4e-3}[dtype]
    for blocks, masked, exact in zip(ways["blocks"], ways["mask"], ways["exact"], strict=True):
        assert bool(blocks.isfinite().all())  # also where all is padding
        assert distance(blocks, exact) <= max(3 * distance(masked, exact), rounding)


@pytest.mark.parametrize("padding", [1, 200])
def test_padding_gives_numbers_and_takes_none(padding, device):
    visibility = tree_visibility(0, 2, 400, device)
    piece = visibility.piece.clone()
    piece[0, -padding:] = -1
    piece[1] = -1
    visibility = Visibility(piece, visibility.ancestors)
    leaves = drawn(visibility, 4, 2, 32, torch.float32, requires_grad=True)
    out = attend_in_blocks(visibility)(*leaves)
    text = (piece >= 0)[:, None, :, None]
    gradients = torch.autograd.grad((out * text).sum(), leaves)
    assert bool(out.isfinite().all())
    for gradient in gradients:
        assert bool(gradient.isfinite().all())
        assert float((gradient * ~text).abs().max()) == 0.0


def value_and_gradient(model, batch, dtype, device):
    model.zero_grad()
    with computing_in(dtype, device):
        total = log_likelihood(model, batch.to(device))
    (total.log_prob / total.weight).backward()
    return float(total.log_prob), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("factorization", [causal, prefix], ids=["trees", "prefixes"])
def test_a_model_of_trees_and_its_gradient_are_as_near_to_float64_as_under_the_mask(
    factorization, dtype, device, monkeypatch
):
    batch = factorization(trees(1, 3, 500, VOCAB), ObjectiveConfig())
    model = lively(build_model(SHAPE, VOCAB), torch.float64).to(device)
    exact_value, exact = value_and_gradient(model, batch, "float64", device)
    model.float()
    value, found = value_and_gradient(model, batch, dtype, device)
    under_the_mask(monkeypatch)
    masked_value, masked = value_and_gradient(model, batch, dtype, device)
    rounding = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    assert abs(value / exact_value - 1) <= max(3 * abs(masked_value / exact_value - 1), rounding)
    for name, gradient in found.items():
        assert distance(gradient, exact[name]) <= max(3 * distance(masked[name], exact[name]), rounding), name


@torch.no_grad()
def test_a_branch_changes_no_bit_of_its_siblings(device):
    packed = trees(2, 2, 600, VOCAB)
    batch = causal(packed).to(device)
    model = lively(build_model(SHAPE, VOCAB), torch.float32).to(device)
    inputs, visibility = batch.inputs, batch.inputs.visibility
    leaf = int((~visibility.ancestors.T.triu(1).any(1)).nonzero()[-1])  # nothing continues it
    inside = visibility.piece == leaf
    other = Inputs(torch.where(inside, (inputs.tokens + 1) % VOCAB, inputs.tokens), inputs.position, visibility)
    before, after = model.hidden(inputs), model.hidden(other)
    assert not torch.equal(before[inside], after[inside])
    assert torch.equal(before[~inside], after[~inside])


def peak(attend, visibility):
    leaves = drawn(visibility, 8, 4, 64, torch.bfloat16, requires_grad=True)
    for _ in range(2):  # the first compiles
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        attend(visibility)(*leaves).sum().backward()
        torch.cuda.synchronize()
        found = torch.cuda.max_memory_allocated() - start
    return found


def test_blocks_take_less_memory_than_the_mask_alone(device):
    visibility = tree_visibility(3, 1, 16384, device)
    found = peak(attend_in_blocks, visibility)
    under_mask = peak(lambda v: kernels.attend_under(v.mask()), visibility)
    print(f"blocks {found / 2**20:.0f} MiB, mask {under_mask / 2**20:.0f} MiB")
    assert found < 16384**2 < under_mask


def test_other_trees_in_rows_of_other_lengths_compile_nothing_again(device):
    for index, (seed, rows, positions) in enumerate([(0, 3, 700), (1, 3, 650), (2, 5, 900), (3, 3, 1400), (4, 2, 300)]):
        visibility = tree_visibility(seed, rows, positions, device)
        leaves = drawn(visibility, 4, 2, 32, torch.bfloat16, requires_grad=True)
        with torch._dynamo.config.patch(error_on_recompile=index > 0):
            attend_in_blocks(visibility)(*leaves).sum().backward()


def test_a_change_of_kernel_never_falls_back_to_all_products(device):
    """One row or several, a gradient or none, prefixes or none, either dtype: more kernels than the 8 torch allows."""
    for dtype in (torch.float32, torch.bfloat16):
        for rows in (1, 3):
            for is_open in (None, torch.ones(rows, 300, dtype=torch.bool, device=device)):
                seen = tree_visibility(5, rows, 300, device)
                visibility = Visibility(seen.piece, seen.ancestors, is_open=is_open)
                for requires_grad in (False, True):
                    qkv = drawn(visibility, 4, 2, 32, dtype, requires_grad=requires_grad)
                    with torch.set_grad_enabled(requires_grad):
                        found = attend_in_blocks(visibility)(*qkv)
                    mask = visibility.mask()[:, None]
                    exact = scaled_dot_product_attention(
                        *(x.detach().double() for x in qkv), attn_mask=mask, enable_gqa=True
                    )
                    assert distance(found.detach(), exact) < (1e-5 if dtype == torch.float32 else 2e-2)


@torch.no_grad()
def test_the_log_probabilities_of_trees_are_those_of_the_cpu(device):
    batch = causal(trees(6, 3, 500, VOCAB))
    model = lively(build_model(SHAPE, VOCAB), torch.float32)
    found = {}
    for place in (torch.device("cpu"), device):
        model, there = model.to(place), batch.to(place)
        hidden = model.hidden(there.inputs).flatten(0, 1)
        found[place.type] = reference(hidden, model.head, there.targets.flatten()).log_prob.cpu()
    places = batch.weights.flatten() != 0
    torch.testing.assert_close(found["cuda"][places], found["cpu"][places], rtol=1e-4, atol=1e-4)


def dialogues(path, count=60):
    """Whose histories lose their thoughts, so that the template's turns branch."""
    words = SENTENCE.split()
    lines = []
    for number in range(count):
        messages = []
        for turn in range(3 + number % 3):
            said = " ".join(words[(number + turn + i) % len(words)] for i in range(8 + number % 5))
            messages.append({"role": "user", "content": said})
            answer = f"<think>\nThey said {said}.\n</think>\n\n{said[::-1]}"
            messages.append({"role": "assistant", "content": answer})
        lines.append(json.dumps({"messages": messages}) + "\n")
    path.write_text("".join(lines))
    return path


PAIRS = ["data.chat.template=qwen3", "data.held_out=none", "data.context=512", "data.vocab_size=512", "batch_size=8"]


def test_training_on_trees_is_the_same_on_the_cpu_in_blocks_and_compiled(tmp_path):
    """In processes of their own, without the type checks of the tests, which the compiler cannot read."""
    data = dialogues(tmp_path / "dialogues.jsonl")
    ways = {"cpu": ["device=cpu"], "blocks": ["device=cuda"], "compiled": ["device=cuda", "compile=true"]}
    ways["bfloat16"] = ["device=cuda", "compile=true", "dtype=bfloat16"]
    found = {}
    for name, pairs in ways.items():
        out = tmp_path / name
        command = [sys.executable, "-m", "thetahat", "train", "dialogue", f"data.train={data}", *PAIRS, *pairs]
        subprocess.run([*command, "max_steps=5", "-q", "--out", str(out)], check=True)
        lines = (out / "metrics.jsonl").read_text().splitlines()
        found[name] = [json.loads(line)["log_likelihood_per_token"] for line in lines if "tokens_per_second" in line]
    assert found["blocks"] == pytest.approx(found["cpu"], rel=1e-4)
    assert found["compiled"] == pytest.approx(found["cpu"], rel=1e-4)
    assert fmean(found["bfloat16"]) == pytest.approx(fmean(found["cpu"]), rel=2e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_verify_holds_for_dialogues(dtype, tmp_path):
    data = dialogues(tmp_path / "dialogues.jsonl")
    config = override(find_recipe("dialogue"), [f"data.train={data}", *PAIRS, "device=cuda", f"dtype={dtype}"])
    assert [one for one in verify(config, ranks=()) if not one.holds] == []

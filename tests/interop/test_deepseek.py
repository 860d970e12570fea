"""DeepSeek-V2 and V3 against transformers: latent attention, groups of experts, and scales of YaRN, both ways."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from tests.interop import test_families as families, tiny
from tests.interop.hub import CONFIGS
from thetahat.core.config import from_plain, to_plain
from thetahat.core.errors import ModelError
from thetahat.generation.rows import begin_decoding
from thetahat.interop.around import Around
from thetahat.interop.config import canonical, family_for, read_config, write_config
from thetahat.interop.folder import open_folder
from thetahat.interop.write import WriteConfig, write_folder
from thetahat.model.config import DecoderConfig, ExpertsConfig, LatentMixer, Rotary, YarnScaling
from thetahat.model.cost import idle_parameters
from thetahat.model.layers.rope import rotation_of
from thetahat.model.size import num_parameters

LATENT: dict[str, Any] = {
    **{**tiny.SIZES, **tiny.MIXED, "num_key_value_heads": 6, "first_k_dense_replace": 1},
    **{"q_lora_rank": 20, "kv_lora_rank": 12, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    **{"n_routed_experts": 8, "num_experts_per_tok": 3, "n_shared_experts": 2, "n_group": 1, "topk_group": 1},
}
SCALED = tiny.rope("yarn", factor=40.0, original_max_position_embeddings=32, mscale=0.9, mscale_all_dim=0.7)
V2, V3 = ("DeepseekV2ForCausalLM", "DeepseekV2Config"), ("DeepseekV3ForCausalLM", "DeepseekV3Config")
GROUPED = {"n_group": 4, "topk_group": 2}
MODELS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "v2_lite": (*V2, {**LATENT, "q_lora_rank": None}),
    "v2_groups": (*V2, {**LATENT, **GROUPED, "topk_method": "group_limited_greedy", "routed_scaling_factor": 4.0}),
    "v3": (*V3, {**LATENT, **GROUPED, **SCALED, "rms_norm_eps": 1e-5}),
    "v3_plain": (*V3, {**LATENT, "q_lora_rank": None, "norm_topk_prob": False, "tie_word_embeddings": True}),
    "v3_dense": (*V3, {**LATENT, "first_k_dense_replace": 3}),
}
EVERY = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, model in MODELS.items():
        monkeypatch.setitem(tiny.MODELS, name, model)


@EVERY
def test_logits_are_those_of_transformers(name: str, root: Path):
    families.test_logits_are_those_of_transformers(name, root)


@EVERY
def test_every_tensor_comes_back_bit_for_bit_and_transformers_reads_it(name: str, root: Path, tmp_path: Path):
    families.test_every_tensor_comes_back_bit_for_bit_and_transformers_reads_it(name, root, tmp_path)


@EVERY
def test_packed_rows_and_padding_change_nothing(name: str, root: Path):
    families.test_packed_rows_and_padding_change_nothing(name, root)


@EVERY
def test_in_float64_nothing_but_their_casts_differs(name: str, root: Path, monkeypatch: pytest.MonkeyPatch):
    from transformers.models.deepseek_v2 import modeling_deepseek_v2

    def rotated(xq: Any, xk: Any, turns: Any) -> Any:
        return [
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns.unsqueeze(1)).flatten(3)
            for x in (xq, xk)
        ]

    monkeypatch.setattr(modeling_deepseek_v2, "apply_rotary_emb", rotated)
    monkeypatch.setattr(families, "lift", lifted)
    families.test_in_float64_nothing_but_their_casts_differs(name, root, monkeypatch)


def lifted(model: Any, folder: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A model of theirs without casts to float32, in routers and in angles; V2's are complex numbers."""
    if folder.config.experts is None:
        model.double()
    model = tiny.lift(model, folder, monkeypatch)
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("TopkRouter"):
            module.forward = partial(routed, module)
        if "RotaryEmbedding" in kind:
            module.forward = partial(angles, folder.config, is_complex="V2" in kind)
    return model


def routed(self: Any, hidden: torch.Tensor) -> Any:
    """A router of theirs, position by position and group by group."""
    is_v3 = hasattr(self, "e_score_correction_bias")
    logits = hidden.reshape(-1, self.hidden_dim) @ self.weight.T
    scores = logits.sigmoid() if is_v3 else logits.softmax(-1)
    compared = scores + self.e_score_correction_bias if is_v3 else scores
    has_groups = self.num_group > 1 and getattr(self, "topk_method", "") != "greedy"
    chosen: list[list[int]] = []
    for row in compared.tolist():
        groups = [
            row[start : start + len(row) // self.num_group] for start in range(0, len(row), len(row) // self.num_group)
        ]
        values = [sum(sorted(group)[-2 if is_v3 else -1 :]) for group in groups]
        best = (
            sorted(range(len(groups)), key=values.__getitem__)[-self.topk_group :] if has_groups else range(len(groups))
        )
        allowed = [i for i in range(len(row)) if i // len(groups[0]) in best]
        chosen.append(sorted(allowed, key=row.__getitem__)[-self.top_k :])
    index = torch.tensor(chosen)
    weights = scores.gather(-1, index)
    if is_v3 and self.norm_topk_prob:
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights * self.routed_scaling_factor, index


def angles(config: DecoderConfig, x: torch.Tensor, position_ids: torch.Tensor, *, is_complex: bool) -> Any:
    mixer: Any = config.layers[0]
    cos, sin = rotation_of(position_ids, mixer.rotary_width, mixer.positions, config.rope_base, torch.float64)
    cos, sin = cos[:, :, 0], sin[:, :, 0]
    return torch.complex(cos, sin) if is_complex else (torch.cat([cos, cos], -1), torch.cat([sin, sin], -1))


@EVERY
def test_what_is_generated_is_theirs_and_a_cache_reads_as_a_whole_text_is_read(name: str, root: Path):
    model, path = tiny.saved(name, root)
    folder, mine = tiny.loaded(path, torch.float64)
    model = tiny.made(name)
    text, number = tiny.tokens(11, 1)[0].tolist(), 9
    rows = begin_decoding(mine, [text], context=40, max_tokens=number)
    with torch.no_grad():
        for _ in range(number):
            (found,) = rows.read()
            (whole,) = tiny.ours(folder, mine, [text], [text])
            torch.testing.assert_close(found, whole[-1], rtol=1e-11, atol=1e-12)
            text.append(int(found.argmax()))
            rows.append(text[-1:])
    options = {"max_new_tokens": number, "do_sample": False, "eos_token_id": None}
    assert model.generate(torch.tensor([text[:-number]]), **options)[0].tolist() == text


def test_routers_keep_their_dtype_in_files(root: Path, tmp_path: Path):
    """Theirs are read in float32; a bias of bfloat16 would choose other experts."""
    folder, mine = tiny.loaded(tiny.saved("v3", root)[1])
    whole = load_file(folder.path / "model.safetensors")
    half = families.back(tmp_path / "half", folder, mine, dtype="bfloat16")
    kept = {name for name, tensor in half.items() if tensor.dtype == torch.float32}
    assert kept == {name for name in whole if ".mlp.gate." in name}
    assert all(torch.equal(half[name], whole[name]) for name in kept)


def test_a_layer_is_no_passenger_where_the_model_has_it(tmp_path: Path):
    """Layer 61 of DeepSeek-V3 predicts the second token; a deeper model reads it."""
    config = DecoderConfig(num_layers=62, width=4, num_heads=1, num_kv_heads=1, head_width=2, inner_width=4)
    config = replace(config, layers=(LatentMixer(latent_width=2, rotary_width=2),))
    deep, flat = tmp_path / "deep", tmp_path / "flat"
    for path, shape in ((deep, config), (flat, replace(config, num_layers=61))):
        model = tiny.build_model(shape, 5)
        tiny.allocate(model, dtype=torch.float32)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter)
        write_folder(path, dict(model.named_parameters()), shape, Around(), how=WriteConfig(family="deepseek_v3"))
    assert open_folder(deep).passengers == []
    described = json.loads((flat / "config.json").read_text())
    (deep / "config.json").write_text(json.dumps(described))
    carried = open_folder(deep).passengers
    assert carried
    assert all(name.startswith("model.layers.61.") for name in carried)


@pytest.mark.parametrize(
    ("name", "total", "active", "within"), [("deepseek-v3", 671, 37, 0.5), ("deepseek-v2-lite", 15.7, 2.4, 0.06)]
)
def test_parameters_are_the_published_ones(name: str, total: float, active: float, within: float):
    """Billions: arXiv 2412.19437 and 2405.04434; those active for a token without the table of tokens."""
    plain = CONFIGS[name]
    config, size = read_config(plain), plain["vocab_size"]
    number = num_parameters(config, size)
    assert number / 1e9 == pytest.approx(total, abs=0.06)
    idle = idle_parameters(tiny.build_model(config, size)) + size * config.width
    assert (number - idle) / 1e9 == pytest.approx(active, abs=within)


def test_scales_of_yarn_come_back_as_they_were():
    """mscale_all_dim multiplies scores by its square, and the quotient of both the cosines and sines."""
    lite = read_config(CONFIGS["deepseek-v2-lite"])
    stretch = 0.1 * 0.707 * torch.tensor(40.0, dtype=torch.float64).log().item() + 1
    assert lite.attention.scale == pytest.approx(stretch**2 / 192**0.5, rel=1e-15)
    rotary: Any = lite.layers[0].positions
    assert rotary.scaling.attention_factor == 1
    written = write_config(family_for(lite), lite)
    for spelling in ("rope_scaling", "rope_parameters"):
        assert (written[spelling]["mscale"], written[spelling]["mscale_all_dim"]) == (0.707, 0.707)
    own = replace(lite, attention=replace(lite.attention, scale=None))
    assert "mscale_all_dim" not in write_config(family_for(own), own)["rope_scaling"]


def test_latents_of_ours_go_out():
    plain = DecoderConfig(layers=(LatentMixer(),))
    assert (family := family_for(plain)).model_type == "deepseek_v3"
    assert read_config(write_config(family, plain)) == canonical(plain)
    experts = ExpertsConfig(num_experts=8, num_groups=4, num_chosen_groups=2, shared_width=448)
    assert family_for(replace(plain, experts=experts)).model_type == "deepseek_v3"
    softmax = replace(experts, scores="softmax", has_bias=False, normalizes=False, group_score="best")
    assert family_for(replace(plain, experts=softmax)).model_type == "deepseek_v2"
    scaled = LatentMixer(positions=Rotary(scaling=YarnScaling(factor=4.0, context=64)), query_width=8)
    assert family_for(replace(plain, layers=(scaled,))).model_type == "deepseek_v3"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"layers": [{"kind": "latent"}, {}]}, "layers other than latent attention of one kind"),
        ({"layers": [{"kind": "latent", "distance": 5}]}, "layers with a window"),
        ({"layers": [{"kind": "latent", "norm_epsilon": 1e-5}]}, "norm_epsilon=1e-05, where theirs have 1e-06"),
        ({"attention": {"sinks": "learned"}}, r"attention\.sinks: learned -> none"),
        ({"experts": {"num_experts": 4}}, r"experts\.shared_width=0"),
        ({"experts": {"shared_width": 448, "num_groups": 4, "group_score": "best"}}, r"experts\.group_score"),
    ],
)
def test_what_has_no_place_in_it_is_said(changes: dict[str, Any], said: str):
    plain = to_plain(DecoderConfig(layers=(LatentMixer(),))) | changes
    with pytest.raises(ModelError, match=said):
        family_for(from_plain(plain, DecoderConfig), "deepseek_v3")


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("deepseek-v3", {"rope_interleave": False}, "rope_interleave=false is not supported"),
        (
            "deepseek-v3",
            {"v_head_dim": 64},
            "v_head_dim=64 is not supported\n  allowed: 128, which is qk_nope_head_dim",
        ),
        ("deepseek-v3", {"num_key_value_heads": 8}, "num_key_value_heads=8 .*\n  allowed: 128"),
        ("deepseek-v3", {"attention_bias": True}, "attention_bias=true"),
        ("deepseek-v3", {"scoring_func": "softmax"}, "scoring_func='softmax'"),
        ("deepseek-v3", {"topk_group": 9}, "num_chosen_groups=9 is more than num_groups=8"),
        ("deepseek-v3", {"n_group": 7}, "num_groups=7 does not divide num_experts=256"),
        ("deepseek-v2-lite", {"topk_method": "noaux_tc"}, "topk_method='noaux_tc'.*\n  allowed: greedy or group"),
        ("deepseek-v2-lite", {"norm_topk_prob": True}, "norm_topk_prob=true"),
        ("deepseek-v2-lite", {"moe_layer_freq": 2}, "moe_layer_freq=2"),
        (
            "deepseek-v2-lite",
            {"rope_parameters": {**CONFIGS["deepseek-v2-lite"]["rope_scaling"], "mscale_all_dim": 1.0, "mscale": 1.0}},
            "the mscale_all_dim of rope_parameters",
        ),
    ],
)
def test_what_is_not_supported_is_refused_by_name(name: str, changes: dict[str, Any], said: str):
    with pytest.raises(ModelError, match=said):
        read_config(CONFIGS[name] | changes)

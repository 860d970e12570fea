"""Mixtures of experts: Mixtral, Qwen 3 MoE, OLMoE and GLM 4.5, all of them Llama with experts as its networks."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

from thetahat.interop.families.llama import (
    ATTENTION,
    BIASES,
    DOWN,
    GATE_UP,
    LLAMA,
    NORMS,
    OUTER,
    OUTPUT,
    PLAIN,
    QUERY_KEY_NORMS,
    SHAPE,
)
from thetahat.interop.families.windows import UPPER, everywhere
from thetahat.interop.fields import Fields, Fixed, MisfitError, Pair, Plain, Value, refused
from thetahat.interop.layers import Layers, RopeNames
from thetahat.interop.names import Link
from thetahat.model.config import ExpertsConfig, ModelConfig

BEFORE = (*OUTER, *ATTENTION, OUTPUT, *NORMS)
INERT = ("output_router_logits", "router_aux_loss_coef", "router_jitter_noise")
EPSILON = Value("rms_norm_eps", "norm_epsilon", default=1e-5)
NORMALIZES = Value("norm_topk_prob", "experts.normalizes", default=False)


def _chosen(default: int) -> Value:
    return Value("num_experts_per_tok", "experts.num_chosen", default=default)


def _links(layer: str, gate: str, up: str, down: str) -> tuple[Link, ...]:
    """A router and its experts, of which each has three matrices of these names."""
    names = {"gate": gate, "up": up, "down": down}
    return (
        Link(f"{layer}.gate", "blocks.*.mlp.router"),
        *(Link(f"{layer}.experts.*.{theirs}", f"blocks.*.mlp.experts.*.{ours}") for ours, theirs in names.items()),
    )


OF_EXPERTS = _links("model.layers.*.mlp", "gate_proj", "up_proj", "down_proj")

CORRECTION = Link("model.layers.*.mlp.gate.e_score_correction_bias", "blocks.*.mlp.router.bias", keeps_dtype=True)
SHARED = tuple(
    Link(f"model.layers.*.mlp.shared_experts.{name}_proj", f"blocks.*.mlp.shared.{name}")
    for name in ("gate", "up", "down")
)


def _scored(scores: str, **others: Any) -> Fixed:
    """How scores are found; what is not named has its default, which is written nowhere."""
    fixed = {"scale": 1.0, "has_bias": False, "shared_width": 0, "num_dense": 0} | {"scores": scores} | others
    return Fixed({f"experts.{name}": value for name, value in fixed.items() if value is not None})


def _of(config: ModelConfig) -> ExpertsConfig:
    if config.experts is None:
        raise MisfitError("there are no experts")
    return config.experts


def _number(names: Sequence[str], default: int) -> Pair:
    """How many experts there are: versions of transformers differ in the field."""

    def reads(fields: Fields) -> Plain:
        given = {name: fields.number(name) for name in names if fields.get(name) is not None}
        if len(set(given.values())) > 1:
            first, second = list(given)[:2]
            raise refused(second, given[second], f"{given[first]}, which is {first}")
        return {"experts.num_experts": next(iter(given.values()), default)}

    return Pair(reads, lambda config: dict.fromkeys(names, _of(config).num_experts))


def _width(default: int) -> Pair:
    """The inner width of an expert, beside that of a network without experts."""

    def reads(fields: Fields) -> Plain:
        return {"experts.inner_width": fields.number("moe_intermediate_size", default)}

    return Pair(reads, lambda config: {"moe_intermediate_size": _of(config).inner_width or config.inner_width})


def _dense_of_qwen(fields: Fields) -> Plain:
    dense: Any = fields.get("mlp_only_layers", [])
    if not isinstance(dense, list) or cast("list[Any]", dense) != list(range(len(cast("list[Any]", dense)))):
        raise refused("mlp_only_layers", dense, "the first layers: [0, 1, ...]")
    return {"experts.num_dense": len(cast("list[Any]", dense))}


def _shared_of_glm(fields: Fields) -> Plain:
    number, width = fields.number("n_shared_experts", 1), fields.number("moe_intermediate_size", 1408)
    return {"experts.shared_width": number * width}


def _written_shared(config: ModelConfig) -> Plain:
    experts = _of(config)
    number, rest = divmod(experts.shared_width, experts.inner_width or config.inner_width)
    if rest or not number:
        raise MisfitError(f"experts.shared_width={experts.shared_width}")
    return {"n_shared_experts": number}


MIXTRAL = replace(
    LLAMA,
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    parts=(
        *(*SHAPE, EPSILON, PLAIN, _number(("num_local_experts",), 8), _chosen(2)),
        _scored("softmax", normalizes=True),
        Layers(RopeNames(default=1e6), everywhere(None)),
    ),
    links=(*BEFORE, *_links("model.layers.*.block_sparse_moe", "w1", "w3", "w2")),
    inert=INERT,
)
QWEN3_MOE = replace(
    LLAMA,
    model_type="qwen3_moe",
    architecture="Qwen3MoeForCausalLM",
    parts=(
        *(*SHAPE, Fixed({"attention.query_key_norm": "head"}), BIASES),
        *(_number(("num_experts", "num_local_experts"), 128), _chosen(8), _width(768), NORMALIZES),
        _scored("softmax", num_dense=None),
        Pair(_dense_of_qwen, lambda config: {"mlp_only_layers": list(range(_of(config).num_dense))}),
        Layers(windows=UPPER),
    ),
    links=(*BEFORE, *GATE_UP, DOWN, *QUERY_KEY_NORMS, *OF_EXPERTS),
    assumed={"decoder_sparse_step": 1},
    inert=INERT,
)
OLMOE = replace(
    LLAMA,
    model_type="olmoe",
    architecture="OlmoeForCausalLM",
    parts=(
        *(*SHAPE, EPSILON, Fixed({"attention.query_key_norm": "joined"}), BIASES),
        *(_number(("num_experts", "num_local_experts"), 64), _chosen(8), NORMALIZES, _scored("softmax")),
        Layers(),
    ),
    links=(*BEFORE, *QUERY_KEY_NORMS, *OF_EXPERTS),
    assumed={"clip_qkv": None},
    inert=INERT,
)
GLM4_MOE = replace(
    LLAMA,
    model_type="glm4_moe",
    architecture="Glm4MoeForCausalLM",
    parts=(
        *(*SHAPE, EPSILON, Value("attention_bias", "attention.has_bias", default=False)),
        Value("use_qk_norm", "attention.query_key_norm", default=False, choices={False: "none", True: "head"}),
        *(_number(("n_routed_experts", "num_local_experts"), 128), _chosen(8), _width(1408)),
        Value("norm_topk_prob", "experts.normalizes", default=True),
        Value("routed_scaling_factor", "experts.scale", default=1.0),
        Value("first_k_dense_replace", "experts.num_dense", default=1),
        _scored("sigmoid", has_bias=True, scale=None, shared_width=None, num_dense=None),
        Pair(_shared_of_glm, _written_shared),
        Layers(RopeNames(share="partial_rotary_factor", share_default=0.5)),
    ),
    links=(
        *(*BEFORE, *GATE_UP, DOWN, *QUERY_KEY_NORMS, *OF_EXPERTS),
        *(CORRECTION, *SHARED),
    ),
    assumed={"n_group": 1, "topk_group": 1},
    inert=(*INERT, "num_nextn_predict_layers"),
    passengers=("model.layers.46.*", "model.layers.92.*"),  # of GLM 4.5 Air and GLM 4.5, to predict the second token
)

"""DeepSeek-V2 and V3, and what has V3's shape (Moonlight): latent attention, and experts behind some dense layers."""

from collections.abc import Callable
from dataclasses import replace
from math import isfinite, log, sqrt
from typing import Any, cast

from thetahat.interop.families.experts import CORRECTION, INERT, OF_EXPERTS, SHARED
from thetahat.interop.families.llama import DOWN, GATE_UP, LLAMA, NORMS, OUTER, OUTPUT, SIZES
from thetahat.interop.family import ACTIVATIONS
from thetahat.interop.fields import MOST_LAYERS, Fields, MisfitError, Pair, Plain, Value, refused
from thetahat.interop.layers import FULL, RopeNames, resolved, rotaries, written_rotaries
from thetahat.interop.names import Link
from thetahat.model.config import ExpertsConfig, LatentMixer, ModelConfig, Rotary, YarnScaling
from thetahat.model.layers.rope import attention_factor

_EPSILON = 1e-6  # of the norms of latents, whatever that of the others
_ROPE = RopeNames()


def _read_heads(fields: Fields) -> Plain:
    number = fields.number("num_attention_heads")
    if (groups := fields.get("num_key_value_heads", number)) != number:
        raise refused("num_key_value_heads", groups, f"{number}, which is num_attention_heads")
    return {"num_kv_heads": number}


def _read_attention(fields: Fields) -> Plain:
    queries = fields.or_default("q_lora_rank", 1536)
    rotary_width = fields.number("qk_rope_head_dim", 64)
    mixer = {
        "kind": "latent",
        "positions": rotaries(_ROPE, fields)[FULL],
        "latent_width": fields.number("kv_lora_rank", 512),
        "query_width": None if queries is None else fields.number("q_lora_rank", 1536),
        "rotary_width": rotary_width,
        "norm_epsilon": _EPSILON,
    }
    return {
        "layers": [mixer],
        "attention.scale": _read_scale(fields, fields.number("qk_nope_head_dim", 128) + rotary_width),
    }


def _read_scale(fields: Fields, key_width: int) -> float | None:
    """What scores are multiplied by; in both spellings of the rotary positions, if there are both."""
    given = [fields.get(name) for name in ("rope_parameters", "rope_scaling")]
    scales = [_scale(cast(Plain, one), key_width) for one in given if isinstance(one, dict) and one]
    if len(set(scales)) > 1:
        raise refused("rope_scaling", given[1], "the mscale_all_dim of rope_parameters")
    return scales[0] if scales else None


def _scale(given: Plain, key_width: int) -> float | None:
    factor, scale_all = given.get("factor"), given.get("mscale_all_dim")
    if not (isinstance(scale_all, int | float) and isinstance(factor, int | float) and scale_all and factor > 1):
        return None
    scale = key_width**-0.5 * _stretch(scale_all, float(factor)) * _stretch(scale_all, float(factor))
    if not isfinite(scale):
        raise refused("mscale_all_dim", scale_all, "a number")
    return scale


def _stretch(scale: float, factor: float) -> float:
    return 0.1 * scale * log(factor) + 1


def _written_attention(config: ModelConfig) -> Plain:
    mixers = config.attentions_of(config.num_layers)
    mixer = mixers[0] if mixers else None
    if len(mixers) < config.num_layers or not isinstance(mixer, LatentMixer) or len(set(mixers)) > 1:
        raise MisfitError("layers other than latent attention of one kind")
    if mixer.distance is not None:
        raise MisfitError("layers with a window")
    if (epsilon := mixer.norm_epsilon or config.norm_epsilon) != _EPSILON:
        raise MisfitError(f"norms of latents with norm_epsilon={epsilon}, where theirs have {_EPSILON}")
    if not isinstance(mixer.positions, Rotary):
        raise MisfitError("no layer with rotary positions")
    written = written_rotaries(_ROPE, config, mixers)
    scaling = resolved(mixer.positions, config).scaling
    if config.attention.scale is not None and isinstance(scaling, YarnScaling) and scaling.factor > 1:
        scales = _written_scales(config.attention.scale, scaling, config.key_width(mixer))
        for name in ("rope_scaling", "rope_parameters"):
            written[name] = {**written[name], **scales}
    sizes = {"kv_lora_rank": mixer.latent_width, "q_lora_rank": mixer.query_width}
    return {**written, **sizes, "qk_rope_head_dim": mixer.rotary_width}


def _written_scales(scale: float, scaling: YarnScaling, key_width: int) -> Plain:
    """`mscale_all_dim` for the scale of scores, and `mscale` for that of cosines and sines, which is a quotient."""
    factor, slope = scaling.factor, 0.1 * log(scaling.factor)
    root = sqrt(scale * sqrt(key_width))
    scale_all = _shortest(
        (root - 1) / slope, lambda x: key_width**-0.5 * _stretch(x, factor) * _stretch(x, factor), scale
    )
    if scale_all == 0:
        return {}
    wanted = attention_factor(scaling)
    own = _shortest((wanted * root - 1) / slope, lambda x: _stretch(x, factor) / _stretch(scale_all, factor), wanted)
    found: Plain = {"mscale": own, "mscale_all_dim": scale_all}
    is_exact = _stretch(own, factor) / _stretch(scale_all, factor) == wanted and own != 0
    return found | ({"attention_factor": None} if is_exact else {"attention_factor": wanted})


def _shortest(near: float, of: Callable[[float], float], wanted: float) -> float:
    """The number of fewest digits beside `near` of which this is what is wanted, or `near`."""
    tried = [float(f"{near:.{digits}g}") for digits in range(1, 18)]
    return next((x for x in tried if of(x) == wanted), near)


def _experts(
    fixed: Plain,
    defaults: Plain,
    groups: tuple[Callable[[Fields], Plain], Callable[[ExpertsConfig], Plain]],
) -> Pair:
    """Experts behind the first dense layers, with `fixed` keys of ours; none where all layers are dense.

    `defaults` are those of absent fields, and `groups` reads and writes what is said of groups.
    """

    def reads(fields: Fields) -> Plain:
        num_layers = fields.number("num_hidden_layers", most=MOST_LAYERS)
        dense = fields.get("first_k_dense_replace", defaults["first_k_dense_replace"])
        if not isinstance(dense, int) or isinstance(dense, bool) or dense < 0:
            raise refused("first_k_dense_replace", dense, "a number of layers")
        names = ("n_routed_experts", "num_experts_per_tok", "moe_intermediate_size", "n_shared_experts")
        number, chosen, inner, shared = (fields.number(name, defaults[name]) for name in names)
        found: Plain = {
            "num_experts": number,
            "num_chosen": chosen,
            "inner_width": inner,
            "shared_width": inner * shared,
            "scale": fields.get("routed_scaling_factor", defaults["routed_scaling_factor"]),
            "num_dense": dense,
        }
        found |= fixed | groups[0](fields)
        return {"experts": None if dense >= num_layers else found}

    def writes(config: ModelConfig) -> Plain:
        if (experts := config.experts) is None:
            return {"first_k_dense_replace": config.num_layers}
        inner = experts.inner_width or config.inner_width
        number, rest = divmod(experts.shared_width, inner)
        if rest or not number:
            raise MisfitError(f"experts.shared_width={experts.shared_width}")
        return {
            "n_routed_experts": experts.num_experts,
            "num_experts_per_tok": experts.num_chosen,
            "moe_intermediate_size": inner,
            "n_shared_experts": number,
            "routed_scaling_factor": experts.scale,
            "first_k_dense_replace": experts.num_dense,
            **groups[1](experts),
        }

    return Pair(reads, writes)


def _grouped(fields: Fields, number: int, chosen: int, score: str) -> Plain:
    """Groups of experts; what is said of one alone changes nothing."""
    number, chosen = fields.number("n_group", number), fields.number("topk_group", chosen)
    if number == 1:
        return {}
    return {"num_groups": number, "num_chosen_groups": chosen, "group_score": score}


def _written_groups(experts: ExpertsConfig) -> Plain:
    return {"n_group": experts.num_groups, "topk_group": experts.num_chosen_groups}


def _read_of_v3(fields: Fields) -> Plain:
    normalizes = {"normalizes": fields.get("norm_topk_prob", default=True)}
    return normalizes | _grouped(fields, 8, 4, "best-two")


def _written_of_v3(experts: ExpertsConfig) -> Plain:
    return {**_written_groups(experts), "norm_topk_prob": experts.normalizes}


def _read_of_v2(fields: Fields) -> Plain:
    method: Any = fields.get("topk_method", "greedy")
    if method not in ("greedy", "group_limited_greedy"):
        raise refused("topk_method", method, "greedy or group_limited_greedy")
    grouped = _grouped(fields, 1, 1, "best")
    return grouped if method != "greedy" else {}


def _written_of_v2(experts: ExpertsConfig) -> Plain:
    return {**_written_groups(experts), "topk_method": "greedy" if experts.num_groups == 1 else "group_limited_greedy"}


_PARTS = (
    *SIZES,
    Value(("qk_nope_head_dim", "v_head_dim"), "head_width", default=128),
    Value("rms_norm_eps", "norm_epsilon", default=1e-6),
    Value("tie_word_embeddings", "ties_embeddings", default=False),
    Value("hidden_act", "mlp.activation", default="silu", choices=ACTIVATIONS),
    Pair(_read_heads, lambda config: {"num_key_value_heads": config.num_heads}),
    Pair(_read_attention, _written_attention),
)
_ATTENTION = "model.layers.*.self_attn"
_QUERY = "blocks.*.attention.query"
_LINKS = (
    *(*OUTER, *NORMS, *GATE_UP, DOWN, OUTPUT, *SHARED),
    *(replace(link, keeps_dtype=link.ours.endswith("router")) for link in OF_EXPERTS if isinstance(link.ours, str)),
    Link(f"{_ATTENTION}.q_a_proj", f"{_QUERY}_latent"),
    Link(f"{_ATTENTION}.q_a_layernorm", f"{_QUERY}_latent_norm"),
    Link(f"{_ATTENTION}.q_b_proj", _QUERY, "rotary_heads"),
    Link(f"{_ATTENTION}.q_proj", _QUERY, "rotary_heads", without=f"{_QUERY}_latent"),
    Link(f"{_ATTENTION}.kv_a_proj_with_mqa", ("blocks.*.attention.rotary_key", "blocks.*.attention.latent"), "rotary"),
    Link(f"{_ATTENTION}.kv_a_layernorm", "blocks.*.attention.latent_norm"),
    Link(f"{_ATTENTION}.kv_b_proj", ("blocks.*.attention.key", "blocks.*.attention.value"), "heads"),
)
_INERT = (*INERT, "head_dim", "qk_head_dim", "ep_size", "seq_aux", "aux_loss_alpha", "num_nextn_predict_layers")

DEEPSEEK_V3 = replace(
    LLAMA,
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    parts=(
        *_PARTS,
        _experts(
            {"scores": "sigmoid", "has_bias": True},
            {"first_k_dense_replace": 3, "n_routed_experts": 256, "num_experts_per_tok": 8, "n_shared_experts": 1}
            | {"moe_intermediate_size": 2048, "routed_scaling_factor": 2.5},
            (_read_of_v3, _written_of_v3),
        ),
    ),
    links=(*_LINKS, CORRECTION),
    assumed={
        **{"attention_bias": False, "rope_interleave": True, "moe_layer_freq": 1},
        **{"scoring_func": "sigmoid", "topk_method": "noaux_tc"},
    },
    inert=(*_INERT, "num_mtp_layers"),
    written={"rope_interleave": True, "scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1},
    passengers=("model.layers.61.*",),  # to predict the second token
)
DEEPSEEK_V2 = replace(
    LLAMA,
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    parts=(
        *_PARTS,
        _experts(
            {"scores": "softmax", "has_bias": False, "normalizes": False},
            {"first_k_dense_replace": 0, "n_routed_experts": 64, "num_experts_per_tok": 6, "n_shared_experts": 2}
            | {"moe_intermediate_size": 1407, "routed_scaling_factor": 1.0},
            (_read_of_v2, _written_of_v2),
        ),
    ),
    links=_LINKS,
    assumed={
        **{"attention_bias": False, "mlp_bias": False, "norm_topk_prob": False, "moe_layer_freq": 1},
        **{"scoring_func": "softmax"},
    },
    inert=_INERT,
    written={"scoring_func": "softmax", "moe_layer_freq": 1, "norm_topk_prob": False},
)

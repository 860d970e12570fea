"""Small models of every family, as transformers makes and saves them, and how they are asked."""

import json
import types
import warnings
from functools import cache, partial

import torch
from safetensors.torch import load_file, save_file

from tests.model.test_families import laid
from thetahat.core.batch import Inputs, Source
from thetahat.interop.folder import load_folder, open_folder
from thetahat.model.build import build_model
from thetahat.model.config import EncoderConfig, EncoderDecoderConfig, Rotary
from thetahat.model.init import allocate
from thetahat.model.layers.rope import rotation_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import transformers
    from transformers.models.modernbert import modeling_modernbert

transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

V = 97
SIZES = {
    "vocab_size": V,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 258,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
PAIR = {
    "vocab_size": V,
    "d_model": 48,
    "d_kv": 10,
    "d_ff": 80,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 6,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "decoder_start_token_id": 0,
}
BART = {
    "vocab_size": V,
    "d_model": 48,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 6,
    "decoder_attention_heads": 6,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 258,
    "decoder_start_token_id": 2,
}
MIXED = {"moe_intermediate_size": 24, "num_experts_per_tok": 2}
WINDOW = {"head_dim": 16, "query_pre_attn_scalar": 24, "sliding_window": 5}


def rope(kind, base=1e4, **scaling):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": base, **scaling}}


LLAMA3 = rope("llama3", 5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=16)
YARN = rope("yarn", factor=4.0, original_max_position_embeddings=32)
_SPLIT = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MODELS = {  # name: (class of the model, class of the config, its fields)
    "llama": ("LlamaForCausalLM", "LlamaConfig", GROUPED),
    "llama_tied_scaled": ("LlamaForCausalLM", "LlamaConfig", {**GROUPED, **LLAMA3, "tie_word_embeddings": True}),
    "llama_biases_linear": (
        "LlamaForCausalLM",
        "LlamaConfig",
        {**GROUPED, **rope("linear", factor=4.0), "attention_bias": True, "mlp_bias": True, "head_dim": 16},
    ),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**GROUPED, "tie_word_embeddings": True}),
    "qwen2_windows": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        {**GROUPED, **YARN, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, "head_dim": 16}),
    "qwen3_biases": ("Qwen3ForCausalLM", "Qwen3Config", {**GROUPED, **YARN, "head_dim": 8, "attention_bias": True}),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": 5}),
    "mistral_whole": ("MistralForCausalLM", "MistralConfig", {**GROUPED, "sliding_window": None, "head_dim": 16}),
    "smollm3": ("SmolLM3ForCausalLM", "SmolLM3Config", {**GROUPED, "num_hidden_layers": 4}),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**GROUPED, **rope("default", partial_rotary_factor=0.5)}),
    "phi3_window": ("Phi3ForCausalLM", "Phi3Config", {**GROUPED, "sliding_window": 5}),
    "olmo2": ("Olmo2ForCausalLM", "Olmo2Config", GROUPED),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", {**GROUPED, "num_local_experts": 5, "num_experts_per_tok": 3}),
    "qwen3_moe": (
        *("Qwen3MoeForCausalLM", "Qwen3MoeConfig"),
        {**GROUPED, **MIXED, "num_experts": 6, "head_dim": 16, "norm_topk_prob": True, "mlp_only_layers": [0]},
    ),
    "olmoe": ("OlmoeForCausalLM", "OlmoeConfig", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
    "glm4_moe": (
        *("Glm4MoeForCausalLM", "Glm4MoeConfig"),
        {**GROUPED, **MIXED, "n_routed_experts": 6, "n_shared_experts": 2, "routed_scaling_factor": 1.5}
        | {"head_dim": 16, "use_qk_norm": True, "attention_bias": True, "n_group": 1, "topk_group": 1},
    ),
    "gemma2": ("Gemma2ForCausalLM", "Gemma2Config", {**GROUPED, **WINDOW}),
    "gemma3": ("Gemma3ForCausalLM", "Gemma3TextConfig", {**GROUPED, **WINDOW, **_SPLIT}),
    "gemma3_scaled": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {
            **GROUPED,
            **WINDOW,
            "num_hidden_layers": 7,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
            },
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": V, "n_embd": 48, "n_layer": 3, "n_head": 6, "n_positions": 258},
    ),
    "gpt2_narrow_relu": (
        "GPT2LMHeadModel",
        "GPT2Config",
        {
            **{"vocab_size": V, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 258, "n_inner": 40},
            "activation_function": "relu",
        },
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**SIZES, **rope("default", partial_rotary_factor=0.5)}),
    "gpt_neox_in_turn": ("GPTNeoXForCausalLM", "GPTNeoXConfig", {**SIZES, "use_parallel_residual": False}),
    "bert": ("BertForPreTraining", "BertConfig", SIZES),
    "bert_bare": ("BertModel", "BertConfig", {**SIZES, "type_vocab_size": 3, "hidden_act": "gelu_new"}),
    "roberta": ("RobertaForMaskedLM", "RobertaConfig", {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}),
    "xlm_roberta": ("XLMRobertaForMaskedLM", "XLMRobertaConfig", {**SIZES, "pad_token_id": 1, "type_vocab_size": 1}),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**{"vocab_size": V, "dim": 48, "hidden_dim": 80, "n_layers": 3, "n_heads": 6}, "max_position_embeddings": 258},
    ),
    "electra": ("ElectraForMaskedLM", "ElectraConfig", {**SIZES, "embedding_size": 24}),
    "electra_wide": ("ElectraForMaskedLM", "ElectraConfig", {**SIZES, "embedding_size": 48}),
    "albert": ("AlbertForMaskedLM", "AlbertConfig", {**SIZES, "embedding_size": 24}),
    "modernbert": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {**SIZES, "num_hidden_layers": 4, "local_attention": 6, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "modernbert_biases": (
        "ModernBertForMaskedLM",
        "ModernBertConfig",
        {
            **{**SIZES, "cls_token_id": 1, "sep_token_id": 2, "attention_bias": True, "mlp_bias": True},
            **{"norm_bias": True, "classifier_bias": True, "decoder_bias": False, "global_attn_every_n_layers": 2},
        },
    ),
    "t5": ("T5ForConditionalGeneration", "T5Config", PAIR),
    "t5_1.1": (
        "T5ForConditionalGeneration",
        "T5Config",
        {**PAIR, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    ),
    "mt5": ("MT5ForConditionalGeneration", "MT5Config", {**PAIR, "feed_forward_proj": "gated-gelu"}),
    "bart": ("BartForConditionalGeneration", "BartConfig", BART),
    "mbart": ("MBartForConditionalGeneration", "MBartConfig", {**BART, "scale_embedding": True}),
    "marian": (
        "MarianMTModel",
        "MarianConfig",
        {**BART, "pad_token_id": 96, "scale_embedding": True, "activation_function": "swish"},
    ),
}


def _like(name, kind=None, **fields):
    model, config, own = MODELS[name]
    return kind or model, config, {**own, **fields}


_HALF = {"beta_fast": 16.0, "beta_slow": 2.0, "attention_factor": 1.3, "truncate": False}
_SLIDING = {"use_sliding_window": True, "sliding_window": 5}
VARIANTS = {  # rarer choices, tried by the slow tests
    **{
        f"{name}_untied": _like(name, tie_word_embeddings=False) for name in ("gpt2", "modernbert", "electra", "gemma2")
    },
    **{f"{name}_tied": _like(name, tie_word_embeddings=True) for name in ("phi3", "olmo2", "gpt_neox", "qwen3")},
    "gpt_neox_without_biases": _like("gpt_neox", attention_bias=False, hidden_act="gelu_new"),
    "smollm3_windows": _like("smollm3", **_SLIDING),
    "qwen3_windows": _like("qwen3", **_SLIDING, max_window_layers=2),
    "gemma2_without_caps": _like("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None),
    "olmo2_biases": _like("olmo2", **YARN, attention_bias=True),
    "llama_gelu": _like("llama", hidden_act="gelu", num_key_value_heads=6),
    "llama_yarn": _like("llama", **rope("yarn", factor=4.0, original_max_position_embeddings=32, **_HALF)),
    "llama_mscale": _like(
        "llama", **rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.7, mscale_all_dim=0.9)
    ),
    "bert_relu": _like("bert", hidden_act="relu", layer_norm_eps=1e-5),
    "t5_silu": _like("t5", feed_forward_proj="gated-silu"),
    "t5_gelu": _like("t5", feed_forward_proj="gelu_new"),
    "bart_scaled": _like("bart", scale_embedding=True, activation_function="relu"),
    "roberta_bare": _like("roberta", "RobertaModel"),
    "electra_bare": _like("electra", "ElectraModel"),
    "albert_bare": _like("albert", "AlbertModel"),
    "distilbert_bare": _like("distilbert", "DistilBertModel"),
    "modernbert_bare": _like("modernbert", "ModernBertModel"),
}
UNTIED = {"t5_1.1", "mt5"}  # a class of theirs ties these as long as they are random


@torch.no_grad()
def made(name):
    """A model of theirs in which every parameter has values of its own."""
    kind, config, fields = (MODELS | VARIANTS)[name]
    torch.manual_seed(0)
    model = getattr(transformers, kind)(getattr(transformers, config)(**fields))
    if name in UNTIED:
        model.lm_head.weight = torch.nn.Parameter(torch.empty(V, fields["d_model"]))
    generator = torch.Generator().manual_seed(1)
    draw = partial(torch.randn, generator=generator)
    for where, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue  # sines
        if parameter.ndim < 2:
            is_gain = where.endswith("weight")
            parameter.copy_(draw(parameter.shape) * 0.2 + (parameter if is_gain else 0))
        elif "relative_attention_bias" in where:
            parameter.copy_(draw(parameter.shape))
        else:
            is_table = any(part in where for part in ("emb", "wte", "wpe", "shared", "lm_head"))
            scale = 10**-0.5 if where.endswith("Attention.q.weight") else 1.0  # T5's scores have no scale of their own
            parameter.copy_(draw(parameter.shape) * (0.5 if is_table else scale * parameter.shape[-1] ** -0.5))
    for where, buffer in model.named_buffers():
        if where.endswith("e_score_correction_bias"):
            buffer.copy_(draw(buffer.shape) * 0.2)
    if name == "marian":
        model.final_logits_bias.copy_(draw(model.final_logits_bias.shape))
    return model.eval()


@cache
def saved(name, root):
    """A model of theirs and its folder, made once."""
    model = made(name)
    model.save_pretrained(root / name)
    return model, root / name


def loaded(path, dtype=torch.float32):
    folder = open_folder(path)
    model = build_model(folder.config, folder.vocab_size)
    allocate(model, dtype=dtype)
    load_folder(model, folder)
    return folder, model.eval()


def tokens(length, rows=2, seed=3):
    return torch.randint(3, 90, (rows, length), generator=torch.Generator().manual_seed(seed))


def asked(config, texts, sources, rows=None):
    """Our inputs of texts, and of sources where the model reads some, each in its own row or laid into `rows`."""
    rows = list(range(len(texts))) if rows is None else rows
    inputs, places = laid(texts, rows, is_causal=not isinstance(config, EncoderConfig))
    if not isinstance(config, EncoderDecoderConfig):
        return inputs, places
    source, _ = laid(sources, rows, is_causal=False)
    return Inputs(inputs.tokens, inputs.position, inputs.visibility, Source(source, inputs.visibility.piece)), places


@torch.no_grad()
def ours(folder, model, texts, sources, rows=None):
    """Logits of each text, or its hidden states where there is no head."""
    inputs, places = asked(folder.config, texts, sources, rows)
    states = model.hidden(inputs)
    return [(model.head(states) if folder.has_head else states)[place] for place in places]


@torch.no_grad()
def theirs(model, texts, sources):
    found = []
    for text, source in zip(texts, sources, strict=True):
        read = {"input_ids": torch.tensor([text])}
        if model.config.is_encoder_decoder:
            read = {"input_ids": torch.tensor([source]), "decoder_input_ids": torch.tensor([text])}
        output = model(**read)
        found.append(next(output[key] for key in output if "logits" in key or key == "last_hidden_state")[0])
    return found


def distance(one, other):
    """The largest difference, in standard deviations of the second."""
    pairs = zip(one, other, strict=True)
    return max(((a - b).abs().max() / b.std()).item() for a, b in pairs)


def lift(model, folder, monkeypatch):
    """Takes the casts to float32 out of a model of theirs, and makes it float64."""
    config = folder.config
    model.double()
    if config.experts is not None:
        model.set_experts_implementation("eager")  # the other knows no float64
    for module in model.modules():
        kind = type(module).__name__
        if "ScaledWordEmbedding" in kind and isinstance(module.embed_scale, torch.Tensor):  # Gemma's
            module.embed_scale = torch.tensor(config.width**0.5, dtype=torch.float64)
        if kind.endswith("RMSNorm") or kind in {"T5LayerNorm", "MT5LayerNorm"}:
            module.forward = types.MethodType(_norm, module)
        if kind.lower().endswith("topkrouter"):
            module.forward = types.MethodType(_routed, module)
        if "SinusoidalPositionalEmbedding" in kind:
            module.weight.data = _sines(*module.weight.shape)

    with_exact_angles(model, folder)

    def rotated(q, k, cos, sin, unsqueeze_dim=1):
        half = modeling_modernbert.rotate_half
        cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
        return q * cos + half(q) * sin, k * cos + half(k) * sin

    monkeypatch.setattr(modeling_modernbert, "apply_rotary_pos_emb", rotated)
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda x, dim, dtype=None: x.softmax(dim))
    return model


def with_exact_angles(model, folder):
    """A model of theirs whose rotary angles are made in float64, as ours are."""
    for module in model.modules():
        if "RotaryEmbedding" in type(module).__name__:
            module.forward = partial(_angles, folder.config)
    return model


def _routed(self, hidden):
    """A router of theirs without its casts."""
    logits = torch.nn.functional.linear(hidden.reshape(-1, self.hidden_dim), self.weight)
    bias = getattr(self, "e_score_correction_bias", None)
    scores = logits.softmax(-1) if bias is None else logits.sigmoid()
    chosen = torch.topk(scores if bias is None else scores + bias, self.top_k, dim=-1).indices
    weights = scores.gather(-1, chosen)
    if getattr(self, "norm_topk_prob", True):
        weights = weights / weights.sum(-1, keepdim=True)
    return logits, weights * getattr(self, "routed_scaling_factor", 1.0), chosen


def _norm(self, x):
    epsilon = getattr(self, "variance_epsilon", None) or self.eps
    gain = 1 + self.weight if type(self).__name__.startswith("Gemma") else self.weight
    return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + epsilon) * gain


def _sines(number, width):
    angles = torch.arange(number).double()[:, None] / 10_000 ** (torch.arange(0, width, 2).double() / width)
    return torch.cat([angles.sin(), angles.cos()], -1)


def _angles(config, x, position_ids, layer_type=None):
    mixers = [mixer for mixer in config.layers if isinstance(mixer.positions, Rotary)]
    kinds = {"full_attention" if mixer.distance is None else "sliding_attention": mixer.positions for mixer in mixers}
    rotary = kinds.get(layer_type) or mixers[0].positions
    cos, sin = rotation_of(position_ids, config.head_width, rotary, config.rope_base, x.dtype)
    return torch.cat([cos, cos], -1)[:, :, 0], torch.cat([sin, sin], -1)[:, :, 0]


def without_dropout(model):
    """A model of theirs in training, whose draws drop nothing."""
    for module in model.train().modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model


def renamed(path, change):
    """Writes the tensors of a folder under other names; None: left out."""
    tensors = load_file(path / "model.safetensors")
    named = {change(name): tensor for name, tensor in tensors.items()}
    named.pop(None, None)
    save_file(named, path / "model.safetensors", metadata={"format": "pt"})


def described(path):
    return json.loads((path / "config.json").read_text())

"""A family of models, as data that is used in both directions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, final

from thetahat.interop.fields import Part
from thetahat.interop.names import Link
from thetahat.model.config import ModelConfig


@final
@dataclass(frozen=True, kw_only=True)
class Family:
    """How models of one `model_type` are described and named, and what of a folder is not the model's.

    Patterns are those of fnmatch.
    """

    model_type: str
    kind: type[ModelConfig]
    architecture: str  # with the head of a language model
    bare: str = ""  # without; empty where such a folder is no model of ours
    also: tuple[str, ...] = ()  # further architectures that hold the one with a head
    parts: tuple[Part, ...]
    links: tuple[Link, ...]
    prefix: str = ""  # of all names but the head's; files of bare models are without it, and some others
    context: str = "max_position_embeddings"  # the field that says for how many positions it was trained
    assumed: Mapping[str, Any] = field(default_factory=dict[str, Any])  # fields that must have this value, if any
    inert: tuple[str, ...] = ()  # patterns of fields that change nothing about what the model computes
    written: Mapping[str, Any] = field(default_factory=dict[str, Any])  # inert fields that are written all the same
    leftovers: tuple[str, ...] = ()  # patterns of tensors that are computed or constant, and so left out
    passengers: tuple[str, ...] = ()  # patterns of tensors that are carried along unused
    zeros: tuple[str, ...] = ()  # passengers that must be zero, and are written as [1 V] where there are none
    copies: Mapping[str, str] = field(default_factory=dict[str, str])  # second names that files have for a tensor
    doubles: tuple[str, ...] = ()  # copies that are written, since readers of version 4 begin with zeros without them
    bare_parts: tuple[Part, ...] = ()  # what a bare model has in place of `head_parts`
    head_parts: tuple[Part, ...] = ()
    unties_by_file: bool = False  # a head in the file that is no copy of the embedding counts, whatever is said

    @property
    def architectures(self) -> tuple[str, ...]:
        """Those whose folders are read."""
        return tuple(filter(None, (self.architecture, *self.also, self.bare)))


GAIN_NAMES = {".gamma": ".weight", ".beta": ".bias"}
"""How the parameters of norms were called in files converted from TensorFlow."""

BOOKKEEPING = (
    *("model_type", "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path", "name_or_path"),
    *("use_cache", "vocab_size", "id2label", "label2id", "num_labels", "problem_type", "finetuning_task"),
    *("return_dict", "output_hidden_states", "output_attentions", "torchscript", "use_bfloat16", "tf_legacy_loss"),
    *("task_specific_params", "tokenizer_class", "gradient_checkpointing", "initializer_range", "init_std"),
    *("initializer_factor", "chunk_size_feed_forward", "attn_implementation", "_attn_implementation"),
    *("_attn_implementation_autoset", "_commit_hash", "_from_model_config", "use_flash_attn", "pretraining_tp"),
    *(
        "unsloth_version",
        "unsloth_fixed",
        "_num_labels",
        "xla_device",
        "_flash_attn_2_enabled",
        "transformers.js_config",
        "*dropout*",
        "*pdrop",
        "*layerdrop",
    ),
    *("summary_*", "n_ctx", "classifier_pooling", "is_encoder_decoder", "output_past"),
)
"""Fields of any family that say where a file comes from, how it was trained or how it is run."""

GENERATION = (
    *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"),
    *("decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id", "unk_token_id", "prefix"),
    *("max_length", "min_length", "max_new_tokens", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
    *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty", "length_penalty"),
    *("no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids", "num_return_sequences"),
    *(
        "eos_token_ids",
        "min_new_tokens",
        "renormalize_logits",
        "output_scores",
        "return_dict_in_generate",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
    ),
    *("suppress_tokens", "begin_suppress_tokens", "cache_implementation"),
)
"""Fields of any family that say how text is generated; ids of special tokens are read apart."""

ASSUMED: Mapping[str, Any] = {
    "add_cross_attention": False,
    "cross_attention_hidden_size": None,
    "is_decoder": False,
    "pruned_heads": {},
    "tie_encoder_decoder": False,
}
"""Fields of any family that must have this value."""

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "relu": "relu",
}
"""Their name of an activation -> ours."""

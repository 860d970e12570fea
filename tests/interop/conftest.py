"""Small models with values of their own, and folders of them."""

import pytest
import torch

from thetahat.data.tokens.roles import Roles
from thetahat.interop.around import Around
from thetahat.interop.write import write_folder
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.init import initialize

SMALL = DecoderConfig(
    num_layers=2, width=16, num_heads=4, num_kv_heads=2, head_width=8, inner_width=24, rope_base=5e4
)  # Qwen 3's shape
TOKENIZER = """{
  "version": "1.0", "truncation": null, "padding": null, "normalizer": null, "post_processor": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
  "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": true},
  "added_tokens": [{"id": 3, "content": "<|endoftext|>", "single_word": false, "lstrip": false, "rstrip": false,
    "normalized": false, "special": true}],
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}
}
"""
AROUND = Around(
    roles=Roles(bos=3, eos=(3, 2)),
    context=64,
    tokenizer=TOKENIZER,
    templates={"default": "{{ messages[0].content }}", "tools": "{{ tools }}"},
)


def lively(config, vocab_size, dtype=torch.float32, seed=0):
    """A model in which no parameter has the value that others of its kind begin with."""
    model = build_model(config, vocab_size)
    initialize(model, seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.to(dtype)


@pytest.fixture(scope="session")
def small():
    return lively(SMALL, 11)


@pytest.fixture
def folder(tmp_path, small):
    write_folder(tmp_path / "model", dict(small.named_parameters()), SMALL, AROUND)
    return tmp_path / "model"

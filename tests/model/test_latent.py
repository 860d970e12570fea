"""Latent attention: packed, in trees, behind prefixes, and from a cache of latents."""

from typing import Any

import pytest
import torch
from msgspec.structs import replace

from tests.examples import TINY, lively, run_config
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import Visibility, visibility_of
from thetahat.distribution.mesh import MeshConfig
from thetahat.generation.rows import begin_decoding
from thetahat.model.adapters.config import LoRAConfig
from thetahat.model.adapters.lora import adapt
from thetahat.model.build import build_model
from thetahat.model.config import AttentionMixer, DecoderConfig, LatentMixer
from thetahat.model.memory import cache_bytes
from thetahat.model.transfer.config import TransferConfig
from thetahat.model.transfer.rule import fitted
from thetahat.run.together import refuse_division

VOCABULARY = 11
LATENT = LatentMixer(latent_width=6, query_width=5, rotary_width=4)
NEAR = LatentMixer(latent_width=5, rotary_width=2, distance=3, num_global=2)


def model_of(*mixers: Any) -> Any:
    return lively(build_model(replace(TINY, layers=mixers), VOCABULARY))


def logits(model: Any, tokens: torch.Tensor, position: torch.Tensor, seen: Visibility) -> torch.Tensor:
    with torch.no_grad():
        return model.head(model.hidden(Inputs(tokens[None], position[None], seen)))[0]


def alone(model: Any, tokens: torch.Tensor, num_open: int = 0) -> torch.Tensor:
    seen, place = visibility_of(torch.zeros(1, len(tokens), dtype=torch.int64)), torch.arange(len(tokens))
    return logits(model, tokens, place, replace_open(seen, place < num_open) if num_open else seen)


def replace_open(seen: Visibility, is_open: torch.Tensor) -> Visibility:
    return Visibility(seen.piece, seen.ancestors, is_open=is_open[None], lengths=seen.lengths)


def tokens_of(number: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (number,), generator=torch.Generator().manual_seed(number))


@pytest.mark.parametrize("mixers", [(LATENT,), (NEAR, LATENT)], ids=["full", "window and full"])
def test_packed_texts_have_the_bits_of_texts_of_their_own(mixers: Any):
    """Of the attention; a product of more rows may be another kernel's, so texts stand in rows of one length."""
    model, length = model_of(*mixers), 40
    text = tokens_of(3 * length)
    piece = torch.arange(3).repeat_interleave(length)
    packed = logits(model, text, torch.arange(length).repeat(3), visibility_of(piece[None]))
    for place, one in enumerate(text.split(length)):
        torch.testing.assert_close(packed[place * length :][:length], alone(model, one), rtol=1e-12, atol=1e-13)
    other = torch.cat([tokens_of(length), text[length:]])
    again = logits(model, other, torch.arange(length).repeat(3), visibility_of(piece[None]))
    assert torch.equal(again[length:], packed[length:])  # whatever stands before


@pytest.mark.parametrize("mixer", [LATENT, NEAR], ids=["full", "window"])
def test_branches_of_a_tree_are_read_as_texts_of_their_own(mixer: Any):
    model, text = model_of(mixer), tokens_of(17)
    trunk, left, right = text[:7], text[7:11], text[11:]
    piece = torch.tensor([0] * 7 + [1] * 4 + [2] * 6)
    position = torch.cat([torch.arange(11), torch.arange(7, 13)])
    found = logits(model, text, position, visibility_of(piece[None], torch.tensor([-1, 0, 0])))
    for here, branch in ((slice(7, 11), left), (slice(11, 17), right)):
        torch.testing.assert_close(found[here], alone(model, torch.cat([trunk, branch]))[7:], rtol=1e-11, atol=1e-12)


def test_a_prefix_is_read_both_ways():
    model, text = model_of(LATENT), tokens_of(9)
    found = alone(model, text, num_open=4)
    changed = alone(model, torch.cat([text[:3], (text[3:4] + 1) % VOCABULARY, text[4:]]), num_open=4)
    assert bool((found[0] != changed[0]).any())
    later = alone(model, torch.cat([text[:4], (text[4:] + 1) % VOCABULARY]), num_open=4)
    torch.testing.assert_close(found[:4], later[:4], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    "mixers", [(LATENT,), (NEAR,), (LATENT, AttentionMixer(), NEAR)], ids=["full", "window", "in turn"]
)
def test_texts_of_several_lengths_are_continued_as_if_each_were_read_whole(mixers: Any):
    model = model_of(*mixers)
    texts = [tokens_of(number).tolist() for number in (13, 3, 21)]
    rows = begin_decoding(model, texts, context=40, max_tokens=9)
    with torch.no_grad():
        for turn in range(6):
            for text, found in zip(texts, rows.read(), strict=True):
                torch.testing.assert_close(found, alone(model, torch.tensor(text))[-1], rtol=1e-10, atol=1e-11)
            if turn == 2:
                rows.select([2, 0, 2])
                texts = [list(texts[row]) for row in (2, 0, 2)]
            for text in texts:
                text.append((3 * turn + len(text)) % VOCABULARY)
            rows.append([text[-1] for text in texts])


def test_under_an_adapter_it_is_continued_as_it_is_read():
    model = model_of(LATENT)
    adapt(model, LoRAConfig(rank=2), seed=0)
    model = lively(model)
    text = tokens_of(12)
    rows = begin_decoding(model, [text[:11].tolist()], context=20, max_tokens=4)
    with torch.no_grad():
        rows.read()
        rows.append([int(text[11])])
        torch.testing.assert_close(rows.read()[0], alone(model, text)[-1], rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("mixer", [LATENT, NEAR], ids=["full", "window"])
def test_a_cache_has_latents_and_the_rotated_key_alone(mixer: Any):
    model = model_of(mixer)
    rows = begin_decoding(model, [[1, 2, 3]], context=9, max_tokens=6)
    with torch.no_grad():
        rows.read()
    layers: Any = rows._cache.layers
    numbers = sum(one.keys.numel() + one.values.numel() + one.global_keys.numel() for one in layers)
    assert cache_bytes(model.config, 9, "float64") == 8 * numbers
    assert numbers == 2 * ((6 + 4) * 9 if mixer is LATENT else (5 + 2) * (3 + 2))


@pytest.mark.parametrize(
    ("pairs", "what"),
    [
        (["layers=[{kind='latent',rotary_width=3}]"], "rotary_width=4"),
        (["layers=[{kind='latent',latent_width=0}]"], "latent_width"),
        (["layers=[{kind='latent',positions={kind='rotary',share=0.5}}]"], "positions.share=1"),
        (["layers=[{kind='latent',num_global=3}]"], "without a distance"),
        (["layers=latent", "attention.has_bias=true"], "has_bias=false"),
        (["layers=latent,attention", "shares_layers=true"], "model.layers are not all alike"),
    ],
)
def test_what_cannot_be_is_refused(pairs: list[str], what: str):
    with pytest.raises(ConfigError, match=f"(?s){what}"):
        override(DecoderConfig(), pairs)


def test_ranks_do_not_divide_it_and_rates_do_not_carry_over():
    config = run_config(replace(TINY, layers=(LATENT,)))
    with pytest.raises(ConfigError, match=r"(?s)latent attention.*mesh\.shards"):
        refuse_division(config, build_model(config.model, VOCABULARY), MeshConfig(tensor=2))
    with pytest.raises(ConfigError, match=r"model\.layers=latent"):
        fitted(config.model, TransferConfig(width=3, num_layers=2))

"""Value embeddings, smear and shared keys: in trees, to the bit in packed rows, generated, computed again."""

from typing import Any

import pytest
import torch

from tests.examples import TINY, lively
from thetahat.core.batch import Inputs
from thetahat.core.config import override
from thetahat.core.errors import ConfigError
from thetahat.core.visibility import visibility_of
from thetahat.generation.rows import begin_decoding
from thetahat.model.attention.cache import Cache, LayerCache
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, EncoderDecoderConfig
from thetahat.model.memory import cache_bytes
from thetahat.model.stack import recompute

VOCABULARY = 11
VALUES, SMEAR, KEYS = "value_embeddings.every=1", "embedding.smear={}", "attention.sharing=2"
CHOICES = {
    "value embeddings": [VALUES],
    "smear": [SMEAR],
    "shared keys": [KEYS, "num_layers=4"],
    "shared keys, behind latent attention": [
        *(KEYS, "layers=[{kind='latent', latent_width=3, rotary_width=2}, {}, {}]", "num_layers=3")
    ],
    "all, between layers with a state": [
        *(VALUES, SMEAR, KEYS, "layers=1x linear, 2x attention, 1x delta, 2x attention", "num_layers=6")
    ],
}
each = pytest.mark.parametrize("choice", CHOICES)


def model_of(choice: str) -> Any:
    return lively(build_model(override(TINY, CHOICES[choice]), VOCABULARY))


def drawn(*lengths: int) -> list[torch.Tensor]:
    chance = torch.Generator().manual_seed(sum(lengths))
    return [torch.randint(VOCABULARY, (length,), generator=chance) for length in lengths]


def row_of(pieces: list[torch.Tensor], parents: list[int]) -> Inputs:
    """All pieces in one row, each at its place behind its parent, and padding behind them."""
    begins: list[int] = []
    for parent in parents:
        begins.append(begins[parent] + len(pieces[parent]) if parent >= 0 else 0)
    places = [begin + torch.arange(len(piece)) for begin, piece in zip(begins, pieces, strict=True)]
    piece = [torch.full((len(one),), number) for number, one in enumerate(pieces)] + [torch.full((2,), -1)]
    nothing = torch.zeros(2, dtype=torch.int64)
    seen = visibility_of(torch.cat(piece)[None], torch.tensor(parents))
    return Inputs(torch.cat([*pieces, nothing])[None], torch.cat([*places, nothing])[None], seen)


def alone(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    place = torch.arange(len(tokens))[None]
    return model.hidden(Inputs(tokens[None], place, visibility_of(torch.zeros_like(place))))[0]


@each
def test_branches_of_a_tree_are_read_as_texts_of_their_own(choice: str):
    model, pieces, parents = model_of(choice), drawn(4, 3, 1, 5, 2, 6), [-1, 0, 0, 2, -1, 3]
    with torch.no_grad():
        found = model.hidden(row_of(pieces, parents))[0].split([*map(len, pieces), 2])
        texts: list[torch.Tensor] = []
        for number, parent in enumerate(parents):
            texts.append(torch.cat([*texts[parent : parent + 1], pieces[number]]) if parent >= 0 else pieces[number])
            wanted = alone(model, texts[number])[-len(pieces[number]) :]
            torch.testing.assert_close(found[number], wanted, rtol=1e-11, atol=1e-12)


@each
def test_packed_rows_are_rows_of_their_own_and_have_the_same_bits_whatever_precedes(choice: str):
    """Of rows of their own another kernel may take the products, in another order."""
    model, pieces = model_of(choice), drawn(5, 5, 5)
    seen = visibility_of(torch.arange(3).repeat_interleave(5)[None])
    place = torch.arange(5).repeat(3)[None]

    def packed(*pieces: torch.Tensor) -> torch.Tensor:
        return model.hidden(Inputs(torch.cat(pieces)[None], place, seen))[0]

    rows = Inputs(torch.stack(pieces), place.view(3, 5), visibility_of(torch.zeros(3, 5, dtype=torch.int64)))
    with torch.no_grad():
        torch.testing.assert_close(packed(*pieces), model.hidden(rows).flatten(0, 1), rtol=1e-11, atol=1e-12)
        model.float()
        found, changed = packed(*pieces), packed((pieces[0] + 1) % VOCABULARY, *pieces[1:])
        assert torch.equal(found[5:], changed[5:])
        assert not torch.equal(found[:5], changed[:5])


@each
def test_rows_that_are_chosen_again_go_on_as_if_each_were_read_whole(choice: str):
    model, texts = model_of(choice), [text.tolist() for text in drawn(7, 2, 9)]
    rows = begin_decoding(model, texts, context=30, max_tokens=9)
    with torch.no_grad():
        for turn in range(5):
            for text, logits in zip(texts, rows.read(), strict=True):
                wanted = model.head(alone(model, torch.tensor(text))[-1])
                torch.testing.assert_close(logits, wanted, rtol=1e-10, atol=1e-11)
            if turn == 2:
                rows.select([2, 0, 2])
                texts = [list(texts[row]) for row in (2, 0, 2)]
            for text in texts:
                text.append((3 * turn + len(text)) % VOCABULARY)
            rows.append([text[-1] for text in texts])


@each
@pytest.mark.parametrize("number", [1, 3, 9])
def test_layers_that_are_computed_again_have_the_same_gradients(choice: str, number: int):
    found: list[dict[str, Any]] = []
    for again in (0, number):
        model = model_of(choice)
        recompute(model, again)
        model.hidden(row_of(drawn(4, 3, 2), [-1, 0, 0])).square().sum().backward()
        found.append({name: one.grad for name, one in model.named_parameters()})
    assert [name for name, one in found[0].items() if one is not None and not torch.equal(one, found[1][name])] == []


def test_a_group_of_layers_keeps_its_keys_once_and_a_smeared_model_one_embedding():
    config = override(TINY, [SMEAR, "attention.sharing=3", "num_layers=7", "layers=[{distance=4}]"])
    model: Any = lively(build_model(config, VOCABULARY))
    cache, length = Cache(config, 1, 9, torch.zeros(1)), 9
    tokens = drawn(length)[0][None]
    with torch.no_grad():
        model.hidden(Inputs(tokens, torch.arange(length)[None], visibility_of(torch.zeros_like(tokens))), cache)
    filled = [number for number, one in enumerate(cache.layers) if isinstance(one, LayerCache) and one.length]
    assert filled == [0, 3, 6]
    held = [one for number in filled for one in (cache.layers[number].keys, cache.layers[number].values)]
    held += [cache.smear.tail]
    assert 4 * sum(one.numel() for one in held) == cache_bytes(config, length, "float32")


@pytest.mark.parametrize(
    ("kind", "pairs", "said"),
    [
        (DecoderConfig, ["attention.sharing=2", "shares_layers=true"], "model.attention.sharing=1"),
        (DecoderConfig, ["attention.sharing=2", "layers=[{distance=3}, {}]"], "layer 1 would read the keys .* layer 0"),
        (DecoderConfig, ["attention.sharing=0"], ">= 1"),
        (DecoderConfig, ["embedding.smear.gate_width=0"], ">= 1"),
        (
            EncoderDecoderConfig,
            ["attention.sharing=2", "num_layers=2", "num_encoder_layers=4", "layers=[{}, {}, {distance=3}, {}]"],
            "layer 3 would read the keys .* layer 2",
        ),
    ],
)
def test_what_cannot_share_is_refused(kind: Any, pairs: list[str], said: str):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        override(kind(), pairs)

"""Small things that many tests start from."""

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from msgspec.structs import replace

from thetahat.core.batch import Packed
from thetahat.core.parts import Part, Parts
from thetahat.core.random import generator
from thetahat.data.config import DataConfig
from thetahat.data.corpus.build import build_corpus
from thetahat.data.corpus.corpus import Corpus
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.generation.beam import search
from thetahat.generation.rows import begin_decoding
from thetahat.generation.sample import draw
from thetahat.generation.writing import Ends, Writing
from thetahat.model.build import LanguageModel, build_model
from thetahat.model.config import DecoderConfig, TransformerConfig
from thetahat.model.decoder import Decoder
from thetahat.model.init import initialize
from thetahat.objective.config import ObjectiveConfig
from thetahat.optimization.config import AdamW, Constant, Muon, OptimizationConfig
from thetahat.run.config import RunConfig
from thetahat.run.state import State, first_state

TINY = DecoderConfig(num_layers=2, width=6, num_heads=4, num_kv_heads=2, head_width=4, inner_width=5)
SMALL = DecoderConfig(num_layers=3, width=48, num_heads=4, num_kv_heads=2, head_width=16, inner_width=96)


def shape_of(config):
    """What it has in common with the other kinds of models."""
    return {name: getattr(config, name) for name in TransformerConfig.__struct_fields__}


SENTENCE = "the whale, the sea and the captain; a ship that sails at night under cold stars, and no one knows why"
WORDS = SENTENCE.split()


def run_config(model: DecoderConfig = TINY, **changes: object) -> RunConfig:
    """A run with two rules and no clipping, in float64 on the CPU."""
    plain: dict[str, Any] = dict(
        recipe="test",
        device="cpu",
        dtype="float64",
        threads=1,
        data=DataConfig(context=32, over_long="split", vocab_size=300, held_out="none"),
        model=model,
        optimization=OptimizationConfig(
            matrices=Muon(learning_rate=0.02),
            embeddings=AdamW(learning_rate=0.01),
            vectors=AdamW(learning_rate=0.01),
            schedule=Constant(),
        ),
        batch_size=4,
        max_steps=4,
    )
    return RunConfig(**(plain | changes))


def state_of(config: RunConfig, vocab_size: int) -> State:
    """Step 0, with parameters large enough that every path through the model matters."""
    state = first_state(config, vocab_size, config.max_steps, torch.device("cpu"))
    enliven(state.model)
    return state


@torch.no_grad()
def enliven(model: LanguageModel) -> None:
    """Moves gains off 1 and makes embeddings and head of order one, so that no term is too small to be missed."""
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        deviation = 0.5 if name.startswith(("embedding.", "head.")) else 0.1
        noise = torch.randn(parameter.shape, generator=draw) * deviation
        parameter.copy_(
            parameter.float() + noise
        )  # float32 values in every dtype, so that all compute the same function


def decoder(config: DecoderConfig, vocab_size: int, dtype: torch.dtype = torch.float64) -> Decoder:
    """An enlivened decoder."""
    return lively(build_model(config, vocab_size), dtype)


Kind = TypeVar("Kind", bound=LanguageModel)


def lively(model: Kind, dtype: torch.dtype = torch.float64) -> Kind:
    """The model with its parameters at their beginning, and enlivened."""
    initialize(model, 0)
    model.to(dtype)
    enliven(model)
    return model


def parts_of(
    num_tokens: Sequence[int],
    record_tokens: Sequence[int] | None = None,
    record_parts: Sequence[int] | None = None,
    has_prompt: Sequence[bool] | None = None,
) -> Parts:
    """Parts s0, s1, ... with these counts; each is a record of its own where nothing is said."""
    count = len(num_tokens)
    return Parts(
        number=torch.arange(count),
        weight=torch.ones(count, dtype=torch.float64),
        num_tokens=torch.tensor(num_tokens, dtype=torch.int64),
        record_tokens=torch.tensor(record_tokens or num_tokens, dtype=torch.int64),
        record_parts=torch.tensor(record_parts or [1] * count, dtype=torch.int64),
        has_prompt=torch.tensor(has_prompt or [False] * count, dtype=torch.bool),
        describe=lambda numbers: [Part(f"s{i}", f"s{i}", "test", number=i) for i in numbers],
    )


def packed_of(
    sequences: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
    rows: Sequence[int] | None = None,
    *,
    prompts: Sequence[Sequence[bool]] | None = None,
    parents: Sequence[int] | None = None,
    starts: Sequence[int] | None = None,
    seeds: Sequence[int] | None = None,
    part: Sequence[Sequence[int]] | None = None,
    parts: Parts | None = None,
) -> Packed:
    """Sequences laid by hand: weights[s][j] is what predicting sequences[s][j + 1] counts for.

    Prompts and parts are told for every token, parents, seeds and the positions at which they start for every sequence.
    """
    lengths, count = [len(sequence) for sequence in sequences], len(sequences)
    each = np.repeat(np.arange(count), lengths)
    position = [start + j for start, length in zip(starts or [0] * count, lengths, strict=True) for j in range(length)]
    return Packed(
        tokens=torch.tensor([token for sequence in sequences for token in sequence]),
        weight=torch.tensor([w for row in weights for w in (0.0, *row)], dtype=torch.float32),
        num_bytes=torch.ones(sum(lengths), dtype=torch.int64),
        position=torch.tensor(position),
        part=torch.from_numpy(each) if part is None else torch.tensor([one for row in part for one in row]),
        is_prompt=torch.tensor([flag for row in prompts for flag in row])
        if prompts is not None
        else torch.zeros(sum(lengths), dtype=torch.bool),
        piece=torch.from_numpy(each),
        row=torch.tensor(list(range(count) if rows is None else rows)),
        parent=torch.tensor(list([-1] * count if parents is None else parents)),
        seed=torch.tensor(list(range(count) if seeds is None else seeds)),
        parts=parts or parts_of([max(sum(w > 0 for w in row), 1) for row in weights]),
    )


def texts_of(num_documents: int, seed: int = 0, longest: int = 60) -> list[str]:
    """What `corpus_of` is made from."""
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(WORDS, size=draw.integers(1, longest))) for _ in range(num_documents)]


def corpus_of(num_documents: int, seed: int = 0, longest: int = 60, vocab_size: int = 300) -> Corpus:
    """Documents of unequal lengths in memory."""
    texts = texts_of(num_documents, seed, longest)
    tokenizer = train_tokenizer(texts, vocab_size)
    records = [Record(text=text, id=f"d{i}", document=f"d{i}", source="test") for i, text in enumerate(texts)]
    return build_corpus(records, tokenizer, {}, None)


def with_normalization(config: RunConfig, normalization: str, chunk_size: int = 0) -> RunConfig:
    """The same run under another objective."""
    return replace(config, objective=ObjectiveConfig(normalization=normalization, chunk_size=chunk_size))


def trees(seed: int, num_rows: int, positions: int, vocab_size: int) -> Packed:
    """Dialogue trees of random shape, as many as fill rows of about so many positions; all is asked."""
    draw = np.random.default_rng(seed)
    sequences: list[list[int]] = []
    rows: list[int] = []
    parents: list[int] = []
    starts: list[int] = []
    for row in range(num_rows):
        first, left = len(sequences), positions
        while left > 1:
            length = min(int(draw.integers(2, max(positions // 5, 3))), left)
            has_parent = len(sequences) > first and draw.random() < 0.8
            parent = int(draw.integers(first, len(sequences))) if has_parent else -1
            tokens = draw.integers(0, vocab_size, size=length + 1).tolist()
            if has_parent:
                tokens[0] = sequences[parent][-1]  # read once more, at the same position
            starts.append(starts[parent] + len(sequences[parent]) - 1 if has_parent else 0)
            sequences.append(tokens)
            rows.append(row)
            parents.append(parent)
            left -= length
    weights = [[1.0] * (len(sequence) - 1) for sequence in sequences]
    return packed_of(sequences, weights, rows, parents=parents, starts=starts)


def sampled_ids(model, prompts, sampling, *, context, end=None, start=None, opens=False) -> list[list[int]]:
    """What is drawn behind each prompt, read together, without `end`, from which an encoder-decoder starts."""
    rows = begin_decoding(model, prompts, context, sampling.max_tokens, _start(end, start), opens=opens)
    texts = [Writing(_ends(sampling, end), [b""] * model.head.weight.shape[0]) for _ in prompts]
    for _ in draw(rows, sampling, [generator(sampling.seed, "generate", row) for row in range(len(prompts))], texts):
        pass
    return [text.tokens for text in texts]


def beam_ids(model, prompts, beam, *, context, end, start=None, opens=False) -> list[list[int]]:
    """What beams find behind each prompt, read together, without `end`, from which an encoder-decoder starts."""
    rows = begin_decoding(model, prompts, context, beam.max_tokens, _start(end, start), opens=opens)
    texts = [Writing(_ends(beam, end), [b""] * model.head.weight.shape[0]) for _ in prompts]
    found = search(rows, beam, texts)
    return [text.tokens for text in found]


def _start(end, start) -> list[int]:
    return [token for token in (end if start is None else start,) if token is not None]


def _ends(how, end) -> Ends:
    return Ends(frozenset() if end is None else frozenset({end}), max_tokens=how.max_tokens)

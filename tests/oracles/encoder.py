"""An encoder-only Transformer written the slow way, of the same pieces as tests/oracles/decoder.py."""

from collections.abc import Sequence

import numpy as np

from tests.oracles.decoder import Array, Parameters, Settings, apply, below, block, log_sum_exp, rms


def log_probs(parameters: Parameters, settings: Settings, tokens: Sequence[int], targets: Sequence[int]) -> Array:
    """[C, T]: log Pr(targets[i] | all tokens) in nats, for one text that starts at position 0."""
    states = hidden(parameters, settings, tokens)
    tied = settings.ties_embeddings and "head.weight" not in parameters
    head = parameters["embedding.weight" if tied else "head.weight"]
    found = []
    for x, target in zip(states, targets, strict=True):
        logits = apply(head, x)
        found.append(logits[:, target] - log_sum_exp(logits))
    return np.stack(np.broadcast_arrays(*found), axis=1)


def hidden(
    parameters: Parameters, settings: Settings, tokens: Sequence[int], num_layers: int | None = None, stack: str = ""
) -> list[Array]:
    """[C, D] a position: what all positions together say, after the norm; `stack` is put before the names of layers."""
    states = [parameters["embedding.weight"][:, token] for token in tokens]
    for layer in range(settings.num_layers if num_layers is None else num_layers):
        states = block(below(parameters, f"{stack}blocks.{layer}."), settings, states, is_causal=False)
    return [rms(x, parameters[f"{stack}norm.gain"], settings) for x in states]

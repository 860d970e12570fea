"""An encoder-decoder Transformer written the slow way, of the same pieces as tests/oracles/decoder.py.

A pair is read alone: no rows, no padding, no packing, no masks, no cache.
"""

from collections.abc import Sequence

import numpy as np

from tests.oracles import encoder
from tests.oracles.decoder import (
    Array,
    Parameters,
    Settings,
    add_attention,
    add_mlp,
    apply,
    below,
    heads,
    log_sum_exp,
    look,
    rms,
)


def log_probs(
    parameters: Parameters, settings: Settings, num_encoder_layers: int, source: Sequence[int], target: Sequence[int]
) -> Array:
    """[C, T-1]: log Pr(target[j+1] | source, target[0..j]) in nats; both sides start at position 0."""
    states = encoder.hidden(parameters, settings, source, num_encoder_layers, "encoder.")
    hidden = [parameters["embedding.weight"][:, token] for token in target]
    for layer in range(settings.num_layers):
        of_layer = below(parameters, f"blocks.{layer}.")
        hidden = add_attention(of_layer, settings, hidden, is_causal=True)
        hidden = _add_source(of_layer, settings, hidden, states)
        hidden = add_mlp(of_layer, settings, hidden)
    head = parameters["embedding.weight" if settings.ties_embeddings else "head.weight"]
    found = []
    for j in range(len(target) - 1):
        logits = apply(head, rms(hidden[j], parameters["norm.gain"], settings))
        found.append(logits[:, target[j + 1]] - log_sum_exp(logits))
    return np.stack(np.broadcast_arrays(*found), axis=1)


def _add_source(parameters: Parameters, settings: Settings, hidden: list[Array], states: list[Array]) -> list[Array]:
    """Each position looks at every state of the source, wherever it stands: nothing is rotated."""
    cross = below(parameters, "cross_attention.")
    keys = [heads(apply(cross["key.weight"], state), settings.num_kv_heads) for state in states]
    keys = [[rms(key, cross["key_norm.gain"], settings) for key in of_state] for of_state in keys]
    values = [heads(apply(cross["value.weight"], state), settings.num_kv_heads) for state in states]
    added = []
    for x in hidden:
        queries = heads(
            apply(cross["query.weight"], rms(x, parameters["cross_norm.gain"], settings)), settings.num_heads
        )
        queries = [rms(query, cross["query_norm.gain"], settings) for query in queries]
        joined = [look(query, keys, values, h, settings) for h, query in enumerate(queries)]
        added.append(x + apply(cross["output.weight"], np.concatenate(joined, axis=1)))
    return added

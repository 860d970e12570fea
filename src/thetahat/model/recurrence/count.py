"""What a recurrent layer has and costs, counted from its shape alone."""

from typing import NamedTuple

from thetahat.model.config import (
    DeltaMixer,
    LinearMixer,
    RecurrentMixer,
    StateSpaceMixer,
    TransformerConfig,
)

CHUNK = 64
"""Positions that are computed together: the cost within a chunk grows with its square, that between with the number."""


class Sizes(NamedTuple):
    """Of the state, and of what is read and written."""

    heads: int
    key: int  # K: rows of a head's state
    value: int  # O: its columns
    conv: int  # channels of the convolution
    reach: int  # positions before each that it reads


def sizes_of(config: TransformerConfig, mixer: RecurrentMixer) -> Sizes:
    """Those of a layer."""
    heads, width = config.num_heads, config.head_width
    match mixer:
        case LinearMixer():
            return Sizes(heads, width, width + (mixer.decay == "none"), 0, 0)
        case DeltaMixer():
            value = mixer.value_width or width
            return Sizes(heads, width, value, heads * (2 * width + value), mixer.conv - 1)
        case StateSpaceMixer():
            inside = mixer.expansion * config.width
            conv = inside + 2 * mixer.state_width
            return Sizes(inside // width, mixer.state_width, width, conv, mixer.conv - 1)


def recurrent_flops(config: TransformerConfig, mixer: RecurrentMixer) -> int | float:
    r"""Products of a position in the forward pass beside the layer's matrices, a multiply-add as two, in full chunks.

    With W positions a chunk a head takes $2 W (K + O) + 4 K O$: pairs within the chunk, what is added to the state and
    what is read of it. The heads of a state-space layer share their pairs. The delta rule has $2 W K + W (K + O)$ more
    for its triangular system, and $2 K^2 + 2 K O + 2 K^2 O / W$ for what it does to the state.
    """
    heads, key, value, *_ = sizes_of(config, mixer)
    if isinstance(mixer, StateSpaceMixer):
        return heads * (2 * CHUNK * value + 4 * key * value) + 2 * CHUNK * key
    each: int | float = 2 * CHUNK * (key + value) + 4 * key * value
    if isinstance(mixer, DeltaMixer):
        each += 2 * CHUNK * key + CHUNK * (key + value)
        each += 2 * key * key + 2 * key * value + 2 * key * key * value / CHUNK
    return heads * each


def recurrent_numbers(config: TransformerConfig, mixer: RecurrentMixer) -> float:
    r"""Numbers that one position keeps for the backward pass beside the layer's input, in full chunks.

    With H heads and chunks of W positions: decays within a chunk, $H W$; keys and queries as they are read, decayed
    and turned, $n H K$; values, what is read of them, its norm and gate, $n H O$; X channels around the convolution;
    and the states between chunks, of which a position has 1 / W. Counted from what autograd saves.
    """
    heads, key, value, conv, reach = sizes_of(config, mixer)
    states = key * value / CHUNK
    match mixer:
        case LinearMixer(decay="none"):
            each = 7 * key + 4 * value + states + 3
        case LinearMixer(decay="fixed"):
            each = CHUNK + 4 * key + 9 * value + states + 3
        case LinearMixer():
            each = CHUNK + 4 * key + 10 * value + states + 5
        case DeltaMixer():
            each = CHUNK + 6 * key + 9 * value + states + key * key / CHUNK + (10 if mixer.has_decay else 8)
        case StateSpaceMixer():
            each = CHUNK + 10 * value + 2 * states + 4
    return heads * each + conv * (3 + reach / CHUNK)


def state_numbers(config: TransformerConfig, mixer: RecurrentMixer) -> int:
    """What a layer keeps of a text, however long: the state, and what its convolution will read again."""
    sizes = sizes_of(config, mixer)
    return sizes.heads * sizes.key * sizes.value + sizes.reach * sizes.conv

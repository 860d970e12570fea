"""Every random number is a pure function of (seed, purpose, index...).

So nothing about randomness needs saving: a resumed run draws what the uninterrupted one would have drawn, and
any number of ranks draws the same.
"""

import hashlib
import json

import torch
from jaxtyping import Float, Int
from torch import Tensor


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed that depends on all arguments and on nothing else."""
    key = json.dumps([seed, purpose, *index]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A fresh CPU generator for this purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *index))


def uniform(seed: Int[Tensor, " n"], index: Int[Tensor, " n"] | int) -> Float[Tensor, " n"]:
    r"""A number in [0, 1) for each pair of seed and index: the top 53 bits of a hash, so the same on every machine."""
    return _shifted(_hashed(seed, torch.as_tensor(index)), 11).double() * 2.0**-53


def permuted(seed: int, index: Int[Tensor, " n"], size: int) -> Int[Tensor, " n"]:
    r"""Where a permutation of 0 to size − 1 takes each of these numbers, without a table of the others.

    A Feistel network on pairs of $h$ bits, the fewest with $2^{2h} \ge$ `size`; what comes out at `size` or above goes
    in again until it does not. Black & Rogaway, Ciphers with Arbitrary Finite Domains, CT-RSA 2002.
    """
    half = max(1, -(-(size - 1).bit_length() // 2))
    keys = [torch.tensor(derived_seed(seed, "permuted", number)) for number in range(_ROUNDS)]
    found = index.clone()
    outside = torch.arange(len(index))
    while len(outside):
        left, right = found[outside] >> half, found[outside] & ((1 << half) - 1)
        for key in keys:
            left, right = right, left ^ _shifted(_hashed(key, right), 64 - half)
        found[outside] = (left << half) | right
        outside = outside[found[outside] >= size]
    return found


_ROUNDS = 4  # by Luby & Rackoff, How to Construct Pseudorandom Permutations, 1988, enough


def _hashed(seed: Int[Tensor, "..."], index: Int[Tensor, "..."]) -> Int[Tensor, " n"]:
    r"""The finaliser of SplitMix64 on $\mathrm{seed} + (\mathrm{index} + 1)\,\gamma$.

    That is the index-th number of the generator that starts at `seed`, without drawing those before it. Steele, Lea &
    Flood, Fast Splittable Pseudorandom Number Generators, OOPSLA 2014.
    """
    x = seed + (index + 1) * _signed(0x9E3779B97F4A7C15)  # int64 wraps around, as it should
    x = (x ^ _shifted(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shifted(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shifted(x, 31)


def _signed(constant: int) -> int:
    return constant - (1 << 64) if constant >> 63 else constant


def _shifted(x: Int[Tensor, " n"], bits: int) -> Int[Tensor, " n"]:
    """A logical shift to the right: torch's is arithmetic."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)

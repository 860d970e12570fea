"""Every random number is a pure function of (seed, purpose, index...).

So nothing about randomness needs saving: a resumed run draws what the uninterrupted one would have drawn, and
any number of ranks draws the same.
"""

import hashlib
import json

import torch


def derived_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed that depends on all arguments and on nothing else."""
    key = json.dumps([seed, purpose, *index]).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little") >> 1


def generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A fresh CPU generator for this purpose."""
    return torch.Generator().manual_seed(derived_seed(seed, purpose, *index))

"""Names of special tokens that factorizations need beside <|endoftext|>."""

MASK = "<|mask|>"  # read in place of a token that is the target
SENTINEL = "<|sentinel-{}|>"  # read in place of the first, second, ... span that is left out

"""SplitMix64 in Python's integers (Steele, Lea & Flood, 2014), and a number in [0, 1) from its top 53 bits."""

WORD = (1 << 64) - 1


def outputs(seed: int, number: int) -> list[int]:
    """The first `number` outputs of the generator that starts at `seed`."""
    state, found = seed & WORD, []
    for _ in range(number):
        state = (state + 0x9E3779B97F4A7C15) & WORD
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & WORD
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & WORD
        found.append(z ^ (z >> 31))
    return found


def uniform(seed: int, index: int) -> float:
    return (outputs(seed, index + 1)[index] >> 11) / 2**53

"""Beam search and its exhaustive counterpart, one continuation at a time; what comes next is asked of a function."""

from collections.abc import Callable, Sequence

NextLogProbs = Callable[[Sequence[int]], Sequence[float]]  # of every token after this continuation


def exhaustive(ask: NextLogProbs, num_tokens: int, exponent: float, end: int) -> list[int]:
    """Of all continuations that end, or have `num_tokens` tokens, the one with the highest log Pr / length^exponent."""
    best, best_score = [], -float("inf")
    waiting = [([], 0.0)]
    while waiting:
        text, log_prob = waiting.pop()
        for token, change in enumerate(ask(tuple(text))):
            longer, total = [*text, token], log_prob + change
            if token != end and len(longer) < num_tokens:
                waiting.append((longer, total))
            elif total / len(longer) ** exponent > best_score:
                best, best_score = longer, total / len(longer) ** exponent
    return [token for token in best if token != end]


def search(
    ask: NextLogProbs,
    num_tokens: int,
    exponent: float,
    end: int,
    num_beams: int,
    is_stopped: Callable[[Sequence[int]], bool] = lambda _: False,
) -> list[int]:
    """The same over what `num_beams` beams find; a beam that is stopped ends with the token that stopped it."""
    beams, ended = [([], 0.0)], []
    for length in range(1, num_tokens + 1):
        found = [
            (log_prob + change, text, token)
            for text, log_prob in beams
            for token, change in enumerate(ask(tuple(text)))
        ]
        found.sort(key=lambda candidate: -candidate[0])
        for log_prob, text, token in found[:num_beams]:
            if token == end:
                ended.append((log_prob / length**exponent, text))
        beams = [([*text, token], log_prob) for log_prob, text, token in found if token != end][:num_beams]
        done = [length == num_tokens or is_stopped(text) for text, _ in beams]
        ended += [
            (log_prob / length**exponent, text)
            for (text, log_prob), is_done in zip(beams, done, strict=True)
            if is_done
        ]
        beams = [beam for beam, is_done in zip(beams, done, strict=True) if not is_done]
        best = max((score for score, _ in ended), default=-float("inf"))
        bound = max((log_prob for _, log_prob in beams), default=-float("inf")) / num_tokens**exponent
        if len(ended) >= num_beams or bound <= best:
            break
    return max(ended, key=lambda hypothesis: hypothesis[0])[1]

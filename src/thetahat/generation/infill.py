"""Fills masked places, the most certain first."""

from collections.abc import Sequence

import torch

from thetahat.core.errors import ConfigError
from thetahat.generation.rows import padded_inputs
from thetahat.model.encoder import Encoder


@torch.inference_mode()
def infill(
    model: Encoder,
    texts: Sequence[Sequence[int]],
    mask: int,
    *,
    num_steps: int | None = None,
    num_tokens: int | None = None,
) -> list[list[int]]:
    r"""Each text with `mask` replaced by one of the first `num_tokens` tokens in every place; others do not change.

    Every step reads the whole text and, of the m masked places left, fills the $\lceil m / s \rceil$ whose most likely
    token is the most likely, s being the steps left; `num_steps` None: one place a step. A place that is filled is read
    by the next step and does not change again: Chang et al., MaskGIT, 2022 (arXiv 2202.04200), with equal portions and
    without drawing. Ghazvininejad et al., Mask-Predict, 2019 (arXiv 1904.09324), begin in the same way and then mask
    the least certain places again.
    """
    filled = [list(text) for text in texts]
    counts = [text.count(mask) for text in filled]
    if num_steps is not None and num_steps < 1:
        raise ConfigError(f"num_steps={num_steps} fills nothing", allowed=">= 1, or None: one place a step")
    num_steps = max(counts, default=0) if num_steps is None else num_steps
    for steps_left in range(num_steps, 0, -1):
        open_rows = [row for row, text in enumerate(filled) if mask in text]
        if not open_rows:
            break
        inputs = padded_inputs([filled[row] for row in open_rows], model.device)
        places = (inputs.tokens == mask) & (inputs.visibility.piece >= 0)
        logits = model.head(model.hidden(inputs)[places])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        logits[:, mask] = -torch.inf
        if num_tokens is not None:
            logits[:, num_tokens:] = -torch.inf
        certainty, tokens = logits.log_softmax(-1).max(-1)
        by_row = places.sum(1).tolist()
        found = zip(open_rows, certainty.split(by_row), tokens.split(by_row), places, strict=True)
        for row, certainty_n, tokens_n, where in found:
            surest = certainty_n.argsort(descending=True, stable=True)[: -(-len(certainty_n) // steps_left)]
            for place, token in zip(where.nonzero()[surest, 0].tolist(), tokens_n[surest].tolist(), strict=True):
                filled[row][place] = token
    return filled

"""The objective read literally: one pass of the model for every single token, each with nothing but what it may see."""

import numpy as np
import torch
from torch import Tensor

from thetahat.core.batch import Inputs, Source
from thetahat.core.visibility import Visibility
from thetahat.data.order.pack import Pieces
from thetahat.model.precision import computing_in
from thetahat.proof.bench import NUM_SEQUENCES, Bench, Outcome, paths, shortened


def prefix_by_prefix(bench: Bench, max_positions: int) -> tuple[Outcome, Outcome]:
    """The trainer's step, and the same by its definition; on less, since this takes a pass a token.

    Texts are shortened to `max_positions`. Records with prompts stay whole, and there are fewer of them.
    This side shares neither the factorization, nor packing, nor trees, nor masks, nor the log-softmax with the trainer.
    """
    pieces, is_text = bench.rows(), not bench.corpus.column["parts.is_prompt"].any()
    room = NUM_SEQUENCES * max_positions
    short = shortened(pieces, np.full(len(pieces), max_positions)) if is_text else _fewer(bench, pieces, room)
    packed = bench.packed(short)
    batch = bench.factor(packed)
    trained = bench.outcome([batch])
    asked = set(batch.origin[batch.weights != 0].tolist())
    model = bench.state().model
    questions: list[tuple[float, Inputs, int]] = []  # the weight, what is read, the token that is asked
    place = 0
    for piece, before, tokens in paths(bench, short):
        mine = [index for index in range(1, len(tokens)) if place + index in asked]
        for index in mine:
            counts = _weight(bench, int(short.span[piece]), int(short.start[piece]) + index)
            inputs = _inputs(bench, before, tokens[:index], num_open=mine[0] + len(before))
            questions.append((counts, inputs, tokens[index]))
        place += len(tokens)
    total, divisor = 0.0, bench.config.objective.step_divisor(sum(counts for counts, _, _ in questions))
    for counts, inputs, token in questions:
        with computing_in(bench.config.dtype, bench.device):
            logits = model.head(model.hidden(inputs)[0, -1:])[0]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = counts * wide.log_softmax(-1)[token].double() / divisor
        (-value).backward()  # at once: the memory of all passes together would be that of a much larger model
        total += value.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return trained, Outcome(total, gradients)


def _fewer(bench: Bench, pieces: Pieces, room: int) -> Pieces:
    """Sequences that together ask no more than `room` tokens, those that ask the most first; at least the two least."""
    packed = bench.packed(pieces)
    asked = np.bincount(packed.piece.numpy(), (packed.weight > 0).numpy(), len(pieces))
    of_unit = np.add.reduceat(asked, pieces.unit_starts)
    order = np.argsort(-of_unit, kind="stable")
    chosen: list[int] = []
    for unit in order.tolist():
        if of_unit[unit] <= room:
            chosen, room = [*chosen, unit], room - int(of_unit[unit])
    return bench.rows(np.sort(chosen if len(chosen) > 1 else order[-2:]))


def _inputs(bench: Bench, before: list[int], tokens: list[int], *, num_open: int) -> Inputs:
    """What stands before the token that is asked: in one stream, or a source and what has been said of the target."""
    if bench.corpus.layout.has_source:
        source = _read(bench, before)
        read = Inputs(*source, Visibility(torch.zeros_like(source[0]), is_causal=False))
        target = _read(bench, tokens)
        piece = torch.zeros_like(target[0])
        return Inputs(*target, Visibility(piece, is_plain=True), Source(read, piece))
    read = _read(bench, [*before, *tokens])
    is_prefix = bench.config.objective.factorization.opens_prompts
    is_open = torch.arange(read[0].shape[1], device=bench.device)[None] < num_open if is_prefix else None
    return Inputs(*read, Visibility(torch.zeros_like(read[0]), is_plain=not is_prefix, is_open=is_open))


def _read(bench: Bench, tokens: list[int]) -> tuple[Tensor, Tensor]:
    ids = torch.tensor([tokens], device=bench.device)
    return ids, torch.arange(len(tokens), device=bench.device)[None]


def _weight(bench: Bench, span: int, place: int) -> float:
    """What a token counts for, from the tables of the corpus."""
    corpus, plan, objective = bench.corpus, bench.prepared.order.plan(0), bench.config.objective
    part = int(corpus.part_of(corpus.offsets[span] + np.array([place]))[0])
    document = int(corpus.column["parts.document"][part])
    weight = float(corpus.column["documents.weight"][document] * corpus.column["parts.weight"][part])
    of_record, of_part, parts = (
        int(plan.record_tokens[document]),
        int(plan.num_targets[part]),
        int(plan.record_parts[document]),
    )
    exponents = {"length": objective.length_exponent, "sequence": 1.0}
    if objective.normalization in {"turn", "dialogue"}:
        return weight / of_part / (parts if objective.normalization == "dialogue" else 1)
    return weight / of_record ** exponents.get(objective.normalization, 0.0)

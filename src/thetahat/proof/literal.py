"""The objective by its definition: one pass of the model for each target, which reads only what the target may see."""

import numpy as np
import torch
from torch import Tensor

from thetahat.core.batch import Inputs, Source
from thetahat.core.visibility import Visibility
from thetahat.data.order.pack import Pieces
from thetahat.model.precision import computing_in
from thetahat.proof.bench import NUM_SEQUENCES, Bench, Outcome, paths, shortened


def prefix_by_prefix(bench: Bench, max_positions: int) -> tuple[Outcome, Outcome]:
    """The outcome of the trainer's step, and that of the definition, on few tokens, since it takes a pass for each.

    Texts are shortened to `max_positions`. Records with prompts stay whole, and there are fewer of them. The definition
    shares no code with the trainer for factorizations, packing, trees, masks and the log-softmax.
    """
    pieces, is_text = bench.rows(), not bench.corpus.column["parts.is_prompt"].any()
    room = NUM_SEQUENCES * max_positions
    short = shortened(pieces, np.full(len(pieces), max_positions)) if is_text else _fewer(bench, pieces, room)
    packed = bench.packed(short)
    batch = bench.factor(packed)
    trained = bench.outcome([batch])
    supervised = set(batch.origin[batch.weights != 0].tolist())
    model = bench.state().model
    passes: list[tuple[float, Inputs, int]] = []  # loss weight, what is read, target
    place = 0
    for piece, before, tokens in paths(bench, short):
        mine = [index for index in range(1, len(tokens)) if place + index in supervised]
        for index in mine:
            weight = _weight(bench, int(short.span[piece]), int(short.start[piece]) + index)
            inputs = _inputs(bench, before, tokens[:index], num_open=mine[0] + len(before))
            passes.append((weight, inputs, tokens[index]))
        place += len(tokens)
    total, divisor = 0.0, bench.config.objective.step_divisor(sum(weight for weight, _, _ in passes))
    for weight, inputs, token in passes:
        with computing_in(bench.config.dtype, bench.device):
            logits = model.head(model.hidden(inputs)[0, -1:])[0]
        wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
        value = weight * wide.log_softmax(-1)[token].double() / divisor
        (-value).backward()  # now: the graphs of all passes together would need much memory
        total += value.item()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return trained, Outcome(total, gradients)


def _fewer(bench: Bench, pieces: Pieces, room: int) -> Pieces:
    """Sequences with at most `room` targets together, those with the most first; at least the two with the fewest."""
    packed = bench.packed(pieces)
    supervised = np.bincount(packed.piece.numpy(), (packed.weight > 0).numpy(), len(pieces))
    of_unit = np.add.reduceat(supervised, pieces.unit_starts)
    order = np.argsort(-of_unit, kind="stable")
    chosen: list[int] = []
    for unit in order.tolist():
        if of_unit[unit] <= room:
            chosen, room = [*chosen, unit], room - int(of_unit[unit])
    return bench.rows(np.sort(chosen if len(chosen) > 1 else order[-2:]))


def _inputs(bench: Bench, before: list[int], tokens: list[int], *, num_open: int) -> Inputs:
    """What is read before a target: one stream, or what an encoder reads and the completion so far."""
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
    """The loss weight of a token, from the tables of the corpus."""
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

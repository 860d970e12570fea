"""The failures that a small model on a CPU can show: how each is made, and what should be said of it.

`names` are what counts as its detection; the first of them is the right cause.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.zoo import data
from benchmarks.zoo.case import Case
from benchmarks.zoo.making import (
    RATE,
    SMALL,
    STEPS,
    adamw,
    at,
    changed_batches,
    moment,
    plain,
    seeing,
    tampered,
    with_gradients,
)
from thetahat.core.batch import Batch
from thetahat.core.visibility import Visibility
from thetahat.optimization.optimizer import build_optimizer
from thetahat.run.diagnosis.preflight import preflight
from thetahat.run.feed import Feed
from thetahat.run.state import State


@dataclass(frozen=True, slots=True)
class Failure:
    """A named failure."""

    number: str
    what: str
    names: tuple[str, ...]
    make: Callable[[int, Path], Case]
    is_correctness: bool = False  # to be said within one step


def fast(seed: int, folder: Path) -> Case:
    """F1."""
    return plain(seed, folder, *adamw(1.0), "optimization.schedule.kind=constant")


def cold(seed: int, folder: Path) -> Case:
    """F2."""
    return plain(
        seed, folder, *adamw(0.02), "optimization.schedule.kind=constant", "optimization.schedule.warmup_steps=0",
        "optimization.clip=0.01", "model.placement=post", "model.num_layers=4",
    )  # fmt: skip


def sharp_attention(seed: int, folder: Path) -> Case:
    """F3."""
    case, block = plain(seed, folder, "model.attention.query_key_norm=none"), seed % 2

    def grow(state: State) -> None:
        attention = state.model.get_submodule(f"blocks.{block}.attention")
        for name, parameter in attention.named_parameters():
            if "query" in name or "key" in name or name.startswith(("q", "k")):
                parameter.mul_(1.06)

    case.inject, case.since, case.where = at(20, grow, STEPS), 20, f"blocks.{block}"
    return case


def drifting(seed: int, folder: Path) -> Case:
    """F4: the same number is added to all logits of a position, more and more."""
    case, hidden = plain(seed, folder, "max_steps=420", "model.ties_embeddings=false"), {}

    def grow(state: State, batches: Sequence[Batch]) -> None:
        head = state.model.get_submodule("head")
        if not hidden:
            head.register_forward_pre_hook(lambda module, args: hidden.update(x=args[0].detach()))
            hidden["x"] = torch.zeros(1, head.weight.shape[1])
        mean = hidden["x"].flatten(0, -2).mean(0)
        with torch.no_grad():
            head.weight.add_(0.15 * mean / mean.square().sum().clamp(min=1e-6))

    case.inject = grow
    return case


def embedding_spike(seed: int, folder: Path) -> Case:
    """F5."""
    case, step = plain(seed, folder, "model.ties_embeddings=false"), moment(seed)
    case = with_gradients(case, 60.0, lambda name: name.startswith("embedding"), step, step)
    case.where = "embedding"
    return case


def unused(seed: int, folder: Path) -> Case:
    """F6: a vocabulary of other text."""
    draw = random.Random(seed)
    words = ["".join(chr(draw.randrange(0x4E00, 0x4F00)) for _ in range(2)) for _ in range(400)]
    other = [{"text": " ".join(draw.choices(words, k=60))} for _ in range(200)]
    data.write(folder / "other.jsonl", other)
    from thetahat.data.tokens.tokenizer import train_tokenizer

    for name, text in train_tokenizer([one["text"] for one in other], 900).files().items():
        (folder / name).write_text(text)
    case = plain(seed, folder, f"data.tokenizer={folder / 'tokenizer.json'}", "max_steps=40")
    case.keys.remove("data.vocab_size=320")
    return case


def garbage(seed: int, folder: Path) -> Case:
    """F7: read twice, once at least when it is known what is usual; it is there from when it is read first."""
    draw, records = random.Random(seed), data.speeches(seed, 600)
    place = draw.randrange(len(records))
    text = "".join(draw.choice("qzxjkvwfy0123456789#@!%&") for _ in range(200))
    records[place] = {"id": "garbage", "text": text, "source": "a"}
    path = data.write(folder / "train.jsonl", records)
    case = Case([*SMALL, f"data.train={path}", f"seed={seed}", "data.packing=none", "max_steps=150"])
    case.suspect, read = "garbage", list[int]()

    def look(state: State, batches: Sequence[Batch]) -> None:
        if not read and any(part.id == "garbage" for batch in batches for part in batch.parts.named()):
            read.append(state.step + 1)
            case.since = state.step + 1

    case.inject = look
    return case


def repeated(seed: int, folder: Path) -> Case:
    """F8."""
    records = data.speeches(seed, 400)
    for number in range(seed % 7, 400, 40):
        records[number]["text"] = "ha ha " * 60
    path = data.write(folder / "train.jsonl", records)
    return Case([*SMALL, f"data.train={path}", f"seed={seed}", "max_steps=40"])


def copied(seed: int, folder: Path) -> Case:
    """F9."""
    records = data.speeches(seed, 400)
    more = [records[5] | {"id": f"copy{number}"} for number in range(30)]
    path = data.write(folder / "train.jsonl", records + more)
    return Case([*SMALL, f"data.train={path}", f"seed={seed}", "max_steps=40"])


def all_seeing(seed: int, folder: Path) -> Case:
    """F10."""
    return changed_batches(plain(seed, folder, "max_steps=40"), lambda batch: seeing(batch, is_causal=False))


def leaking(seed: int, folder: Path) -> Case:
    """F11."""

    def forgetting(self: Visibility) -> Tensor:
        mask = right(self)
        return mask.new_ones(mask.shape).tril()

    right = Visibility.mask
    case = plain(seed, folder, "max_steps=40")
    case = changed_batches(case, seeing)
    case.patches = {**case.patches, "thetahat.core.visibility.Visibility.mask": forgetting}
    return case


def shifted(seed: int, folder: Path) -> Case:
    """F12."""
    offset = (0, 2, 3, -1, 4)[seed % 5]
    case = plain(seed, folder, "max_steps=40")
    return changed_batches(case, lambda batch: replace(batch, targets=batch.inputs.tokens.roll(-offset, 1)))


def stuck(seed: int, folder: Path) -> Case:
    """F13: the gradient is lost on its way, but for its direction in one tensor."""
    case = plain(seed, folder)

    def forget(state: State) -> None:
        for name, parameter in state.model.named_parameters():
            if name in first:
                parameter.copy_(first[name])

    first: dict[str, Tensor] = {}

    def inject(state: State, batches: Sequence[Batch]) -> None:
        if not first:
            first.update({name: one.detach().clone() for name, one in state.model.named_parameters()})
        with torch.no_grad():
            forget(state)

    case.inject = inject
    return case


def left_out(seed: int, folder: Path) -> Case:
    """F14."""

    def forgetful(*rest: Any) -> Any:
        optimizer = build_optimizer(*rest)
        rule = optimizer.rules[0]
        names = list(rule.group.parameters)
        case.where = names[seed % len(names)]
        del rule.group.parameters[case.where]
        return optimizer

    case = plain(seed, folder, "max_steps=40")
    case.patches = {"thetahat.run.state.build_optimizer": forgetful}
    return case


def frozen(seed: int, folder: Path) -> Case:
    """F14 once more: from a step on the optimizer has lost a parameter."""
    case, step = plain(seed, folder), moment(seed)

    def lose(state: State) -> None:
        parameters = [(rule, *one) for rule in state.optimizer.rules for one in rule.group.parameters.items()]
        rule, case.where, lost = parameters[seed % len(parameters)]
        for group in rule.optimizer.param_groups:
            group["params"] = [one for one in group["params"] if one is not lost]

    case.inject, case.since = at(step, lose), step
    return case


def two_faced(seed: int, folder: Path) -> Case:
    """F15: a module does something else where texts are scored."""
    case, block = plain(seed, folder, "max_steps=40"), seed % 2

    def checked(prepared: Any, state: State, world: Any) -> Any:
        module = state.model.get_submodule(f"blocks.{block}.mlp")
        module.register_forward_hook(lambda one, _, output: output if one.training else 1.3 * output)
        return preflight(prepared, state, world)

    case.patches = {"thetahat.run.start.preflight": checked}
    return case


def rounding(seed: int, folder: Path) -> Case:
    """F16: updates that float32 rounds away from most elements."""
    return plain(seed, folder, *adamw(2e-9), "optimization.schedule.kind=constant")


def sick(seed: int, folder: Path) -> Case:
    """F17: a product overflows for one position of one module."""
    case, step, part = plain(seed, folder), moment(seed), ("attention", "mlp")[seed % 2]
    block = seed % 2

    def spoil(module: Any, arguments: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[0, 3:4] = torch.inf  # of a sequence that is read alone there may be fewer
        return output

    def inject(state: State) -> None:
        state.model.get_submodule(f"blocks.{block}.{part}").register_forward_hook(spoil)

    case.inject, case.since, case.where = at(step, inject), step, f"blocks.{block}.{part}"
    return case


def timid(seed: int, folder: Path) -> Case:
    """F18."""
    return plain(seed, folder, *adamw(RATE, epsilon=0.1))


def stale(seed: int, folder: Path) -> Case:
    """F19."""
    case = plain(seed, folder, *adamw(RATE, beta2=0.9999), "optimization.schedule.kind=constant")
    step = moment(seed)
    return with_gradients(case, 6.0, lambda name: True, step, STEPS)


def decayed(seed: int, folder: Path) -> Case:
    """F20."""
    return plain(seed, folder, "optimization.vectors.weight_decay=0.1", "max_steps=40")


def scaled(seed: int, folder: Path) -> Case:
    """F21."""
    return plain(seed, folder, f"model.head.scale={(20, 40, 60, 80, 100)[seed % 5]}", "max_steps=40")


def dominated(seed: int, folder: Path) -> Case:
    """F22: three long documents have most of the tokens."""
    draw, text = random.Random(seed), data.BUNDLED.read_text(encoding="utf-8")
    records = [one | {"text": one["text"][:60]} for one in data.speeches(seed, 400)]
    for number in range(3):
        place = draw.randrange(len(text) - 20_000)
        records.append({"id": f"long{number}", "text": text[place : place + 20_000]})
    path = data.write(folder / "train.jsonl", records)
    return Case([*SMALL, f"data.train={path}", f"seed={seed}"])


def deep(seed: int, folder: Path) -> Case:
    """F23: each of eight blocks passes on less than half of its gradient, as a saturated network does."""
    case, share = plain(seed, folder, "model.num_layers=8", "max_steps=40"), 0.4 - seed % 5 / 25

    def saturate(state: State) -> None:
        for number in range(8):
            block = state.model.get_submodule(f"blocks.{number}")
            block.register_full_backward_hook(lambda module, inputs, outputs: (share * inputs[0], *inputs[1:]))

    case.inject, case.where = at(1, saturate), "blocks.0"
    return case


def early(seed: int, folder: Path) -> Case:
    """F24: a schedule for a part of the data: the rate is gone while the model still learns."""
    return plain(
        seed, folder, *adamw(0.003), "optimization.schedule.warmup_steps=5", "optimization.schedule.decay=1.0",
        "max_steps=100", "batch_size=32", count=1500,
    )  # fmt: skip


def ordered(seed: int, folder: Path) -> Case:
    """F25: two kinds of text one behind the other, and nothing is shuffled."""
    draw, records = random.Random(seed), data.speeches(seed, 600)
    for number, one in enumerate(records):
        one["source"] = "prose"
        if number >= 300:
            one |= {"text": " ".join(str(draw.randrange(100)) for _ in range(40)), "source": "numbers"}
    path = data.write(folder / "train.jsonl", records)
    case = Case([*SMALL, f"data.train={path}", f"seed={seed}", "data.packing=none", "max_steps=150"])
    case.patches = {"thetahat.data.order.rows.Rows._permutation": lambda self, size, *rest: np.arange(size)}
    return case


def memorising(seed: int, folder: Path) -> Case:
    """F26."""
    held = data.write(folder / "held.jsonl", data.speeches(seed + 100, 200))
    case = plain(seed, folder, *adamw(0.01), "evaluation.every=20", "max_steps=400", count=40)
    case.keys += [f"data.held_out={held}"]
    return case


def rewound(seed: int, folder: Path) -> Case:
    """F27: the optimizer's state is not that of the checkpoint."""
    return tampered(seed, folder, "optimizer.safetensors", "exp_avg")


def flipped(seed: int, folder: Path) -> Case:
    """F30: a bit of a parameter is another one."""
    return tampered(seed, folder, "model.safetensors", "mlp")


def starving(seed: int, folder: Path) -> Case:
    """F31: what makes batches is slow, or stalls from time to time."""
    case, every = plain(seed, folder), (1, 20)[seed % 2]

    def late(self: Feed, step: int) -> Any:
        if step % every == 0:
            time.sleep(0.05 * every)
        return made(self, step)

    made = Feed._make
    case.patches = {"thetahat.run.feed.Feed._make": late}
    return case


FAILURES = (
    Failure("F1", "learning rate too high", ("learning-rate-too-high", "diverging"), fast),
    Failure("F2", "no warm-up", ("no-warm-up",), cold),
    Failure("F3", "exploding attention logits", ("exploding-attention-logits",), sharp_attention),
    Failure("F4", "output-logit drift", ("output-logit-drift",), drifting),
    Failure("F5", "embedding gradient spike", ("embedding-gradient-spike",), embedding_spike),
    Failure("F6", "dead tokens", ("unused-tokens",), unused),
    Failure("F7", "bad batch", ("bad-batch",), garbage),
    Failure("F8", "repeated n-grams", ("repeated-n-grams",), repeated),
    Failure("F9", "duplicated data", ("duplicates",), copied),
    Failure("F10", "no causal mask", ("reads-the-future",), all_seeing, is_correctness=True),
    Failure("F11", "packing leak", ("leak-between-documents",), leaking, is_correctness=True),
    Failure("F12", "wrong label shift", ("shifted-targets",), shifted, is_correctness=True),
    Failure("F13", "stuck", ("loss-stuck", "not-updated"), stuck, is_correctness=True),
    Failure("F14", "parameter not updated", ("wrong-group", "not-updated"), left_out, is_correctness=True),
    Failure("F14b", "parameter lost in mid-run", ("not-updated",), frozen, is_correctness=True),
    Failure("F15", "evaluation is not training", ("evaluation-differs",), two_faced, is_correctness=True),
    Failure("F16", "updates lost by rounding", ("underflowing-updates", "not-updated", "loss-stuck"), rounding),
    Failure("F17", "not finite", ("non-finite",), sick, is_correctness=True),
    Failure("F18", "epsilon too large", ("epsilon-too-large",), timid),
    Failure("F19", "stale second moment", ("stale-second-moment", "gradient-spike"), stale),
    Failure("F20", "decay of gains", ("decayed-gains",), decayed),
    Failure("F21", "wrong scale at the start", ("wrong-scale",), scaled),
    Failure("F22", "long documents dominate", ("length-dominated",), dominated),
    Failure("F23", "vanishing gradients", ("vanishing-gradients",), deep),
    Failure("F24", "rate decayed too early", ("rate-decayed-early", "too-short"), early),
    Failure("F25", "correlated order", ("order-correlated",), ordered),
    Failure("F26", "overfitting", ("overfitting",), memorising),
    Failure("F27", "stale state after a resume", ("not-reproduced",), rewound, is_correctness=True),
    Failure("F30", "a flipped bit", ("not-reproduced",), flipped, is_correctness=True),
    Failure("F31", "waiting for data", ("starved",), starving),
)

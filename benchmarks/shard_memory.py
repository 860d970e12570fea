"""Peak memory of a rank under shards, measured on 1, 2 and 4 ranks, beside what `thetahat cost` says of the layout.

    python benchmarks/shard_memory.py --out benchmarks/results/shard_memory.json

Measured is what the process has grown by at most, from before the model is built to behind three steps (VmHWM), less
what a rank grows by for a model of as many layers with next to no parameters: libraries, buffers of gloo.
"""

import argparse
import json
import os
import tempfile
from pathlib import Path

import numpy as np
import torch

from thetahat.data.config import DataConfig
from thetahat.distribution.launch import launch
from thetahat.distribution.mesh import MeshConfig
from thetahat.distribution.world import join_world
from thetahat.model.config import DecoderConfig
from thetahat.optimization.config import AdamW, Constant, OptimizationConfig
from thetahat.run.config import RunConfig
from thetahat.run.cost.mesh import Mesh, share_of, whole_of
from thetahat.run.diagnosis.needed import training_memory
from thetahat.run.state import first_model, first_state
from thetahat.run.step import step

VOCABULARY, CONTEXT = 512, 64


def config_of(width: int, shards: int, size: int) -> RunConfig:
    """A decoder of 24 layers, one short row a rank: parameters are all that counts."""
    rule = AdamW(learning_rate=1e-4)
    return RunConfig(
        recipe="memory",
        device="cpu",
        threads=1,
        data=DataConfig(context=CONTEXT, vocab_size=VOCABULARY, held_out="none"),
        model=DecoderConfig(
            num_layers=24,
            width=width,
            num_heads=max(width // 64, 1),
            num_kv_heads=max(width // 64, 1),
            head_width=min(width, 64),
            inner_width=3 * width,
            ties_embeddings=True,
        ),
        optimization=OptimizationConfig(matrices=rule, embeddings=rule, vectors=rule, schedule=Constant()),
        batch_size=size,
        micro_batch_size=1,
        max_steps=4,
        mesh=MeshConfig(shards=shards),
    )


def memory_of(name: str) -> int:
    """A number of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(name))


def batch_of(rank: int):
    """A row of random tokens."""
    from thetahat.core.batch import Batch, Inputs
    from thetahat.core.parts import Part, Parts
    from thetahat.core.visibility import visibility_of

    tokens = torch.from_numpy(np.random.default_rng(rank).integers(0, VOCABULARY, (1, CONTEXT)))
    one = torch.ones(1, dtype=torch.int64)
    parts = Parts(
        one - 1,
        one.double(),
        one * CONTEXT,
        one * CONTEXT,
        one,
        one > 1,
        lambda numbers: [Part("a", "a", "a", number=0)],
    )
    zeros = torch.zeros_like(tokens)
    inputs = Inputs(tokens, torch.arange(CONTEXT)[None], visibility_of(zeros, is_plain=True))
    return Batch(inputs, tokens.roll(-1, 1), torch.ones(1, CONTEXT), zeros, zeros, zeros + 1, parts)


def measure(folder: str, width: int, shards: int) -> None:
    """The work of a rank: what it grows by at most."""
    torch.set_num_threads(1)
    size = int(os.environ["WORLD_SIZE"])
    config = config_of(width, shards, size)
    world = join_world("cpu", config.mesh)
    import thetahat.distribution.shard  # noqa: F401 - so that its libraries count in no case

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = memory_of("VmRSS")
    state = first_state(config, VOCABULARY, 4, torch.device("cpu"), world=world)
    for _ in range(3):
        step(state, [batch_of(world.rank)], world)
    grown = memory_of("VmHWM") - before
    world.barrier()
    (Path(folder) / f"{world.rank}.json").write_text(json.dumps(grown))
    world.leave()


def grown(width: int, size: int) -> int:
    """The most that any of so many ranks grows by."""
    with tempfile.TemporaryDirectory() as folder:
        launch(measure, size, folder, width, size)
        return max(json.loads(path.read_text()) for path in Path(folder).glob("*.json"))


def planned(width: int, size: int) -> dict[str, int | float]:
    """What the plan says of the rank that needs most."""
    config = config_of(width, size, size)
    model = first_model(config, VOCABULARY, torch.device("meta"), draws=False)
    whole = whole_of(model, config, VOCABULARY, training_memory(model, config, VOCABULARY, 0))
    return share_of(whole, Mesh(shards=size), config).to_dict()


def main() -> None:
    """Measures, and writes what was found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path)
    parser.add_argument("--width", type=int, default=512)
    options = parser.parse_args()
    os.environ["MALLOC_MMAP_THRESHOLD_"] = "65536"  # else glibc keeps what was freed, and shows it as in use
    found = {}
    for size in (1, 2, 4):
        fixed = grown(16, size)
        most, plan = grown(options.width, size) - fixed, planned(options.width, size)
        found[str(size)] = {
            "measured": most,
            "fixed": fixed,
            "planned": round(plan["total"]),
            "ratio": most / plan["total"],
            "plan": {name: round(value) for name, value in plan.items()},
        }
        print(size, f"{most / 1e6:.0f} MB measured, {plan['total'] / 1e6:.0f} MB planned", flush=True)
    if options.out:
        options.out.write_text(json.dumps({"width": options.width, "ranks": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()

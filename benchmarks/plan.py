"""The plan for models and clusters that are not here, and how it compares with what others have published.

    python -m benchmarks.plan [--out benchmarks/results/plan.json]

Published rows are in bfloat16 on H100 or A100 GPUs. Where a row does not say how much is computed again in the backward
pass, the least of none, half and all is assumed that fits; "selective" is taken for half.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from thetahat.data.config import DataConfig
from thetahat.model.build import build_model
from thetahat.model.config import AttentionConfig, DecoderConfig
from thetahat.objective.config import ObjectiveConfig
from thetahat.optimization.config import AdamW, Constant, OptimizationConfig
from thetahat.recipes.quickstart import quickstart
from thetahat.run.config import RunConfig
from thetahat.run.cost.devices import DEVICES, Device, rates_of
from thetahat.run.cost.layout import RECOMPUTED, USABLE, Layout, Task, layout_of, layouts
from thetahat.run.cost.mesh import Mesh, whole_of
from thetahat.run.cost.operations import operations_of
from thetahat.run.cost.pace import pace_of
from thetahat.run.diagnosis.needed import training_memory

ADAMW = AdamW(learning_rate=3e-4)
META = replace(DEVICES["h100"], name="h100 of 500 W, 2.4 TB/s", memory=96 * 10**9, bandwidth=2.4e12)


def shape(layers, width, heads, groups, head, inner, tied=False):
    """A decoder of Llama's kind."""
    sizes = {"num_layers": layers, "width": width, "num_heads": heads, "num_kv_heads": groups, "head_width": head}
    plain = AttentionConfig(query_key_norm="none")
    return DecoderConfig(**sizes, inner_width=inner, ties_embeddings=tied, attention=plain)


MODELS = {  # shape, vocabulary
    "1B": (shape(16, 2048, 32, 8, 64, 8192, tied=True), 128_256),
    "8B": (shape(32, 4096, 32, 8, 128, 14336), 128_256),
    "70B": (shape(80, 8192, 64, 8, 128, 28672), 128_256),
    "405B": (shape(128, 16384, 128, 8, 128, 53248), 128_256),  # 126 layers, and two places for table and head
    "OLMo 2 1B": (shape(16, 2048, 16, 16, 128, 8192), 100_352),
    "OLMo 2 7B": (shape(32, 4096, 32, 32, 128, 11008), 100_352),
    "OLMo 2 13B": (shape(40, 5120, 40, 40, 128, 13824), 100_352),
    "OLMo 2 32B": (shape(64, 5120, 40, 8, 128, 27648), 100_352),
    "GPT-2 124M": (shape(12, 768, 12, 12, 64, 2048, tied=True), 50_304),
}


def config_of(model: str, context: int, batch: int, rows: int, *, compiled: bool = True) -> RunConfig:
    """A training with AdamW in bfloat16, its logits in chunks of 8,192."""
    config, vocab_size = MODELS[model]
    return RunConfig(
        recipe="plan",
        dtype="bfloat16",
        device="cuda",
        compile=compiled,
        data=DataConfig(context=context, vocab_size=vocab_size),
        model=config,
        objective=ObjectiveConfig(chunk_size=8192),
        optimization=OptimizationConfig(matrices=ADAMW, embeddings=ADAMW, vectors=ADAMW, schedule=Constant()),
        batch_size=batch,
        micro_batch_size=rows,
        max_steps=quickstart().max_steps,
    )


def task_of(config: RunConfig, device: Device) -> Task:
    """What one device would do of it."""
    model, vocab_size = build_model(config.model, config.data.vocab_size), config.data.vocab_size
    memory, operations = training_memory(model, config, vocab_size, 0), operations_of(model, config)
    pace = pace_of(config, operations, memory, vocab_size, rates_of(device, config.dtype))
    return Task(config, whole_of(model, config, vocab_size, memory), operations, pace, device)


@dataclass(frozen=True)
class Published:
    """A row of somebody's table: what was trained where, and tokens a second and GPU."""

    source: str
    model: str
    context: int
    rows: int  # that a data rank reads in a step
    micro: int  # at once
    mesh: Mesh
    value: float  # tokens a second and GPU; above 10,000,000: FLOP/s of a GPU
    device: Device = DEVICES["h100"]
    compiled: bool = True
    is_said: bool = False  # how much is computed again

    def predicted(self) -> Layout:
        """What the model of a layout says of it."""
        config = config_of(self.model, self.context, self.rows * self.mesh.num_data, self.micro, compiled=self.compiled)
        task = task_of(config, self.device)
        shares = [self.mesh.recomputed] if self.is_said else RECOMPUTED
        found = [layout_of(task, replace(self.mesh, recomputed=share), self.micro) for share in shares]
        return next((one for one in found if one.memory.total <= USABLE * self.device.memory), found[-1])


TITAN, A100 = "torchtitan, Dec. 2024", "torchtitan, A100"
OLMO = "OLMo-core's README"
HALF, ALL = {"recomputed": 0.5}, {"recomputed": 1.0}
PUBLISHED = [
    Published("nanoGPT, measured", "GPT-2 124M", 1024, 128, 32, Mesh(), 487_374),
    Published("litgpt, measured", "1B", 4096, 4, 4, Mesh(), 52_682, is_said=True),
    Published("transformers eager, measured", "1B", 4096, 4, 4, Mesh(), 39_647, compiled=False, is_said=True),
    Published(TITAN, "8B", 8192, 2, 2, Mesh(shards=8, **HALF), 6_667, META, is_said=True),
    Published(TITAN, "8B", 8192, 2, 2, Mesh(shards=8, **HALF), 5_762, META, compiled=False, is_said=True),
    Published(TITAN, "8B", 8192, 2, 2, Mesh(shards=128, **HALF), 6_514, META, is_said=True),
    Published(A100, "8B", 8192, 1, 1, Mesh(shards=64, **HALF), 2_973, DEVICES["a100"], is_said=True),
    Published(A100, "70B", 8192, 1, 1, Mesh(shards=64, **ALL), 331, DEVICES["a100"], is_said=True),
    Published(OLMO, "OLMo 2 1B", 4096, 16, 4, Mesh(shards=8), 55_000),
    Published(OLMO, "OLMo 2 7B", 4096, 4, 2, Mesh(shards=64), 10_000),
    Published(OLMO, "8B", 4096, 4, 2, Mesh(shards=64), 9_500),
    Published(OLMO, "OLMo 2 13B", 4096, 4, 2, Mesh(shards=64), 4_600),
    Published("OLMo 2 32B", "OLMo 2 32B", 4096, 2, 2, Mesh(8, 128), 1_800),
    Published("Llama 3, table 4", "405B", 8192, 32, 1, Mesh(1, 64, 1, 8, 16), 430e12),
    Published("Llama 3, table 4", "405B", 8192, 16, 1, Mesh(1, 128, 1, 8, 16), 400e12),
    Published("Llama 3, table 4", "405B", 131_072, 16, 1, Mesh(1, 8, 16, 8, 16), 380e12),
]


def degrees(mesh: Mesh) -> str:
    """replicas x shards x context x tensor x pipeline."""
    return " x ".join(str(n) for n in (mesh.replicas, mesh.shards, mesh.context, mesh.tensor, mesh.pipeline))


def checked() -> list[dict]:
    """Each published row beside what is said of it."""
    rows = []
    for one in PUBLISHED:
        said = one.predicted()
        value = said.utilisation * said.peak if one.value > 1e7 else said.tokens_per_second
        rows.append(
            {
                "source": one.source,
                "model": one.model,
                "context": one.context,
                "gpus": f"{one.mesh.num_ranks} {one.device.name}",
                "mesh": degrees(one.mesh),
                "computed_again": said.mesh.recomputed,
                "is_compiled": one.compiled,
                "published": one.value,
                "said": value,
                "ratio": value / one.value,
                "utilisation": said.utilisation,
                "memory": said.memory.total,
                "bubble": said.bubble,
            }
        )
        row = rows[-1]
        unit = 1e12 if one.value > 1e7 else 1
        print(
            f"| {one.source} | {one.model} | {one.context:,} | {row['gpus']} | {row['mesh']} |"
            f" {said.mesh.recomputed:.0%} |"
            f" {one.value / unit:,.0f} | {value / unit:,.0f} | {row['ratio']:.2f} |",
            flush=True,
        )
    return rows


def planned() -> list[dict]:
    """The quickest layouts for 1B, 8B and 70B on up to 1,024 H100s."""
    rows = []
    for model in ("1B", "8B", "70B"):
        for context, batch in ((4096, 1024), (131_072, 128)):
            for gpus in (8, 64, 256, 1024):
                task = task_of(config_of(model, context, batch, 1), DEVICES["h100"])
                for rank, one in enumerate(layouts(task, gpus, 3)):
                    rows.append({"model": model, "context": context, "gpus": gpus, "rank": rank, **as_row(one)})
                    if rank == 0:
                        received = sum(asdict(one.traffic).values())
                        print(
                            f"| {model} | {context:,} | {gpus:,} | {degrees(one.mesh)} | {one.rows} |"
                            f" {one.mesh.recomputed:.0%} | {one.memory.total / 1e9:.0f} | {received / 1e9:,.0f} |"
                            f" {one.seconds:.2f} | {one.tokens_per_second:,.0f} | {one.utilisation:.0%} |",
                            flush=True,
                        )
    return rows


def as_row(one: Layout) -> dict:
    """What is kept of a layout."""
    return one.to_dict() | {"mesh": degrees(one.mesh), "computed_again": one.mesh.recomputed}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    out = parser.parse_args().out
    begun = time.perf_counter()
    found = {"published": checked(), "planned": planned()}
    print(f"{time.perf_counter() - begun:.0f} s")
    if out:
        out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

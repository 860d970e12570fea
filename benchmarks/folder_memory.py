"""Peak memory of `thetahat import`, `export` and `merge`, beside the size of the model and of its largest tensor.

    MALLOC_MMAP_THRESHOLD_=65536 python benchmarks/folder_memory.py --out benchmarks/results/folder_memory.json

A decoder in float32, with an adapter on it that one step has trained. Each command runs in a process of its own, which
says by how much it grew at most (VmHWM) from when everything was imported. The bytes of a file that are mapped count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from thetahat.data.tokens.roles import Roles
from thetahat.data.tokens.tokenizer import train_tokenizer
from thetahat.interop.around import Around
from thetahat.interop.write import write_folder
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.init import initialize

CHILD = """
import sys
from pathlib import Path
import thetahat.verbs.import_, thetahat.verbs.merge, thetahat.verbs.score, thetahat.verbs.export as e
def of(name):
    return 1024 * next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
verb, source, target = sys.argv[1], sys.argv[2], Path(sys.argv[3])
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = of("VmRSS")
if verb == "import":
    thetahat.verbs.import_.import_(source, target)
elif verb == "merge":
    thetahat.verbs.merge.merge(source, target)
else:
    e.export(source, target, e.ExportConfig(dtype=None if verb == "export" else verb, measures=False))
print(of("VmHWM") - before)
"""


def shape(layers: int, rows: int) -> DecoderConfig:
    """A decoder of width 768, as Qwen 3 and others are; all of its matrices but the table are much smaller than it."""
    return DecoderConfig(
        num_layers=layers,
        width=768,
        num_heads=12,
        num_kv_heads=12,
        head_width=64,
        inner_width=3072,
        ties_embeddings=True,
    )


def prepare(place: Path, layers: int, rows: int) -> int:
    """A folder of theirs, and a run with an adapter on it; returns the bytes of the model."""
    tokenizer = train_tokenizer(["some words to begin with, and some more of them"], 300, [])
    config = shape(layers, rows)
    model = build_model(config, rows)
    initialize(model, 0)
    around = Around(roles=Roles(eos=(256,)), context=64, tokenizer=tokenizer.files()["tokenizer.json"])
    write_folder(place / "theirs", dict(model.named_parameters()), config, around)
    (place / "text.txt").write_text("some words to begin with, and some more of them\n" * 20)
    words = [f"data.train={place / 'text.txt'}", "data.held_out=none", "data.context=16", "batch_size=1", "max_steps=1"]
    command = [sys.executable, "-m", "thetahat", "train", f"base={place / 'theirs'}", *words, "adapter.rank=8"]
    subprocess.run([*command, "--out", str(place / "run"), "-q"], check=True)
    return sum(parameter.nbytes for parameter in model.parameters())


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--rows", type=int, default=32768)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["THETAHAT_CACHE"] = f"{folder}/cache"
        place = Path(folder)
        size = prepare(place, asked.layers, asked.rows)
        largest = 4 * 768 * asked.rows
        found: dict[str, object] = {"model_bytes": size, "largest_tensor_bytes": largest}
        for verb, source in (
            ("import", "theirs"),
            ("export", "theirs"),
            ("bfloat16", "theirs"),
            ("merge", "run"),
            ("export", "run"),
        ):
            target = place / f"{verb}-{source}"
            command = [sys.executable, "-c", CHILD, verb, str(place / source), str(target)]
            peak = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            found[target.name] = {"peak_bytes": peak, "of_largest": peak / largest, "of_model": peak / size}
            print(f"{target.name:16} {peak / 2**20:6.0f} MiB  {peak / largest:.2f} of the largest tensor", flush=True)
        print(f"the model {size / 2**20:.0f} MiB, its largest tensor {largest / 2**20:.0f} MiB")
    if asked.out:
        asked.out.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

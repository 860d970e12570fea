"""How long `thetahat compare a.parquet b.parquet --html compare.html` takes over 10,000 documents.

    python benchmarks/compare.py [--documents 10000] [--out benchmarks/results/compare.json]

Two ledgers as `thetahat score --out` writes them: lengths lognormal (median 245 tokens, the long ones with their
blocks), seven sources, ids of a file and a line, digests. The command runs in a process of its own, five times; what is
reported is the whole of it, from start to end, and the time that the processor worked on it.
"""

import argparse
import hashlib
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from thetahat.ledger.ledger import Block, LedgerRow, write_ledger
from thetahat.statistics.interval import BLOCK_TOKENS

REPETITIONS = 5
METADATA = {
    "policy": "window(stride=512), context=1024, dtype=bfloat16",
    "tokenizer_sha256": hashlib.sha256(b"one").hexdigest(),
    "unit": "nats",
}


def rows(log_prob, tokens):
    found = []
    for i, (nats, count) in enumerate(zip(log_prob.tolist(), tokens.tolist(), strict=True)):
        id = f"crawl-2026-10/shard-{i % 7:05d}.jsonl:{i // 7 + 1}"
        sizes = [BLOCK_TOKENS] * (count // BLOCK_TOKENS) + [count % BLOCK_TOKENS] * (count % BLOCK_TOKENS > 0)
        found.append(
            LedgerRow(
                id=id,
                document=id,
                source=f"shard-{i % 7:05d}.jsonl",
                num_tokens=count,
                num_bytes=4 * count + i % 3,
                context_length=min(count, 1024),
                log_prob=nats,
                digest=hashlib.blake2b(id.encode(), digest_size=16).hexdigest(),
                blocks=tuple(Block(n, 4 * n, nats * n / count) for n in sizes) if len(sizes) > 1 else (),
            )
        )
    return found


def write_both(folder, count):
    draw = np.random.default_rng(0)
    tokens = np.maximum(np.rint(np.exp(draw.normal(5.5, 1, count))), 1).astype(np.int64)
    ours = -tokens * np.maximum(3 + 0.5 * draw.standard_normal(count), 0.5)
    theirs = ours + tokens * (0.01 + 0.045 * draw.standard_t(4, count))
    write_ledger(folder / "a.parquet", rows(ours, tokens), METADATA | {"model": "runs/a"})
    write_ledger(folder / "b.parquet", rows(theirs, tokens), METADATA | {"model": "runs/b"})


def timed(folder):
    """(seconds from start to end, seconds of the processor), and what the command said."""
    (folder / "compare.html").unlink(missing_ok=True)
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "thetahat",
        "compare",
        "a.parquet",
        "b.parquet",
        "--html",
        "compare.html",
        "--json",
    ]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, worked, json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--documents", type=int, default=10_000)
    parser.add_argument("--out", metavar="FILE")
    chosen = parser.parse_args()
    with TemporaryDirectory() as name:
        write_both(Path(name), chosen.documents)
        runs = [timed(Path(name)) for _ in range(REPETITIONS)]
        sizes = {path.name: path.stat().st_size for path in sorted(Path(name).iterdir())}
    seconds, worked, said = zip(*runs, strict=True)
    result = {
        "documents": chosen.documents,
        "seconds": [round(one, 2) for one in seconds],
        "median_seconds": round(statistics.median(seconds), 2),
        "median_processor_seconds": round(statistics.median(worked), 2),
        "bytes": sizes,
        "nats_per_token_difference": said[0]["nats_per_token_difference"],
        "ci95": said[0]["ci95"],
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    print(json.dumps(result))
    if chosen.out:
        Path(chosen.out).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

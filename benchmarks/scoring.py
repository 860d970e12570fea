"""Tokens scored per second: `score_corpus` and lm-eval's Hugging Face backend, the same weights, texts and threads.

    pip install -e ".[eval]" "lm-eval[hf]"
    python benchmarks/scoring.py TEXT... [--vocab-size 8192] [--documents 192] [--repeats 5] [--out results.json]
    ... --recipe gpt2-124m --vocab-size 32768 --documents 40
    ... --device cuda --dtype bfloat16 --documents 3000

A decoder with random weights is written into transformers' Qwen3, whose shape it has. Both sides get texts and give a
log-likelihood for each, tokenisation included; nothing is timed unless the models agree in float64 to 1e-4 nats a text.
lm-eval can be asked in two ways: for rolling likelihoods, which it reads in the order they came, and for likelihoods of
a continuation of nothing, which it sorts by length. Each side has a process of its own, and is timed at every batch
size, and again at its best one, all in turns; ratios are to the faster way. Memory: again a process each.
"""

import argparse
import gzip
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from thetahat.data.corpus.choice import QuestionEncoding, encode_questions
from thetahat.data.read.question import question
from thetahat.data.read.record import Record
from thetahat.data.tokens.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, train_tokenizer
from thetahat.distribution.world import World
from thetahat.ledger.policy import Policy
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig, Dtype
from thetahat.model.decoder import Decoder
from thetahat.model.init import initialize
from thetahat.recipes.catalogue import find_recipe
from thetahat.scoring.likelihood import score_corpus

CONTEXT = 512
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
SHAPE = DecoderConfig(num_layers=8, width=512, num_heads=8, num_kv_heads=4, head_width=64, inner_width=1408)
NAMES = {  # ours: transformers'
    "embedding.": "model.embed_tokens.",
    "blocks.": "model.layers.",
    "attention_norm.gain": "input_layernorm.weight",
    "mlp_norm.gain": "post_attention_layernorm.weight",
    "attention.query_norm.gain": "self_attn.q_norm.weight",
    "attention.key_norm.gain": "self_attn.k_norm.weight",
    "attention.query.": "self_attn.q_proj.",
    "attention.key.": "self_attn.k_proj.",
    "attention.value.": "self_attn.v_proj.",
    "attention.output.": "self_attn.o_proj.",
    "mlp.gate.": "mlp.gate_proj.",
    "mlp.up.": "mlp.up_proj.",
    "mlp.down.": "mlp.down_proj.",
    "head.": "lm_head.",
}
Scorer = Callable[[list[str], int], list[float]]


@dataclass(frozen=True)
class Where:
    """What both sides run, on what, and in which arithmetic: weights of float32 or, for lm-eval, of `dtype`."""

    device: str = "cpu"
    dtype: Dtype = "float32"
    recipe: str = ""  # whose model both read; none: SHAPE

    def shape(self) -> DecoderConfig:
        model = find_recipe(self.recipe).model if self.recipe else SHAPE
        assert isinstance(model, DecoderConfig)
        return model


def our_model(tokenizer: Tokenizer, shape: DecoderConfig) -> Decoder:
    """Random weights, large enough that every path matters."""
    model = build_model(shape, tokenizer.vocab_size)
    initialize(model, 0)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=draw)
    return model.eval()


def their_name(name: str) -> str:
    if name == "norm.gain":
        return "model.norm.weight"
    for ours, theirs in NAMES.items():
        name = name.replace(ours, theirs)
    return name


def ours(folder: Path, where: Where) -> Scorer:
    tokenizer, device = load_tokenizer(folder / "tokenizer.json"), torch.device(where.device)
    model = our_model(tokenizer, where.shape()).to(device, torch.float64 if where.dtype == "float64" else torch.float32)

    def score(texts: list[str], batch_size: int) -> list[float]:
        questions = [question([""], [text], 0, Record("", str(i), str(i), "")) for i, text in enumerate(texts)]
        corpus = encode_questions(questions, tokenizer, QuestionEncoding(context=CONTEXT)).corpus
        how = Policy(CONTEXT, CONTEXT, batch_size, where.dtype)
        return score_corpus(model, corpus, how, World(), device).log_prob.tolist()

    return score


def harness_of(folder: Path, where: Where) -> Any:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

    shape, inner = where.shape(), load_tokenizer(folder / "tokenizer.json")
    config = Qwen3Config(
        vocab_size=inner.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.inner_width,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.head_width,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_base},
        rms_norm_eps=shape.norm_epsilon,
        tie_word_embeddings=shape.ties_embeddings,
        max_position_embeddings=CONTEXT,
        dtype="float32",
    )
    model = Qwen3ForCausalLM(config).eval()
    model.load_state_dict({their_name(name): tensor for name, tensor in our_model(inner, shape).state_dict().items()})
    model = model.to(where.device, getattr(torch, where.dtype))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), eos_token=END_OF_TEXT, bos_token=END_OF_TEXT
    )
    return HFLM(pretrained=model, tokenizer=tokenizer, max_length=CONTEXT, device=where.device)


def rolling(folder: Path, where: Where) -> Scorer:
    harness = harness_of(folder, where)

    def score(texts: list[str], batch_size: int) -> list[float]:
        harness.batch_size_per_gpu = batch_size
        return harness.loglikelihood_rolling([SimpleNamespace(args=(text,)) for text in texts], disable_tqdm=True)

    return score


def continued(folder: Path, where: Where) -> Scorer:
    harness = harness_of(folder, where)

    def score(texts: list[str], batch_size: int) -> list[float]:
        harness.batch_size_per_gpu = batch_size
        requests = [SimpleNamespace(args=("", text)) for text in texts]
        return [found for found, _ in harness.loglikelihood(requests, disable_tqdm=True)]

    return score


@torch.no_grad()
def their_sums(folder: Path, texts: list[str], recipe: str) -> list[float]:
    """Of their model in float64, but for its norms, which are float32 whatever the model is."""
    harness = harness_of(folder, Where(dtype="float64", recipe=recipe))
    found: list[float] = []
    for text in texts:
        ids = torch.tensor([[harness.prefix_token_id, *harness.tok_encode(text)]])
        log_probs = harness.model(ids[:, :-1]).logits.log_softmax(-1)
        found.append(float(log_probs.gather(-1, ids[:, 1:, None]).sum()))
    return found


OURS, ANSWER = "thetahat", "answer: "
SIDES = {OURS: ours, "lm-eval hf, rolling": rolling, "lm-eval hf, continued": continued}


def documents(text: str, number: int) -> list[str]:
    """Cuts of 80 to 1,600 characters, their lengths spread evenly on a logarithmic scale."""
    draw = np.random.default_rng(0)
    sizes = np.exp(draw.uniform(np.log(80), np.log(1600), number)).astype(int)
    starts = draw.integers(0, len(text) - 1600, number)
    return [text[start : start + size].strip() for start, size in zip(starts.tolist(), sizes.tolist(), strict=True)]


def read(path: str) -> str:
    file = Path(path)
    return (gzip.open(file).read() if file.suffix == ".gz" else file.read_bytes()).decode()


class Worker:
    """A side in a process of its own, which scores when it is told to."""

    def __init__(self, side: str, folder: Path, where: Where, threads: int) -> None:
        self.command = [*command_of(side, folder, where, threads), "--serve"]
        self.process = self.start()

    def start(self) -> subprocess.Popen[str]:
        pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(self.command, stdin=pipe, stdout=pipe, stderr=nowhere, text=True)

    def score(self, batch_size: int) -> tuple[float, list[float]]:
        """Seconds, and what was found."""
        assert self.process.stdin
        assert self.process.stdout
        print(batch_size, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith(ANSWER):
                found = json.loads(line.removeprefix(ANSWER))
                return found["seconds"], found["log_probs"]
        self.process = self.start()
        raise MemoryError


def command_of(side: str, folder: Path, where: Where, threads: int) -> list[str]:
    options = {
        "--only": side,
        "--folder": folder,
        "--device": where.device,
        "--dtype": where.dtype,
        "--threads": threads,
        "--recipe": where.recipe,
    }
    return [sys.executable, __file__, *(str(word) for pair in options.items() for word in pair)]


def serve(side: str, folder: Path, where: Where) -> None:
    texts, score = json.loads((folder / "texts.json").read_text()), SIDES[side](folder, where)
    score(texts[:8], 8)
    for line in sys.stdin:
        start = time.perf_counter()
        found = score(texts, int(line))
        print(ANSWER + json.dumps({"seconds": time.perf_counter() - start, "log_probs": found}), flush=True)


def swept(worker: Worker, num_tokens: int) -> dict[int, float]:
    """Tokens per second at each batch size, warm, until two in a row are a fifth below the best, or memory is full."""
    rates: dict[int, float] = {}
    for size in BATCH_SIZES:
        try:
            rates[size] = num_tokens / min(worker.score(size)[0] for _ in range(2))
        except MemoryError:
            break
        if max(list(rates.values())[-2:]) < 0.8 * max(rates.values()):
            break
    return rates


def memory(side: str, folder: Path, batch_size: int, where: Where, threads: int) -> dict[str, float]:
    """Peak MiB of a process of its own, above what stands there once the model has read one short text."""
    command = [*command_of(side, folder, where, threads), "--batch-size", str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def resident(name: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at the most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def only(side: str, folder: Path, batch_size: int, where: Where) -> None:
    texts = json.loads((folder / "texts.json").read_text())
    score = SIDES[side](folder, where)
    score(texts[:1], 1)
    if where.device == "cpu":
        loaded = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; ru_maxrss would be the parent's
        score(texts, batch_size)
        peak = resident("VmHWM")
    else:
        torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated() / 2**20
        score(texts, batch_size)
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"loaded_mib": loaded, "peak_mib": peak, "above_mib": peak - loaded}))


def check_models(folder: Path, texts: list[str], recipe: str) -> float:
    """The largest difference of a text's log-likelihood in float64; SystemExit where they are not the same model."""
    checked = sorted(texts, key=len)[:: max(1, len(texts) // 24)]
    found = ours(folder, Where(dtype="float64", recipe=recipe))(checked, 8)
    gap = float(np.abs(np.array(found) - their_sums(folder, checked, recipe)).max())
    if gap > 1e-4:
        raise SystemExit(f"not the same model: {gap} nats apart")
    return gap


def compare(folder: Path, texts: list[str], repeats: int, where: Where, threads: int) -> dict[str, object]:
    tokenizer = load_tokenizer(folder / "tokenizer.json")
    sizes = [len(ids) for ids in tokenizer.encode(texts)]
    num_tokens = sum(sizes)
    gap = check_models(folder, texts, where.recipe)
    workers = {side: Worker(side, folder, where, threads) for side in SIDES}
    found = {side: np.array(worker.score(8)[1]) for side, worker in workers.items()}
    sweep = {side: swept(worker, num_tokens) for side, worker in workers.items()}
    best = {side: max(sweep[side], key=lambda size: sweep[side][size]) for side in SIDES}
    rates: dict[str, list[float]] = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side, worker in workers.items():
            rates[side].append(num_tokens / worker.score(best[side])[0])
    medians = {side: statistics.median(some) for side, some in rates.items()}
    peer = max(SIDES.keys() - {OURS}, key=lambda side: medians[side])
    ratios = [one / other for one, other in zip(rates[OURS], rates[peer], strict=True)]
    for worker in workers.values():
        worker.process.kill()
    return {
        "num_documents": len(texts),
        "num_tokens": num_tokens,
        "longest": max(sizes),
        "shortest": min(sizes),
        "max_difference_nats_float64": gap,
        f"max_difference_nats_{where.dtype}": float(np.abs(found[OURS] - found[peer]).max()),
        "sweep_tokens_per_second": sweep,
        "best_batch_size": best,
        "tokens_per_second": rates,
        "median_tokens_per_second": medians,
        "peer": peer,
        "ratio": medians[OURS] / medians[peer],
        "ratio_min_max": [min(ratios), max(ratios)],
        "memory": {side: memory(side, folder, best[side], where, threads) for side in SIDES},
        "memory_at_16": {side: memory(side, folder, 16, where, threads) for side in SIDES},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("texts", nargs="*")
    parser.add_argument("--vocab-size", type=int, default=8192)
    parser.add_argument("--documents", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--recipe", default="", help="whose model both read; none: 32M parameters")
    parser.add_argument("--only", choices=SIDES)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--batch-size", type=int, default=16)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    where = Where(asked.device, asked.dtype, asked.recipe)
    if asked.serve:
        serve(asked.only, asked.folder, where)
        return
    if asked.only:
        only(asked.only, asked.folder, asked.batch_size, where)
        return
    text = "".join(map(read, asked.texts))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tokenizer = train_tokenizer([text[: 1 << 21]], asked.vocab_size)
        (folder / "tokenizer.json").write_text(tokenizer.to_json())
        texts = documents(text, asked.documents)
        (folder / "texts.json").write_text(json.dumps(texts))
        found = compare(folder, texts, asked.repeats, where, asked.threads)
    versions = {name: __import__(name).__version__ for name in ("torch", "transformers")}
    chip = platform.processor() or platform.machine() if where.device == "cpu" else torch.cuda.get_device_name()
    machine = {"machine": chip, "threads": asked.threads, "dtype": where.dtype, **versions}
    shape = {
        "vocab_size": tokenizer.vocab_size,
        "context": CONTEXT,
        "parameters": num_parameters(tokenizer, where.shape()),
    }
    report = json.dumps({**machine, **shape, **found}, indent=1)
    print(report)
    if asked.out:
        asked.out.write_text(report + "\n")


def num_parameters(tokenizer: Tokenizer, shape: DecoderConfig) -> int:
    return sum(parameter.numel() for parameter in build_model(shape, tokenizer.vocab_size).parameters())


if __name__ == "__main__":
    main()

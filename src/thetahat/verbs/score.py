"""How likely a text is under a model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from thetahat.core import store
from thetahat.core.errors import DataError, FolderError
from thetahat.data.build import build_corpus
from thetahat.data.cache import default_cache
from thetahat.data.config import DataConfig
from thetahat.data.corpus import Corpus
from thetahat.data.source import Record, divide, read_records
from thetahat.distribution.world import World, join_world
from thetahat.evaluation.ledger import LedgerRow, write_ledger
from thetahat.evaluation.likelihood import Policy, ledger_rows, score_corpus
from thetahat.evaluation.summary import Summary, summarize
from thetahat.run.checkpoint import read_progress
from thetahat.run.prepare import encoding_of
from thetahat.verbs.load import Loaded, load


@dataclass(frozen=True, slots=True)
class Score:
    """The totals, the rows they are sums of, and how these were computed."""

    summary: Summary
    policy: str
    rows: list[LedgerRow]


def score(model: Loaded | str, data: Sequence[str] = (), *, out: Path | None = None) -> Score:
    """The log-likelihood of every document of `data`; without data, of what the run held out.

    Policy, dtype and text division are those of the run, so on its held-out part this is the number of its log.
    """
    if out:
        _check_out(out)
    loaded = load(model) if isinstance(model, str) else model
    world = join_world(loaded.config.device)
    corpus = _corpus(loaded, data, world)
    policy = loaded.config.policy()
    likelihoods = score_corpus(loaded.model, corpus, policy, world, loaded.device)
    rows = ledger_rows(likelihoods, corpus, policy)
    if out and world.is_first:
        write_ledger(out, rows, _metadata(loaded, corpus, policy))
    return Score(summarize(rows), policy.describe(), rows)


def _check_out(out: Path) -> None:
    """Before anything takes time: a ledger that cannot be written is an hour of scoring lost."""
    if not out.name or out.exists():
        raise FolderError(f"{str(out)!r} exists, and nothing is written over", cure="another --out, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)


def _corpus(loaded: Loaded, data: Sequence[str], world: World) -> Corpus:
    settings = {} if data else {"part": "held-out"}

    def build() -> Corpus:
        records, encoding = _records(loaded.config.data, data), encoding_of(loaded.config, loaded.labels)
        return build_corpus(records, loaded.tokenizer, settings, default_cache() / "corpora", encoding)

    corpus = world.first_does(build) or build()
    if not data and corpus.fingerprint not in read_progress(loaded.folder)["data"]:
        what = f"the text of {loaded.folder} has changed since: this is not what was held out"
        raise FolderError(
            what, cure="bring the text back as it was, or name the text to score: thetahat score MODEL DATA"
        )
    return corpus


def _records(config: DataConfig, data: Sequence[str]) -> Iterator[Record] | list[Record]:
    if data:
        return list(read_records(data, config.split_on))
    _, held_out = divide(config)
    if held_out is None:
        raise DataError("this run held out nothing (data.held_out=none)", cure="thetahat score MODEL DATA")
    return list(held_out)


def _metadata(loaded: Loaded, corpus: Corpus, policy: Policy) -> dict[str, str]:
    return {
        "model": str(loaded.folder),
        "model_sha256": store.digest_file(loaded.folder / "model.safetensors"),
        "tokenizer_sha256": loaded.tokenizer.digest,
        "data": corpus.fingerprint,
        "policy": policy.describe(),
        "unit": "nats",
    }

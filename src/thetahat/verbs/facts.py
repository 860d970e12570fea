"""What a model card says of a model: its data, its config, how likely it makes what was held out."""

from logging import getLogger
from pathlib import Path

import tomli_w

from thetahat.core.config import kind_of, to_plain
from thetahat.core.errors import ThetahatError
from thetahat.data.chat.template import TEMPLATES
from thetahat.interop.hub import PREFIX, hub_name, is_hub_name
from thetahat.interop.out.card import CorpusFacts, Measured, ModelFacts, without_paths
from thetahat.model.config import DecoderConfig, EncoderConfig
from thetahat.run.config import RunConfig
from thetahat.run.folder.files import read_progress
from thetahat.run.folder.folder import version_of
from thetahat.verbs.load import Loaded
from thetahat.verbs.score import Shows, score

logger = getLogger("thetahat")
_BUNDLED = "bundled:"
_PATHS = {
    "data.train": [_BUNDLED],
    "data.held_out": ["hash:", "tail:", "none"],
    "data.tokenizer": [],
    "data.chat.template": [*TEMPLATES],
    "base": [PREFIX],
}


def measured(loaded: Loaded, name: str, shows: Shows | None) -> tuple[Measured | None, str]:
    """How likely the model makes what its run held out, or why that is not said."""
    if loaded.stored.run is None:
        return None, "it was not trained here, so nothing was held out"
    try:
        found = score(loaded, shows=shows)
    except ThetahatError as error:
        logger.info("the card has no likelihood: %s", error.what)
        return None, error.what
    return Measured(summary=found.summary, policy=found.policy, command=f"thetahat score {Path(name).name}"), ""


def facts_of(loaded: Loaded, name: str, likelihood: Measured | None, why_not: str) -> ModelFacts:
    """All that the card says."""
    run = loaded.stored.run
    base = run.base if run and run.base and is_hub_name(run.base) else None
    return ModelFacts(
        title=Path(name).name,
        library="transformers",
        task=_task(loaded),
        base=hub_name(base).name if base else None,
        tags=["thetahat", kind_of(loaded.card.factorization)],
        lines=_lines(loaded),
        corpora=_corpora(loaded) if run else (),
        measured=likelihood,
        why_not=why_not,
        config=_config(run) if run else "",
        versions={package: version_of(package) or "" for package in ("thetahat", "torch", "tokenizers", "safetensors")},
    )


def _task(loaded: Loaded) -> str:
    match loaded.card.model:
        case DecoderConfig():
            return "text-generation"
        case EncoderConfig():
            return "fill-mask"
        case _:
            return "text2text-generation"


def _lines(loaded: Loaded) -> list[str]:
    card, num = loaded.card, sum(parameter.numel() for parameter in loaded.model.parameters())
    lines = [f"{kind_of(card.model)} of {num:,} parameters; {loaded.tokenizer.vocab_size:,} tokens"]
    lines += [f"context of {card.context:,} tokens"]
    if loaded.stored.run is not None:
        lines += [f"trained by maximum likelihood with thetahat: {kind_of(card.factorization)}"]
        progress = read_progress(loaded.folder)
        lines += [f"{progress['step']:,} steps, {progress['tokens']:,} targets"]
    frame = loaded.tokenizer.frames.text
    before, after = (" ".join(map(loaded.tokenizer.piece, ids)) for ids in (frame.before, frame.after))
    return [*lines, f"a text is read behind `{before}`, and ends with `{after}`"]


def _corpora(loaded: Loaded) -> list[CorpusFacts]:
    """What the run noted of its data."""
    progress = read_progress(loaded.folder)
    counted = {one["fingerprint"]: one for one in progress.get("corpora", [])}
    return [
        CorpusFacts(
            part=part,
            fingerprint=fingerprint,
            num_documents=counted.get(fingerprint, {}).get("documents"),
            num_tokens=counted.get(fingerprint, {}).get("tokens"),
        )
        for part, fingerprint in zip(("train", "held-out"), progress["data"], strict=False)
    ]


def _config(run: RunConfig) -> str:
    return tomli_w.dumps(without_paths(to_plain(run), _PATHS))

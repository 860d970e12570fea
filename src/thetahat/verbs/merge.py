"""A run with adapters as a plain model: one matrix in place of each product, and no base to look for."""

from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from thetahat.core import store
from thetahat.core.config import to_toml
from thetahat.core.errors import ConfigError
from thetahat.core.plain import fields_as_json
from thetahat.interop.origin import write_origin
from thetahat.model.adapters import lora
from thetahat.run.base import parameters_of
from thetahat.run.config import RunConfig, digest
from thetahat.run.folder.files import CARD, CONFIG, MODEL, STATE, read_progress
from thetahat.run.folder.tensors import write_tensors
from thetahat.verbs.load import finite, load
from thetahat.verbs.origin import origin_of_model


@dataclass(frozen=True, slots=True)
class Merged:
    """What a plain model was made of; its `state.json` says so, too."""

    checkpoint: str  # of the run with adapters
    step: int
    base: str
    base_digest: str | None
    rank: int
    alpha: float
    num_matrices: int  # to which a product was added


def merge(name: str, out: Path | None = None) -> tuple[Path, Merged]:
    r"""Writes the model of a run that was trained with adapters as a folder of its own, and says where.

    Each adapted matrix becomes $W + \tfrac{\alpha}{r} B A$, computed in float64 and rounded once to the dtype of the
    run's parameters. One is made after another, so the model is never in memory. The folder is a checkpoint like any
    other, with a config that has neither base nor adapter, and without an optimizer: it can be scored, can write, and
    can be the base of other runs. Without `out` it lies beside the run, as RUN-merged. Hu et al., LoRA, 2021 (arXiv
    2106.09685), section 4.1.
    """
    target = out or _beside(name)
    store.check_target(target)
    loaded = load(name, ("device=cpu",), on_meta=True)
    saved = loaded.stored.run
    if saved is None or saved.adapter is None or saved.base is None:
        how = _beginning(saved)
        raise ConfigError(
            f"{name} has no adapters to merge: it was {how}, and is a plain model already",
            cure=f"thetahat score {name}; adapters are trained with thetahat train base={name} adapter.rank=8",
        )
    progress, origin = read_progress(loaded.folder), origin_of_model(loaded.stored)
    merged = Merged(
        checkpoint=loaded.stored.name,
        step=progress["step"],
        base=saved.base,
        base_digest=saved.base_digest,
        rank=saved.adapter.rank,
        alpha=saved.adapter.alpha,
        num_matrices=lora.merge(loaded.model),
    )
    config = replace(
        saved, base=None, base_digest=None, base_vocab_size=None, adapter=None, frozen=()
    )  # `frozen` may name adapters
    tensors = finite(parameters_of(loaded.stored), loaded.folder)
    with store.alone(target), store.publishing(target) as folder:
        write_tensors({MODEL: tensors}, folder)
        store.write_json(folder / STATE, progress | {"config": digest(config), "merged": fields_as_json(merged)})
        store.write_text(folder / CONFIG, to_toml(config))
        store.write_text(folder / CARD, to_toml(loaded.card))
        for name in loaded.tokenizer.files():
            (folder / name).write_bytes((loaded.folder / name).read_bytes())
        if origin:
            write_origin(folder, origin)
    return target, merged


def _beginning(run: RunConfig | None) -> str:
    if run is None:
        return "trained elsewhere"
    return f"started from base={run.base} and trained as a whole" if run.base else "trained from the beginning"


def _beside(name: str) -> Path:
    """RUN-merged; of RUN@500, RUN-500-merged."""
    path = Path(name) if Path(name).name not in {"", ".."} else Path(name).resolve()
    return path.with_name(f"{path.name.replace('@', '-')}-merged")

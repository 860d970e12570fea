"""What a model, a run or a config is: shape, parameters, operations, memory, files, lineage. No weights are read."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thetahat.core import store
from thetahat.core.config import kind_of
from thetahat.core.errors import ModelError, ThetahatError
from thetahat.core.plain import fields_as_json
from thetahat.data.chat.template import load_template
from thetahat.data.config import ChatConfig
from thetahat.interop.files import Stored, headers, stored_in
from thetahat.model.config import DecoderConfig, LatentMixer, ModelConfig
from thetahat.model.cost import flops_per_token, idle_parameters, parameters_by_part
from thetahat.run.config import RunConfig
from thetahat.run.diagnosis.needed import Inference, Training, inference_memory, training_memory
from thetahat.run.folder.config import read_config
from thetahat.run.folder.files import STATE, paths_of, read_progress
from thetahat.run.folder.moved import find_checkpoint_again, run_of, shown
from thetahat.run.folder.stored import Checkpoint, StoredModel, find_model
from thetahat.verbs.asked import Asked, look_at

FARTHEST = 32  # generations of a lineage


@dataclass(frozen=True, slots=True)
class File:
    """A file of a model."""

    name: str
    num_bytes: int
    sha256: str | None  # None: no manifest has it, and it was not asked for


@dataclass(frozen=True, slots=True)
class Ancestor:
    """What a model came from."""

    relation: str  # branched from, or trained from
    name: str
    is_there: bool


@dataclass(frozen=True, slots=True)
class Info:
    """All that can be said without reading weights. What a config leaves to the data is None."""

    name: str
    is_trained: bool  # it has weights; else a config says what they would be
    family: str | None  # model_type of a folder of transformers
    shape: Mapping[str, Any]
    parameters: Mapping[str, int]  # by part
    num_parameters: int
    num_active: int  # that a token is computed with: of experts those that it chooses
    num_trainable: int  # by the config of the training
    stored: Mapping[str, int]  # numbers in its files of weights, by dtype
    context: int
    flops_per_token: int  # of training; a third of it is the forward pass
    training: Training | None
    inference: Inference
    progress: Mapping[str, Any] | None
    files: tuple[File, ...]
    lineage: tuple[Ancestor, ...]
    adapter: Mapping[str, Any] | None
    tokenizer: Mapping[str, Any]
    template: Mapping[str, str] | None

    def to_dict(self) -> dict[str, Any]:
        """What `--json` prints."""
        return fields_as_json(self)


def info(what: str | RunConfig, *, training: RunConfig | None = None, digests: bool = False) -> Info:
    """What a MODEL or a config is. Of weights only the headers of their files are read.

    The memory of training is that of the config, of the run of a model, or of `training`. SHA-256 of files stand in the
    manifest of a checkpoint; those of other folders are computed if `digests` asks for it. Raises ModelError for what
    is no model, and for a damaged one.
    """
    asked = look_at(what, training)
    model = asked.on_meta()
    config, stored = asked.config, asked.stored
    made_by = stored.run if stored else None if asked.family else config  # not what is only thought of
    parts = parameters_by_part(model)
    folder = stored.folder if stored else None
    return Info(
        name=asked.name,
        is_trained=stored is not None,
        family=asked.family,
        shape=_shape(asked.model),
        parameters=parts,
        num_parameters=sum(parts.values()),
        num_active=sum(parts.values()) - idle_parameters(model),
        num_trainable=sum(one.numel() for one in model.parameters() if one.requires_grad),
        stored=_stored(stored),
        context=asked.context,
        flops_per_token=flops_per_token(asked.model, asked.num_rows, asked.context),
        training=training_memory(model, config, asked.num_rows, len(asked.labels)) if config else None,
        inference=inference_memory(model, asked.context),
        progress=read_progress(folder) if folder and (folder / STATE).is_file() else None,
        files=_files(stored, digests=digests),
        lineage=tuple(_lineage(made_by, folder or Path())) if made_by else (),
        adapter=fields_of(config.adapter) if config and config.adapter else None,
        tokenizer=_tokenizer(asked),
        template=_template(asked.chat),
    )


def fields_of(config: Any) -> dict[str, Any]:
    """The fields of a config as they are."""
    return {name: getattr(config, name) for name in config.__struct_fields__}


def _shape(model: ModelConfig) -> dict[str, Any]:
    names = ["num_layers", "width", "num_heads", "num_kv_heads", "head_width", "inner_width"]
    names += ["num_encoder_layers"] if hasattr(model, "num_encoder_layers") else []
    found: dict[str, Any] = {"kind": kind_of(model)} | {name: getattr(model, name) for name in names}
    kinds = list(dict.fromkeys(map(kind_of, model.layers)))
    found |= {"layers": ", ".join(kinds)} if kinds != ["attention"] else {}
    latents = sorted({mixer.latent_width for mixer in model.layers if isinstance(mixer, LatentMixer)})
    found |= {"latent_width": latents} if latents else {}
    distances = sorted({mixer.distance for mixer in model.attentions if mixer.distance is not None})
    if model.experts is not None:
        experts = model.experts
        found |= {"experts": f"{experts.num_chosen} of {experts.num_experts}"}
        found |= {"expert_width": experts.inner_width or model.inner_width}
        found |= {"shared_width": experts.shared_width} if experts.shared_width else {}
        found |= {"dense_layers": experts.num_dense} if experts.num_dense else {}
    if isinstance(model, DecoderConfig) and model.num_future:
        found |= {"future_tokens": f"{model.num_future}, by a block each that training alone reads"}
    seen = max((mixer.num_global for mixer in model.attentions), default=0)
    windows = {"windows": distances} if distances else {}
    windows |= {"seen_beyond_windows": seen} if seen else {}
    return found | {"ties_embeddings": model.ties_embeddings} | windows


def _stored(stored: StoredModel | None) -> dict[str, int]:
    """How many numbers of each dtype the files of weights hold, by their headers."""
    found: dict[str, int] = {}
    for tensor in (_headers(stored) if stored else {}).values():
        count = 1
        for size in tensor.shape:
            count *= size
        found[tensor.dtype] = found.get(tensor.dtype, 0) + count
    return found


def _headers(stored: StoredModel) -> Mapping[str, Stored]:
    if isinstance(stored, Checkpoint):
        return headers(paths_of(stored.folder / stored.weights.file))
    return stored_in(stored.folder)


def _files(stored: StoredModel | None, *, digests: bool) -> tuple[File, ...]:
    if stored is None:
        return ()
    if isinstance(stored, Checkpoint):
        names = store.names(stored.folder)
        return tuple(
            File(name, (stored.folder / name).stat().st_size, store.digest_in(stored.folder, name)) for name in names
        )
    paths = sorted(path for path in stored.folder.rglob("*") if path.is_file())
    return tuple(
        File(
            path.relative_to(stored.folder).as_posix(),
            path.stat().st_size,
            store.digest_file(path) if digests else None,
        )
        for path in paths
    )


def _lineage(config: RunConfig, folder: Path) -> Sequence[Ancestor]:
    """Parents and bases, the nearest first, as far as they are found."""
    found: list[Ancestor] = []
    while len(found) < FARTHEST:
        above: Path | None = None
        if config.parent:
            parent = config.parent
            above = find_checkpoint_again(parent.run, parent.step, parent.digest, folder)
            run = shown(run_of(above).absolute()) if above else parent.run
            found.append(Ancestor("branched from", f"{run}@{parent.step}", above is not None))
        elif config.base:
            with suppress(ThetahatError):
                above = find_model(config.base, deep=False).folder
            found.append(Ancestor("trained from", config.base, above is not None))
        if above is None or not (above / "config.toml").is_file():
            return found
        try:
            config, folder = read_config(above), above
        except ModelError:
            return found
    return found


def _tokenizer(asked: Asked) -> dict[str, Any]:
    tokenizer = asked.tokenizer
    if tokenizer is None:
        return {"vocab_size": asked.num_rows, "is_trained": False}
    frame = tokenizer.frames.text
    return {
        "vocab_size": tokenizer.vocab_size,
        "num_rows": asked.num_rows,
        "is_trained": True,
        "special_tokens": sorted(tokenizer.special, key=lambda name: tokenizer.special[name]),
        "before_a_text": [tokenizer.piece(id) for id in frame.before],
        "behind_a_text": [tokenizer.piece(id) for id in frame.after],
    }


def _template(chat: ChatConfig | None) -> dict[str, str] | None:
    if chat is None:
        return None
    return {"name": chat.template, "digest": load_template(chat).digest}

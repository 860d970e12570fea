"""`thetahat info`."""

import os
from typing import TYPE_CHECKING, Any

import typer

from thetahat.cli.table import Column, show_table, show_values
from thetahat.cli.words import (
    Json,
    Quiet,
    emit,
    emit_json,
    emit_words,
    find_config,
    in_line,
    listen_to_library,
    say,
    split_words,
)
from thetahat.core.plain import sized

if TYPE_CHECKING:
    from thetahat.run.config import RunConfig
    from thetahat.run.diagnosis.needed import Training
    from thetahat.verbs.info import Info

MOST_FILES = 16
DTYPES = {"F32": "float32", "F64": "float64", "BF16": "bfloat16", "F16": "float16"}


def info(
    words: list[str] = typer.Argument(metavar="MODEL|CONFIG.toml|RECIPE [DATA]... [KEY=VALUE]..."),
    digests: bool = typer.Option(False, "--digests", help="SHA-256 of files that no manifest names, too."),
    quiet: bool = Quiet,
    json: bool = Json,
) -> None:
    """Show what a model, a run or a recipe is: shape, parameters, FLOPs, memory, files, lineage, tokenizer, template.

    No weights are read. With KEY=VALUE, the memory that training would need so.
    """
    listen_to_library(quiet=quiet)
    found = _look(words, digests=digests)
    if json:
        emit_json(found)
        return
    _show(found)
    if not quiet:
        also = f"thetahat cost {words[0]}" if found.family else f"thetahat train {words[0]}"
        say(f"\nNext: {f'thetahat score {found.name} DATA' if found.is_trained else also}")


def _look(words: list[str], *, digests: bool) -> "Info":
    from thetahat.recipes.catalogue import RECIPES
    from thetahat.run.folder.absent import refuse_absent

    names, pairs = split_words(words)
    name = names[0] if names else ""
    if not names or name in RECIPES or name.endswith(".toml") or not is_model(name):
        config = find_config(words)
        from thetahat.verbs.info import info as look

        return look(config)
    refuse_absent(name)
    from thetahat.verbs.info import info as look

    return look(name, training=training_of(name, pairs), digests=digests)


def is_model(name: str) -> bool:
    """Whether a name is meant as that of a model: a folder, RUN@STEP, or one of the hub."""
    return name.startswith("hf:") or os.path.isdir(name) or "@" in name or "/" in name


def training_of(name: str, pairs: list[str]) -> "RunConfig":
    """The config that the model was trained by, or would be, with what was typed."""
    from thetahat.core.config import override
    from thetahat.recipes.fine_tuning import fine_tuning
    from thetahat.run.folder.stored import Described, find_described

    stored = find_described(name)
    run = None if isinstance(stored, Described) else stored.run
    return override(run or fine_tuning(name, stored.card), pairs)


def _show(found: "Info") -> None:
    kind = f"{found.shape['kind']} of {found.num_parameters:,} parameters"
    emit_words(f"{in_line(found.name)}: {kind}{f', {found.family} of transformers' if found.family else ''}\n")
    show_values(_overview(found))
    emit("")
    rows = [{"part": part, "number": number} for part, number in found.parameters.items()]
    rows += [{"part": "all", "number": found.num_parameters}]
    columns = [
        Column("parameters", lambda row: row["part"]),
        Column("number", lambda row: row["number"], ","),
        Column("share", lambda row: row["number"] / found.num_parameters, ".1%"),
    ]
    show_table(rows, columns)
    if found.training:
        emit("")
        _showtraining_of(found.training)
    emit("")
    asked = found.inference
    of_text = f"{sized(asked.cache_per_token)} a token, {sized(asked.cache)} for that text"
    show_values({
        "memory to ask it": f"{sized(asked.parameters + asked.cache)}, for a text of {asked.context:,} tokens",
        "parameters": sized(asked.parameters),
        **({"keys and values": of_text} if asked.cache else {}),
    })  # fmt: skip
    if found.files:
        emit("")
        columns = [
            Column("file", lambda file: file.name),
            Column("bytes", lambda file: file.num_bytes, ","),
            Column("SHA-256", lambda file: file.sha256 and file.sha256[:16], ""),
        ]
        show_table(found.files[:MOST_FILES], columns, num_more=len(found.files) - MOST_FILES)


def _overview(found: "Info") -> dict[str, Any]:
    told: dict[str, Any] = {name.replace("_", " "): value for name, value in found.shape.items() if name != "kind"}
    told = {
        name: ", ".join(map(str, value)) if isinstance(value, list) else str(value).lower()
        for name, value in told.items()
    }
    told["context"] = f"{found.context:,} tokens"
    told["vocabulary"] = _vocabulary(found)
    told["chat template"] = found.template["name"] if found.template else "none"
    told["operations"] = f"{found.flops_per_token / 1e6:,.1f} MFLOP a token of training at that context"
    if found.num_active != found.num_parameters:
        told["active"] = f"{found.num_active:,} of the parameters, for each token"
    if found.num_trainable != found.num_parameters:
        told["trained"] = f"{found.num_trainable:,} of the parameters"
    if found.adapter:
        told["adapter"] = f"LoRA of rank {found.adapter['rank']}, alpha {found.adapter['alpha']:g}"
    if found.stored:
        told["weights on disk"] = ", ".join(f"{n:,} in {DTYPES.get(kind, kind)}" for kind, n in found.stored.items())
    if found.progress:
        done = found.progress
        told["trained for"] = f"{done['step']:,} of {done['num_steps']:,} steps, {done['tokens']:,} targets"
    for number, one in enumerate(found.lineage):
        there = "" if one.is_there else " (not found)"
        told[one.relation if number == 0 else f"  {one.relation}"] = f"{in_line(one.name)}{there}"
    return told


def _vocabulary(found: "Info") -> str:
    tokens = found.tokenizer
    if not tokens["is_trained"]:
        whose = "rows of its table" if found.family else "tokens, of a tokenizer that is yet to be trained"
        return f"{tokens['vocab_size']:,} {whose}"
    beyond = tokens["num_rows"] - tokens["vocab_size"]
    rows = f", and {beyond:,} rows that no token uses" if beyond else ""
    special = [in_line(name) for name in tokens["special_tokens"]]
    named = f"; special: {', '.join(special[:6])}{', ...' if len(special) > 6 else ''}" if special else ""
    return f"{tokens['vocab_size']:,} tokens{rows}{named}"


def _showtraining_of(needed: "Training") -> None:
    at_once = f"{needed.num_rows:,} rows of {needed.context:,} positions at once"
    show_values({
        "memory to train it": f"{sized(needed.total)}, with {at_once}",
        "parameters": sized(needed.parameters),
        "gradients": sized(needed.gradients),
        "optimizer": sized(needed.optimizer),
        **({"moving average": sized(needed.average)} if needed.average else {}),
        "activations": sized(needed.activations),
        "logits": sized(needed.logits),
        **({"the update": f"{sized(needed.update)}, when activations and logits are gone"} if needed.update else {}),
    })  # fmt: skip

"""What an imported model came with, kept beside its weights, so that it can be written back as it was."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from safetensors.torch import save_file
from torch import Tensor

from thetahat.core.config import from_plain, to_plain
from thetahat.core.store import write_json
from thetahat.data.tokens.roles import Roles
from thetahat.interop.around import Around
from thetahat.interop.files import opened, read_object
from thetahat.interop.folder import HubFolder

ORIGIN, PASSENGERS = "origin.json", "passengers.safetensors"


@final
@dataclass(frozen=True, kw_only=True)
class Origin:
    """All of a folder of others that is neither weights that are used nor what describes these."""

    family: str  # its model_type
    has_head: bool
    around: Around
    passengers: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])


def origin_of(folder: HubFolder) -> Origin:
    """That of a folder as transformers writes it."""
    return Origin(
        family=folder.family,
        has_head=folder.has_head,
        around=folder.around,
        passengers=folder.passenger_tensors(),
    )


def write_origin(folder: Path, origin: Origin) -> None:
    """Puts it beside the weights. The tokenizer is a file of its own there, and not repeated."""
    around = {name: value for name, value in vars(origin.around).items() if name != "tokenizer"}
    around |= {"roles": to_plain(origin.around.roles)}
    write_json(folder / ORIGIN, {"family": origin.family, "has_head": origin.has_head, "around": around})
    if origin.passengers:
        save_file(dict(origin.passengers), folder / PASSENGERS)


def read_origin(folder: Path, tokenizer: str | None) -> Origin | None:
    """What `write_origin` wrote there, with the tokenizer beside it; None where nothing was written."""
    if not (folder / ORIGIN).is_file():
        return None
    said = read_object(folder / ORIGIN)
    around: dict[str, Any] = said["around"]
    roles = from_plain(around.pop("roles"), Roles)
    return Origin(
        family=said["family"],
        has_head=said["has_head"],
        around=Around(**around, roles=roles, tokenizer=tokenizer),
        passengers=_passengers(folder / PASSENGERS),
    )


def _passengers(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    with opened(path) as file:
        return {name: file.get_tensor(name).clone() for name in list(file.keys())}

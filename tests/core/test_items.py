"""Items of lists are named by their numbers: on the command line, and in what errors advise."""

import re
import shlex
from typing import Any

import pytest

from thetahat.core.config import override, to_plain
from thetahat.core.errors import ConfigError
from thetahat.recipes.catalogue import find_recipe
from thetahat.run.ignored import refuse_ignored

WRONG = {  # what is typed: what the layers are when all that is advised has been typed beside it
    "[{latent_width=5}]": [{"kind": "latent", "latent_width": 5}],
    "[{distance=9},{kind='attention',latent_width=5}]": [{"distance": 9}, {"kind": "latent", "latent_width": 5}],
    "[{},{kind='laten',latent_width=5}]": [{"kind": "attention"}, {"kind": "latent", "latent_width": 5}],
    "[{kind='latent',decay='fixed'}]": [{"kind": "linear", "decay": "fixed"}],
    "[{positions='alibi'},{}]": [{"positions": {"kind": "alibi"}}, {}],
    "[{positions={kind='rotry',share=0.5}}]": [{"positions": {"kind": "rotary", "share": 0.5}}],
    "[{positions={base=5.0}}]": [{"positions": {"kind": "rotary", "base": 5.0}}],
    "[{positions={kind='none',base=5.0}}]": [{"positions": {"kind": "rotary", "base": 5.0}}],
    "[{positions={kind='rotary',scaling={kind='linaer',factor=2.0}}}]": [
        {"positions": {"scaling": {"kind": "linear", "factor": 2.0}}}
    ],
    "[{kind='linear',decay='learn'}]": [{"kind": "linear", "decay": "learned"}],
    "[{},{kind='latent',rotary_width=3,latent_width=5}]": [{}, {"rotary_width": 4, "latent_width": 5}],
    "[{num_global=3}]": [{"distance": 128, "num_global": 3}],
    "[{kind='latent',positions={kind='rotary',share=0.5}}]": [{"kind": "latent", "positions": {"share": 1.0}}],
    "[{},3]": [{}, {"distance": 3}],
    "[{},{distance=255}]": [{}, {"distance": 254}],
}


def advised(error: ConfigError) -> str:
    """The first pair that a cure has."""
    pair = shlex.split(re.split(r", | or ", error.cure)[0] if "{" not in error.cure else error.cure)[0]
    assert pair.startswith("model.layers."), error
    return pair


def holds(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        return all(holds(found[name], value) for name, value in wanted.items())
    if isinstance(wanted, list):
        return len(found) == len(wanted) and all(map(holds, found, wanted))
    return found == wanted


@pytest.mark.parametrize("typed", WRONG)
def test_what_is_advised_is_typed_beside_the_list_and_mends_it(typed: str):
    pairs, config = ["data.context=256", f"model.layers={typed}"], find_recipe("quickstart")
    for _ in range(3):
        try:
            refuse_ignored(override(config, pairs))
        except ConfigError as error:
            pairs.append(advised(error))
    assert len(pairs) > 2
    assert holds(to_plain(override(config, pairs).model)["layers"], WRONG[typed])


def test_an_item_is_set_behind_the_list_and_keeps_what_is_not_said():
    def layers(*pairs: str) -> Any:
        return to_plain(override(find_recipe("quickstart").model, pairs))["layers"]

    (one,) = layers("layers.0.distance=5")
    assert (one["kind"], one["distance"]) == ("attention", 5)
    assert layers("layers.0.latent_width=5", "layers.0.kind=latent")[0]["latent_width"] == 5
    assert layers("layers.3.distance=9", "layers=3x latent, 1x attention")[3]["distance"] == 9
    assert layers("layers.0={distance=4,num_global=2}", "layers.0.positions.kind=none") == [
        {"kind": "attention", "distance": 4, "num_global": 2, "positions": {"kind": "none"}}
    ]
    (other,) = layers("layers.0.kind=delta")
    assert "num_global" not in other  # of the kind that was there
    assert override(find_recipe("classification"), ["data.labels=[a,b]", "data.labels.1=c"]).data.labels == ("a", "c")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        (
            "model.layers.1.distance=3",
            r"a list of 1: 1 is none .*\n  allowed: 0\n  try: model\.layers\.0\.distance=\.\.\.",
        ),
        ("model.layers.distance=3", r"the number of an item.*\n  try: model\.layers\.0\.distance=\.\.\."),
        ("model.layers.first=3", r"which is a list\n.*\n  try: model\.layers=\[\.\.\.\]"),
        ("data.labels.0=a", r"a list of 0.*\n  allowed: none: the list is empty\n  try: data\.labels=\[\.\.\.\]"),
        ("model.layers.0.latent_widht=3", r"\n  try: model\.layers\.0\.latent_width=3"),
        ("model.layers.0.distance.x=3", r"nothing: it is a plain value"),
    ],
)
def test_what_is_no_item_is_refused(pair: str, said: str):
    with pytest.raises(ConfigError, match=f"(?s){said}"):
        override(find_recipe("quickstart"), [pair])

import contextlib
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given, strategies as st

from thetahat.core.config import (
    Config,
    changed_keys,
    differences,
    digest,
    from_plain,
    from_toml,
    override,
    pairs_between,
    to_plain,
    to_toml,
)
from thetahat.core.errors import ConfigError, DataError
from thetahat.core.schema import known_keys

Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Cosine(Config, kw_only=True, tag="cosine", tag_field="kind"):
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 0
    final: Share = 0.1


class Stable(Config, kw_only=True, tag="stable", tag_field="kind"):
    warmup: Annotated[int, msgspec.Meta(ge=0)] = 10
    decay: Share = 0.2

    def __post_init__(self):
        if self.decay == 0.5:
            raise ConfigError("decay=0.5 is not liked here")


class Source(Config, kw_only=True):
    path: str
    share: float = 1.0


class Run(Config, kw_only=True):
    name: str
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    batch_size: Annotated[int, msgspec.Meta(ge=1)] = 16
    clip: Annotated[float, msgspec.Meta(gt=0)] | None = None
    deterministic: bool = False
    schedule: Cosine | Stable = Cosine()
    cooldown: Stable | None = None
    files: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    mixture: dict[str, float] = {}


def run(**values):
    return Run(name="a", **values)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
COSINE = st.builds(Cosine, warmup=st.integers(0, 2**60), final=st.floats(0, 1))
STABLE = st.builds(Stable, warmup=st.integers(0, 9), decay=st.floats(0, 0.4))
RUNS = st.builds(
    Run,
    name=WORDS,
    device=st.sampled_from(["auto", "cpu", "cuda"]),
    batch_size=st.integers(1, 2**62),
    clip=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    deterministic=st.booleans(),
    schedule=COSINE | STABLE,
    cooldown=st.none() | STABLE,
    files=st.lists(WORDS, max_size=3).map(tuple),
    sources=st.lists(st.builds(Source, path=WORDS, share=FINITE), max_size=3).map(tuple),
    mixture=st.dictionaries(WORDS, FINITE, max_size=3),
)


@given(RUNS)
def test_what_is_written_is_read_back(config):
    again = from_toml(to_toml(config), Run)
    assert again == config
    assert digest(again) == digest(config)
    assert differences(again, config) == []


@given(RUNS, RUNS)
def test_two_configs_have_one_digest_exactly_when_nothing_differs(ours, theirs):
    assert (digest(ours) == digest(theirs)) == (ours == theirs) == (differences(ours, theirs) == [])


def test_the_order_of_a_table_is_not_part_of_its_digest():
    assert digest(run(mixture={"a": 1.0, "b": 2.0})) == digest(run(mixture={"b": 2.0, "a": 1.0}))


@given(RUNS)
def test_overriding_with_its_own_values_changes_nothing(config):
    assert override(config, [f"batch_size={config.batch_size}", f"device={config.device}"]) == config


def test_differences_name_each_value():
    assert differences(run(batch_size=8, schedule=Stable()), run(clip=1.0)) == [
        "batch_size: 16 -> 8",
        "clip: 1.0 -> (unset)",
        "schedule.kind: cosine -> stable",
        "schedule.warmup: 0 -> 10",
        "schedule.final: 0.1 -> (unset)",
        "schedule.decay: (unset) -> 0.2",
    ]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["batch_size=32", "device=cuda"], run(batch_size=32, device="cuda")),
        (["clip=1"], run(clip=1.0)),
        (["clip=1", "clip=none"], run()),
        (["batch_size=1e3"], run(batch_size=1000)),
        (["batch_size=1_000"], run(batch_size=1000)),
        (["deterministic=true"], run(deterministic=True)),
        (["name=2024"], Run(name="2024")),
        (["name=2024-01-02"], Run(name="2024-01-02")),
        (["name='quoted'"], Run(name="quoted")),
        (["name=a=b"], Run(name="a=b")),
        (["name=my file.txt"], Run(name="my file.txt")),
        (["name="], Run(name="")),
        (["name=none"], Run(name="none")),
        (['files=["a", "b"]'], run(files=("a", "b"))),
        (["mixture.books=0.5", "mixture.web=0.25"], run(mixture={"books": 0.5, "web": 0.25})),
        (["schedule.warmup=3"], run(schedule=Cosine(warmup=3))),
        (["schedule.kind=stable"], run(schedule=Stable())),
        (["schedule.kind=stable", "schedule.decay=0.3"], run(schedule=Stable(decay=0.3))),
        (["schedule.decay=0.3", "schedule.kind=stable"], run(schedule=Stable(decay=0.3))),
        (["schedule.kind=cosine", "schedule.final=0.3"], run(schedule=Cosine(final=0.3))),
        (['schedule={kind="stable", decay=0.3}'], run(schedule=Stable(decay=0.3))),
        (["cooldown.decay=0.1"], run(cooldown=Stable(decay=0.1))),
        (["cooldown.kind=stable"], run(cooldown=Stable())),
        (['sources=[{path="a", share=2}]'], run(sources=(Source(path="a", share=2.0),))),
    ],
)
def test_an_override_changes_what_it_names(pairs, expected):
    assert override(run(), pairs) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a, b", ("a, b",)),
        ("[a, b]", ("a", "b")),
        ('["a, b"]', ("a, b",)),
        ('"a"', ("a",)),
        ("[]", ()),
    ],
)
def test_a_list_of_texts_is_read_as_it_comes_out_of_a_shell(text, expected):
    assert override(run(), [f"files={text}"]).files == expected


def test_another_variant_starts_from_its_own_defaults():
    assert override(run(schedule=Cosine(warmup=5)), ["schedule.kind=stable"]).schedule == Stable(warmup=10)


def test_a_config_is_not_changed_by_an_override():
    before = run(mixture={"a": 1.0})
    override(before, ["mixture.a=2", "batch_size=1", "schedule.kind=stable"])
    assert before == run(mixture={"a": 1.0})


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("device=tpu", "device='tpu' does not fit\n  allowed: auto, cpu, cuda\n  try: device=cpu"),
        ("device=3", "device=3 does not fit\n  allowed: auto, cpu, cuda"),
        ("batch_size=0", "batch_size=0 does not fit\n  allowed: an integer >= 1"),
        ("batch_size=many", "batch_size='many' does not fit\n  allowed: an integer >= 1"),
        ("batch_size=2.5", "batch_size=2.5 does not fit\n  allowed: an integer >= 1"),
        ("batch_size=none", "batch_size='none' does not fit\n  allowed: an integer >= 1"),
        ("clip=-1", "clip=-1 does not fit\n  allowed: a number > 0, none"),
        ("schedule.final=2", "schedule.final=2 does not fit\n  allowed: a number >= 0 and <= 1"),
        (
            "deterministic=True",
            "deterministic='True' does not fit\n  allowed: true or false\n  try: deterministic=true",
        ),
        ("files=[1]", "files.0=1 does not fit\n  allowed: text"),
        ("mixture.a=b", "mixture={'a': 'b'} does not fit\n  allowed: a number"),
        (
            "schedule.kind=stabel",
            "schedule.kind='stabel' does not fit\n  allowed: cosine, stable\n  try: schedule.kind=stable",
        ),
        (
            "schedule=stable",
            "schedule='stable' does not fit\n  allowed: a table with kind = cosine | stable\n"
            "  try: schedule.kind=stable",
        ),
        (
            "schedule.decay=0.2",
            "unknown config key 'schedule.decay' where schedule.kind=cosine\n  allowed: kind, warmup, final\n"
            "  try: schedule.kind=stable, which has it",
        ),
        (
            "schedule.warmpu=3",
            "unknown config key 'schedule.warmpu'\n  allowed: below 'schedule': decay, final, kind, warmup\n"
            "  try: schedule.warmup=3",
        ),
        (
            "name.a=3",
            "unknown config key 'name.a'\n  allowed: below 'name': nothing: it is a plain value\n  try: name=3",
        ),
        (
            "schedule.x=3",
            "unknown config key 'schedule.x'\n  allowed: below 'schedule': decay, final, kind, warmup",
        ),
        ("sources=[{share=1}]", "sources.0.path is missing\n  allowed: text\n  try: sources.0.path=..."),
        (
            'sources=[{path="a", shore=1}]',
            "unknown config key 'sources.0.shore'\n  allowed: path, share",
        ),
        (
            'schedule={kind="stable", decay=0.5}',
            "schedule.decay=0.5 is not liked here",
        ),
        ("batch_size", "'batch_size' is not KEY=VALUE\n  try: for example batch_size=16 or data.train=my.txt"),
        ("=3", "'=3' is not KEY=VALUE\n  try: for example batch_size=16 or data.train=my.txt"),
    ],
)
def test_a_refused_override_says_what_came_what_is_allowed_and_what_to_type(pair, message):
    with pytest.raises(ConfigError) as raised:
        override(run(), [pair])
    assert str(raised.value) == message
    assert raised.value.exit_code == 2


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("batchsize", "batch_size"),
        ("finel", "schedule.final"),
        ("warmup", "schedule.warmup=1 or cooldown.warmup"),
        ("schedule.batch_size", "batch_size"),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(key, nearest):
    with pytest.raises(ConfigError, match=f"try: {nearest}=1$"):
        override(run(), [f"{key}=1"])


def test_an_unknown_key_in_a_file_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"unknown config key 'schedule.warmpu'(.|\n)*try: schedule.warmup=3$"):
        from_toml("name = 'a'\n[schedule]\nkind = 'cosine'\nwarmpu = 3", Run)


@pytest.mark.parametrize("text", ["batch_size = [", "batch_size = 1\nbatch_size = 2", "a = 'b"])
def test_what_is_not_toml_is_named(text):
    with pytest.raises(ConfigError, match=r"^my\.toml is not TOML: "):
        from_toml(text, Run, name="my.toml")


@pytest.mark.parametrize(
    "text", ["name = 'a'\nauto_map = 'x.y'", "name = 'a'\n[schedule]\nkind = 'cosine'\n_target_ = 'os'"]
)
def test_a_file_with_an_unknown_key_is_refused(text):
    with pytest.raises(ConfigError, match="unknown config key"):
        from_toml(text, Run)


def test_a_missing_value_is_named():
    with pytest.raises(ConfigError, match="name is missing"):
        from_plain({}, Run)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | FINITE | WORDS,
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(["kind", "name", "schedule", "sources", "path", "x"]), inner)
        ),
    )
)
def test_no_value_of_any_shape_escapes_as_another_error(value):
    with contextlib.suppress(ConfigError):
        from_plain({"name": "a", "schedule": value, "sources": [value], "mixture": {"a": value}}, Run)


def test_known_keys_are_those_of_all_variants():
    assert [key for key in known_keys(Run) if key.startswith("schedule")] == [
        "schedule",
        "schedule.kind",
        "schedule.warmup",
        "schedule.final",
        "schedule.decay",
    ]


def test_what_is_none_is_left_out():
    assert "clip" not in to_plain(run())
    assert "cooldown" not in to_toml(run())


def test_errors_of_a_config_are_config_errors_whatever_they_were():
    class Odd(Config):
        x: int

        def __post_init__(self):
            raise DataError("x is odd") if self.x % 2 else ValueError("x is even")

    for x in (1, 2):
        with pytest.raises(ConfigError, match=r"^x is (odd|even)$"):
            from_plain({"x": x}, Odd)


@given(RUNS, RUNS)
def test_the_pairs_between_two_configs_make_the_one_of_the_other(ours, theirs):
    pairs = pairs_between(ours, theirs)
    assert override(theirs, pairs) == ours
    assert override(theirs, pairs_between(theirs, theirs)) == theirs
    assert (pairs == []) == (changed_keys(ours, theirs) == [])


def test_the_pairs_between_two_configs_are_what_a_person_would_type():
    before = run(schedule=Cosine(warmup=5), clip=1.0, files=("a",), mixture={"x.y": 1.0})
    after = Run(name="2024", schedule=Stable(decay=0.3), files=("a b",), batch_size=8)
    assert pairs_between(after, before) == [
        "name=2024",
        "batch_size=8",
        "schedule.kind=stable",
        "schedule.warmup=10",
        "schedule.decay=0.3",
        'files=["a b"]',
        "mixture={}",
        "clip=none",
    ]

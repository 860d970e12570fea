import msgspec
import pytest

from thetahat.core.config import from_toml, override, to_plain, to_toml
from thetahat.core.errors import ConfigError
from thetahat.data.config import DataConfig


@pytest.mark.parametrize(
    "value", ["hash:0", "hash:1", "tail:1.5", "tail:-0.1", "hash:", "tail:much", "hash:nan", "hash:1/0", ""]
)
def test_a_held_out_part_that_makes_no_sense_is_refused(value):
    with pytest.raises(ConfigError, match="held_out") as error:
        DataConfig(held_out=value)
    assert "hash:F" in str(error.value)


@pytest.mark.parametrize("value", ["hash:0.1", "tail:0.25", "none", "held_out.jsonl", "C:/texts/a.txt"])
def test_a_division_survives_the_config_file(value):
    config = DataConfig(held_out=value, split_on="\n\n\n")
    assert from_toml(to_toml(config), DataConfig) == config


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (r"\n\n", "\n\n"),  # as it comes from a shell
        (r'"\n\n"', "\n\n"),  # TOML reads this one
        (r"\r\n---\t\r\n", "\r\n---\t\r\n"),
        (r"\\newpage", r"\newpage"),
        (r"\\\n", "\\\n"),
        (r"\section", r"\section"),
        ("<|end|>", "<|end|>"),
        ("none", None),
    ],
)
def test_the_escapes_of_a_separator_are_read_however_it_is_typed_and_kept(typed, read):
    config = override(DataConfig(), [f"split_on={typed}"])
    assert config.separator == from_toml(to_toml(config), DataConfig).separator == read


def test_words_that_look_like_nothing_stay_words():
    config = override(DataConfig(), ["held_out=none", "packing=none", "split_on=none"])
    assert (config.held_out, config.packing, config.split_on) == ("none", "none", None)


@pytest.mark.parametrize(
    "pair", ["context=1", "vocab_size=256", "over_long=cut", "packing=first-fit", 'split_on=""', 'train=""', "conext=8"]
)
def test_a_value_that_does_not_fit_is_refused(pair):
    with pytest.raises(ConfigError, match=pair.partition("=")[0]):
        override(DataConfig(), [pair])


def test_a_config_is_frozen():
    with pytest.raises(AttributeError):
        DataConfig().context = 8
    assert msgspec.structs.replace(DataConfig(), context=8).context == 8


def test_files_may_be_a_list_and_one_place_stays_as_it_is():
    config = override(DataConfig(), ['train=["a.jsonl", "b/*.parquet"]', 'held_out=["hash:0.1"]'])
    assert config.train == ("a.jsonl", "b/*.parquet")
    assert config.division == ("path", 0)  # what is in a list is a file
    assert from_toml(to_toml(config), DataConfig) == config
    assert override(DataConfig(), ["train=[ab].jsonl"]).train == "[ab].jsonl"  # a glob
    assert 'train = "a.jsonl"' in to_toml(DataConfig(train="a.jsonl"))
    for value in ("train=[]", 'train=["a", ""]', "held_out=[]"):
        with pytest.raises(ConfigError, match="is empty"):
            override(DataConfig(), [value])


def test_what_has_no_value_leaves_the_digest_of_a_config_as_it_was():
    assert not {"trees", "preference"} & to_plain(DataConfig()).keys()

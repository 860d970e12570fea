"""What a finished training offers to type next."""

import pytest

from thetahat.cli.show import following
from thetahat.core.config import override
from thetahat.recipes.catalogue import find_recipe


@pytest.mark.parametrize(
    ("recipe", "first", "others"),
    [
        ("quickstart", "generate runs/it --max-tokens 500", "OTHER.txt"),
        ("dialogue", "chat runs/it", "DIALOGUES.jsonl"),
        ("translation", "generate runs/it --prompts PROMPTS.jsonl", "OTHER.jsonl"),
        ("masked", "generate runs/it --prompt 'TEXT <|mask|> TEXT'", "OTHER.txt"),
        ("classification", "classify runs/it TEXT", "OTHER.jsonl"),
    ],
)
def test_what_is_offered_is_what_a_model_of_this_kind_can_do(recipe, first, others):
    config = override(find_recipe(recipe), ["data.train=mine.jsonl"])
    words = [words for words, _ in following(config, "runs/it")]
    assert words[0] == first
    assert words[-1] == f"score runs/it {others}"


def test_after_the_bundled_text_ones_own_is_offered():
    assert ("train YOUR.txt", "the same on your own text") in following(find_recipe("quickstart"), "runs/it")

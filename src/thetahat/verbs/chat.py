"""The next turn of a dialogue."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from thetahat.data.read.prompt import unanswered
from thetahat.generation.beam import Beam
from thetahat.generation.sample import Sampling
from thetahat.model.encoder_decoder import EncoderDecoder
from thetahat.run.writing.dialogue import Located, dialogue_prompts
from thetahat.run.writing.prompt import REFUSING, Prompt
from thetahat.run.writing.write import Answer, write
from thetahat.verbs.generate import with_policy
from thetahat.verbs.load import Loaded


def answer(loaded: Loaded, messages: Sequence[Mapping[str, Any]], how: Sampling | Beam) -> Answer:
    """What the model says after these messages, in the words of the template that it was trained with."""
    where = "the dialogue"
    dialogues = [(unanswered({"messages": [*messages]}, where), where)]
    (found,) = written_anew(loaded, dialogues, write(loaded, dialogue_prompts(loaded, dialogues), how), how, [0])
    return found


def written_anew(
    loaded: Loaded,
    dialogues: Sequence[Located],
    found: Sequence[Answer],
    how: Sampling | Beam,
    numbers: Sequence[int],
) -> list[Answer]:
    """The answers; one that the context had no room for is written again, behind half a context of its dialogue.

    So training does: it reads less of a dialogue where the reply is longer. `numbers` are those of the generators.
    """
    cut = [place for place, one in enumerate(found) if one.ended == "context"]
    if not cut or isinstance(loaded.model, EncoderDecoder) or loaded.card.over_long in REFUSING:
        return [*found]
    shorter = dialogue_prompts(loaded, [dialogues[place] for place in cut], room=loaded.card.context // 2)
    again = write(loaded, shorter, how, loaded.inference.evaluation.batch_size, [numbers[place] for place in cut])
    replaced = dict(zip(cut, again, strict=True))
    return [replaced.get(place, one) for place, one in enumerate(found)]


def question_prompts(
    loaded: Loaded, dialogues: Sequence[Located], over_long: Literal["error", "truncate-left"]
) -> list[Prompt]:
    """What is read before choices: under "error" all of it, since what asks the questions refuses those too long."""
    if over_long == "error":
        return dialogue_prompts(loaded, dialogues, whole=True)
    cuts = loaded.card.over_long not in REFUSING
    return dialogue_prompts(loaded if cuts else with_policy(loaded, "keep-last-turns"), dialogues)

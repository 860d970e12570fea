"""A text for every prompt and dialogue of a file."""

from collections.abc import Sequence
from typing import Any

from thetahat.data.read.prompt import GENERATED, read_prompts
from thetahat.generation.beam import Beam
from thetahat.generation.sample import Sampling
from thetahat.run.writing.dialogue import dialogue_prompts
from thetahat.run.writing.prompt import fitted, text_prompts
from thetahat.run.writing.write import Shows, write
from thetahat.verbs.chat import written_anew
from thetahat.verbs.load import Loaded


def answer_records(
    loaded: Loaded, data: str | Sequence[str], how: Sampling | Beam, shows: Shows | None = None
) -> list[dict[str, Any]]:
    """Each record of `data`, in their order, and in it what the model writes, as `generated`, and what ended it.

    `evaluation.batch_size` of them are read at once. `shows` is told how many are written, and of how many.
    """
    records = read_prompts(data, loaded.on_bad_record, loaded.card.columns)
    plain = [record for record in records if record.dialogue is None]
    spelled = text_prompts(loaded, [record.text for record in plain])
    texts = iter(fitted(loaded, spelled, [record.where for record in plain]))
    given = [(record.dialogue, record.where) for record in records if record.dialogue is not None]
    dialogues = iter(dialogue_prompts(loaded, given))
    prompts = [next(texts if record.dialogue is None else dialogues) for record in records]
    written = write(loaded, prompts, how, loaded.inference.evaluation.batch_size, shows=shows)
    numbers = [number for number, record in enumerate(records) if record.dialogue is not None]
    again = written_anew(loaded, given, [written[number] for number in numbers], how, numbers)
    for number, found in zip(numbers, again, strict=True):
        written[number] = found
    return [
        {**record.fields, GENERATED: found.text, **found.to_dict()}
        for record, found in zip(records, written, strict=True)
    ]

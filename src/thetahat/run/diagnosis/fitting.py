"""What to type so that a training fits into memory."""

from collections.abc import Callable

from msgspec.structs import replace

from thetahat.run.config import RunConfig

SHORTEST = 32  # positions of a context that is proposed
CHUNK = 1024  # targets whose logits exist at once, in a proposal
MOST_ROWS = 1 << 20  # rows at once that are looked for


def most_rows(config: RunConfig, needs: Callable[[RunConfig], int], free: int) -> int:
    """The most rows at once that need no more than `free` bytes by what `needs` says of a config, whatever the batch.

    0 where a single row has no room. More rows need no less, so halving the interval finds the number.
    """

    def fits(rows: int) -> bool:
        return needs(replace(config, micro_batch_size=rows, batch_size=max(rows, config.batch_size))) <= free

    fewest, least_beyond = 0, 1
    while least_beyond <= MOST_ROWS and fits(least_beyond):
        fewest, least_beyond = least_beyond, 2 * least_beyond
    while least_beyond - fewest > 1:
        middle = (fewest + least_beyond) // 2
        fewest, least_beyond = (middle, least_beyond) if fits(middle) else (fewest, middle)
    return fewest


def fitting_pairs(config: RunConfig, needs: Callable[[RunConfig], int], free: int) -> str:
    """The KEY=VALUE pairs that change least and need no more than `free` bytes by what `needs` says of a config.

    First what changes no result: fewer rows at once, layers that are computed again, logits in chunks; then a shorter
    context.
    """
    rows = min(config.micro_batch_size or config.batch_size, config.batch_size)
    chunk = config.objective.chunk_size
    while rows > 1:
        rows //= 2
        if needs(replace(config, micro_batch_size=rows)) <= free:
            return f"micro_batch_size={rows}"
    smallest = replace(config, micro_batch_size=1)
    again = replace(smallest, recompute=config.model.num_layers)
    if needs(again) <= free:
        return "recompute=auto" if config.micro_batch_size == 1 else "micro_batch_size=1 recompute=auto"
    chunked = replace(smallest, objective=replace(config.objective, chunk_size=min(chunk or CHUNK, CHUNK)))
    if config.objective.kernel != "reference" and needs(chunked) < needs(smallest):
        if needs(chunked) <= free:
            return f"micro_batch_size=1 objective.chunk_size={CHUNK}"
        smallest = chunked
    context = 1 << (config.data.context - 1).bit_length()
    while (context := context // 2) >= SHORTEST:
        smaller = replace(smallest, data=replace(config.data, context=context))
        if context < config.data.context and needs(smaller) <= free:
            chunks = f" objective.chunk_size={CHUNK}" if smaller.objective.chunk_size != chunk else ""
            return f"data.context={context} micro_batch_size=1{chunks}"
    return "a smaller model, or base=MODEL adapter.rank=8"

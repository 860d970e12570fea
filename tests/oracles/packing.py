"""Cutting, windows and packing, one target at a time."""


def split(num_targets: int, context: int, phase: int = 0) -> list[list[int]]:
    """Targets 1..num_targets in blocks; a new one begins where the last is full, the first has `phase` fewer."""
    if num_targets <= context:
        return [list(range(1, num_targets + 1))]
    blocks: list[list[int]] = [[]]
    room = context - phase
    for target in range(1, num_targets + 1):
        if room == 0:
            blocks.append([])
            room = context
        blocks[-1].append(target)
        room -= 1
    return blocks


def truncate(num_targets: int, context: int, policy: str) -> list[int]:
    """The targets that are kept."""
    targets = list(range(1, num_targets + 1))
    if policy == "drop":
        return targets if len(targets) <= context else []
    while len(targets) > context:
        targets.pop(0 if policy == "truncate-left" else -1)
    return targets


def context_of_targets(num_targets: int, context: int, stride: int) -> dict[int, int]:
    """For each target, how many tokens a window gives it to see: all before it, or from its window's start on."""
    seen = {}
    stop = context
    for target in range(1, num_targets + 1):
        if target > stop:
            stop = min(stop + stride, num_targets)
        seen[target] = target - max(0, stop - context)
    return seen


def best_fit_decreasing(sizes: list[int], capacity: int) -> list[int]:
    """Each piece, longest first, into the row with the least room that is enough; the one touched last among equals."""
    rows: list[list[int]] = []  # [room, time of the last change]
    placed = [-1] * len(sizes)
    for time, piece in enumerate(sorted(range(len(sizes)), key=lambda piece: -sizes[piece])):
        best = None
        for index, (room, touched) in enumerate(rows):
            if room < sizes[piece]:
                continue
            if best is None or room < rows[best][0] or (room == rows[best][0] and touched > rows[best][1]):
                best = index
        if best is None:
            best = len(rows)
            rows.append([capacity, time])
        rows[best] = [rows[best][0] - sizes[piece], time]
        placed[piece] = best
    return placed

"""Who may see whom, one pair at a time."""

import numpy as np


def mask(piece: np.ndarray, parent: list[int] | None, *, is_causal: bool) -> np.ndarray:
    """[B, T, T]: whether position i of a row may see position j; `parent` is what each piece continues, -1: none."""
    num_rows, num_positions = piece.shape
    visible = np.zeros((num_rows, num_positions, num_positions), dtype=bool)
    for row in range(num_rows):
        for i in range(num_positions):
            for j in range(num_positions):
                in_time = j <= i or not is_causal
                visible[row, i, j] = in_time and piece[row, j] in _line(int(piece[row, i]), parent)
    return visible


def _line(piece: int, parent: list[int] | None) -> list[int]:
    """A piece, its parent, its parent's parent, ..."""
    line = [piece]
    while parent is not None and line[-1] >= 0 and parent[line[-1]] >= 0:
        line.append(parent[line[-1]])
    return line

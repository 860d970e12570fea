"""Texts, pairs, labels and dialogues from the bundled Shakespeare, drawn anew for each seed."""

import json
import random
from pathlib import Path
from typing import Any

import thetahat

BUNDLED = Path(thetahat.__file__).parent / "data" / "bundled" / "tinyshakespeare.txt"


def speeches(seed: int, count: int) -> list[dict[str, Any]]:
    """Records of one speech each, of 20 to 400 characters, with two sources."""
    draw = random.Random(seed)
    said = [one for one in BUNDLED.read_text(encoding="utf-8").split("\n\n") if 20 < len(one) < 400]
    return [
        {"id": f"s{number}", "text": text, "source": "ab"[number % 2]}
        for number, text in enumerate(draw.sample(said, count))
    ]


def pairs(seed: int, count: int) -> list[dict[str, Any]]:
    """The two halves of a speech."""
    words = [one["text"].split() for one in speeches(seed, count)]
    return [
        {"prompt": " ".join(one[: len(one) // 2])[-40:], "completion": " ".join(one[len(one) // 2 :])[:60]}
        for one in words
        if len(one) > 3
    ]


def labelled(seed: int, count: int) -> list[dict[str, Any]]:
    """Whether a speech asks something."""
    return [
        {"text": " ".join(one["text"].split())[:100], "label": "asks" if "?" in one["text"][:100] else "says"}
        for one in speeches(seed, count)
    ]


def dialogues(seed: int, count: int) -> list[dict[str, Any]]:
    """Two speeches, one after the other."""
    said = [" ".join(one["text"].split())[:80] for one in speeches(seed, 2 * count)]
    return [
        {"messages": [{"role": "user", "content": said[2 * i]}, {"role": "assistant", "content": said[2 * i + 1]}]}
        for i in range(count)
    ]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    """As JSON lines."""
    path.write_text("".join(json.dumps(one) + "\n" for one in records), encoding="utf-8")
    return path

"""What a check has found."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault, or what may be one, with the numbers that show it and what to do about it."""

    name: str  # of the failure, in words with hyphens
    what: str  # what was measured, and what it should be
    cure: str
    is_wrong: bool = True  # False: it may be meant so, and is said without stopping anything

    def __str__(self) -> str:
        """In one line."""
        return f"{self.name}: {self.what}; try: {self.cure}"

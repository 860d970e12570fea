"""Whether ranks go on together, from what they say of themselves. Seconds are of the own clock, never of another's."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, final

from thetahat.distribution.limits import HeartbeatConfig

BEAT = 1.0  # seconds between two signs of a rank
HURRY = 4.0  # seconds of silence that are enough once a collective has failed
SLOWER = 5  # times the longest pause so far, within a step
ENDING = 2  # times `silence`, for a rank that has said why it ends: the others may be about to end by themselves

Pace = Literal["preparation", "patience", "stall"]


@dataclass(frozen=True, slots=True)
class Sign:
    """What a rank says of itself."""

    rank: int
    host: str
    beat: int = 0  # signs before this one
    moves: int = 0  # how often it has come on
    where: str = "in the preparation"  # or, for example: in step 17 (evaluation)
    pace: Pace = "preparation"  # the limit for where it is; preparation has none
    begun: int = 0  # places where it has been: all ranks go through the same ones, so who has fewer is behind
    steps: int = 0  # that it has begun since it started
    ended: str = ""  # the error with which it ends
    has_left: bool = False  # it has ended without one

    def __str__(self) -> str:
        return f"rank {self.rank} on host {self.host}"


@dataclass(frozen=True, slots=True)
class Heard:
    """What a rank has heard by now."""

    rounds: int = 0  # how often the store has answered
    is_broken: bool = False  # whether the connection to the store is
    signs: Mapping[int, Sign] | None = None  # of the ranks that it watches
    is_hurried: bool = False  # whether a collective has failed anywhere
    complaint: str = ""  # the error of its own collective
    reason: str = ""  # why all ranks end, as they have agreed


@final
class Judge:
    """Finds the reason for which all ranks end, if there is one.

    A pause of this process itself, as of all of them after Ctrl-Z, counts as two beats at most.
    """

    def __init__(self, limits: HeartbeatConfig, store: str, *, has_agent: bool, sees_all: bool) -> None:
        self.limits = limits
        self._store = store  # its address
        self._has_agent, self._sees_all = has_agent, sees_all  # whether torchrun holds the store, and not rank 0
        self._before: float | None = None
        self._heard = Heard()
        self._unanswered = self._hurried = self._still = 0.0  # seconds
        self._longest: float | None = None  # seconds between two moves within steps; None: there was none yet
        self._silent: dict[int, float] = {}  # seconds, by rank

    def __call__(self, heard: Heard, now: float) -> str:
        """The reason; empty: they go on."""
        passed = 0.0 if self._before is None else min(now - self._before, 2 * BEAT)
        before, self._before, self._heard = self._heard, now, heard
        self._hurried += passed if heard.is_hurried or heard.complaint else 0.0
        if heard.rounds == before.rounds:
            self._unanswered += passed
            return self._no_answer()
        self._unanswered = 0.0
        old, new = before.signs or {}, heard.signs or {}
        for rank, sign in new.items():
            self._silent[rank] = self._silent.get(rank, 0.0) + passed if old.get(rank) == sign else 0.0
        self._count_pause(old, new, passed)
        return self._lost(new) or self._stalled(new) or self._failed()

    def _no_answer(self) -> str:
        heard = self._heard
        is_gone = heard.is_broken and (heard.is_hurried or heard.complaint)
        if self._unanswered <= (HURRY if is_gone else self.limits.silence):
            return ""
        seconds, first = f"{self._unanswered:.0f} s", (heard.signs or {}).get(0)
        if first is None or self._has_agent:
            where = f"; {first} was last heard of {first.where}" if first else ""
            return f"torchrun at {self._store}, where ranks hear of each other, has not answered for {seconds}{where}"
        store = f"the store that it holds at {self._store} does not answer"
        return f"{first} was last heard of {seconds} ago, {first.where}; {store}"

    def _lost(self, signs: Mapping[int, Sign]) -> str:
        lost = [sign for rank, sign in signs.items() if self._silent[rank] > self._patience_with(sign)]
        if not lost:
            return ""
        first = max(lost, key=lambda sign: self._silent[sign.rank])
        others = [str(sign.rank) for sign in lost if sign is not first]
        more = f"; so are ranks {', '.join(others)}" if others else ""
        if first.ended:
            return f"{first} has ended {first.where}: {first.ended}{more}"
        if first.has_left:
            return f"{first} has ended before the others; its own message says why{more}"
        more = more.replace("so are", "nothing since from")
        return f"{first} was last heard of {self._silent[first.rank]:.0f} s ago, {first.where}{more}"

    def _patience_with(self, sign: Sign) -> float:
        """Seconds for which a rank may be silent."""
        silence = self.limits.silence
        if self._heard.is_hurried or self._heard.complaint:
            return min(HURRY, silence)
        if sign.has_left:
            return float("inf")
        return ENDING * silence if sign.ended else silence

    def _count_pause(self, old: Mapping[int, Sign], new: Mapping[int, Sign], passed: float) -> None:
        self._still += passed
        if all(sign.moves == old[rank].moves for rank, sign in new.items() if rank in old):
            return
        if self._pace(old) == "stall":
            self._longest = max(self._longest or 0.0, self._still)
        self._still = 0.0

    def _pace(self, signs: Mapping[int, Sign]) -> Pace:
        """The most patient of those who are behind: the others wait for them."""
        least = min((sign.begun for sign in signs.values()), default=0)
        paces = {sign.pace for sign in signs.values() if sign.begun == least}
        return "preparation" if "preparation" in paces else "patience" if "patience" in paces else "stall"

    def _stalled(self, signs: Mapping[int, Sign]) -> str:
        pace = self._pace(signs)
        if not self._sees_all or pace == "preparation":
            return ""
        limit = self.limits.patience
        if pace == "stall" and (self._longest is not None or all(sign.steps > 1 for sign in signs.values())):
            limit = max(self.limits.stall, SLOWER * (self._longest or 0.0))  # 0: pauses were too short to be seen
        if self._still <= limit:
            return ""
        places: dict[str, list[Sign]] = {}
        for sign in signs.values():
            places.setdefault(sign.where, []).append(sign)
        rarest = sorted(places.values(), key=len)
        told = [f"{some[0] if len(some) == 1 else f'{len(some)} ranks'} {some[0].where}" for some in rarest]
        return f"no rank has come on for {self._still:.0f} s: {', '.join(told[:4])}"

    def _failed(self) -> str:
        if not self._heard.complaint or self._hurried <= HURRY + 3 * BEAT:
            return ""
        return f"ranks lost their connection to each other, though all are heard of: {self._heard.complaint}"

"""All checks of a model and its optimizer, in the order in which one explains the next."""

from collections.abc import Callable, Iterator, Sequence

from thetahat.diagnosis.finding import Finding
from thetahat.diagnosis.preflight.likelihood import first_value
from thetahat.diagnosis.preflight.parameters import decay, groups, updates
from thetahat.diagnosis.preflight.probe import Probe, still
from thetahat.diagnosis.preflight.sight import future, packing, shift
from thetahat.distribution.pieces import reading

Check = Callable[[Probe], Iterator[Finding]]
CHECKS: Sequence[Check] = (shift, future, packing, first_value, groups, updates, decay)


def check(probe: Probe) -> list[Finding]:
    """What all checks find. Model, optimizer and random numbers are left as they were, to the bit."""
    found: list[Finding] = []
    with still(probe):
        for one in CHECKS:
            with reading(probe.model):
                found += one(probe)
    return found

"""Names of what a step does, which a profiler of torch shows; without one they cost microseconds."""

from torch.autograd.profiler import record_function as region

__all__ = ["DATA", "OBJECTIVE", "UPDATE", "region"]

DATA = "thetahat: data"  # the batches of a step, until they are there
OBJECTIVE = "thetahat: objective"  # from hidden states to log-probabilities
UPDATE = "thetahat: update"  # clipping, and the optimizer

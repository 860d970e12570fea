"""Blocks of layers with a state under torch's compiler, in a process without the checks of shapes that tests have."""

import subprocess
import sys

import pytest

SCRIPT = """
import torch
from thetahat.core.config import override
from thetahat.core.visibility import visibility_of
from thetahat.model.build import build_model
from thetahat.model.config import DecoderConfig
from thetahat.model.init import initialize
from thetahat.model.recurrence.chunks import chunks_of
from thetahat.model.recurrence.count import sizes_of

config = DecoderConfig(num_layers=1, width=16, num_heads=2, num_kv_heads=2, head_width=8, inner_width=16)
for kind in ("delta", "state-space", "[{kind='linear',decay='learned'}]"):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model = build_model(override(config, [f"layers={kind}"]), 5)
    initialize(model, 0)
    block = model.block(0)
    compiled = torch.compile(block, fullgraph=True, backend="eager")
    for lengths in ([70, 58], [128], [30, 80, 18], [1] * 128):
        piece = torch.cat([torch.full((length,), number) for number, length in enumerate(lengths)])[None]
        way = chunks_of(visibility_of(piece), sizes_of(model.config, model.config.mixer(0)).reach).for_any_number()
        x = torch.randn(1, 128, 16, generator=torch.Generator().manual_seed(1))
        found = [torch.autograd.grad(run(x, way).sum(), list(block.parameters())) for run in (block, compiled)]
        assert all(map(torch.equal, *found)), kind
    print(kind, torch._dynamo.utils.counters["stats"]["unique_graphs"])
"""


@pytest.mark.slow
def test_a_block_with_a_state_is_one_graph_and_has_the_gradient_of_what_is_not_compiled():
    """Neither the number of chunks nor that of rounds is a constant: rounds of 2 and 2, 1 and 1, 3 and 1, of 128."""
    told = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr[-3000:]
    assert {int(line.rsplit(" ", 1)[1]) for line in told.stdout.splitlines()} == {1}

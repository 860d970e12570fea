"""Ranks that start again in a store that an earlier start has used."""

import time
from concurrent.futures import ThreadPoolExecutor

from torch.distributed import TCPStore

from thetahat.distribution.group import _start


def test_each_start_has_a_name_of_its_own_that_all_of_its_ranks_know():
    store = TCPStore("127.0.0.1", 0, is_master=True)
    stores = [TCPStore("127.0.0.1", store.port, is_master=False) for _ in range(3)]

    def start(rank, late):
        time.sleep(0.1 if rank == late else 0.0)  # the others find what was left behind
        return _start(stores[rank], rank, 3)

    names = []
    for late in (0, 1, 2, 0):
        with ThreadPoolExecutor(3) as pool:
            found = set(pool.map(start, range(3), [late] * 3))
        assert len(found) == 1
        names += found
    assert len(set(names)) == 4

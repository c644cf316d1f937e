"""Pools of 2 and 4 ranks for all tests of a session, each started when it is first asked for."""

from collections.abc import Callable, Iterator

import pytest
from pool import Pool


@pytest.fixture(scope="session")
def ranks() -> Iterator[Callable[[int], Pool]]:
    """ranks(2) and ranks(4) are pools; one that a check has ended is replaced."""
    pools: dict[int, Pool] = {}

    def of(size: int) -> Pool:
        if size not in pools or not pools[size].is_alive:
            pools[size] = Pool(size)
        return pools[size]

    yield of
    for pool in pools.values():
        pool.close()

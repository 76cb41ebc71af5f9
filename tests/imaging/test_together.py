"""Group commit: what several threads have to do at the same time is done in one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from imaging.together import Together


def test_each_gets_the_results_of_its_own_things_in_order():
    def work(things: list[int]) -> list[int]:
        return [thing * 10 for thing in things]

    together = Together(work, (ValueError,))
    with ThreadPoolExecutor(16) as pool:
        asked = [[n, n + 1, n + 2][: n % 4] for n in range(400)]
        found = list(pool.map(together, asked))
    assert found == [[thing * 10 for thing in things] for things in asked]


@pytest.fixture
def gathered() -> Iterator[Callable[..., list[Future]]]:
    """While ``work`` is busy with [0], these pieces gather; then it goes on. The futures of all, [0] first."""
    with ThreadPoolExecutor(8) as pool:

        def gather(work: Callable[[list[int]], list[int]], *pieces: list[int]) -> list[Future]:
            entered, go = threading.Event(), threading.Event()

            def held(things: list[int]) -> list[int]:
                entered.set()
                assert go.wait(10)
                return work(things)

            together = Together(held, (ValueError,))
            first = pool.submit(together, [0])
            assert entered.wait(10)
            others = [pool.submit(together, piece) for piece in pieces]
            while len(together._gathered) < len(pieces):
                pass
            go.set()
            return [first, *others]

        yield gather


def test_what_gathers_while_one_works_is_done_at_once(gathered):
    batches = []
    futures = gathered(lambda things: batches.append(sorted(things)) or things, [1], [2], [3])
    assert [f.result(10) for f in futures] == [[0], [1], [2], [3]]
    assert batches == [[0], [1, 2, 3]]


def test_what_cannot_be_done_does_not_cost_the_others_theirs(gathered):
    def work(things: list[int]) -> list[int]:
        if 13 in things:
            raise ValueError("13")
        return things

    first, bad, good = gathered(work, [13], [14])
    assert (first.result(10), good.result(10)) == ([0], [14])
    with pytest.raises(ValueError, match="13"):
        bad.result(10)


def test_what_is_wrong_with_all_is_told_to_all_at_once(gathered):
    asked = []

    def work(things: list[int]) -> list[int]:
        asked.append(things)
        raise ConnectionError

    for future in gathered(work, *([n] for n in range(1, 6))):
        with pytest.raises(ConnectionError):
            future.result(10)
    assert len(asked) == 2

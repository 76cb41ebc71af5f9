"""Group commit: what several threads have to do at the same time is done in one."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

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


def test_what_gathers_while_one_works_is_done_at_once():
    batches, entered, go = [], threading.Event(), threading.Event()

    def work(things: list[int]) -> list[int]:
        batches.append(sorted(things))
        entered.set()
        assert go.wait(10)
        return things

    together = Together(work, (ValueError,))
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together, [0])
        assert entered.wait(10)
        others = [pool.submit(together, [n]) for n in (1, 2, 3)]
        while len(together._gathered) < 3:
            pass
        go.set()
        assert [f.result(10) for f in (first, *others)] == [[0], [1], [2], [3]]
    assert batches == [[0], [1, 2, 3]]


def test_what_cannot_be_done_does_not_cost_the_others_theirs():
    entered, go = threading.Event(), threading.Event()

    def work(things: list[int]) -> list[int]:
        entered.set()
        assert go.wait(10)
        if 13 in things:
            raise ValueError("13")
        return things

    together = Together(work, (ValueError,))
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(together, [0])
        assert entered.wait(10)
        bad, good = pool.submit(together, [13]), pool.submit(together, [14])
        while len(together._gathered) < 2:
            pass
        go.set()
        assert (first.result(10), good.result(10)) == ([0], [14])
        with pytest.raises(ValueError, match="13"):
            bad.result(10)


def test_what_is_wrong_with_all_is_told_to_all_at_once():
    entered, go, asked = threading.Event(), threading.Event(), []

    def work(things: list[int]) -> list[int]:
        asked.append(things)
        entered.set()
        assert go.wait(10)
        raise ConnectionError

    together = Together(work, (ValueError,))
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(together, [0])
        assert entered.wait(10)
        others = [pool.submit(together, [n]) for n in range(1, 6)]
        while len(together._gathered) < 5:
            pass
        go.set()
        for future in (first, *others):
            with pytest.raises(ConnectionError):
                future.result(10)
    assert len(asked) == 2

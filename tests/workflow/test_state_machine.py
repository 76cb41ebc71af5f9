"""The whole network, driven at random: every operation and plain write by anybody, time that passes, and a process that ends
between any two commits. After each step the invariants hold on what is stored (``invariants``).

About 1,100 steps, the same each time: each example goes one of the ways that ``acts`` knows, which reach together what chance
alone seldom does, and then wherever chance leads. ``make soak`` walks 50,000, other ones each time.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import Counter

import invariants
import pytest
from acts import ACTS, PRIORITIES, passed_on, proceed, read_twice, reviewed, signed, straight
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from world import ACTORS, Answer, Crashed, World

SOAK = int(os.environ.get("FHIRSERVER_SOAK_STEPS", "0"))
STEPS, LENGTH = SOAK or 1080, 60
NUMBERS = st.integers(0, 997)
# Where the process ends: at the first, second … commit that follows, when it is made (True) or before; mostly nowhere
CUTS = st.integers(0, 59).map(lambda n: ((59 - n) // 2, n % 2 == 0) if n > 49 else None)
WHO = st.sampled_from([*["right"] * len(ACTORS), *ACTORS])
BEGINNINGS = st.sampled_from((passed_on, read_twice, signed, reviewed, straight, straight))
SECONDS = (1, 15, 70, 400, 2400, 7200, 40_000, 100_000, 400_000)
MODALITIES = ("CT", "CT", "CT", "MR")
WHAT = [
    *ACTS,
    *["submit-second-read"] * 3,
    *["request-second-read"] * 2,
    *["proceed"] * 25,
    *["time-passes"] * 4,
    *["send-images"] * 2,
    *["order"] * 2,
    *["with-a-key"] * 2,
]
_numbers = itertools.count()


class _Errors(logging.Handler):
    """What the server tells its log as an error, which here is nobody's but ours."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.told: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record.getMessage())


@pytest.fixture(scope="module")
def world(mongodb_uri, tmp_path_factory):
    world = World(mongodb_uri, tmp_path_factory.mktemp("data"))
    world.errors, world.tried, world.begun = _Errors(), Counter(), time.monotonic()
    logging.getLogger("fhirserver").addHandler(world.errors)
    yield world
    logging.getLogger("fhirserver").removeHandler(world.errors)
    world.server.close()


def machine(world: World) -> type[RuleBasedStateMachine]:
    class Network(RuleBasedStateMachine):
        """``a`` and ``b`` choose whom and what an act is about; ``cut`` is where the process ends meanwhile."""

        @initialize(way=BEGINNINGS, office=st.integers(0, 3), modality=st.sampled_from(MODALITIES), b=NUMBERS)
        def begin(self, way, office, modality, b):
            """With an order; it is the hospital's where its way is given."""
            world.fresh()
            self.placed(office if way is straight else 1, False, modality, b)
            for do in way(world, b):
                answer = self.step(do)
                assert not answer.refused, answer

        def step(self, do, cut=None):
            since, commits = world.now + 1, world.fuse.commits
            answer, world.fuse.left, world.fuse.after = Answer(0), *(cut or (None, False))
            self.broken = True
            try:
                answer = do() or answer
            except Crashed:
                world.restart()
            world.fuse.left = None
            written = world.look(since)
            world.steps += 1
            world.tried[f"{written.act} {answer.status}"] += 1
            assert not world.errors.told, world.errors.told
            if answer.refused:
                assert (written.versions, written.lines, world.fuse.commits) == ([], [], commits), (
                    f"{written.act} was refused, and wrote"
                )
            invariants.check(written)
            self.broken = False
            return answer

        def placed(self, office, same, modality, b):
            """For the same patient as the one before, now and then."""
            number = f"{next(_numbers):08}"
            members = {
                "priority": PRIORITIES[b % 4],
                "reasonCode": [{"text": "bleeding?"}],
                "status": "draft" if b % 5 == 0 else "active",
            }
            self.step(lambda: world.ordered("hospital" if office else "office", number, same, modality, **members))

        @rule(what=st.sampled_from(WHAT), who=WHO, a=NUMBERS, b=NUMBERS, cut=CUTS)
        def act(self, what, who, a, b, cut):
            """Where there is nothing that it could be about, an order goes on."""
            match what:
                case "proceed":
                    self.step(lambda: proceed(world, a, b), cut)
                case "order":
                    if len(world.orders) < 3:
                        self.placed(a % 4, b % 2 == 0, MODALITIES[a % len(MODALITIES)], b)
                case "send-images":
                    self.step(lambda: world.send(world.orders[a % len(world.orders)]), cut)
                case "time-passes":
                    self.time_passes(SECONDS[a % len(SECONDS)], cut)
                case "with-a-key":
                    self.with_a_key(sorted(ACTS)[a % len(ACTS)], a, b, cut)
                case _:
                    self.step(lambda: ACTS[what](world, who, a, b) or proceed(world, a, b), cut)

        def time_passes(self, seconds, cut):
            crashes = world.crashes
            self.step(lambda: world.passes(seconds), cut)
            if world.crashes == crashes:
                invariants.Net(world.docs).rings_later(world.now)

        def with_a_key(self, name, a, b, cut):
            """I10: sent again with its Idempotency-Key a request has the same answer, and no second effect; keys are whole."""
            with world.keyed(str(len(world.keys) + 5)):
                first = self.step(lambda: ACTS[name](world, "right", a, b), cut)
                if first.status in (200, 201):
                    before = dict(world.docs)
                    again = self.step(world.resent)
                    assert (again.status, again.body) == (first.status, first.body), "I10: another answer to the same request"
                    assert world.docs == before, "I10: a second effect"

        def teardown(self):
            """The server comes to rest; what is there is what the history says; the next example begins elsewhere."""
            if self.broken:
                return
            self.step(lambda: world.passes(60))
            net = invariants.Net(world.docs)
            net.rings_later(world.now)
            net.images_are_known([o.reference for o in world.orders if o.sent])
            invariants.sweep(world.docs, world.current(), world.history())
            if SOAK:
                print(
                    f"  {world.steps} of {STEPS} steps, {world.crashes} crashes, {time.monotonic() - world.begun:.0f} s",
                    flush=True,
                )

    return Network


def test_the_network_keeps_its_invariants(world):
    chosen = settings(
        max_examples=max(1, STEPS // LENGTH),
        stateful_step_count=LENGTH,
        deadline=None,
        derandomize=not SOAK,
        database=None,
        print_blob=True,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine(world), settings=chosen)
    assert world.crashes
    reached = {name.rpartition(" ")[0] for name in world.tried if name.endswith((" 200", " 201"))}
    assert reached >= {
        "acknowledge", "acknowledge-receipt", "addend", "adjudicate", "answer-consult", "assign", "auto-assign", "claim", "consult", "correct",
        "dispatch", "forward", "notify-critical", "publish-preliminary", "report-discrepancy", "request-information", "request-second-read",
        "respond", "retract", "sample-for-review", "sign", "start-report", "submit-review", "submit-second-read",
    }  # fmt: skip

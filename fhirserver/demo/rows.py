"""An order for each row of the state table."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from fhirserver import work
from fhirserver.demo.scene import HOSPITAL, OFFICE, Demo
from fhirserver.interactions import put
from fhirserver.messages import Context
from fhirserver.operations.dispatch import attempt as new_attempt
from fhirserver.validation import built
from fhirserver.workflow import coding, states


def orders(demo: Demo) -> None:
    """One order for each row, in the table's words."""
    demo.order("0", "draft order", "Maria Nowak", "CT", "urgent", images=False)
    demo.upload(OFFICE, "US", "O2001", "Kowal^Piotr", "1961-04-02", "")  # a study came first: a draft order from its header

    order = demo.order("1", "dispatched, awaiting images", "Jan Kowalski", "MR", "routine", images=False)
    demo.dispatched(order, expectImages=("Boolean", True))
    order = demo.order("2", "dispatched, ready for assignment", "Ewa Lis", "CT", "stat")
    demo.dispatched(order, reportTemplate=("Canonical", "https://hospital.example/ct-head"))
    order = demo.order("2a", "declined by the centre", "Adam Wójcik", "CR", "routine", facility=OFFICE)
    t0 = demo.dispatched(order, OFFICE)
    demo.centre.put(t0 | {"status": "rejected", "statusReason": {"text": "No capacity today"}})
    order = demo.order("3", "in the pool", "Zofia Mazur", "CR", "asap", facility=OFFICE)
    demo.to_pool(demo.dispatched(order, OFFICE))
    order = demo.order("4", "offered to a reader", "Tomasz Krawczyk", "MR", "urgent")
    demo.assigned(demo.dispatched(order), "bela", offer=True)
    order = demo.order("5", "assigned", "Hanna Piotrowska", "CT", "stat")
    demo.assigned(demo.dispatched(order), "anna")
    order = demo.order("6", "in reading", "Józef Grabowski", "CR", "asap")
    demo.reporting(demo.dispatched(order), "chidi")
    _waiting(demo)
    _second_read(demo)
    _preliminary(demo)
    order = demo.order("8", "final", "Krystyna Pawlak", "CT", "urgent")
    demo.signed(demo.dispatched(order), "anna")
    order = demo.order("8", "final", "Marek Duda", "CR", "routine", facility=OFFICE)
    demo.signed(demo.dispatched(order, OFFICE), "chidi", OFFICE)
    _amended(demo)
    _taken_back(demo)
    _withdrawn(demo)
    _late(demo)


def _waiting(demo: Demo) -> None:
    order = demo.order("6a", "waiting for information", "Irena Wrona", "MR", "routine")
    t0 = demo.dispatched(order)
    task = demo.reading(t0, "bela")
    demo.reader("bela").put(task | {"status": "on-hold", "statusReason": {"text": "Is there an earlier study?"}})


def _second_read(demo: Demo) -> None:
    order = demo.order("6b", "awaiting a second read", "Stefan Baran", "CT", "urgent")
    t0 = demo.dispatched(order)
    demo.reporting(t0, "anna")

    def plan(ctx: Context) -> None:
        parent = work.item(ctx, f"Task/{t0['id']}")
        assert parent is not None
        _change(ctx, parent.reference, businessStatus=work.business("awaiting-second-read"))
        second = new_attempt(ctx, parent, f"PractitionerRole/{demo.home}-bela-{HOSPITAL}", "requested")
        del ctx.changes.writes["Task", second.id]
        codes = [{"system": coding.TASK_CODE, "code": "fulfill"}, {"system": coding.TASK_TYPE, "code": "second-read"}]
        work.make(ctx, (second.data or {}) | {"code": {"coding": codes}}, demo.home)

    demo.planned(demo.centre, "request-second-read", plan)


def _preliminary(demo: Demo) -> None:
    order = demo.order("7", "preliminary", "Wanda Sikora", "MR", "asap")
    t0 = demo.dispatched(order, readType=("Code", "preliminary"))
    task, report, _ = demo.reporting(t0, "dorota")

    def plan(ctx: Context) -> None:
        parent = work.item(ctx, f"Task/{t0['id']}")
        assert parent is not None
        issued = {"status": "preliminary", "issued": work.timestamp(ctx.now), "conclusion": "Preliminary: no fracture seen."}
        _change(ctx, f"DiagnosticReport/{report['id']}", **issued)
        _change(ctx, f"Task/{task['id']}", status="completed")
        _change(ctx, parent.reference, businessStatus=work.business("preliminary-outcome"))
        new_attempt(ctx, parent, f"Organization/{demo.home}", "requested")

    demo.planned(demo.reader("dorota"), "publish-preliminary", plan)


def _amended(demo: Demo) -> None:
    order = demo.order("9", "amended after signing", "Ryszard Kania", "CT", "routine")
    t0 = demo.dispatched(order)
    report = demo.signed(t0, "anna")

    def plan(ctx: Context) -> None:
        _change(
            ctx,
            f"DiagnosticReport/{report['id']}",
            status="amended",
            conclusion="Addendum: compared with the study of 2024, unchanged.",
        )
        _change(ctx, f"Task/{t0['id']}", businessStatus=work.business("changed"))

    demo.planned(demo.reader("anna"), "correct", plan)


def _taken_back(demo: Demo) -> None:
    order = demo.order("10", "cancelled before reading", "Elżbieta Sowa", "CR", "routine")
    demo.dispatched(order)
    demo.hospital.put(demo.hospital.ask("GET", f"ServiceRequest/{order['id']}") | {"status": "revoked"})
    order = demo.order("11", "cancelled while reading", "Paweł Czajka", "CT", "urgent")
    demo.reporting(demo.dispatched(order), "bela")
    demo.hospital.put(demo.hospital.ask("GET", f"ServiceRequest/{order['id']}") | {"status": "revoked"})
    order = demo.order("12a", "put on hold by the facility", "Barbara Żak", "MR", "routine")
    demo.dispatched(order)
    demo.hospital.put(demo.hospital.ask("GET", f"ServiceRequest/{order['id']}") | {"status": "on-hold"})


def _withdrawn(demo: Demo) -> None:
    order = demo.order("12", "report withdrawn", "Kazimierz Gil", "CR", "routine")
    t0 = demo.dispatched(order)
    report = demo.signed(t0, "chidi")

    def plan(ctx: Context) -> None:
        _change(ctx, f"DiagnosticReport/{report['id']}", status="entered-in-error")
        _change(ctx, f"Task/{t0['id']}", businessStatus=work.business("withdrawn"))

    demo.planned(demo.reader("chidi"), "retract", plan)


def _late(demo: Demo) -> None:
    order = demo.order("13", "overdue", "Halina Bąk", "CT", "stat")
    late = work.timestamp(demo.installation.clock() - timedelta(minutes=20))
    t0 = demo.dispatched(order, due=("DateTime", late))

    def plan(ctx: Context) -> None:
        codes = [{"system": coding.BUSINESS_STATUS, "code": code} for code in (states.READY_FOR_ASSIGNMENT, "sla-breached")]
        _change(ctx, f"Task/{t0['id']}", businessStatus={"coding": codes})

    demo.planned(demo.centre, "escalate", plan)


def _change(ctx: Context, reference: str, **members: Any) -> None:
    found = work.item(ctx, reference)
    assert found is not None
    put(ctx, ctx.store.types[found.stored.type], built(found.data | members), found.stored.id, found.stored, "PUT")

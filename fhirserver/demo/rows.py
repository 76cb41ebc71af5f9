"""An order for each row of the state table."""

from __future__ import annotations

from datetime import timedelta

from fhirserver import work
from fhirserver.demo.scene import HOSPITAL, OFFICE, Demo, answered


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
    task = demo.reading(demo.dispatched(order), "bela")
    demo.reader("bela").operate(
        f"Task/{task['id']}/$request-information",
        question=("String", "Is there an earlier study?"),
        blocking=("Boolean", True),
    )


def _second_read(demo: Demo) -> None:
    order = demo.order("6b", "awaiting a second read", "Stefan Baran", "CT", "urgent")
    t0 = demo.dispatched(order)
    task, *_ = demo.reporting(t0, "anna")
    recipient = {"reference": f"PractitionerRole/{demo.home}-bela-{HOSPITAL}"}
    demo.reader("anna").operate(
        f"Task/{task['id']}/$request-second-read", kind=("Code", "independent"), recipient=("Reference", recipient)
    )


def _preliminary(demo: Demo) -> None:
    order = demo.order("7", "preliminary", "Wanda Sikora", "MR", "asap")
    t0 = demo.dispatched(order, readType=("Code", "preliminary"))
    _, report, draft = demo.reporting(t0, "dorota")
    said = answered(draft, impression="Preliminary: no fracture seen.")
    demo.reader("dorota").post(
        f"DiagnosticReport/{report['id']}/$publish-preliminary",
        {"resourceType": "Parameters", "parameter": [{"name": "response", "resource": said}]},
    )


def _amended(demo: Demo) -> None:
    order = demo.order("9", "amended after signing", "Ryszard Kania", "CT", "routine")
    report = demo.signed(demo.dispatched(order), "anna")
    demo.reader("anna").operate(
        f"DiagnosticReport/{report['id']}/$addend",
        text=("Markdown", "Compared with the study of 2024, unchanged."),
        reason=("CodeableConcept", {"text": "An earlier study was received"}),
    )


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
    report = demo.signed(demo.dispatched(order), "chidi")
    demo.reader("chidi").operate(
        f"DiagnosticReport/{report['id']}/$retract",
        reason=("CodeableConcept", {"text": "Another patient's images"}),
        second=("Reference", {"reference": f"Practitioner/{demo.home}-anna"}),
    )


def _late(demo: Demo) -> None:
    order = demo.order("13", "overdue", "Halina Bąk", "CT", "stat")
    late = work.timestamp(demo.installation.clock() - timedelta(minutes=20))
    demo.dispatched(order, due=("DateTime", late))
    demo.installation.timers.ring()  # it is told to be late, as it would be by the server's own job

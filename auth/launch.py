"""EHR launch: "open in app" from an order, a study or a report.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#launch-app-ehr-launch
"""

from __future__ import annotations

from authlib.common.urls import add_params_to_uri

from auth.records import Records, principal_of
from auth.scopes import CONTEXTS
from auth.server import Server
from auth.visit import Shown, Visit, failure, page, see

INTENTS = ("", "review", "report", "compare")


class Launch:
    """The page that lists the apps, and the handle that one of them is given."""

    def __init__(self, server: Server, records: Records) -> None:
        self._server, self._store, self._records = server, server.store, records

    def opened(self, visit: Visit) -> Shown:
        """GET: the apps that can be launched on ``focus``. POST: the browser goes to one of them, with iss and launch."""
        focus = visit.form.get("focus") or visit.query.get("focus") or ""
        if visit.session is None:
            return see("/auth/login", next=f"/auth/launch?focus={focus}")
        if focus.partition("/")[0] not in CONTEXTS.values():
            return failure(visit, "focus", 404)
        context = self._records.context(principal_of(visit.person), focus)
        if context is None:
            return failure(visit, "focus", 404)
        apps = self._store.clients.launchable()
        chosen = next((app for app in apps if app["_id"] == visit.form.get("app")), None)
        if visit.method != "POST" or chosen is None or not visit.genuine():
            targets = tuple(app["launch_uri"] for app in apps)
            return page(visit, "launch", targets=targets, apps=apps, focus=focus, title=context["title"], intents=INTENTS)
        intent = visit.form.get("intent", "")
        told = {name: value for name, value in context.items() if name != "title"} | {"need_patient_banner": True}
        if intent in INTENTS and intent:
            told["intent"] = intent
        handle = self._store.grants.add_launch(chosen["_id"], visit.session["_id"], told)
        self._server.told("launch", chosen["_id"], visit.person["_id"])
        where = add_params_to_uri(chosen["launch_uri"], [("iss", self._server.audience), ("launch", handle)])
        return Shown(303, location=str(where))

"""The authorization endpoint, as a person goes through it: asked, signed in, context chosen, consented, and back to the app.

https://hl7.org/fhir/smart-app-launch/STU2.2/app-launch.html#obtain-authorization-code
"""

from __future__ import annotations

from urllib.parse import urlsplit

from auth import scopes
from auth.records import MOST_CHOICES, Context, Records, principal_of
from auth.scopes import CONTEXTS, OFFLINE, ONLINE, launch, narrowed, parse
from auth.server import AskedRequest, OAuth2Error, Server
from auth.store import Document
from auth.visit import Shown, Visit, failure, page, see

_PEOPLE = frozenset({"patient", "user"})
_LONGEST = 4096


class Authorization:
    """From the app's request to its code."""

    def __init__(self, server: Server, records: Records) -> None:
        self._server, self._store, self._records = server, server.store, records

    # ------------------------------------------------------------ asked

    def asked(self, visit: Visit) -> Shown:
        """GET or POST, from another site: it only begins. Errors go to the app where its redirect URI is certain."""
        request = self._server.asked(visit.sent)
        wrong = self._never_redirected(request)
        if wrong:
            return failure(visit, wrong)
        redirect_uri, state = request.payload.redirect_uri, request.payload.state
        refused = self._refused(request)
        if refused is None:
            try:
                self._server.get_consent_grant(request, None)
            except OAuth2Error as error:
                refused = (error.error, error.description or "")
        prompts = (request.payload.data.get("prompt") or "").split()
        if refused is None and "none" in prompts and len(prompts) > 1:
            refused = ("invalid_request", "prompt is none, or something else.")
        if refused is None and "none" in prompts:
            refused = ("interaction_required" if visit.session else "login_required", "The person has to decide.")
        if refused is not None:
            self._server.told("authorize", request.payload.client_id, None, refused=True)
            return Shown(303, location=self._server.error_redirect(redirect_uri, *refused, state))
        return see("/auth/continue", tx=self._store.grants.begin(visit.sent))

    def _never_redirected(self, request: AskedRequest) -> str | None:
        """What makes it unsafe to send the browser anywhere."""
        names = request.payload.datalist
        if any(len(values) > 1 for values in names.values()) or any(len(v[0]) > _LONGEST for v in names.values()):
            return "repeated"
        client = self._server.query_client(request.payload.client_id or "")
        if client is None:
            return "client"
        return None if client.check_redirect_uri(request.payload.redirect_uri or "") else "redirect"

    def _refused(self, request: AskedRequest) -> tuple[str, str] | None:
        asked = request.payload.data
        for name in ("request", "request_uri"):
            if name in asked:
                return f"{name}_not_supported", f"{name} is not served here."
        only_who = "aud" not in asked and set((request.payload.scope or "").split()) <= set(scopes.IDENTITY)  # plain OpenID
        if not only_who and asked.get("aud", "").rstrip("/") != self._server.audience:
            return "invalid_request", f"aud is the FHIR base URL: {self._server.audience}"
        if not asked.get("state"):
            return "invalid_request", "state is needed."
        if not self._offered(request):
            return "invalid_scope", "None of the scopes is registered for this app and served here."
        return None

    def _offered(self, request: AskedRequest) -> list[str]:
        """What the person is asked for: registered for the app, and enforceable."""
        client = self._server.query_client(request.payload.client_id)
        assert client is not None
        allowed = narrowed(request.payload.scope or "", client.document["scope"], _PEOPLE, specials=True)
        return [text for text in allowed.split() if self._server.grantable(text)]

    # ------------------------------------------------------------ continued, by a signed-in person

    def continued(self, visit: Visit) -> Shown:
        """The next step of what is pending: login, context, consent."""
        tx = visit.query.get("tx") or visit.form.get("tx") or ""
        pending = self._store.grants.pending(tx)
        if pending is None:
            return failure(visit, "expired")
        if visit.session is None:
            return see("/auth/login", next=f"/auth/continue?tx={tx}")
        request = self._server.asked([(name, value) for name, value in pending["asked"]])
        if (wrong := self._never_redirected(request)) is not None:
            return failure(visit, wrong)
        if pending["session"] not in (None, visit.session["_id"]):
            return failure(visit, "expired", 403)
        if pending["session"] is None and self._again(request, visit, pending):
            if visit.cookie:
                self._store.people.sign_out(visit.cookie)
            return Shown(303, location=f"/auth/login?next=/auth/continue?tx%3D{tx}", cookie="")
        if pending["session"] is None:
            context = self._launched(request, visit)
            if context is None:
                return self._declined(request, visit, tx, "invalid_request", "The launch is unknown, used or expired.")
            self._store.grants.bind(tx, visit.session["_id"], context)
            pending = pending | {"context": context}
        if visit.method == "POST" and not visit.genuine():
            return failure(visit, "again", 403)
        context = dict(pending["context"])
        if visit.method == "POST" and visit.form.get("decision") == "deny":
            return self._declined(request, visit, tx, "access_denied", "The person declined.")
        kind = self._missing(request, context)
        if visit.method == "POST" and kind and visit.form.get("pick") == kind:
            context = self._picked(visit, tx, kind, context)
        kind = self._missing(request, context)
        if kind == "Patient" and (context.get("encounter") or context.get("fhirContext")):
            # What it was launched on says no patient: one chosen beside it would be another's.
            return self._declined(request, visit, tx, "invalid_request", "What was opened is of no patient.")
        if kind:
            return self._picker(visit, request, tx, kind, context)
        if visit.method == "POST" and visit.form.get("decision") == "allow":
            return self._decided(visit, request, tx, context)
        return self._consent(visit, request, tx, context)

    @staticmethod
    def _again(request: AskedRequest, visit: Visit, pending: Document) -> bool:
        """Whether the app wants the person to sign in anew: prompt, max_age.

        https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest
        """
        assert visit.session is not None
        age = (pending["begun"] - visit.session["began"]).total_seconds()
        if {"login", "select_account"} & set((request.payload.data.get("prompt") or "").split()):
            return bool(age > 0)
        longest = request.payload.data.get("max_age", "")
        return longest.isdigit() and bool(age > int(longest[:9]))

    def _launched(self, request: AskedRequest, visit: Visit) -> Context | None:
        """An EHR launch brings its context; a standalone one none yet."""
        handle = request.payload.data.get("launch")
        assert visit.session is not None
        if not handle:
            return {}
        return self._store.grants.take_launch(handle, request.payload.client_id, visit.session["_id"])

    def _missing(self, request: AskedRequest, context: Context) -> str | None:
        """The type of the context that is asked for and not chosen."""
        offered = self._offered(request)
        wanted = {named[0] for text in offered if (named := launch(text))}
        if "patient" not in context and (
            "patient" in wanted or any((scope := parse(text)) and scope.level == "patient" for text in offered)
        ):
            return "Patient"
        skipped = context.get("skipped", [])
        if "encounter" in wanted and "encounter" not in context and "Encounter" not in skipped:
            return "Encounter"
        there = {entry.get("reference", "").partition("/")[0] for entry in context.get("fhirContext", [])}
        rest = [CONTEXTS[name] for name in CONTEXTS if name in wanted - {"patient", "encounter"}]
        return next((type_ for type_ in rest if type_ not in there and type_ not in skipped), None)

    def _picker(self, visit: Visit, request: AskedRequest, tx: str, kind: str, context: Context) -> Shown:
        words = (visit.query.get("q") or "").strip()[:100]
        rows = self._records.choices(principal_of(visit.person), kind, words, context.get("patient"))
        client = self._server.query_client(request.payload.client_id)
        assert client is not None
        return page(
            visit,
            "pick",
            tx=tx,
            kind=kind,
            rows=rows,
            words=words,
            app=client.document["name"],
            optional=kind != "Patient",
            more=len(rows) >= MOST_CHOICES,
        )

    def _picked(self, visit: Visit, tx: str, kind: str, context: Context) -> Context:
        """What was chosen, if the person may see it and it is of the patient chosen before."""
        chosen = visit.form.get("chosen", "")
        if "skip" in visit.form and kind != "Patient":
            context["skipped"] = [*context.get("skipped", []), kind]
        elif chosen.startswith(f"{kind}/"):
            found = self._records.context(principal_of(visit.person), chosen)
            if found is None or (context.get("patient") and found.get("patient") != context["patient"]):
                return context
            if kind == "Patient":
                context["patient"] = found["patient"]
            elif kind == "Encounter":
                context |= {name: found[name] for name in ("patient", "encounter") if name in found}
            else:
                context |= {"patient": found["patient"]} if found.get("patient") else {}
                context["fhirContext"] = [*context.get("fhirContext", []), {"reference": chosen}]
        assert visit.session is not None
        self._store.grants.bind(tx, visit.session["_id"], context)
        return context

    # ------------------------------------------------------------ consent

    def _consent(self, visit: Visit, request: AskedRequest, tx: str, context: Context) -> Shown:
        client = self._server.query_client(request.payload.client_id)
        assert client is not None
        patient = (
            self._records.context(principal_of(visit.person), f"Patient/{context['patient']}") if "patient" in context else None
        )
        return page(
            visit,
            "consent",
            targets=(request.payload.redirect_uri,),
            tx=tx,
            client=client.document,
            scopes=self._asked_of(visit, request),
            patient=(patient or {}).get("title"),
            everybody=any((scope := parse(text)) and scope.level == "user" for text in self._asked_of(visit, request)),
            where=_place(request.payload.redirect_uri),
        )

    def _asked_of(self, visit: Visit, request: AskedRequest) -> list[str]:
        """Who is no Practitioner cannot be told as one: "it cannot support the fhirUser scope"."""
        offered = self._offered(request)
        return [text for text in offered if text != "fhirUser" or visit.person["practitioner"]]

    def _decided(self, visit: Visit, request: AskedRequest, tx: str, context: Context) -> Shown:
        client = request.payload.client_id
        offered = self._asked_of(visit, request)
        granted = _chosen(visit.many.get("scope", []), offered)
        if not any(parse(text) or text in scopes.IDENTITY for text in granted):
            return self._declined(request, visit, tx, "access_denied", "The person allowed nothing.")
        if not self._store.grants.end(tx):
            return failure(visit, "expired")
        assert visit.session is not None
        access = "offline" if OFFLINE in granted else "online" if ONLINE in granted else "none"
        context = {name: value for name, value in context.items() if name != "skipped"} | {
            "auth_time": visit.session["began"].timestamp(),
            "tenant": visit.person["organization"],
        }
        grant = self._store.grants.add(
            client, visit.person["_id"], " ".join(granted), context,
            session=visit.session["_id"], access=access, nonce=request.payload.data.get("nonce"),
        )  # fmt: skip
        self._server.told("consent", client, visit.person["_id"])
        user: Document = dict(visit.person)
        return Shown(303, location=self._server.consented(request, user, grant))

    def _declined(self, request: AskedRequest, visit: Visit, tx: str, error: str, text: str) -> Shown:
        self._store.grants.end(tx)
        self._server.told("consent", request.payload.client_id, visit.person["_id"], refused=True)
        where = self._server.error_redirect(request.payload.redirect_uri, error, text, request.payload.state)
        return Shown(303, location=where)


def _chosen(submitted: list[str], offered: list[str]) -> list[str]:
    """What the person left of what was offered: as it was, or a part of it. Where a part was chosen, the whole is not granted.

    "granted granular scopes ⇒ no resource-level scope for that type"
    """
    kept = [text for text in dict.fromkeys(submitted) if text in offered or scopes.subset(text, " ".join(offered))]
    parts = {(scope.level, scope.type) for text in kept if (scope := parse(text)) and scope.query and text not in offered}
    narrowed_levels = {level for level, _ in parts}
    return [
        text
        for text in kept
        if not (
            (s := parse(text))
            and not s.query
            and ((s.level, s.type) in parts or (s.type == "*" and s.level in narrowed_levels))
        )
    ]


def _place(redirect_uri: str) -> str:
    """Where the browser goes, as a person can check it."""
    parts = urlsplit(redirect_uri)
    return parts.netloc or f"{parts.scheme}:"

"""What tokens cost: ``python bench/tokens.py``. A FHIR read by a token of one scope and by one of a patient and query parts, and
token issue with ES384, as server CPU for a request; and the check alone, timed within the process against the real database."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import urlencode

from joserfc import jwt
from joserfc.jwk import ECKey
from pymongo import MongoClient
from rest import Bench, patient, table
from started import Running

from auth.store import AuthStore
from fhirserver.resources import RESOURCE_TYPES
from fhirserver.scoped import parts

_CATEGORY = "http://terminology.hl7.org/CodeSystem/observation-category"
NARROW = " ".join(f"patient/Observation.rs?category={_CATEGORY}|{c}" for c in ("laboratory", "vital-signs", "imaging"))


def observed(subject: str) -> dict:
    category = [{"coding": [{"system": _CATEGORY, "code": "laboratory"}]}]
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": {"text": "x"},
        "category": category,
        "subject": {"reference": subject},
    }


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="fhirserver-bench-"))
    running = Running(folder)
    try:
        running.start()
        bench = Bench(running)
        http = bench.http
        subject = http().post("Patient", json=patient(1)).json()["id"]
        made = [http().post("Observation", json=observed(f"Patient/{subject}")).json()["id"] for _ in range(50)]
        read = lambda i: http().get(f"Observation/{made[i % 50]}")  # noqa: E731
        bench.measure("warming", 500, read, 200)
        bench.measure("read, system/*.cruds", 3000, read, 200)
        running.command("client", "add", "narrow", "--secret", "x", "--organization", "hospital", "--scope", NARROW)
        token = running.command("token", "--client", "narrow", "--scope", NARROW, "--patient", subject)
        narrow = {"Authorization": f"Bearer {token}"}
        asked = lambda i: http().get(f"Observation/{made[i % 50]}", headers=narrow)  # noqa: E731
        bench.measure("read, one patient and three query parts", 3000, asked, 200)
        key = ECKey.generate_key("P-384", {"kid": "one"})
        (folder / "keys.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}))
        running.command("client", "add", "robot", "--jwks", str(folder / "keys.json"), "--scope", "system/*.rs")
        forms = [_form(running.url, key) for _ in range(300)]
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": ""}
        bench.measure("token, ES384", 300, lambda i: http().post("/auth/token", content=forms[i], headers=headers), 200)
        print("\n" + "\n".join(table(bench.rows[1:])))
        _alone(running, folder, bench.token.removeprefix("Bearer "), token)
    finally:
        running.close()
        shutil.rmtree(folder, ignore_errors=True)


def _form(url: str, key: ECKey) -> bytes:
    claims = {
        "iss": "robot",
        "sub": "robot",
        "aud": f"{url}/auth/token",
        "exp": int(time.time()) + 240,
        "jti": uuid.uuid4().hex,
    }
    return urlencode({
        "grant_type": "client_credentials", "scope": "system/*.rs",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jwt.encode({"alg": "ES384", "kid": "one"}, claims, key, algorithms=["ES384"]),
    }).encode()  # fmt: skip


def _alone(running: Running, folder: Path, *tokens: str) -> None:
    """At a thousand requests a second for three seconds: the looks into the database once a second are in it."""
    uri = json.loads((folder / "data" / "run.json").read_text())["mongodb_uri"]
    with MongoClient(uri) as client:
        store, type_ = AuthStore(client["fhirserver"], "centre"), RESOURCE_TYPES["Observation"]
        for name, token in zip(("one scope", "a patient and query parts"), tokens, strict=True):
            spent, asked = 0.0, 0
            for _ in range(3000):
                begun = time.thread_time()
                principal = store.principal(token)
                parts(principal.scopes, principal.patient, principal.myself, type_, "r")
                spent += time.thread_time() - begun
                asked += 1
                time.sleep(0.001)
            print(f"The check of a token and its scopes, {name}: {1000 * spent / asked:.3f} ms of CPU")


if __name__ == "__main__":
    main()

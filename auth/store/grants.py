"""What was granted: one consent is one grant, and codes, access tokens and refresh tokens hang off it, so that one update
revokes them all. Secrets are kept as hashes.

https://www.rfc-editor.org/rfc/rfc6749 https://www.rfc-editor.org/rfc/rfc9700
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from pymongo.database import Database

from auth.store.documents import Document, after, digest, fresh, left, now

CODE_SECONDS = 60
CODE_REMEMBERED = 86_400  # to tell a replay
LAUNCH_SECONDS = 300
TRANSACTION_SECONDS = 600
REFRESH_SECONDS = 180 * 86_400  # "for a period of no less than three months"


class Grants:
    """Grants, and what hangs off them."""

    def __init__(self, database: Database[Document]) -> None:
        self._grants = database["auth_grants"]
        self._codes = database["auth_codes"]
        self._tokens = database["auth_tokens"]
        self._refresh = database["auth_refresh_tokens"]
        self._launches = database["auth_launches"]
        self._transactions = database["auth_transactions"]

    def prepare(self) -> None:
        """What expired vanishes by itself where the database can do that; it is refused in any case."""
        for collection in (self._codes, self._tokens, self._refresh, self._launches, self._transactions):
            collection.create_index("expires", expireAfterSeconds=0)
        self._grants.create_index("user")

    # ------------------------------------------------------------ grants

    def add(
        self, client: str, user: str, scope: str, context: Mapping[str, Any], *, session: str, access: str, nonce: str | None
    ) -> str:
        """A consent. ``access``: offline, online or none, whether and how long it is refreshed."""
        id_ = uuid.uuid4().hex
        self._grants.insert_one(
            {
                "_id": id_, "client": client, "user": user, "scope": scope, "context": dict(context), "session": session,
                "access": access, "nonce": nonce, "created": now(), "used": now(), "revoked": None,
            }
        )  # fmt: skip
        return id_

    def get(self, id_: str) -> Document | None:
        return self._grants.find_one({"_id": id_})

    def revoke(self, id_: str) -> bool:
        """The grant, and with it every token that hangs off it. False where it was no more."""
        return self._grants.update_one({"_id": id_, "revoked": None}, {"$set": {"revoked": now()}}).matched_count == 1

    def end_all(self, **of: str) -> None:
        """Of a person (``user``) or a client: grants, and tokens outside any."""
        self._grants.update_many({**of, "revoked": None}, {"$set": {"revoked": now()}})
        self._tokens.delete_many(of)

    def of_user(self, user: str) -> list[Document]:
        """What a person has given and not taken back, newest first, and still of some use."""
        rows = self._grants.find({"user": user, "revoked": None}).sort("created", -1)
        return [row for row in rows if left({"expires": row["used"]}) > -REFRESH_SECONDS]

    # ------------------------------------------------------------ codes

    def add_code(self, code: str, grant: str, client: str, redirect_uri: str, challenge: str) -> None:
        self._codes.insert_one(
            {
                "_id": digest(code),
                "grant": grant,
                "client": client,
                "redirect_uri": redirect_uri,
                "challenge": challenge,
                "used": False,
                "until": after(CODE_SECONDS),
                "expires": after(CODE_REMEMBERED),
            }
        )

    def code(self, code: str, client: str) -> Document | None:
        """As it is kept, used or not; None where it is unknown or another client's."""
        return self._codes.find_one({"_id": digest(code), "client": client})

    def take(self, code: Document) -> bool:
        """Once, within its minute. "If an authorization code is used more than once, the authorization server … SHOULD revoke …
        all tokens previously issued"."""
        unused = {"_id": code["_id"], "used": False}
        in_time = left({"expires": code["until"]}) > 0
        if in_time and self._codes.update_one(unused, {"$set": {"used": True}}).matched_count:
            return True
        if code["used"] or in_time:
            self.revoke(code["grant"])
        return False

    # ------------------------------------------------------------ access tokens

    def issue(
        self, client: str, scope: str, seconds: float, *, grant: str | None = None, user: str | None = None,
        patient: str | None = None, organization: str | None = None,
    ) -> str:  # fmt: skip
        """A new opaque access token of 256 random bits."""
        token = fresh()
        self._tokens.insert_one(
            {
                "_id": digest(token), "client": client, "scope": scope, "grant": grant, "user": user, "patient": patient,
                "organization": organization, "issued": now(), "expires": after(seconds),
            }
        )  # fmt: skip
        return token

    def token(self, token: str) -> Document | None:
        """None where it is unknown or expired."""
        return self.token_of(digest(token))

    def token_of(self, id_: str) -> Document | None:
        """By its stored id."""
        found = self._tokens.find_one({"_id": id_})
        return found if found and left(found) > 0 else None

    def drop_token(self, token: str) -> None:
        self._tokens.delete_one({"_id": digest(token)})

    # ------------------------------------------------------------ refresh tokens

    def issue_refresh(self, grant: str, client: str) -> str:
        token = fresh()
        self._refresh.insert_one(
            {"_id": digest(token), "grant": grant, "client": client, "used": None, "expires": after(REFRESH_SECONDS)}
        )
        return token

    def refresh_token(self, token: str) -> Document | None:
        """As it is kept, used or not; None where it is unknown or expired."""
        found = self._refresh.find_one({"_id": digest(token)})
        return found if found and left(found) > 0 else None

    def rotate(self, found: Document) -> str | None:
        """The successor of a refresh token, which is used with this; None where that was so before."""
        if not self._refresh.update_one({"_id": found["_id"], "used": None}, {"$set": {"used": now()}}).matched_count:
            return None
        self._grants.update_one({"_id": found["grant"]}, {"$set": {"used": now()}})
        return self.issue_refresh(found["grant"], found["client"])

    # ------------------------------------------------------------ launches and pending authorizations

    def add_launch(self, client: str, session: str, context: Mapping[str, Any]) -> str:
        """A launch handle: for one client, for the person in one session, once."""
        handle = fresh()
        row = {"_id": digest(handle), "client": client, "session": session, "context": dict(context), "used": False}
        self._launches.insert_one(row | {"expires": after(LAUNCH_SECONDS)})
        return handle

    def take_launch(self, handle: str, client: str, session: str) -> dict[str, Any] | None:
        """Its context, once; None where it is unknown, expired, used, another client's or another session's."""
        mine = {"_id": digest(handle), "client": client, "session": session, "used": False}
        found = self._launches.find_one(mine)
        if found is None or left(found) <= 0:
            return None
        taken = self._launches.update_one(mine, {"$set": {"used": True}}).matched_count
        return dict(found["context"]) if taken else None

    def begin(self, asked: list[tuple[str, str]]) -> str:
        """An authorization that a person is to decide on."""
        id_ = fresh()
        row = {"_id": digest(id_), "asked": [list(pair) for pair in asked], "context": None, "session": None, "begun": now()}
        self._transactions.insert_one(row | {"expires": after(TRANSACTION_SECONDS)})
        return id_

    def pending(self, id_: str) -> Document | None:
        found = self._transactions.find_one({"_id": digest(id_)})
        return found if found and left(found) > 0 else None

    def bind(self, id_: str, session: str, context: Mapping[str, Any]) -> None:
        """What is pending is decided on in this session, with this context."""
        self._transactions.update_one({"_id": digest(id_)}, {"$set": {"session": session, "context": dict(context)}})

    def end(self, id_: str) -> bool:
        """False where somebody else ended it."""
        return self._transactions.delete_one({"_id": digest(id_)}).deleted_count == 1

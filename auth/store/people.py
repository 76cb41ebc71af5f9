"""People: who they are, how they prove it, and the sessions in which they are signed in."""

from __future__ import annotations

import hmac
import time
import uuid
from typing import Any

import pyotp
from pymongo.database import Database

from auth.store.documents import Document, after, digest, fresh, hashed, left, matches, now

SESSION_SECONDS = 8 * 3600
IDLE_SECONDS = 3600
_TOTP_WINDOW = 1  # steps of 30 seconds that a clock may be off
_MIN_PASSWORD = 10


class People:
    """Users and sessions."""

    def __init__(self, database: Database[Document]) -> None:
        self._users = database["auth_users"]
        self._sessions = database["auth_sessions"]

    def prepare(self) -> None:
        self._sessions.create_index("expires", expireAfterSeconds=0)
        self._users.create_index([("external.provider", 1), ("external.subject", 1)])

    # ------------------------------------------------------------ users

    def add(self, name: str, roles: tuple[str, ...], practitioner: str | None, organization: str, display: str = "") -> bool:
        """A person, or what is said of them anew: password and second factor stay. False where they were there."""
        said = {
            "roles": list(roles),
            "practitioner": practitioner,
            "organization": organization,
            "display": display or name,
        }
        new = {"sub": str(uuid.uuid4()), "disabled": False}  # told to apps: never a client's id
        return self._users.update_one({"_id": name}, {"$set": said, "$setOnInsert": new}, upsert=True).matched_count == 0

    def get(self, name: str) -> Document | None:
        found = self._users.find_one({"_id": name})
        return found if found is None or "sub" in found else self._completed(found)

    def _completed(self, user: Document) -> Document:
        """One that was registered before people signed in here."""
        self._users.update_one({"_id": user["_id"], "sub": {"$exists": False}}, {"$set": {"sub": str(uuid.uuid4())}})
        whole = self._users.find_one({"_id": user["_id"]}) or user
        return {"display": user["_id"], "disabled": False} | whole

    def disable(self, name: str) -> bool:
        """Their sessions and tokens stop working; what they had let in stays out when they come back."""
        self._sessions.delete_many({"user": name})
        return self._users.update_one({"_id": name}, {"$set": {"disabled": True}}).matched_count == 1

    def enable(self, name: str) -> bool:
        return self._users.update_one({"_id": name}, {"$set": {"disabled": False}}).matched_count == 1

    def set_password(self, name: str, password: str) -> None:
        """Sessions end. Error: ValueError for one that is too short."""
        if len(password) < _MIN_PASSWORD:
            raise ValueError(f"a password has at least {_MIN_PASSWORD} characters")
        self._users.update_one({"_id": name}, {"$set": {"password": hashed(password)}})
        self._sessions.delete_many({"user": name})

    def password_matches(self, name: str, password: str) -> bool:
        """In the same time for an unknown name as for a known one."""
        user = self.get(name)
        same = matches(user.get("password") if user else None, password[:1000])
        return same and user is not None and not user.get("disabled")

    def set_totp(self, name: str) -> str:
        """A new second factor; the secret, for the person's authenticator."""
        secret = pyotp.random_base32()
        self._users.update_one({"_id": name}, {"$set": {"totp": secret, "totp_step": 0}})
        return secret

    def totp_matches(self, user: Document, code: str) -> bool:
        """Each code once: https://www.rfc-editor.org/rfc/rfc6238#section-5.2"""
        totp, step = pyotp.TOTP(user["totp"]), int(time.time()) // 30
        for one in range(step - _TOTP_WINDOW, step + _TOTP_WINDOW + 1):
            if hmac.compare_digest(totp.at(30 * one), code.strip().encode("ascii", "replace").decode()):
                newer = {"_id": user["_id"], "totp_step": {"$lt": one}}
                return self._users.update_one(newer, {"$set": {"totp_step": one}}).matched_count == 1
        return False

    def link(self, name: str, provider: str, subject: str) -> None:
        """Who the person is at a hospital's own OpenID provider."""
        self._users.update_one({"_id": name}, {"$set": {"external": {"provider": provider, "subject": subject}}})

    def linked(self, provider: str, subject: str) -> Document | None:
        found = self._users.find_one({"external.provider": provider, "external.subject": subject})
        return found if found and not found.get("disabled") else None

    # ------------------------------------------------------------ sessions

    def sign_in(self, user: str, methods: tuple[str, ...]) -> str:
        """A new session; the cookie's value. ``methods``: RFC 8176's ``pwd``, ``otp``, or ``ext`` for another provider's."""
        cookie = fresh()
        self._sessions.insert_one(
            {
                "_id": digest(cookie),
                "user": user,
                "methods": list(methods),
                "began": now(),
                "seen": now(),
                "expires": after(SESSION_SECONDS),
            }
        )
        return cookie

    def session(self, cookie: str | None) -> Document | None:
        """The session, with its user's document under ``person``; None where it ended, was idle, or the user may not."""
        return self.session_of(digest(cookie), seen=True) if cookie else None

    def session_of(self, id_: str, *, seen: bool) -> Document | None:
        """By its stored id. ``seen``: its person is there now."""
        found = self._sessions.find_one({"_id": id_})
        if found is None or not self.alive(found):
            return None
        person = self.get(found["user"])
        if person is None or person.get("disabled"):
            return None
        if seen:
            self.touch(id_)
        return found | {"person": person}

    def session_alive(self, id_: str) -> bool:
        """By its stored id: "as long as the end-user remains online"."""
        found = self._sessions.find_one({"_id": id_})
        return found is not None and self.alive(found)

    @staticmethod
    def alive(session: Document) -> bool:
        return left(session) > 0 and left({"expires": session["seen"]}) > -IDLE_SECONDS

    def touch(self, id_: str) -> None:
        """An app with online access works for the person, who is there then."""
        self._sessions.update_one({"_id": id_}, {"$set": {"seen": now()}})

    def sign_out(self, cookie: str) -> None:
        self._sessions.delete_one({"_id": digest(cookie)})


def otpauth(secret: str, name: str, issuer: str) -> str:
    """For an authenticator app: https://github.com/google/google-authenticator/wiki/Key-Uri-Format"""
    uri: Any = pyotp.TOTP(secret).provisioning_uri(name=name, issuer_name=issuer)
    return str(uri)

"""The grants that are served; metadata follows from this list.

https://hl7.org/fhir/smart-app-launch/STU2.2/backend-services.html
"""

from __future__ import annotations

from authlib.oauth2.rfc6749 import grants
from authlib.oauth2.rfc6749.errors import InvalidScopeError

from auth.scopes import narrowed


class ClientCredentials(grants.ClientCredentialsGrant):  # type: ignore[misc]
    """A system acts for itself. It is given those of the asked-for ``system/`` scopes that it is registered for."""

    TOKEN_ENDPOINT_AUTH_METHODS = ("private_key_jwt", "client_secret_basic", "client_secret_post")
    LIFETIME = 300  # "should have … no more than five minutes"

    def validate_token_request(self) -> None:
        super().validate_token_request()
        granted = narrowed(self.request.payload.scope, self.request.client.document["scope"], frozenset({"system"}))
        if not granted:
            raise InvalidScopeError("None of the requested scopes is registered for this client.")
        self.request.payload._lists["scope"] = [granted]


GRANTS = (ClientCredentials,)

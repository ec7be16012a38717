"""Tokens of the organisation's OpenID Connect issuer: its keys, and the verification of what it signed.

A token counts if the issuer signed it (RS256 or ES256, with a key that it publishes) for one of our audiences, and it
is valid now. The issuer's keys and endpoints are cached; a slow or unreachable issuer costs a request a bounded wait
and then a 503.

PyJWT verifies the tokens, but its PyJWKClient does not fetch the keys: it would drop good keys that grow old while the
issuer cannot be reached, let every thread wait for a slow issuer, ask a dead one again for each request, and read an
answer of any size.
"""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Annotated, Any, NoReturn, TypeVar

import jwt
import orjson
import requests
import urllib3
from django.conf import settings
from pydantic import AfterValidator, BaseModel, StringConstraints, ValidationError, WrapValidator
from rest_framework.exceptions import APIException, AuthenticationFailed

from fmv.deadline import call_in_thread
from fmv.environment_types import is_safe_url

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
MAX_TOKEN = 8192  # characters
MAX_DOCUMENT = 512 * 1024  # bytes of an answer from the issuer
REFRESH_WAIT = 1.0  # seconds to wait while another thread asks the issuer
TYPES = (None, "jwt", "at+jwt", "application/at+jwt")  # not a logout token, which the issuer signs too


class IssuerUnavailable(APIException):
    """The token cannot be checked, because the issuer cannot be reached."""

    status_code = 503
    default_detail = "The organisation's sign-in cannot be reached. Try again soon."

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = max(1.0, wait)  # seconds, for Retry-After


class IssuerFault(Exception):
    """The issuer did not answer, or its answer cannot be used."""


def refuse(reason: str, who: str = "") -> NoReturn:
    """Log the reason and raise AuthenticationFailed with it. `who` is the token's owner, if that is certain."""
    logger.warning("Sign-in refused: %s%s", reason, f" ({who!r})" if who else "")
    raise AuthenticationFailed(f"The token is refused: {reason}.")


# --- The issuer's keys -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JwksSnapshot:
    """What the issuer published at one time: its keys by id, its endpoints by name. `at` is by time.monotonic()."""

    keys: Mapping[str | None, jwt.PyJWK] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    at: float = float("-inf")

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key with this id. A token need not name the key if the issuer has only one."""
        return next(iter(self.keys.values())) if kid is None and len(self.keys) == 1 else self.keys.get(kid)

    def is_younger(self, seconds: float) -> bool:
        return time.monotonic() - self.at <= seconds


class JwksCache:
    """The keys of one issuer. They are fetched again if they are old or one is unknown, but not too often, and kept
    while the issuer cannot be reached. Each process has one cache, which its threads share.
    """

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self._snapshot = JwksSnapshot()
        self._refreshing = threading.Lock()
        self._tried_at = float("-inf")  # when the last try ended, by time.monotonic()
        self._failed = False

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key with this id, None if the issuer has none. Raises IssuerUnavailable."""
        self._keep_fresh(lambda snapshot: snapshot.find(kid) is not None)
        return self._snapshot.find(kid)

    def endpoint(self, name: str) -> str | None:
        """Return the URL of this endpoint, None if the issuer announces none. Raises IssuerUnavailable."""
        self._keep_fresh(lambda snapshot: bool(snapshot.keys))
        return self._snapshot.endpoints.get(name)

    def _keep_fresh(self, serves: Callable[[JwksSnapshot], bool]) -> None:
        """Refresh the snapshot if it is old or does not serve.

        Raises IssuerUnavailable if that fails, unless the old snapshot serves and is younger than
        FMV_OIDC_OUTAGE_SECONDS.
        """
        if serves(self._snapshot) and self._snapshot.is_younger(settings.ENVIRONMENT.oidc_keys_seconds):
            return
        usable = serves(self._snapshot) and self._snapshot.is_younger(settings.ENVIRONMENT.oidc_outage_seconds)
        try:
            self._refresh(wait=0 if usable else REFRESH_WAIT)
        except IssuerUnavailable:
            if not usable:
                raise

    def _refresh(self, wait: float) -> None:
        """Ask the issuer, but not more often than FMV_OIDC_REFRESH_SECONDS: anybody can invent the ids of keys."""
        if not self._refreshing.acquire(timeout=wait):
            raise IssuerUnavailable(REFRESH_WAIT)
        try:
            if (pause := self._tried_at + settings.ENVIRONMENT.oidc_refresh_seconds - time.monotonic()) <= 0:
                self._ask()
            elif self._failed:
                raise IssuerUnavailable(pause)
        finally:
            self._refreshing.release()

    def _ask(self) -> None:
        self._failed = True
        try:
            self._snapshot = within(settings.ENVIRONMENT.oidc_timeout_seconds, lambda: fetch(self.issuer))
            self._failed = False
        except IssuerFault as error:
            logger.error("Cannot get keys from the issuer %s: %s", self.issuer, error)
            raise IssuerUnavailable(settings.ENVIRONMENT.oidc_refresh_seconds) from None
        finally:
            self._tried_at = time.monotonic()


@lru_cache(maxsize=4)
def jwks_cache(issuer: str) -> JwksCache:
    """Return this process's cache of the issuer's keys."""
    return JwksCache(issuer)


def endpoint(name: str) -> str | None:
    """Return the URL of this endpoint, None if the issuer announces none. Raises IssuerUnavailable."""
    return jwks_cache(settings.ENVIRONMENT.oidc_issuer).endpoint(name)


T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what the function returns. Raises its IssuerFault, or one of its own after that number of seconds."""
    try:
        return call_in_thread(function, "oidc-keys").result(seconds)
    except TimeoutError:
        raise IssuerFault(f"no answer within {seconds:g} s") from None


def fetch(issuer: str) -> JwksSnapshot:
    """Return the signing keys that the issuer publishes, and its endpoints with safe URLs. Raises IssuerFault."""
    document = _fetch(f"{issuer.rstrip('/')}/.well-known/openid-configuration")
    if document.get("issuer") != issuer:
        raise IssuerFault(f"it calls itself {document.get('issuer')!r}")
    url = document.get("jwks_uri")
    if not isinstance(url, str) or not is_safe_url(url):
        raise IssuerFault(f"its jwks_uri is {url!r}, not an https URL")
    found = _fetch(url).get("keys")
    keys = [key for each in found if (key := _read_key(each))] if isinstance(found, list) else []
    if not keys:
        raise IssuerFault(f"it publishes no {' or '.join(ALGORITHMS)} key")
    endpoints = {
        name: url
        for name, url in document.items()
        if name.endswith("_endpoint") and isinstance(url, str) and is_safe_url(url)
    }
    return JwksSnapshot({key.key_id: key for key in keys}, endpoints, time.monotonic())


def _fetch(url: str) -> dict[str, Any]:
    """Return the JSON object at the URL. TLS is verified (REQUESTS_CA_BUNDLE sets the CAs), redirects are refused."""
    timeout = settings.ENVIRONMENT.oidc_timeout_seconds
    plain = {"Accept-Encoding": "identity"}
    try:
        with requests.get(url, headers=plain, timeout=timeout, stream=True, allow_redirects=False) as response:
            if response.status_code != 200:
                raise IssuerFault(f"{url} answers {response.status_code}")
            document = orjson.loads(_read(response, time.monotonic() + timeout))
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        raise IssuerFault(f"{url}: {type(error).__name__}") from error
    except orjson.JSONDecodeError:
        raise IssuerFault(f"{url} is not JSON") from None
    if not isinstance(document, dict):
        raise IssuerFault(f"{url} is not a JSON object")
    return document


def _read(response: requests.Response, deadline: float) -> bytes:
    body = b""
    while chunk := response.raw.read1(64 * 1024):  # what has arrived, even a single byte
        body += chunk
        if len(body) > MAX_DOCUMENT or time.monotonic() > deadline:  # at the deadline the caller has left
            raise IssuerFault(f"{response.url} is too long or too slow")
    return body


def _read_key(data: Any) -> jwt.PyJWK | None:
    """Return the key, bound by PyJWT to its one algorithm; None if a token may not be signed with it."""
    if not isinstance(data, dict) or not isinstance(data.get("kid"), str | None) or data.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(data)
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):
        return None  # an unknown kind of key; the others can still be used
    weak = key.algorithm_name in ALGORITHMS and key.Algorithm.check_key_length(key.key)
    return None if key.algorithm_name not in ALGORITHMS or weak else key


# --- Tokens ----------------------------------------------------------------------------------------------------------

REASONS: dict[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.InvalidIssuerError: "it is from another issuer",
    jwt.InvalidSignatureError: "its signature is wrong",
    jwt.MissingRequiredClaimError: "a claim is missing",
}


def _web(url: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ValueError("not an http or https URL")
    return url


def _none_if_invalid(value: Any, read: Any) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


#: an optional claim that is invalid counts as missing
IfValid = WrapValidator(_none_if_invalid)
PrintableStr = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Claims(BaseModel):
    """A token's claims about its owner; None for those that are missing or invalid."""

    sub: Annotated[PrintableStr, StringConstraints(max_length=255)]
    preferred_username: Annotated[PrintableStr | None, IfValid] = None
    name: Annotated[Annotated[PrintableStr, StringConstraints(max_length=200)] | None, IfValid] = None
    email: Annotated[Annotated[PrintableStr, StringConstraints(max_length=254)] | None, IfValid] = None
    email_verified: Annotated[bool | None, IfValid] = None
    picture: Annotated[
        Annotated[PrintableStr, StringConstraints(max_length=2000), AfterValidator(_web)] | None, IfValid
    ] = None
    #: the values of the claim that FMV_OIDC_ROLE_CLAIM names
    roles: list[str] = []


@dataclass(frozen=True)
class ExpectedToken:
    """What the ID token of a sign-in must contain: the client and the nonce that it was requested with."""

    client: str
    nonce: str

    def matches(self, claims: dict[str, Any]) -> bool:
        return claims.get("nonce") == self.nonce and claims.get("azp", self.client) == self.client


def verify(token: str, expected: ExpectedToken | None = None) -> Claims:
    """Return the claims of a valid token. Raises AuthenticationFailed for any other, or IssuerUnavailable.

    A bearer token may be for any of our audiences, an `expected` ID token only for the client that requested it.
    """
    if not settings.ENVIRONMENT.oidc_issuer:
        refuse("no issuer is configured")
    if len(token) > MAX_TOKEN:
        refuse("it is too long")
    try:
        key = _key_for(jwt.get_unverified_header(token))
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=settings.ENVIRONMENT.oidc_issuer,
            audience=expected.client if expected else settings.ENVIRONMENT.oidc_audience,
            leeway=settings.ENVIRONMENT.oidc_leeway_seconds,
            options={"require": ["iss", "aud", "exp", "iat", "sub"]},
        )
    except jwt.PyJWTError as error:
        refuse(REASONS.get(type(error), "it is not a token of the issuer"))
    if expected and not expected.matches(claims):
        refuse("it belongs to another sign-in")
    return _read_claims(claims)


def _key_for(header: dict[str, Any]) -> jwt.PyJWK:
    """Return the key that the header names. Headers that are not allowed are refused before the issuer is asked."""
    kind = header.get("typ")
    if header.get("alg") not in ALGORITHMS or (kind.lower() if isinstance(kind, str) else kind) not in TYPES:
        refuse("its type or algorithm is not accepted")
    if (key := jwks_cache(settings.ENVIRONMENT.oidc_issuer).find(header.get("kid"))) is None:
        refuse("its key is unknown")
    return key


def _read_claims(data: dict[str, Any]) -> Claims:
    try:
        return Claims.model_validate({**data, "roles": _roles(data)})
    except ValidationError:
        refuse("its subject is not 1-255 printable characters")


def _roles(data: dict[str, Any]) -> list[str]:
    """Return the values of the role claim: the claim with exactly that name, else the one at that dotted path."""
    path = settings.ENVIRONMENT.oidc_role_claim
    found: Any = data.get(path)
    if found is None:
        found = data
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    values = found if isinstance(found, list) else [found]
    return [value for value in values if isinstance(value, str)]

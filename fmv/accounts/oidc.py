"""Sign-in by the organisation: tokens of its OpenID Connect issuer, and the users they are about.

A token counts when the issuer signed it (RS256 or ES256, with a key that it publishes), for one of our audiences, and
when its time is now. The issuer is asked for its keys and addresses, never for one request's sake alone:
whatever it answers, or does not, costs callers a bounded wait and then a 503.

PyJWT verifies. Its PyJWKClient does not fetch: it would drop good keys when the issuer cannot be reached as they grow
old, hold every thread at the door of a slow one, ask a dead one again for each request, and read an answer of any size.
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

from fmv.environment import is_safe_url
from fmv.monitoring.deadline import call_in_thread

logger = logging.getLogger(__name__)

ALGORITHMS = ("RS256", "ES256")
MAX_TOKEN = 8192  # characters
MAX_DOCUMENT = 512 * 1024  # bytes of an answer of the issuer
PATIENCE = 1.0  # seconds to wait while another thread asks the issuer
TYPES = (None, "jwt", "at+jwt", "application/at+jwt")  # a logout token is an issuer's JWT too, and signs nobody in


class IssuerUnavailable(APIException):
    """Nobody knows whether the token is good, because the issuer cannot be asked."""

    status_code = 503
    default_detail = "The organisation's sign-in cannot be reached. Try again soon."

    def __init__(self, wait: float) -> None:
        super().__init__()
        self.wait = max(1.0, wait)  # seconds, for Retry-After


class IssuerFault(Exception):
    """The issuer did not answer, or with something of no use."""


def refuse(reason: str, who: str = "") -> NoReturn:
    """Raise AuthenticationFailed with the reason; log it too, with whose token it is where that is known for sure."""
    logger.warning("Sign-in refused: %s%s", reason, f" ({who!r})" if who else "")
    raise AuthenticationFailed(f"The token is refused: {reason}.")


# --- The issuer's keys -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Held:
    """What the issuer published at a moment of the monotonic clock: keys by their ids, addresses by their names."""

    keys: Mapping[str | None, jwt.PyJWK] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=dict)
    at: float = float("-inf")

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key with this id. A token need not name the key of an issuer that has but one."""
        return next(iter(self.keys.values())) if kid is None and len(self.keys) == 1 else self.keys.get(kid)

    def is_younger(self, seconds: float) -> bool:
        return time.monotonic() - self.at <= seconds


class Keys:
    """The keys of one issuer: asked for again when they are old or one is unknown, but not too often, and kept while
    the issuer cannot be reached. One for each process, shared by its threads.
    """

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self._held = Held()
        self._asking = threading.Lock()
        self._asked = float("-inf")  # when the last answer came, or did not, by the monotonic clock
        self._failed = False

    def find(self, kid: str | None) -> jwt.PyJWK | None:
        """Return the key with this id, None when the issuer has no such. Raises IssuerUnavailable."""
        self._keep_fresh(lambda held: held.find(kid) is not None)
        return self._held.find(kid)

    def endpoint(self, name: str) -> str | None:
        """Return the address of this name, None when the issuer announces none. Raises IssuerUnavailable."""
        self._keep_fresh(lambda held: bool(held.keys))
        return self._held.endpoints.get(name)

    def _keep_fresh(self, serves: Callable[[Held], bool]) -> None:
        """Ask the issuer when what is held is old or does not serve. Raises IssuerUnavailable, unless that is good
        enough while nobody answers.
        """
        if serves(self._held) and self._held.is_younger(settings.FMV_OIDC_KEYS_SECONDS):
            return
        usable = serves(self._held) and self._held.is_younger(settings.FMV_OIDC_OUTAGE_SECONDS)
        try:
            self._refresh(patience=0 if usable else PATIENCE)
        except IssuerUnavailable:
            if not usable:
                raise

    def _refresh(self, patience: float) -> None:
        """Ask the issuer, unless that was done a moment ago: any stranger can make up the ids of keys."""
        if not self._asking.acquire(timeout=patience):
            raise IssuerUnavailable(PATIENCE)
        try:
            if (pause := self._asked + settings.FMV_OIDC_REFRESH_SECONDS - time.monotonic()) <= 0:
                self._ask()
            elif self._failed:
                raise IssuerUnavailable(pause)
        finally:
            self._asking.release()

    def _ask(self) -> None:
        self._failed = True
        try:
            held = within(settings.FMV_OIDC_TIMEOUT_SECONDS, lambda: fetch(self.issuer))
            self._held, self._failed = held, False
        except IssuerFault as error:
            logger.error("No keys from the issuer %s: %s", self.issuer, error)
            raise IssuerUnavailable(settings.FMV_OIDC_REFRESH_SECONDS) from None
        finally:
            self._asked = time.monotonic()


@lru_cache(maxsize=4)
def keys_of(issuer: str) -> Keys:
    """Return this process's keys of the issuer."""
    return Keys(issuer)


def endpoint(name: str) -> str | None:
    """Return the address that the issuer announces by this name, None without it. Raises IssuerUnavailable."""
    return keys_of(settings.FMV_OIDC_ISSUER).endpoint(name)


T = TypeVar("T")


def within(seconds: float, function: Callable[[], T]) -> T:
    """Return what the function returns. Raises its IssuerFault, or one of its own after that number of seconds."""
    try:
        return call_in_thread(function, "oidc-keys").result(seconds)
    except TimeoutError:
        raise IssuerFault(f"no answer within {seconds:g} s") from None


def fetch(issuer: str) -> Held:
    """Return the keys for signatures that the issuer publishes, and its safe addresses. Raises IssuerFault."""
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
        name: address
        for name, address in document.items()
        if name.endswith("_endpoint") and isinstance(address, str) and is_safe_url(address)
    }
    return Held({key.key_id: key for key in keys}, endpoints, time.monotonic())


def _fetch(url: str) -> dict[str, Any]:
    """Return the JSON object there. TLS is verified (REQUESTS_CA_BUNDLE names another authority), redirects refused."""
    timeout = settings.FMV_OIDC_TIMEOUT_SECONDS
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
    while chunk := response.raw.read1(64 * 1024):  # what has come, be it one byte
        body += chunk
        if len(body) > MAX_DOCUMENT or time.monotonic() > deadline:  # nobody may wait any more, but this thread would
            raise IssuerFault(f"{response.url} is too long or too slow")
    return body


def _read_key(data: Any) -> jwt.PyJWK | None:
    """Return the key if it is one that a token may be signed with, as PyJWT binds it to its one algorithm."""
    if not isinstance(data, dict) or not isinstance(data.get("kid"), str | None) or data.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(data)
    except (jwt.PyJWTError, ValueError, KeyError, TypeError):
        return None  # a kind that we do not know; the others are still good
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
        raise ValueError("not an address of the web")
    return url


def _none_if_wrong(value: Any, read: Any) -> Any:
    try:
        return read(value)
    except ValidationError:
        return None


#: A wrong claim that we could do without is no claim.
IfRight = WrapValidator(_none_if_wrong)
Text = Annotated[str, StringConstraints(min_length=1, pattern=r"^[^\x00-\x1f\x7f]*$")]


class Claims(BaseModel):
    """What a token says about its owner; None where it says nothing of use. Strings are what MongoDB can store."""

    sub: Annotated[Text, StringConstraints(max_length=255)]
    preferred_username: Annotated[Text | None, IfRight] = None
    name: Annotated[Annotated[Text, StringConstraints(max_length=200)] | None, IfRight] = None
    email: Annotated[Annotated[Text, StringConstraints(max_length=254)] | None, IfRight] = None
    email_verified: Annotated[bool | None, IfRight] = None
    picture: Annotated[Annotated[Text, StringConstraints(max_length=2000), AfterValidator(_web)] | None, IfRight] = None
    #: the values of the claim that FMV_OIDC_ROLE_CLAIM names
    roles: list[str] = []


@dataclass(frozen=True)
class Asked:
    """What an ID token must answer to: the client that asked for it, and the nonce that it asked with."""

    client: str
    nonce: str

    def is_answered_by(self, claims: dict[str, Any]) -> bool:
        return claims.get("nonce") == self.nonce and claims.get("azp", self.client) == self.client


def verify(token: str, asked: Asked | None = None) -> Claims:
    """Return what a good token says. Raises AuthenticationFailed for any other, IssuerUnavailable when nobody knows.

    A bearer token may be for any of our audiences, the answer to a question only for the client that asked.
    """
    if not settings.FMV_OIDC_ISSUER:
        refuse("no issuer is set up")
    if len(token) > MAX_TOKEN:
        refuse("it is too long")
    try:
        key = _key_for(jwt.get_unverified_header(token))
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=settings.FMV_OIDC_ISSUER,
            audience=asked.client if asked else settings.FMV_OIDC_AUDIENCE,
            leeway=settings.FMV_OIDC_LEEWAY_SECONDS,
            options={"require": ["iss", "aud", "exp", "iat", "sub"]},
        )
    except jwt.PyJWTError as error:
        refuse(REASONS.get(type(error), "it is not a token of the issuer's"))
    if asked and not asked.is_answered_by(claims):
        refuse("it answers another sign-in")
    return _read_claims(claims)


def _key_for(header: dict[str, Any]) -> jwt.PyJWK:
    """Return the key that the header asks for; what it must not ask for is refused before the issuer hears of it."""
    kind = header.get("typ")
    if header.get("alg") not in ALGORITHMS or (kind.lower() if isinstance(kind, str) else kind) not in TYPES:
        refuse("its type or algorithm is not accepted")
    if (key := keys_of(settings.FMV_OIDC_ISSUER).find(header.get("kid"))) is None:
        refuse("its key is unknown")
    return key


def _read_claims(data: dict[str, Any]) -> Claims:
    try:
        return Claims.model_validate({**data, "roles": _roles(data)})
    except ValidationError:
        refuse("its subject is not 1-255 printable characters")


def _roles(data: dict[str, Any]) -> list[str]:
    """Return the role claim's values: the claim of exactly that name, else the one at that dotted path."""
    path = settings.FMV_OIDC_ROLE_CLAIM
    found: Any = data.get(path)
    if found is None:
        found = data
        for part in path.split("."):
            found = found.get(part) if isinstance(found, dict) else None
    values = found if isinstance(found, list) else [found]
    return [value for value in values if isinstance(value, str)]

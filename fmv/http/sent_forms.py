"""Forms that a browser sends: an answer that Back can show again, no form carried out twice, none lost at a sign-out.

A browser shows the answer to a POST again only if it sends the form again. So the answer to a form that is not accepted
is kept in the session, and the browser is redirected to it. A form that makes something anew carries a key.
"""

import datetime as dt
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote

import orjson
from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.cache import add_never_cache_headers

from fmv.http.models import ThrottleWindow
from fmv.mongodb.counting import increment
from fmv.mongodb.server import stored_now

ANSWER = "answer"  # parameter that names a kept answer
ANSWERS = "answers"  # where the session has them: id -> [path of the form, page]
MAX_ANSWERS = 3  # in a session, which every request reads
MAX_SIZE = 200_000  # characters of a page that is kept
KEY_LIFETIME = dt.timedelta(hours=24)
KEPT = "kept"  # the field of the sign-in form with the form that was refused
NOT_KEPT = (
    "csrfmiddlewaretoken",
    "password",
    "password1",
    "password2",
    "old_password",
    "new_password1",
    "new_password2",
)


def is_browser(request: HttpRequest) -> bool:
    """Return whether a browser shows the answer: programs have no way back, and do not ask for a page."""
    return "text/html" in request.headers.get("Accept", "")


# --- Post, redirect, get ---------------------------------------------------------------------------------------------


def kept_answer(request: HttpRequest) -> HttpResponse | None:
    """Return the page that the address names, or a redirect to the address without it if it is kept no longer."""
    if request.method != "GET" or ANSWER not in request.GET:
        return None
    _, page = request.session.get(ANSWERS, {}).get(request.GET[ANSWER], ("", None))
    if page is None:
        return HttpResponseRedirect(_address(request, None))
    answer = HttpResponse(page)
    add_never_cache_headers(answer)
    return answer


def redirected(request: HttpRequest, answer: HttpResponse) -> HttpResponse:
    """Return the view's answer, or if it is a page that answers a form, a redirect to it.

    An answer with `shown_once` has a secret, which nothing may store.
    """
    if request.method != "POST" or not is_browser(request) or not request.user.is_authenticated:
        return answer
    if answer.status_code in (302, 303):
        _forget(request, request.path)
    if answer.status_code != 200 or getattr(answer, "shown_once", False):
        return answer
    if isinstance(answer, TemplateResponse):
        answer.render()
    id = keep(request, request.path, answer.content.decode())
    return HttpResponseRedirect(_address(request, id)) if id else answer


def let_back_show(answer: HttpResponse) -> None:
    """Let the browser keep this answer to a form, so that Back shows it without asking. It must hold no secret."""
    answer.headers["Cache-Control"] = "private, no-cache"
    answer.shown_by_back = True  # type: ignore[attr-defined]


def keep(request: HttpRequest, path: str, page: str) -> str:
    """Keep the page in the session until the form at `path` is accepted; return its id, "" if it is too large."""
    if len(page) > MAX_SIZE:
        return ""
    id, kept = uuid.uuid4().hex, request.session.get(ANSWERS, {})
    request.session[ANSWERS] = dict([*kept.items(), (id, [path, page])][-MAX_ANSWERS:])
    return id


def _forget(request: HttpRequest, path: str) -> None:
    """Forget the answers to the form at this path: they say that it was not accepted, and now it is."""
    kept = request.session.get(ANSWERS, {})
    if any(of == path for of, _ in kept.values()):
        request.session[ANSWERS] = {id: [of, page] for id, (of, page) in kept.items() if of != path}


def _address(request: HttpRequest, id: str | None) -> str:
    query = request.GET.copy()
    query.pop(ANSWER, None)
    if id:
        query[ANSWER] = id
    return f"{request.path}?{query.urlencode()}" if query else request.path


# --- Keys ------------------------------------------------------------------------------------------------------------


def is_first(request: HttpRequest) -> bool:
    """Return whether the user sends the form with this key (`once`) for the first time, and remember that it was sent.

    True for a form without a key.
    """
    once = request.POST.get("once", "")[:64]
    if not once:
        return True
    key = f"form {request.user.pk} {once}"
    return increment(ThrottleWindow, key, "count", expires_at=stored_now() + KEY_LIFETIME) == 1


# --- A session that ended --------------------------------------------------------------------------------------------


def from_our_page(request: HttpRequest) -> bool:
    """Return whether a page of this site sent the form. No other site may have a user send what it has prepared."""
    return request.headers.get("Origin") == f"{request.scheme}://{request.get_host()}"


def may_be_kept(request: HttpRequest) -> bool:
    """Return whether the form is one of the admin's pages, not a sign-in or sign-out."""
    path = request.path_info
    return path.startswith("/admin/") and path not in (reverse("admin:login"), reverse("admin:logout"))


def refused(request: HttpRequest) -> HttpResponse:
    """Answer a form whose session has ended, or whose sign-in is another one now, and keep what was filled in."""
    path, fields = request.get_full_path(), _fields(request)
    if request.user.is_authenticated:
        return _send_again(request, path, fields, status=403)
    request.method = "GET"  # the sign-in form is shown, not checked
    shown = {
        "app_path": reverse("admin:login"),
        REDIRECT_FIELD_NAME: path,
        KEPT: orjson.dumps(fields).decode(),
        "signed_out": True,
    }
    answer: Any = admin.site.login(request, shown)
    request.method = "POST"  # as the access log has it
    answer.status_code = 403
    return answer


def signed_in_again(request: HttpRequest, kept: str, path: str) -> HttpResponse:
    """Answer a sign-in that came with a refused form: show the form's values and a button that sends it."""
    page = _send_again(request, path, unpacked(kept))
    id = keep(request, path.partition("?")[0], page.content.decode())
    return HttpResponseRedirect(f"{reverse('admin:index')}?{ANSWER}={id}") if id else page


def unpacked(kept: str) -> list[tuple[str, str]]:
    """Return the names and values of a refused form that the sign-in form carries."""
    try:  # not by `json`, which takes what nobody can show, and fails on deep nesting
        return [(str(name), str(value)) for name, value in orjson.loads(kept or "[]")]
    except (ValueError, TypeError):
        return []


def _fields(request: HttpRequest) -> list[tuple[str, str]]:
    return [(name, value) for name, values in request.POST.lists() if name not in NOT_KEPT for value in values]


def _send_again(request: HttpRequest, path: str, fields: Iterable[tuple[str, str]], status: int = 200) -> HttpResponse:
    fields = list(fields)
    context: dict[str, Any] = {
        **admin.site.each_context(request),
        "title": "Your form was not sent",
        "to": path,
        "back": unquote(path.partition("?")[0]),
        "fields": fields,
        "filled_in": [(name, value) for name, value in fields if value and name not in ("once", "confirmed", "zone")],
    }
    answer = render(request, "admin/send_again.html", context, status=status)
    add_never_cache_headers(answer)
    return answer

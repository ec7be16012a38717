"""API tokens in the admin: one's own, and everybody's for superusers."""

import re

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from fmv.accounts.permissions import Role
from tests.support.factories import make_token, make_user

pytestmark = pytest.mark.django_db

LIST = "/admin/fmv/apitoken/"
SECRET = re.compile(rb"fmv_[0-9a-f]{64}")


def staff(user):
    client = Client()
    client.force_login(user)
    return client


def page(token):
    return f"{LIST}{token.pk}/change/"


def revoke(client, *tokens):
    data = {"action": "revoke", "_selected_action": [token.pk for token in tokens], "index": 0}
    return client.post(LIST, data, follow=True)


@pytest.fixture
def viewer():
    return make_user("viewer", username="leela", password=None)


@pytest.fixture
def root():
    return make_user(Role.NONE, username="root", is_superuser=True, password=None)


def test_a_user_makes_a_token_and_sees_its_secret_once(viewer):
    client = staff(viewer)
    answer = client.post(f"{LIST}add/", {"name": "gateway", "role": "", "days": "7"})
    assert answer.status_code == 200
    [secret] = SECRET.findall(answer.content)
    assert "no-store" in answer.headers["Cache-Control"]
    assert api_tokens.sign_in(secret.decode()) == viewer
    token = ApiToken.objects.get()
    assert (token.name, (token.expires_at - token.created_at).days) == ("gateway", 7)
    for address in (LIST, page(token), "/admin/"):
        assert not SECRET.search(client.get(address).content)
    assert secret.decode()[4:] not in str(client.cookies) + str([*LogEntry.objects.values()])


def test_the_form_suggests_how_long_it_is_good_for(viewer, settings):
    settings.ENVIRONMENT.token_days = 17
    answer = staff(viewer).get(f"{LIST}add/")
    assert b'value="17"' in answer.content
    assert b'name="user"' not in answer.content


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"days": "367"}, b"at most 366 days"),
        ({"days": "0"}, b"at most 366 days"),
        ({"days": "nan"}, b"Enter a number"),
        ({"days": ""}, b"required"),
        ({"name": ""}, b"required"),
        ({"name": "x" * 101}, b"at most 100 characters"),
        ({"role": "manager"}, b"higher than its user"),
        ({"role": "root"}, b"not one of the available choices"),
    ],
)
def test_what_is_refused_is_said_in_the_form(viewer, data, reason):
    answer = staff(viewer).post(f"{LIST}add/", {"name": "x", "role": "", "days": "7"} | data)
    assert reason in answer.content
    assert not SECRET.search(answer.content)
    assert not ApiToken.objects.exists()


def test_a_user_makes_no_token_for_another(viewer, root):
    staff(viewer).post(f"{LIST}add/", {"name": "x", "role": "", "days": "7", "user": str(root.pk)})
    assert ApiToken.objects.get().user == viewer


def test_a_superuser_makes_a_token_for_anybody(viewer, root):
    client = staff(root)
    answer = client.post(f"{LIST}add/", {"name": "x", "role": "viewer", "days": "7", "user": str(viewer.pk)})
    assert SECRET.search(answer.content)
    assert ApiToken.objects.get().user == viewer
    assert b"leela" in client.get(f"{LIST}add/?user={viewer.pk}").content


def test_users_see_their_own_tokens_and_superusers_everybodys(viewer, root):
    own, others = make_token(viewer, name="own-one"), make_token(root, name="others-one")
    client = staff(viewer)
    answer = client.get(LIST)
    assert b"own-one" in answer.content
    assert b"others-one" not in answer.content
    assert client.get(page(own)).status_code == 200
    assert client.get(page(others)).status_code == 302  # to the list, as for one that is not there
    answer = staff(root).get(LIST)
    assert b"own-one" in answer.content
    assert b"others-one" in answer.content


def test_users_revoke_their_own_tokens_only(viewer, root):
    own, others = make_token(viewer), make_token(root)
    answer = revoke(staff(viewer), own, others)
    assert b"Revoked 1 of 1." in answer.content
    assert {token.pk: token.state for token in ApiToken.objects.all()} == {own.pk: "revoked", others.pk: "usable"}


def test_superusers_revoke_anybodys(viewer, root):
    tokens = [make_token(viewer), make_token(root)]
    api_tokens.revoke(tokens[0], by="test")
    assert b"Revoked 1 of 2." in revoke(staff(root), *tokens).content
    assert {token.state for token in ApiToken.objects.all()} == {"revoked"}


def test_a_token_is_revoked_on_its_own_page_too(viewer, root):
    own, others = make_token(viewer), make_token(root)
    client = staff(viewer)
    assert b">Revoke<" in client.get(page(own)).content
    answer = client.post(page(own), {"_revoke": "yes"}, follow=True)
    assert b"Revoked 1 of 1." in answer.content
    assert b">Revoke<" not in answer.content
    assert b"token.revoke" in answer.content
    client.post(page(others), {"_revoke": "yes"})
    assert {token.pk: token.state for token in ApiToken.objects.all()} == {own.pk: "revoked", others.pk: "usable"}


def test_a_users_page_lists_the_tokens_and_leads_to_a_new_one(viewer, root):
    token = make_token(viewer, name="gate-keeper")
    make_token(root, name="others-one")
    content = staff(root).get(f"/admin/fmv/user/{viewer.pk}/change/").content.decode()
    assert f'href="{page(token)}">gate-keeper</a>' in content
    assert "others-one" not in content
    assert f'href="{LIST}add/?user={viewer.pk}"' in content


def test_a_token_is_neither_changed_nor_deleted(root):
    token, client = make_token(root, role="viewer"), staff(root)
    assert client.post(page(token), {"name": "other", "role": "", "days": "9"}).status_code == 403
    assert client.post(f"{LIST}{token.pk}/delete/", {"post": "yes"}).status_code == 403
    assert (ApiToken.objects.get().name, ApiToken.objects.get().role) == (token.name, "viewer")


def test_a_user_without_role_is_not_let_in():
    user = make_user(Role.NONE, password=None)
    assert staff(user).get(LIST).status_code == 302
    assert staff(user).post(f"{LIST}add/", {"name": "x", "role": "", "days": "7"}).status_code == 302
    assert not ApiToken.objects.exists()


def test_the_list_takes_as_many_queries_for_many_tokens_as_for_one(root):
    def queries():
        make_token()
        with CaptureQueriesContext(connection) as captured:
            assert client.get(LIST).status_code == 200
        return len(captured)

    client = staff(root)
    assert len({queries() for _ in range(3)}) == 1

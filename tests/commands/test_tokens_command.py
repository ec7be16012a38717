"""`manage.py tokens`: to make, list and revoke API tokens."""

import io
import json
import re

import pytest
from django.core.management import CommandError, call_command

from fmv.accounts import api_tokens
from fmv.accounts.models import ApiToken
from tests.support.factories import make_robot, make_token, make_user

pytestmark = pytest.mark.django_db


def tokens(*arguments):
    out = io.StringIO()
    call_command("tokens", *arguments, stdout=out, stderr=io.StringIO())
    return out.getvalue()


def test_it_makes_a_token_and_prints_it_alone():
    make_user(username="leela", password=None)
    text = tokens("create", "leela", "gateway").strip()
    assert re.fullmatch("fmv_[0-9a-f]{64}", text)
    assert api_tokens.sign_in(text).username == "leela"
    assert ApiToken.objects.get().name == "gateway"


def test_it_makes_a_token_with_all_its_options():
    make_user("manager", username="leela", password=None)
    made = json.loads(tokens("create", "leela", " the gateway ", "--role", "viewer", "--days", "2", "--json"))
    token = ApiToken.objects.get()
    keys = ["token", "id", "user", "robot", "name", "role", "state", "created_at", "expires_at", "last_used_at"]
    assert list(made) == keys
    assert api_tokens.sign_in(made["token"]).effective_role == "viewer"
    assert (made["id"], made["user"], made["name"], made["role"]) == (token.short_id, "leela", "the gateway", "viewer")
    assert (token.expires_at - token.created_at).days == 2


def test_it_makes_a_robots_token_without_any_user():
    make_robot(name="Crow T. Robot")
    text = tokens("create", "--robot", "Crow T. Robot").strip()
    assert api_tokens.sign_in(text).robot == "Crow T. Robot"
    made = json.loads(tokens("create", "--robot", "Crow T. Robot", "--days", "3", "--json"))
    assert (made["user"], made["robot"], made["name"], made["role"]) == (None, "Crow T. Robot", "agent", None)
    assert {str((token.expires_at - token.created_at).days) for token in ApiToken.objects.all()} == {"366", "3"}
    make_token(name="other")
    assert len(tokens("list").splitlines()) == 3
    lines = tokens("list", "--robot", "Crow T. Robot").splitlines()
    assert [line.split("  ")[-1] for line in lines] == ["robot Crow T. Robot: agent"] * 2


def test_it_makes_no_third_token_of_a_robot():
    make_robot(name="R2")
    for _ in range(2):
        tokens("create", "--robot", "R2")
    with pytest.raises(CommandError, match="has 2 usable tokens: revoke one of them first") as error:
        tokens("create", "--robot", "R2")
    assert error.value.returncode == 1
    assert ApiToken.objects.count() == 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--robot", "Nobody"], "There is no robot 'Nobody'"),
        (["--robot", ""], "There is no robot ''"),
        (["nobody", "x"], "no user 'nobody'"),
        (["leela", "x", "--days", "10000"], "at most 366 days"),
        (["leela", "x", "--role", "manager"], "higher than its user's"),
        (["gone", "x"], "deactivated"),
    ],
)
def test_what_is_refused_ends_with_the_reason(arguments, reason):
    make_user(username="leela", password=None)
    make_user(username="gone", is_active=False, password=None)
    with pytest.raises(CommandError, match=reason) as error:
        tokens("create", *arguments)
    assert error.value.returncode == 1
    assert not ApiToken.objects.exists()


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["make"],
        ["create"],
        ["create", "leela"],
        ["create", "leela", ""],
        ["create", "--robot", "R2", "leela"],
        ["create", "--robot", "R2", "leela", "gateway"],
        ["create", "--robot", "R2", "--role", "viewer"],
        ["create", "--robot", "R2", "--days", "0"],
        ["create", "--robot"],
        ["create", "leela", "x" * 101],
        ["create", "leela", "a\nb"],
        ["create", "leela", "x", "--days", "0"],
        ["create", "leela", "x", "--days", "nan"],
        ["create", "leela", "x", "--days", "inf"],
        ["create", "leela", "x", "--days", "soon"],
        ["create", "leela", "x", "--role", "root"],
        ["create", "leela", "x", "--role", ""],
        ["revoke"],
        ["revoke", "abc"],
        ["revoke", "not an id"],
        ["revoke", ".*......"],
        ["revoke", "0" * 65],
    ],
)
def test_wrong_arguments_are_refused_before_anything_happens(arguments):
    make_user(username="leela", password=None)
    make_robot(name="R2")
    with pytest.raises(CommandError) as error:
        tokens(*arguments)
    assert error.value.returncode in (1, 2)
    assert not ApiToken.objects.exists()


def test_it_lists_tokens_newest_first_and_never_their_text():
    leela = make_user(username="leela", password=None)
    old, new = make_token(leela, name="old", role="viewer"), make_token(make_user(username="fry"), name="new")
    api_tokens.revoke(old, by="test")
    lines = tokens("list").splitlines()
    assert [line.split()[0] for line in lines] == [new.short_id, old.short_id]
    assert "revoked" in lines[1]
    assert "leela: old" in lines[1]
    rows = json.loads(tokens("list", "--json"))["tokens"]
    assert [(row["user"], row["name"], row["state"], row["role"]) for row in rows] == [
        ("fry", "new", "usable", None),
        ("leela", "old", "revoked", "viewer"),
    ]
    assert old.text[4:] not in tokens("list") + tokens("list", "--json")


def test_it_lists_one_users_tokens():
    make_token(make_user(username="leela", password=None), name="hers")
    make_token(make_user(username="fry", password=None), name="his")
    assert [row["name"] for row in json.loads(tokens("list", "--user", "fry", "--json"))["tokens"]] == ["his"]
    with pytest.raises(CommandError, match="no user 'bender'"):
        tokens("list", "--user", "bender")


def test_listing_takes_as_many_queries_however_many_there_are(django_assert_num_queries):
    for _ in range(5):
        make_token()
    with django_assert_num_queries(3):  # for the migrations, the tokens and their users
        tokens("list")


@pytest.mark.parametrize("digits", [8, 12, 64])
def test_it_revokes_a_token_by_the_beginning_of_its_id(digits):
    token, other = make_token(), make_token()
    assert "is revoked" in tokens("revoke", token.digest[:digits])
    assert {row.pk: row.state for row in ApiToken.objects.all()} == {token.pk: "revoked", other.pk: "usable"}


def test_revoking_twice_does_no_harm():
    token = make_token()
    assert json.loads(tokens("revoke", token.short_id, "--json")) == {"revoked": True, "id": token.short_id}
    at = ApiToken.objects.get().revoked_at
    assert json.loads(tokens("revoke", token.short_id, "--json")) == {"revoked": False, "id": token.short_id}
    assert ApiToken.objects.get().revoked_at == at


def test_it_revokes_nothing_when_the_id_is_of_none_or_of_several():
    make_token()
    with pytest.raises(CommandError, match="No token has"):
        tokens("revoke", "0" * 12)
    user = make_user(password=None)
    for end in "12":
        token = api_tokens.build(user, "twin")
        token.digest = "f" * 63 + end
        api_tokens.store(token, by="test")
    with pytest.raises(CommandError, match="Several tokens have"):
        tokens("revoke", "f" * 12)
    assert {token.state for token in ApiToken.objects.all()} == {"usable"}


def test_the_exit_status_shows_the_result(run_process, tmp_path):
    import sys

    from fmv.devstack.stack import ROOT

    manage = [sys.executable, str(ROOT / "manage.py"), "tokens"]
    ended = {
        name: run_process(name, *manage, *arguments).wait(timeout=60)
        for name, arguments in {"good": ["list"], "refused": ["create", "nobody", "x"], "wrong": ["create"]}.items()
    }
    assert ended == {"good": 0, "refused": 1, "wrong": 2}
    assert "no user 'nobody'" in (tmp_path / "refused.log").read_text()
    assert "usage:" in (tmp_path / "wrong.log").read_text()

import stat
from io import StringIO

import pytest
from django.core.management import CommandError, call_command

from fmv.accounts.models import User
from tests.support.factories import make_user

pytestmark = pytest.mark.django_db


def ensure_admin(**options) -> str:
    out = StringIO()
    call_command("ensure_admin", stdout=out, **options)
    return out.getvalue()


def test_it_creates_a_superuser_whose_password_it_prints():
    password = ensure_admin().split()[-1]
    admin = User.objects.get(username="admin")
    assert admin.is_superuser
    assert admin.is_active
    assert len(password) >= 16
    assert admin.check_password(password)


def test_it_keeps_the_password_in_a_file_for_its_owner_alone(tmp_path):
    path = tmp_path / "password"
    path.write_text("an old, long, world-readable password")
    path.chmod(0o644)
    ensure_admin(password_file=path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert User.objects.get(username="admin").check_password(path.read_text().strip())


def test_it_leaves_everything_as_it_is_when_there_is_a_superuser(tmp_path):
    make_user(username="root", is_superuser=True)
    assert "already" in ensure_admin(password_file=tmp_path / "password")
    assert [user.username for user in User.objects.all()] == ["root"]
    assert not (tmp_path / "password").exists()


def test_it_does_not_promote_a_user_who_happens_to_be_called_admin():
    make_user(username="admin")
    with pytest.raises(CommandError, match="no superuser"):
        ensure_admin()
    assert not User.objects.get(username="admin").is_superuser


def test_it_creates_nobody_when_the_password_cannot_be_kept(tmp_path):
    with pytest.raises(CommandError, match="No such file"):
        ensure_admin(password_file=tmp_path / "missing" / "password")
    assert not User.objects.exists()

import pytest


@pytest.mark.django_db
@pytest.mark.parametrize("i", range(20))
def test_x(client, i):
    assert client.get("/api/v1/health").json() == {"health":"OK"}
    from tests.factories import make_robot
    make_robot()

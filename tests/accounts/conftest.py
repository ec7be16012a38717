from collections.abc import Iterator

import pytest

from fmv.accounts import oidc
from fmv.devstack import embedded_mongodb
from tests.support.fake_oidc import Issuer, running


@pytest.fixture
def stopped_issuer(settings) -> Iterator[Issuer]:
    """An issuer that FMV is set up for and that has not been started."""
    issuer = Issuer(embedded_mongodb.free_port(None))
    settings.ENVIRONMENT.oidc_issuer = issuer.url
    settings.ENVIRONMENT.oidc_audience = ["fmv"]
    settings.ENVIRONMENT.oidc_timeout_seconds = 2.0
    oidc.jwks_cache.cache_clear()
    yield issuer
    oidc.jwks_cache.cache_clear()


@pytest.fixture
def issuer(stopped_issuer) -> Iterator[Issuer]:
    with running(stopped_issuer):
        yield stopped_issuer

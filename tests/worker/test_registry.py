"""What can be registered as a handler: anything else is refused at the start, with a sentence."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from pydantic import BaseModel, Field, WithJsonSchema

from tasks import registry
from tasks.registry import Params, handler
from tests.support.api import Api


@pytest.fixture(autouse=True)
def own_handlers(monkeypatch):
    monkeypatch.setattr(registry, "_handlers", dict(registry._handlers))


class Opaque:
    pass


class NoSchema(Params):
    call: Callable[[], int]


class ArbitraryType(BaseModel, arbitrary_types_allowed=True):
    value: Opaque


class Undefined(Params):
    value: "DefinedNowhere"  # noqa: F821


class TooLarge(Params):
    number: int = Field(le=2**70)


class NoJson(Params):
    value: Annotated[int, WithJsonSchema({"examples": [Opaque()]})]


class HalfCharacter(Params):
    value: int = Field(description="\udce9")


@pytest.mark.parametrize("params", [NoSchema, ArbitraryType, Undefined, TooLarge, NoJson, HalfCharacter, int])
def test_parameters_without_a_json_schema_are_refused(params: Any):
    with pytest.raises(ImproperlyConfigured, match=r"the handler 'odd' have no JSON Schema"):
        handler("odd", params=params)(lambda ctx: None)
    assert "odd" not in {known.name for known in registry.all_handlers()}


def test_a_description_that_is_no_unicode_is_refused():
    def odd(ctx: Any) -> None:
        pass

    odd.__doc__ = "\udce9"
    with pytest.raises(ImproperlyConfigured):
        handler("odd")(odd)


class Amount(Params):
    amount: Decimal = Field(Decimal(1), le=Decimal("1e3"))
    parts: "list[Amount]" = []


@pytest.mark.django_db
def test_each_handler_that_is_registered_is_shown():
    handler("odd", params=Amount)(lambda ctx: None)
    answer = Api("viewer")("GET", "/handler/")
    assert answer.status_code == 200
    assert "odd" in {shown["name"] for shown in answer.json()["handlers"]}


async def coroutine(ctx: Any) -> None:
    pass


async def generator(ctx: Any) -> Any:
    yield 1


class Callee:
    async def __call__(self, ctx: Any) -> None:
        pass


@pytest.mark.parametrize("run", [coroutine, generator, functools.partial(coroutine), Callee(), Callee().__call__])
def test_async_functions_are_refused(run: Any):
    with pytest.raises(ImproperlyConfigured, match="'odd' is an `async def`"):
        handler("odd")(run)


def test_a_process_with_such_a_handler_does_not_start(tmp_path):
    (tmp_path / "oddapp").mkdir()
    (tmp_path / "oddapp" / "__init__.py").touch()
    (tmp_path / "oddapp" / "handlers.py").write_text(
        "from tasks.registry import handler\n\n@handler('odd')\nasync def odd(ctx): pass\n"
    )
    started = subprocess.run(
        [sys.executable, "-c", "import django; django.setup()"],
        env=os.environ | {"FMV_APPS": "oddapp", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert started.returncode == 1
    assert started.stderr.splitlines()[-1].startswith("django.core.exceptions.ImproperlyConfigured: The handler 'odd'")

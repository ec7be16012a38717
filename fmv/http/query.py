"""Query parameters: how a view refuses unknown and repeated ones, and how it reads the others."""

from functools import cache
from typing import Any, ClassVar

from rest_framework import exceptions, serializers
from rest_framework.request import Request

from fmv.errors import InvalidInput, Problem, did_you_mean
from fmv.http.errors import flatten
from fmv.http.fields import reader


class StrictQuery:
    """Mixed into every view of the API: an unknown parameter, or one given twice, is refused with 422.

    Ignoring a misspelt filter would answer with all rows, and scripts act on those.
    """

    #: action -> the serializer that names its parameters; other actions take none. Lists have those of their pages too.
    query: ClassVar[dict[str, type[serializers.Serializer]]] = {}

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)  # type: ignore[misc]
        action = getattr(self, "action", str(request.method).lower())
        if request.query_params and action is not None:  # None: the method is not allowed
            self._check(request, action)

    def _check(self, request: Request, action: str) -> None:
        known = known_parameters(self.query[action]) if action in self.query else {}
        if action == "list" and hasattr(self, "pagination_class"):
            pages = self.pagination_class
            known = known | {pages.page_size_query_param: False, pages.cursor_query_param: False}
        problems = []
        for name, values in request.query_params.lists():
            if name not in known:
                hint = did_you_mean(name, known) or (
                    f" Known are {', '.join(known)}." if known else " This route takes none."
                )
                problems.append(Problem(("query", name), f"Unknown parameter.{hint}", "extra_forbidden"))
            elif len(values) > 1 and not known[name]:
                problems.append(Problem(("query", name), "Can be given only once", "repeated"))
        if problems:
            raise InvalidInput(problems)


@cache
def known_parameters(serializer_class: type[serializers.Serializer]) -> dict[str, bool]:
    """Return the names of the parameters, each with whether it can be repeated."""
    fields = reader(serializer_class).fields.items()
    return {name: isinstance(field, serializers.ListField) for name, field in fields}


@cache
def _defaults(serializer_class: type[serializers.Serializer]) -> dict[str, Any]:
    values: dict[str, Any] = reader(serializer_class).run_validation({})
    return values


def read_query(serializer_class: type[serializers.Serializer], request: Request) -> dict[str, Any]:
    """Return the validated query parameters. Raises InvalidInput, which names each wrong one."""
    params = request.query_params
    if not params:
        return dict(_defaults(serializer_class))
    known = known_parameters(serializer_class)
    # A plain dict, because DRF takes a QueryDict for an HTML form, in which a missing boolean means False.
    data = {name: params.getlist(name) if many else params[name] for name, many in known.items() if name in params}
    try:
        values: dict[str, Any] = reader(serializer_class).run_validation(data)
    except exceptions.ValidationError as error:
        raise InvalidInput(list(flatten(error.detail, ("query",)))) from None
    return values

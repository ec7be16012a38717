"""The API's route with what needs a person."""

from typing import ClassVar

from django.http import HttpResponse
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.views import APIView

from fmv.accounts.permissions import Role
from fmv.http.json import answer
from fmv.http.query import StrictQuery
from tasks.api.attention_serializers import AttentionSerializer
from tasks.api.rendering import render_attention
from tasks.reports.attention import sources

SHOWN = 100  # lines of a kind


class AttentionView(StrictQuery, APIView):
    roles: ClassVar[dict[str, Role]] = {"get": Role.VIEWER}

    @extend_schema(operation_id="attention_attention_get", tags=["service"], responses=AttentionSerializer)
    def get(self, request: Request) -> HttpResponse:
        """Get what needs a person now: the robots, tasks, handlers and workers that are in trouble, each with a reason.

        The dashboard and `manage.py doctor` show the same. Without any trouble `lines` is empty.
        """
        return answer(render_attention(sources.found(SHOWN)))

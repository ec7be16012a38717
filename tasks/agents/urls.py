"""Routes for robots' agents, below `/api/v1/agent/`."""

from fmv.http.openapi import both
from tasks.agents import views

urlpatterns = [
    *both("session", views.SessionView.as_view(), "agent_session"),
    *both("claim", views.ClaimView.as_view(), "agent_claim"),
    *both("task/<uuid:task_id>/renew", views.RenewView.as_view(), "agent_renew"),
    *both("task/<uuid:task_id>/log", views.LogView.as_view(), "agent_log"),
    *both("task/<uuid:task_id>/finish", views.FinishView.as_view(), "agent_finish"),
    *both("task/<uuid:task_id>/release", views.ReleaseView.as_view(), "agent_release"),
    *both("state", views.StateView.as_view(), "agent_state"),
]

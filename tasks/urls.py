"""Routes of robots, tasks and handlers, below `/api/v1/`."""

from typing import Any

from fmv.schema import both
from tasks import event_views, robot_views, stats_views, views

robots: dict[str, Any] = {"get": "list", "post": "create"}
robot: dict[str, Any] = {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}

urlpatterns = [
    *both("task/<uuid:task_id>", views.TaskViewSet.as_view({"get": "retrieve"}), "task"),
    *both("robot/<str:name>/run", robot_views.RobotViewSet.as_view({"post": "run"}), "run"),
    *both("robot/<str:name>", robot_views.RobotViewSet.as_view(robot), "robot"),
    *both("robot/", robot_views.RobotViewSet.as_view(robots), "robots"),
    *both("task/", views.TaskViewSet.as_view({"get": "list"}), "tasks"),
    *both("task/batch", views.TaskViewSet.as_view({"post": "batch"}), "batch"),
    *both("task/<uuid:task_id>/cancel", views.TaskViewSet.as_view({"post": "cancel"}), "cancel"),
    *both("task/<uuid:task_id>/retry", views.TaskViewSet.as_view({"post": "retry"}), "retry"),
    *both("task/<uuid:task_id>/log", views.TaskLogViewSet.as_view({"get": "list"}), "log"),
    *both("task/<uuid:task_id>/events", event_views.EventViewSet.as_view({"get": "of_task"}), "task_events"),
    *both("events", event_views.EventViewSet.as_view({"get": "of_all"}), "events"),
    *both("stats", stats_views.StatsView.as_view(), "stats"),
    *both("handler/", views.HandlerViewSet.as_view({"get": "list"}), "handlers"),
    *both("handler/<str:name>", views.HandlerViewSet.as_view({"get": "retrieve"}), "handler"),
]

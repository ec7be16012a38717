"""Routes of robots, tasks and handlers, below `/api/v1/`."""

from typing import Any

from fmv.http.openapi import both
from tasks.api import attention, compare, events, handlers, robots, stats, tasks, timeline

ROBOT: dict[str, Any] = {"get": "retrieve", "put": "update", "patch": "partial_update", "delete": "destroy"}

urlpatterns = [
    *both("task/<uuid:task_id>", tasks.TaskViewSet.as_view({"get": "retrieve"}), "task"),
    *both("robot/<str:name>/run", robots.RobotViewSet.as_view({"post": "run"}), "run"),
    *both("robot/<str:name>/hold", robots.RobotViewSet.as_view({"post": "hold"}), "hold"),
    *both("robot/<str:name>/release", robots.RobotViewSet.as_view({"post": "release"}), "release"),
    *both("robot/<str:name>/timeline", timeline.TimelineView.as_view(), "timeline"),
    *both("robot/<str:name>", robots.RobotViewSet.as_view(ROBOT), "robot"),
    *both("robot/", robots.RobotViewSet.as_view({"get": "list", "post": "create"}), "robots"),
    *both("task/", tasks.TaskViewSet.as_view({"get": "list"}), "tasks"),
    *both("task/batch", tasks.TaskViewSet.as_view({"post": "batch"}), "batch"),
    *both("task/<uuid:task_id>/cancel", tasks.TaskViewSet.as_view({"post": "cancel"}), "cancel"),
    *both("task/<uuid:task_id>/retry", tasks.TaskViewSet.as_view({"post": "retry"}), "retry"),
    *both("task/<uuid:task_id>/end", tasks.TaskViewSet.as_view({"post": "end"}), "end"),
    *both("task/<uuid:task_id>/free", tasks.TaskViewSet.as_view({"post": "free"}), "free"),
    *both("task/<uuid:task_id>/move", tasks.TaskViewSet.as_view({"post": "move"}), "move"),
    *both("task/<uuid:task_id>/priority", tasks.TaskViewSet.as_view({"post": "priority"}), "priority"),
    *both("task/<uuid:task_id>/log", tasks.TaskLogViewSet.as_view({"get": "list"}), "log"),
    *both("task/<uuid:task_id>/waiting", tasks.TaskViewSet.as_view({"get": "waiting"}), "waiting"),
    *both("task/<uuid:task_id>/events", events.EventViewSet.as_view({"get": "of_task"}), "task_events"),
    *both("events", events.EventViewSet.as_view({"get": "of_all"}), "events"),
    *both("attention", attention.AttentionView.as_view(), "attention"),
    *both("stats", stats.StatsView.as_view(), "stats"),
    *both("compare", compare.CompareView.as_view(), "compare"),
    *both("handler/", handlers.HandlerViewSet.as_view({"get": "list"}), "handlers"),
    *both("handler/<str:name>", handlers.HandlerViewSet.as_view({"get": "retrieve"}), "handler"),
]

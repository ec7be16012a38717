"""What the admin shows of robots and tasks. Importing it registers the pages."""

from tasks.bulk_admin import BulkAdmin
from tasks.robot_admin import RobotAdmin
from tasks.task_admin import TaskAdmin

__all__ = ["BulkAdmin", "RobotAdmin", "TaskAdmin"]

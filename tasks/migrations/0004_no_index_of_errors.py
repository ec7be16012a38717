from django.db import migrations


class Migration(migrations.Migration):
    """One index fewer for each write: people seldom search by error, and `task_by_status` finds the tasks that failed."""

    dependencies = [("tasks", "0003_indexes_that_hold_fewer_tasks")]

    operations = [migrations.RemoveIndex(model_name="task", name="task_by_error")]

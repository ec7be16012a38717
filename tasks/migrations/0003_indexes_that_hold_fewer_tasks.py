import datetime

from django.db import migrations, models

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Migration(migrations.Migration):
    """Fewer index entries for each write: indexes of a few tasks leave the others out, and two serve two queries each.

    Each index is dropped just before the next is built, so that the queries without theirs are few at any time.
    """

    dependencies = [("tasks", "0002_handlers_that_workers_know")]

    operations = [
        migrations.RemoveIndex(model_name="task", name="task_by_status"),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(fields=["status", "-id", "handler"], name="task_by_status"),
        ),
        migrations.RemoveIndex(model_name="task", name="task_due"),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("run_at__gt", EPOCH)), fields=["status", "run_at", "id"], name="task_due"
            ),
        ),
        migrations.RemoveIndex(model_name="task", name="task_overdue"),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("expires_at__gt", EPOCH)),
                fields=["status", "attempt", "expires_at"],
                name="task_overdue",
            ),
        ),
        migrations.RemoveIndex(model_name="task", name="task_finished"),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("finished_at__gte", EPOCH)), fields=["finished_at"], name="task_finished"
            ),
        ),
        migrations.RemoveIndex(model_name="task", name="task_failed"),
        migrations.AddIndex(
            model_name="task",
            index=models.Index(
                condition=models.Q(("status", "FAILURE")), fields=["-finished_at", "handler"], name="task_failed"
            ),
        ),
        migrations.RemoveIndex(model_name="task", name="task_failed_of"),
        migrations.RemoveIndex(model_name="task", name="task_lost"),
    ]

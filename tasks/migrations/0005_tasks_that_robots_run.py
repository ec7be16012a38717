import fmv.mongodb.fields
from django.db import migrations, models


class Migration(migrations.Migration):
    """Fields that earlier documents lack, which reads as null: no document needs to change. And an index of log lines."""

    dependencies = [("tasks", "0004_no_index_of_errors")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="task",
                    name="runs_on",
                    field=models.CharField(
                        default="worker", help_text="In a worker process, or on the robot.", max_length=6
                    ),
                ),
                migrations.AddField(
                    model_name="task", name="cancel_requested_at", field=models.DateTimeField(null=True)
                ),
                migrations.AddField(
                    model_name="task",
                    name="session",
                    field=models.CharField(
                        default="", help_text="Of the agent that runs it, or ran it last.", max_length=64
                    ),
                ),
                migrations.AddField(
                    model_name="task",
                    name="claim_id",
                    field=models.UUIDField(help_text="The agent's claim that started the attempt.", null=True),
                ),
                migrations.AddField(
                    model_name="task", name="checkpoint", field=fmv.mongodb.fields.DocumentField(null=True)
                ),
                migrations.AddField(
                    model_name="task",
                    name="out_of_contact_since",
                    field=models.DateTimeField(help_text="STARTED, but its robot is silent.", null=True),
                ),
                migrations.AddField(
                    model_name="task", name="reported", field=fmv.mongodb.fields.DocumentField(null=True)
                ),
                migrations.AlterField(
                    model_name="task",
                    name="lane",
                    field=models.CharField(
                        help_text="robot/number, held while STARTED; and after an end that the robot has not confirmed.",
                        max_length=70,
                        null=True,
                    ),
                ),
                migrations.AddField(
                    model_name="logline",
                    name="number",
                    field=models.PositiveIntegerField(
                        help_text="Of a robot's line, from 0 in each attempt.", null=True
                    ),
                ),
            ]
        ),
        migrations.AddConstraint(
            model_name="logline",
            constraint=models.UniqueConstraint(
                condition=models.Q(("number__gte", 0)),
                fields=("task", "attempt", "number"),
                name="log_line_number",
            ),
        ),
    ]

import datetime

from django.db import migrations, models


class Migration(migrations.Migration):
    """Fields that earlier documents lack, which reads as null: no document needs to change. And an index of holds."""

    dependencies = [("robots", "0004_floor_plans")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="robot",
                    name="held_by",
                    field=models.CharField(
                        default="", editable=False, help_text="Who held its queue last.", max_length=150
                    ),
                ),
                migrations.AddField(
                    model_name="robot",
                    name="held_since",
                    field=models.DateTimeField(
                        editable=False,
                        help_text="Since when its queue is held: it starts nothing. null: it is not held.",
                        null=True,
                    ),
                ),
                migrations.AddField(
                    model_name="robot",
                    name="held_why",
                    field=models.CharField(
                        default="", editable=False, help_text="Why, as that one said.", max_length=200
                    ),
                ),
            ]
        ),
        migrations.AddIndex(
            model_name="robot",
            index=models.Index(
                condition=models.Q(("held_since__gt", datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC))),
                fields=["held_since"],
                name="robot_by_hold",
            ),
        ),
    ]

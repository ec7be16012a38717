from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("tasks", "0007_bulk_runs_that_make_tasks"),
    ]

    operations = [
        migrations.CreateModel(
            name="EndingsUntil",
            fields=[
                (
                    "name",
                    models.CharField(db_column="_id", max_length=8, primary_key=True, serialize=False),
                ),
                ("changed", models.DateTimeField(help_text="Tasks that last changed before are noted.")),
                (
                    "stored",
                    models.DateTimeField(
                        help_text="So are those that were stored before; null: it still begins.", null=True
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "endings until",
            },
        ),
        migrations.CreateModel(
            name="TaskEnding",
            fields=[
                (
                    "id",
                    models.CharField(
                        db_column="_id",
                        help_text="The task's id, backwards.",
                        max_length=32,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                (
                    "request",
                    models.CharField(help_text="The id of the request that submitted it, backwards.", max_length=128),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["request"], name="ending_of_request")],
            },
        ),
    ]

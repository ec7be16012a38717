from django.db import migrations, models

import fmv.mongodb.fields


class Migration(migrations.Migration):
    """What a bulk run makes. Earlier documents lack the field, which reads as null, so none needs to change."""

    dependencies = [("tasks", "0006_tallies_of_hours")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="bulk",
                    name="orders",
                    field=fmv.mongodb.fields.DocumentField(
                        help_text="Of run: {robots, run}, see tasks.queue.bulk_runs.", null=True
                    ),
                ),
                migrations.AlterField(
                    model_name="bulk",
                    name="action",
                    field=models.CharField(
                        help_text="cancel, retry, move or run.", max_length=8
                    ),
                ),
            ]
        ),
    ]

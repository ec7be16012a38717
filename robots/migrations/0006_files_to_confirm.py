from django.db import migrations, models

import robots.models.draft


class Migration(migrations.Migration):
    dependencies = [("robots", "0005_holds_of_queues")]

    operations = [
        migrations.CreateModel(
            name="ImportDraft",
            fields=[
                (
                    "id",
                    models.CharField(
                        db_column="_id",
                        default=robots.models.draft.new_draft_id,
                        max_length=32,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("by", models.CharField(max_length=150)),
                ("file", models.CharField(help_text="The file's name.", max_length=200)),
                ("content", models.BinaryField()),
                ("expires_at", models.DateTimeField()),
            ],
            options={"indexes": [models.Index(fields=["expires_at"], name="draft_over")]},
        ),
    ]

from django.db import migrations, models
from django_mongodb_backend.fields import ArrayField


class Migration(migrations.Migration):
    """Two fields that earlier documents lack, which reads as null: no document needs to change."""

    dependencies = [("tasks", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="task",
                    name="params_version",
                    field=models.CharField(
                        help_text="Of the handler that the submit knew.", max_length=12, null=True
                    ),
                ),
                migrations.AddField(
                    model_name="workerprocess",
                    name="handlers",
                    field=ArrayField(
                        base_field=models.CharField(max_length=77),
                        help_text="Those it knows, each as name@version of its parameters.",
                        null=True,
                    ),
                ),
            ]
        )
    ]

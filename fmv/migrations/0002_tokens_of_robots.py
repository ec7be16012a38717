import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    """Tokens of robots' agents. Earlier documents lack the field, which reads as null, so none needs to change."""

    dependencies = [("fmv", "0001_initial")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="apitoken",
                    name="robot",
                    field=models.CharField(
                        editable=False,
                        help_text="The robot whose agent it is for; then it has no user.",
                        max_length=64,
                        null=True,
                    ),
                ),
                migrations.AlterField(
                    model_name="apitoken",
                    name="user",
                    field=models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="api_tokens",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ]
        ),
        migrations.AddIndex(
            model_name="apitoken",
            index=models.Index(
                condition=models.Q(("robot__gt", "")), fields=["robot", "-created_at"], name="token_of_robot"
            ),
        ),
    ]

from django.db import migrations, models


class Migration(migrations.Migration):
    """The zone in which a user wants to see times. Earlier documents lack the field, which reads as null."""

    dependencies = [("fmv", "0002_tokens_of_robots")]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.AddField(
                    model_name="user",
                    name="time_zone",
                    field=models.CharField(editable=False, max_length=64, null=True),
                ),
            ]
        ),
    ]

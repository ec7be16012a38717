from django.db import migrations


def add(apps, schema_editor):
    # The unique index is a partial one, which no read uses; every maintenance run stores its result by this key.
    collection = schema_editor.connection.get_collection("django_celery_results_taskresult")
    collection.create_index("task_id", name="by_task_id")


def drop(apps, schema_editor):
    schema_editor.connection.get_collection("django_celery_results_taskresult").drop_index("by_task_id")


class Migration(migrations.Migration):
    dependencies = [("django_celery_results", "0001_initial")]
    operations = [migrations.RunPython(add, drop)]

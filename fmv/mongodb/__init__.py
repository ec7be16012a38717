"""django-mongodb-backend with what FMV adds: pipelines that use indexes, and updates that return the document."""

"""FMV's database engine: django-mongodb-backend with pipelines that use indexes and updates that return a document."""

import ctypes.util

# When imported, the backend searches three times for GDAL (for geographical fields) by twelve names each, and each name
# starts up to four system programs. That costs a second at every start, for a library that FMV does not use.
_find_library, ctypes.util.find_library = ctypes.util.find_library, lambda name: None
try:
    import django_mongodb_backend.base  # noqa: F401
finally:
    ctypes.util.find_library = _find_library

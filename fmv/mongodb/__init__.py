"""django-mongodb-backend with what FMV adds: pipelines that use indexes, and updates that return the document."""

import ctypes.util

# At its import the backend asks thrice for GDAL, for geographical fields, by twelve names each, and each name starts up
# to four programs of the system's: a second at every start, to find a library that nothing here uses.
_find_library, ctypes.util.find_library = ctypes.util.find_library, lambda name: None
try:
    import django_mongodb_backend.base  # noqa: F401
finally:
    ctypes.util.find_library = _find_library

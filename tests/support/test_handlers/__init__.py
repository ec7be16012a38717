"""A Django app whose handlers misbehave, each in a way of its own (`FMV_APPS=tests.support.test_handlers`)."""

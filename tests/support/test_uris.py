"""A URI for another database keeps everything else of the given one, as PyMongo reads it."""

import pytest
from pymongo.uri_parser import parse_uri

from tests.support.uris import with_database, with_suffix

GIVEN = [
    "mongodb://h:1/fmv",
    "mongodb://h:1/",
    "mongodb://h:1",
    "mongodb://h?tls=true&directConnection=true",
    "mongodb://h/?tls=true&tlsAllowInvalidCertificates=true",
    "mongodb://h/fmv.collection?replicaSet=r",
    "mongodb://h1:1,h2:2/fmv?replicaSet=r&readPreference=nearest&readPreferenceTags=dc:a&readPreferenceTags=",
    "mongodb://[::1]:1/fmv?w=majority",
    "mongodb://%2Ftmp%2Fmongodb.sock/fmv",
    "mongodb://u:p%40%2F%3F@h/fmv?tls=true&authSource=users",
    "mongodb://u:p#[&=@h/fmv?authsource=users&authMechanism=SCRAM-SHA-256",
    "mongodb://u@h/fmv?authMechanism=MONGODB-X509&tls=true",
]


@pytest.mark.parametrize("uri", GIVEN)
def test_everything_but_the_database_stays(uri):
    other = parse_uri(with_database(uri, "other", appName="a & b"))
    expected = parse_uri(uri) | {"database": "other", "collection": None}
    options = other.pop("options")
    assert other == {name: value for name, value in expected.items() if name != "options"}
    assert dict(options) == dict(expected["options"]) | {"appname": "a & b"}


@pytest.mark.parametrize(("uri", "source"), [("mongodb://u:p@h/fmv?tls=true", "fmv"), ("mongodb://u:p@h", "admin")])
def test_the_user_is_looked_up_where_it_was(uri, source):
    assert parse_uri(with_database(uri, "other"))["options"]["authSource"] == source


def test_a_suffix_is_added_to_the_name_of_the_database():
    assert with_suffix("mongodb://h:1/fmv?tls=true", "_bench") == "mongodb://h:1/fmv_bench?tls=true"
    assert with_suffix("mongodb://h:1/", "_bench") == "mongodb://h:1/fmv_bench"
    assert with_suffix("mongodb://h:1?tls=true", "_bench") == "mongodb://h:1/fmv_bench?tls=true"

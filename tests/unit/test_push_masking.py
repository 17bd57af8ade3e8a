"""Passwords within URLs are shown nowhere: not in a source's name, nor in what a driver says of it."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from venice.errors import VeniceError
from venice.push.databases import Database
from venice.push.masking import mask
from venice.push.sources import Format, Source, locate, locate_any, read_error

PASSWORDS = ["s3cret", "s3#cret", "s3?cret", "s3[cret", "s3]cret", "s3/cret", "s3;cret", "s3@cret", "s3:cret", "s3%23cret", "s3+cret"]


def urls(password: str) -> list[str]:
    return [
        f"postgresql://reader:{password}@host.test:5432/films",
        f"postgres://:{password}@host.test/films?sslmode=require",
        f"postgresql://reader@host.test/films?password={password}&sslmode=require",
        f"postgresql://reader@host.test/films?sslmode=require&sslpassword={password}",
        f"postgresql://reader:{password}@[::1/films",
    ]


def shows(text: str) -> bool:
    return "s3" in text or "cret" in text


@pytest.mark.parametrize("password", PASSWORDS)
def test_no_part_of_a_databases_password_is_shown(password: str) -> None:
    for url in urls(password):
        database = Database("postgres", url)
        source = Source(format=Format.SQL, query="FROM t", query_name=f"table t of {database}", database=database)
        assert not shows(str(database)), url
        assert "host.test" in str(database) or "::1" in str(database)
        for said in (
            f'Unable to connect to Postgres at "{url}": no such host',
            f'invalid integer value "{password[:2]}" for connection option "port"',
            f"connection option password='{password}' is odd",
        ):
            assert not shows(database.hide(said)), (url, said)
            error = read_error(duckdb.IOException(said), str(source), source.hide)
            assert not shows(f"{error.message} {error.hint}"), (url, said)
    taken_for_host = Database("postgres", urls(password)[0]).hide(f'no such host "{password[3:]}@host.test:5432"')
    assert not shows(taken_for_host)


@pytest.mark.parametrize("password", PASSWORDS)
def test_what_the_driver_itself_says_shows_none(password: str) -> None:
    for host in ("127.0.0.1:1", "127.0.0.1:none", "[::1"):
        with duckdb.connect() as connection, pytest.raises(VeniceError) as failed:
            locate_any(connection, [f"postgresql://reader:{password}@{host}/films?connect_timeout=1"], "films")
        assert not shows(f"{failed.value.message} {failed.value.hint}"), failed.value


def test_what_has_no_password_is_shown_whole() -> None:
    for text in (
        "postgresql://reader@host.test:5432/films",
        "s3://bucket/films/a@b:c/part-0.parquet",
        "abfs://container@account.dfs.core.windows.net/films",
        "https://host.test:8080/films.csv",
        "/data//films/a@b.csv",
    ):
        assert mask(text) == text
    assert str(Database("postgres", "postgresql://reader@host.test/films")) == "postgresql://reader@host.test/films"
    assert str(Database("postgres", "postgresql://reader:pw@host.test/films")) == "postgresql://reader:***@host.test/films"


def test_the_password_of_a_web_address_is_not_shown(tmp_path: Path) -> None:
    for url in ("https://reader:s3cret@host.test/x.csv", "https://s3cret@host.test/x.csv", "sftp://reader:s3cret@host.test/x.csv"):
        source = Source(format=Format.CSV, files=(url, url))
        assert not shows(str(source))
        assert "host.test/x.csv and 1 more files" in str(source)
        error = read_error(duckdb.IOException(f"cannot open {url}: 404"), url)
        assert not shows(error.message)
    with pytest.raises(VeniceError) as failed:
        locate(["nothing+such://reader:s3cret@host.test/x.csv"])
    assert not shows(failed.value.message)

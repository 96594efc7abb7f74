"""privacy: no password of an address is shown or kept by a run, and a database opens all the same."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path

import pytest

from multitask.config import Config, DataConfig, load_config
from multitask.data.locations import Location
from multitask.errors import ArchiveError, TableError
from multitask.privacy import hide_secrets
from multitask.progress import Lines

PLACES = [
    "postgresql+psycopg://me:tell/no:one@host:5432/shop?sslmode=require",
    "mysql://me:tellnoone@host/shop",
    "s3://key:tellnoone@bucket/photos.zip?region=eu",
    "https://me:tellnoone@cdn/a.jpg",
    "https://cdn/a.jpg?X-Amz-Signature=tellnoone&size=3",
    "s3://bucket/a?secret_key=tellnoone;region=eu",
    "mssql://host/shop?password=tellnoone",
]


@pytest.mark.parametrize("place", PLACES)
def test_secrets_are_hidden_and_the_rest_is_not(place: str) -> None:
    for text in (place, f"labels: 3 rows in {place}", f"{place}::SELECT 1::id::image"):
        hidden = hide_secrets(text)
        assert "tell" not in hidden
        assert "***" in hidden
        assert hide_secrets(hidden) == hidden
        for part in ("host", "bucket", "cdn", "region=eu", "size=3", "sslmode=require", "::id::image"):
            assert (part in hidden) == (part in text)


@pytest.mark.parametrize(
    "text",
    ["data/data.zip", "http://host:80/a@b.jpg", "s3://bucket/x?endpoint_override=host:9000", "design=3", "a: b@c"],
)
def test_what_is_no_secret_stays(text: str) -> None:
    assert hide_secrets(text) == text


def test_neither_errors_nor_progress_lines_nor_a_run_show_a_password(tmp_path: Path) -> None:
    place = "postgresql://me:tellnoone@host/shop"
    assert "tellnoone" not in str(TableError("is wrong", where=place, received=place, fix=f"See {place}."))
    assert "tellnoone" not in str(ArchiveError(f"cannot open {place}"))
    assert "tellnoone" not in str(Location(place))
    with redirect_stderr(io.StringIO()) as shown:
        Lines().say(f"labels: 3 rows in {place}")
    assert "me:***@host" in shown.getvalue()
    images = ("labels::id::image", f"{place}::SELECT 1::id::image")
    Config(data=DataConfig(labels=place, query="SELECT 1", images=images)).save(tmp_path / "config.toml")
    assert "tellnoone" not in (tmp_path / "config.toml").read_text()
    assert load_config(tmp_path / "config.toml").data.labels == "postgresql://me:***@host/shop"


def test_a_hidden_password_is_taken_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = Location("postgresql://me:***@host/shop")
    monkeypatch.delenv("MULTITASK_DATABASE_PASSWORD", raising=False)
    assert hidden.with_password() == "postgresql://me@host/shop"
    monkeypatch.setenv("MULTITASK_DATABASE_PASSWORD", "tell@no/one")
    assert hidden.with_password() == "postgresql://me:tell%40no%2Fone@host/shop"
    assert Location("postgresql://me:own@host/shop").with_password() == "postgresql://me:own@host/shop"

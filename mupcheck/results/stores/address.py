"""Addresses of results: what is written with "://" is kept in a store, beside a folder here that mirrors it.

Nothing is imported for a path that is none: fsspec, which comes with torch, is a part of a second.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path
from typing import TypeGuard

SCHEME = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
# as pathlib makes it of an address: a folder of that name here is nobody's wish
SWALLOWED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
HERE = ("file", "local")
CACHE_VARIABLE = "MUPCHECK_CACHE"
ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "FSSPEC_S3_ENDPOINT_URL")


def is_address(path: str | Path) -> TypeGuard[str]:
    """Say whether a path is the address of a store."""
    return isinstance(path, str) and bool(SCHEME.match(path))


def place_of(text: str | Path) -> Path | str:
    """Return an address as it is, and anything else as a path; file://PATH is PATH."""
    if not isinstance(text, str) or not (found := SCHEME.match(text)):
        return Path(text)
    rest = text[found.end() :]
    if found["scheme"].lower() in HERE:
        return Path(rest)
    return text[: found.end()] + rest.rstrip("/")


def check_address(address: str) -> None:
    """Refuse an address that names nothing.

    Raises:
        ValueError: in one line, with an example.
    """
    scheme, _, rest = address.partition("://")
    if not rest.strip("/"):
        raise ValueError(f"{address} names no bucket; give an address such as {scheme}://bucket/results")


def check_no_address(path: str | Path, what: str) -> None:
    """Refuse an address where only a file or folder here will do.

    Raises:
        ValueError: if it is one, or was one before pathlib had it.
    """
    if SWALLOWED.match(str(path)):
        raise ValueError(
            f"{what} {str(path)!r} is an address, and this takes a path on this machine (mupcheck explain stores)"
        )


def below(address: str, name: str) -> str:
    """Return the address of what is called name in an address."""
    return f"{address}{'' if address.endswith('/') else '/'}{name}"


def mirror_of(address: str) -> Path:
    """Return the folder here that mirrors an address: as the store's tree is, so a sweep's is in that of its results.

    It is in MUPCHECK_CACHE, else in the user's folder of caches. Stores of one name at two endpoints have two.
    """
    found = SCHEME.match(address)
    scheme, rest = (found["scheme"].lower(), address[found.end() :]) if found else ("", address)
    endpoint = next(filter(None, map(os.environ.get, ENDPOINTS)), "") if scheme in ("s3", "s3a") else ""
    if endpoint:
        scheme += "-" + hashlib.sha256(endpoint.encode()).hexdigest()[:8]
    parts = [part for part in rest.split("/") if part]
    # what would lead out of the folder, and what a system may not have in a name
    safe = [re.sub(r"[^\w.=+@,-]", lambda match: f"%{ord(match[0]):x}", part) for part in parts]
    return cache_folder().joinpath(scheme, *(part.replace(".", "%2e") if set(part) == {"."} else part for part in safe))


def cache_folder() -> Path:
    """Return where mirrors are."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "mupcheck"

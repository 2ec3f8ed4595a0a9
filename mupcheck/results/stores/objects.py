"""The objects of a store: list, get, put and remove, through fsspec, with errors in one line.

A put is whole or not at all on what keeps objects (S3, Google's, Azure's); on what keeps files elsewhere (sftp and the
like) it may be cut, which the hash in a run's row tells. Nothing here knows a user's credentials: fsspec finds them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mupcheck.results.files import StoreError, one_line
from mupcheck.results.stores.address import SCHEME

# What tells two states of an object apart, the first that a store has
MARKS = ("ETag", "etag", "md5Hash", "content_md5", "mtime", "LastModified", "last_modified", "updated", "created")
EXTRAS = {"s3": "s3", "s3a": "s3"}
WITHOUT_FOLDERS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "memory")
# errors of botocore, by name: credentials that are not there, and what was asked for cannot be
REFUSED = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("NoAuthTokenError", "TokenRetrievalError", "UnauthorizedSSOTokenError", "SSOTokenLoadError"),
}
IMPOSSIBLE = {"ParamValidationError", "InvalidRegionError"}


@dataclass(frozen=True)
class Store:
    """What an address leads to.

    Attributes:
        address: as its user wrote it.
        system: fsspec's file system.
        root: the address as that system has it.
    """

    address: str
    system: Any
    root: str

    @property
    def scheme(self) -> str:
        """Return what stands before "://"."""
        found = SCHEME.match(self.address)
        return found["scheme"].lower() if found else ""

    def key(self, name: str) -> str:
        """Return an object's name as the system has it."""
        return f"{self.root.rstrip('/')}/{name}"


@dataclass(frozen=True)
class Entry:
    """An object as a listing has it: bytes, and a mark that changes when it does."""

    size: int
    mark: str


def open_store(address: str) -> Store:
    """Return the store at an address; nothing is asked of it yet.

    Raises:
        ValueError: if fsspec does not know such addresses, or lacks a package for them.
    """
    from fsspec.core import url_to_fs

    with _told(address):
        # the endpoint may have changed in this process, and what another machine wrote since is not in a list kept here
        system, root = url_to_fs(address, use_listings_cache=False, skip_instance_cache=True)
    return Store(address, system, root)


def list_objects(store: Store) -> dict[str, Entry]:
    """Return all objects below a store's address, by their names below it; none where there is nothing yet.

    Raises:
        ValueError: if there is no such bucket, or it may not be read.
        StoreError: if the store does not answer.
    """
    with _told(store.address):
        store.system.invalidate_cache()
        found: Mapping[str, Mapping[str, Any]] = store.system.find(store.root, detail=True)
    prefix = store.key("")
    return {name.removeprefix(prefix): _entry(info) for name, info in found.items() if name.startswith(prefix)}


def get_object(store: Store, name: str) -> bytes | None:
    """Return an object's bytes, None if it is gone; raises as `list_objects` does."""
    with _told(store.address):
        try:
            return bytes(store.system.cat_file(store.key(name)))
        except FileNotFoundError:
            return None


def put_object(store: Store, name: str, data: bytes, *, new: bool = False) -> Entry:
    """Write an object, in place of one that is there, and return what a listing says of it now.

    Args:
        new: whether it may not be there yet.
    Raises:
        FileExistsError: if it is new and there.
        ValueError, StoreError: as `list_objects` does.
    """
    key = store.key(name)
    with _told(store.address):
        if store.scheme not in WITHOUT_FOLDERS:
            store.system.makedirs(key.rpartition("/")[0], exist_ok=True)
        said = store.system.pipe_file(key, data, **({"mode": "create"} if new else {}))
        if isinstance(said, Mapping) and said.get("ETag"):
            return Entry(len(data), str(said["ETag"]))
        return _entry(store.system.info(key))


def remove_object(store: Store, name: str) -> None:
    """Remove an object; one that is not there is fine. Raises as `list_objects` does."""
    with _told(store.address):
        try:
            store.system.rm_file(store.key(name))
        except FileNotFoundError:
            return


def holds(entry: Entry, data: bytes) -> bool:
    """Say whether an object is known to have these bytes, by a mark that is their MD5."""
    return entry.size == len(data) and entry.mark.strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()


def _entry(info: Mapping[str, Any]) -> Entry:
    mark = next((info[name] for name in MARKS if info.get(name) is not None), "")
    return Entry(int(info.get("size") or 0), str(mark))


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Say in one line what a store's package raises: a user's fault as ValueError, else as StoreError.

    Every such package has errors of its own, which cannot be named without importing it: so all are caught here.
    """
    try:
        yield
    except (StoreError, FileExistsError):
        raise
    except ValueError as error:
        raise ValueError(f"cannot use {address}: {_reason(error)}") from error
    except ImportError as error:
        found = SCHEME.match(address)
        extra = EXTRAS.get(found["scheme"].lower() if found else "")
        hint = f'; try pip install "mupcheck[{extra}]"' if extra else ""
        raise ValueError(f"cannot use {address}: {one_line(error)}{hint}") from error
    except FileNotFoundError as error:
        raise ValueError(f"cannot use {address}: {_reason(error)}; give one that exists") from error
    except Exception as error:
        names = {each.__name__ for each in type(error).__mro__}
        if names & IMPOSSIBLE:
            raise ValueError(f"cannot use {address}: {_reason(error)}") from error
        if isinstance(error, PermissionError) or names & REFUSED:
            hint = "set up credentials that may read and write it, as its own tools take them"
            raise ValueError(f"no access to {address}: {_reason(error)}; {hint}") from error
        raise StoreError(f"{address} does not answer: {_reason(error)}; try again") from error


def _reason(error: BaseException) -> str:
    """Return why in one line, without what a URL may carry behind its "?"."""
    said = one_line(error) or type(error).__name__
    return " ".join(word.partition("?")[0] + '"' * (word.endswith('"') and "?" in word) for word in said.split())[:300]

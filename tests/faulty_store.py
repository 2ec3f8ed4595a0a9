"""A store in memory that can be cut off: faulty://bucket/results."""

from threading import Lock

import fsspec
from fsspec.implementations.memory import MemoryFileSystem

LOCK = Lock()


class Faulty(MemoryFileSystem):
    """Counts what is asked of it, and fails from a call on."""

    protocol = "faulty"
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    changes = 0  # puts and removals so far
    gets = 0
    fails_after = None  # so many changes; None: never
    torn = False  # whether what fails leaves half an object

    @classmethod
    def start(cls):
        """Empty the store, and let it work."""
        cls.store.clear()
        cls.changes, cls.gets, cls.fails_after, cls.torn = 0, 0, None, False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(str(path).replace("faulty://", "memory://"))

    def _change(self):
        if Faulty.fails_after is not None and Faulty.changes >= Faulty.fails_after:
            raise TimeoutError("no answer")
        Faulty.changes += 1

    def pipe_file(self, path, value, mode="overwrite", **how):
        try:
            self._change()
        except TimeoutError:
            if Faulty.torn:
                super().pipe_file(path, value[: len(value) // 2])
            raise
        with LOCK:  # a conditional put is one step
            return super().pipe_file(path, value, mode=mode)

    def rm_file(self, path):
        self._change()
        super().rm_file(path)

    def cat_file(self, path, **how):
        Faulty.gets += 1
        return super().cat_file(path, **how)


def register():
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    Faulty.start()
    return Faulty

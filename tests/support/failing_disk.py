"""A disk that fails under one folder: a library of ours, preloaded into a part, refuses writes while it is told to."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
NOT_HERE = "needs a C compiler (cc) for the library that is preloaded"


class FailingDisk:
    """`environ` goes to the process whose files below `folder` are to fail."""

    def __init__(self, folder: Path, home: Path) -> None:
        """Build the library in `home`. Raises LookupError where no compiler is."""
        if shutil.which("cc") is None:
            raise LookupError(NOT_HERE)
        library = home / "failing_disk.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE, "-ldl"], check=True)
        self._mark = home / "failing"
        self._told = home / "refused"
        self.environ = {
            "LD_PRELOAD": str(library),
            "FAILING_DISK_UNDER": str(folder),
            "FAILING_DISK_MARK": str(self._mark),
            "FAILING_DISK_TOLD": str(self._told),
        }

    @property
    def refused(self) -> int:
        """Calls that have failed so far."""
        return self._told.stat().st_size if self._told.exists() else 0

    @contextmanager
    def failing(self) -> Iterator[None]:
        """Each write and sync below the folder fails with EIO while the body runs."""
        self._mark.touch()
        try:
            yield
        finally:
            self._mark.unlink()

"""Clocks that a test can shift: those of processes it starts, and that of the embedded MongoDB (shifted_clock.c)."""

import os
import struct
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE = Path(__file__).with_name("shifted_clock.c")


def compile_library(directory: Path) -> str:
    """Compile the library that shifts clocks into the directory, and return its path."""
    library = str(directory / "shifted_clock.so")
    subprocess.run(["cc", "-shared", "-fPIC", "-O2", "-o", library, SOURCE], check=True)
    return library


class ShiftedClock:
    """The clocks of the processes that run with `environment`; the file holds how far they are shifted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        if not file.exists():
            file.write_bytes(struct.pack("qq", 0, 0))
        self.environment = {"LD_PRELOAD": os.environ["FMV_TEST_CLOCK_LIBRARY"], "CLOCK_SHIFT_FILE": str(file)}

    def shift(self, *, hours: float = 0, slept: float = 0) -> None:
        """Let the wall clock be wrong by so many hours, and let the machine have slept so many seconds."""
        with self._file.open("r+b") as file:  # in place, because the processes have mapped it
            file.write(struct.pack("qq", round(hours * 3600), round(slept)))

    @contextmanager
    def preloaded(self) -> Iterator[None]:
        """Give these clocks to the processes that are started meanwhile."""
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name in self.environment:
                del os.environ[name]


def mongodb_clock(name: str) -> ShiftedClock:
    """Return the clock of the embedded MongoDB of that name."""
    return ShiftedClock(Path(os.environ["FMV_TEST_DIRECTORY"]) / f"{name}.clock")

"""Marks that work leaves outside MongoDB, for judges who do not trust our own state."""

import os
import time


def mark(path: str, *words: object) -> None:
    line = " ".join(map(str, (time.monotonic_ns(), *words))) + "\n"
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)

"""How long the web server waits for a client that is to send something."""

import errno
import socket
import struct
from typing import Any

SECONDS = 30  # without a byte


class PatientSocket(socket.socket):
    """A client's connection, given up when nothing comes for a while.

    The kernel's timeout for reading, as Python's own would also end answers that a slow client takes long to receive.
    """

    @classmethod
    def instead_of(cls, sock: socket.socket, seconds: int = SECONDS) -> "PatientSocket":
        patient = cls(fileno=sock.detach())
        patient.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", seconds, 0))
        return patient

    def recv(self, *args: Any) -> bytes:
        try:
            return super().recv(*args)
        except BlockingIOError:
            if self.gettimeout() is not None:
                raise
            # gunicorn logs any other failure as a fault of ours.
            raise ConnectionResetError(errno.ECONNRESET, "The client sends nothing") from None

"""Cuts a process off: connections beyond this machine are refused, and noted in a file."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

LOOPBACK = {"127.0.0.1", "::1", "localhost", "0.0.0.0", "", None}


def _refuse(host: object) -> None:
    with Path(os.environ["OUTSIDE_CALLS"]).open("a", encoding="utf-8") as calls:
        calls.write(f"{host}\n")
    raise OSError(f"The network is cut: {host}")


def _host(given: object) -> object:
    return given.decode() if isinstance(given, bytes) else given


if "OUTSIDE_CALLS" in os.environ:
    connect, look_up = socket.socket.connect, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        if isinstance(address, tuple) and address[0] not in LOOPBACK:
            _refuse(address[0])
        connect(self, address)

    def guarded_look_up(host: Any, *arguments: Any, **options: Any) -> Any:
        if _host(host) not in LOOPBACK:
            _refuse(_host(host))
        return look_up(host, *arguments, **options)

    socket.socket.connect = guarded_connect  # type: ignore[method-assign, assignment]
    socket.getaddrinfo = guarded_look_up

"""Connections that notice by themselves that nobody is at the other end any more."""

import socket
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True)
class KeepAlive:
    """What the kernel sends over a connection on which nothing happens; without an answer it ends."""

    idle: int
    """Seconds without traffic before the first probe."""
    interval: int
    """Seconds between probes."""
    count: int
    """Probes without an answer."""

    def socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        """A socket for an address: aiohttp's `socket_factory`."""
        family, kind, protocol, _, _ = address
        made = socket.socket(family, kind, protocol)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        settings = {
            "TCP_KEEPIDLE": self.idle,
            "TCP_KEEPINTVL": self.interval,
            "TCP_KEEPCNT": self.count,
            "TCP_USER_TIMEOUT": 1000 * (self.idle + self.interval * self.count),  # for what was sent, too
        }
        for name, value in settings.items():
            if hasattr(socket, name):
                made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        return made

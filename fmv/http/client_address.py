"""The IP address a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Return the caller's IP address: the peer's, or with FMV_TRUSTED_PROXIES the one that the outermost proxy saw.

    Only the entries of `X-Forwarded-For` that our proxies added count, because a client can put anything before them.
    Returns "-" if there is no address (a Unix socket).
    """
    peer = request.META.get("REMOTE_ADDR") or "-"
    proxies: int = settings.ENVIRONMENT.trusted_proxies
    if not proxies:
        return peer
    seen = request.headers.get("X-Forwarded-For", "").split(",")[-proxies:]
    try:
        return str(ipaddress.ip_address(seen[0].strip()))
    except ValueError:
        return peer


def network(address: str) -> str:
    """Return the address itself for IPv4, and for IPv6 its /64, because one caller usually has a whole /64."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))

"""Where a request comes from."""

import ipaddress

from django.conf import settings
from django.http import HttpRequest


def client_address(request: HttpRequest) -> str:
    """Return the caller's IP address: the peer's own, or with FMV_TRUSTED_PROXIES what the outermost of ours saw.

    Only the entries of `X-Forwarded-For` that our proxies added count: whatever stands before them anybody may claim.
    Returns "-" where there is no address (a Unix socket).
    """
    peer = request.META.get("REMOTE_ADDR") or "-"
    proxies: int = settings.FMV_TRUSTED_PROXIES
    if not proxies:
        return peer
    seen = request.headers.get("X-Forwarded-For", "").split(",")[-proxies:]
    try:
        return str(ipaddress.ip_address(seen[0].strip()))
    except ValueError:
        return peer


def network(address: str) -> str:
    """Return whom the address stands for: itself, or the /64 that one caller has of IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))

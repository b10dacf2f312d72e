"""Sends one POST to an endpoint. Importing this module needs the extra `webhooks`."""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version

import aiohttp
from yarl import URL

from jobs_grpc.config.settings import EventsConfig
from jobs_grpc.webhooks.addresses import AddressNotAllowed, AllowedAddresses, SocketFactory
from jobs_grpc.webhooks.resolver import ThreadResolver, tenant_of_lookup
from jobs_grpc.webhooks.response_limit import limit_responses
from jobs_grpc.webhooks.sender import DeliveryResult

# For the whole delivery: from the lookup of the host to the headers of the response.
TIMEOUT_SECONDS = 15.0
MAX_RETRY_AFTER_SECONDS = 86400.0

# Limits of a response. Its body is not read.
_MAX_HEADER_BYTES = 8190
_MAX_HEADERS = 64
_READ_BYTES = 4096

_HEADERS = {
    "content-type": "application/json",
    "user-agent": f"jobs-grpc/{version('jobs-grpc')}",
    "accept-encoding": "identity",
}


@asynccontextmanager
async def http_sender(
    config: EventsConfig, *, max_connections: int = 64
) -> AsyncIterator["HttpSender"]:
    """Open a sender with separate connections and a separate resolver."""
    addresses = AllowedAddresses(config.webhook_allowed_networks)
    sockets = SocketFactory(addresses, config.webhook_allowed_ports)
    connector = aiohttp.TCPConnector(
        resolver=ThreadResolver(max_connections),
        socket_factory=sockets,
        # Reads the certificates of the system, or those of SSL_CERT_FILE and SSL_CERT_DIR.
        ssl=ssl.create_default_context(),
        limit=max_connections,
        use_dns_cache=False,
        # aiohttp parses without limit what an endpoint sends on an idle connection.
        force_close=True,
    )
    limit_responses(connector)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=TIMEOUT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_READ_BYTES,
        max_line_size=_MAX_HEADER_BYTES,
        max_field_size=_MAX_HEADER_BYTES,
        max_headers=_MAX_HEADERS,
    ) as session:
        schemes = {"https", "http"} if config.webhook_allow_http else {"https"}
        yield HttpSender(session, frozenset(schemes))


class HttpSender:
    """Sends deliveries: see Sender."""

    def __init__(self, session: aiohttp.ClientSession, schemes: frozenset[str]) -> None:
        self._session = session
        self._schemes = schemes

    async def send(
        self, tenant_id: str, url: str, headers: Mapping[str, str], body: bytes
    ) -> DeliveryResult:
        """Send one POST of a tenant and return the result. Raises only CancelledError."""
        tenant_of_lookup.set(tenant_id)
        started = time.monotonic()
        status, error, retry_after = 0, None, None
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                status, retry_after_header = await self._post(url, {**_HEADERS, **headers}, body)
        except Exception as e:
            error = _error(e)
        else:
            error = _error_of_status(status)
            if error:
                retry_after = retry_after_seconds(retry_after_header)
        return DeliveryResult(status, error, time.monotonic() - started, retry_after)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, str]:
        """Return the status and the Retry-After of the response."""
        target = URL(url)
        if target.scheme not in self._schemes or target.user or target.password:
            raise AddressNotAllowed
        response = await self._session.post(
            target, data=body, headers=headers, allow_redirects=False
        )
        response.close()
        return response.status, response.headers.get("retry-after", "")


def retry_after_seconds(header: str) -> float | None:
    """Return the delay of a Retry-After header, at most a day; None if it is not valid."""
    try:
        # Seconds can have thousands of digits, which int() refuses.
        seconds = float(header) if header.isascii() and header.isdecimal() else _until(header)
    except (ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _until(http_date: str) -> float:
    time_of_retry = parsedate_to_datetime(http_date)
    if time_of_retry.tzinfo is None:
        time_of_retry = time_of_retry.replace(tzinfo=UTC)
    return (time_of_retry - datetime.now(UTC)).total_seconds()


def _error_of_status(status: int) -> str | None:
    if 200 <= status < 300:
        return None
    return "REDIRECT" if 300 <= status < 400 else "HTTP_STATUS"


def _error(error: Exception) -> str:
    """Return the DeliveryError of an exception. Drops its text, which can name internal hosts."""
    match error:
        case TimeoutError():
            return "TIMEOUT"
        case aiohttp.ClientConnectorDNSError() | UnicodeError():
            return "HOST_NOT_FOUND"
        case AddressNotAllowed() | aiohttp.InvalidURL():
            return "ADDRESS_NOT_ALLOWED"
        case aiohttp.ClientSSLError() | ssl.SSLError() | ssl.CertificateError():
            return "TLS_FAILED"
        case aiohttp.ClientConnectorError(os_error=AddressNotAllowed()):
            return "ADDRESS_NOT_ALLOWED"
    return "CONNECTION_FAILED"

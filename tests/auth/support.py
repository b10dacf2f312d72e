"""What the token tests share: settings, a signing key, and a JWKS endpoint."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
from joserfc.jwk import Key

from jobs_grpc.auth.jwks_cache import JwksCache
from tests.support.callers import Operator
from tests.support.identities import AUDIENCE, ISSUER, jwks, new_key

OLD, NEW = new_key(key_id="old"), new_key(key_id="new")
JWT_SETTINGS = {"JOBS_AUTH": "jwt", "JOBS_JWT_ISSUER": ISSUER, "JOBS_JWT_AUDIENCE": AUDIENCE}
KEY = new_key()


class JwksEndpoint:
    """An HTTP server with a JWKS. Tests change its response and count its requests."""

    def __init__(self, key: Key) -> None:
        self.body = jwks(key).encode()
        self.status = 200
        self.headers: dict[str, str] = {}
        self.requests = 0
        self.responds = threading.Event()
        self.responds.set()
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                endpoint.requests += 1
                endpoint.responds.wait(30)
                self.send_response(endpoint.status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(endpoint.body)

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/jwks"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self.responds.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def write_jwks(folder: Path, *keys: Key) -> Path:
    path = folder / "jwks.json"
    path.write_text(jwks(*keys))
    return path


def jwt_settings(folder: Path, *keys: Key) -> dict[str, str]:
    """The settings of a server that verifies tokens with the keys, by default with KEY."""
    return JWT_SETTINGS | {"JOBS_JWT_KEYS": str(write_jwks(folder, *(keys or (KEY,))))}


async def load_keys(
    location: str | Path, refresh_interval: float = 300, **options: Any
) -> JwksCache:
    keys = JwksCache(str(location), refresh_interval, max_calls=1000, **options)
    await keys.load()
    return keys


async def is_accepted(caller: Operator) -> bool:
    try:
        await caller.list()
    except grpc.aio.AioRpcError:
        return False
    return True


async def has_key(keys: JwksCache, key_id: str) -> bool:
    return await keys.find(key_id, "RS256") is not None

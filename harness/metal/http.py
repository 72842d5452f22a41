"""JSON over HTTP with a BMC or a PDU: a handful of calls, so the standard library does."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.metal.error import MetalError
from harness.text import printable

DEADLINE_S = 30.0
ANSWER_MAX = 4 << 20


@dataclass(frozen=True)
class Http:
    """One server. A password goes over HTTPS, or to this machine, and nowhere else."""

    what: str
    url: str
    user: str = ""
    password_file: str = ""
    insecure: bool = False

    def get(self, path: str) -> dict[str, Any]:
        """An object. Raises MetalError."""
        answer = self.fetch("GET", path)
        try:
            told = json.loads(answer or b"{}")
        except ValueError:
            told = None
        if not isinstance(told, dict):
            raise MetalError(f"{self.what}: {self.url}{path} is no JSON object")
        return told

    def post(self, path: str, body: dict[str, Any]) -> None:
        """An action. Raises MetalError."""
        self.fetch("POST", path, body)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        """A change. Raises MetalError."""
        self.fetch("PATCH", path, body)

    def fetch(self, method: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        """One request; the answer's body. Raises MetalError."""
        url = self.url.rstrip("/") + path
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(url, data, self._headers(), method=method)
        context = ssl.create_default_context() if url.startswith("https:") else None
        if self.insecure and context is not None:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE_S, context=context) as answer:
                return bytes(answer.read(ANSWER_MAX))
        except urllib.error.HTTPError as error:
            said = printable(error.read(2048), 200).replace("\n", " ")
            raise MetalError(f"{self.what}: {method} {url}: {error.code} {error.reason} {said}".strip()) from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise MetalError(f"{self.what}: {method} {url}: {reason}") from None

    def _headers(self) -> dict[str, str]:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if not self.user:
            return headers
        host = urllib.request.Request(self.url).host.partition(":")[0]
        if not self.url.startswith("https://") and host not in ("127.0.0.1", "localhost"):
            raise MetalError(f"{self.what}: {self.url}: a password goes over https:// only")
        try:
            password = Path(self.password_file).expanduser().read_text().rstrip("\n")
        except OSError as error:
            raise MetalError(f"{self.what}: password_file {self.password_file}: {error.strerror}") from None
        headers["Authorization"] = "Basic " + base64.b64encode(f"{self.user}:{password}".encode()).decode()
        return headers

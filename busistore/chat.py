"""Questions to a chat endpoint of a language model, OpenAI-compatible or Azure OpenAI: asked only on demand.

The key comes from the environment, is sent in a header, and is cut out of whatever the endpoint says: it reaches no
store, no file and no error. It is sent in the clear to this machine alone, and to no address but the one given.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import ipaddress
import json
import os
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from busistore import __version__
from busistore.errors import BusistoreError

OPENAI = "https://api.openai.com/v1"
KEYS = ("BUSISTORE_LLM_KEY", "OPENAI_API_KEY")
AZURE_KEYS = ("BUSISTORE_LLM_KEY", "AZURE_OPENAI_API_KEY")
MAX_TRIES = 6  # of one question, where the endpoint asks for patience
MAX_WAIT_S = 120.0  # in all
MAX_BYTES = 4_000_000  # of one answer
BUSY = (429, 503)

_SAID = {
    400: "refuses the request{said}; does '{model}' take response_format json_schema?",
    401: "does not accept the key{named}{said}",
    403: "forbids it to the key{named}{said}",
    404: "has no '{model}' at that address{said}; see --llm and --endpoint",
}


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked. With `azure`, `url` is the resource's address and `model` the deployment's name."""

    model: str
    url: str = OPENAI
    azure: bool = False
    api_version: str = ""
    timeout_s: float = 60.0

    def __post_init__(self) -> None:
        """Raises BusistoreError: the address is not one that a key may be sent to, or not all that Azure needs."""
        _check_url(self.url)
        if self.azure and self.url == OPENAI:
            raise BusistoreError("Azure OpenAI needs --endpoint, such as https://RESOURCE.openai.azure.com")
        if self.azure and not self.api_version:
            raise BusistoreError("Azure OpenAI needs --api-version, such as 2024-10-21")

    @property
    def host(self) -> str:
        """The host, with its port where the address has one."""
        return urlsplit(self.url).netloc

    @property
    def address(self) -> str:
        """What is posted to."""
        base = self.url.rstrip("/")
        if not self.azure:
            return f"{base}/chat/completions"
        query = urlencode({"api-version": self.api_version})
        return f"{base}/openai/deployments/{quote(self.model, safe='')}/chat/completions?{query}"


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port  # a port that is no number raises here
    except ValueError:
        raise BusistoreError(f"the endpoint is no web address such as {OPENAI}") from None
    if "@" in url or parts.query or parts.fragment:  # not quoted: it may hold a secret
        raise BusistoreError("the endpoint holds a user name, a password or a query; give the bare address, and the "
                             f"key in the environment variable {KEYS[0]}")  # fmt: skip
    if not host or parts.scheme not in ("https", "http") or not (url.isascii() and _is_one_word(url)):
        raise BusistoreError(f"the endpoint {url!r} is no web address such as {OPENAI}")
    if parts.scheme == "http" and not is_loopback(host):
        raise BusistoreError(f"the endpoint '{url}' is not encrypted; use https (http is for this machine alone)")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine, by a name or number that cannot be another's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Chat:
    """A conversation with one endpoint. `note` is told of every wait; the waits of all questions share one limit."""

    def __init__(self, endpoint: Endpoint, environ: Mapping[str, str] = os.environ,
                 note: Callable[[str], None] = lambda text: None):  # fmt: skip
        self.endpoint, self.note, self.waited_s = endpoint, note, 0.0
        self.address, self.host = endpoint.address, endpoint.host
        self._variable, self._key = _key(endpoint, environ)

    def ask(self, body: dict[str, Any]) -> dict[str, Any]:
        """The endpoint's answer to a request, as JSON.

        Raises:
            BusistoreError: it cannot be reached, refuses, stays busy, or answers with no JSON object.
        """
        for tries in range(1, MAX_TRIES + 1):
            status, headers, text = self._post(json.dumps(body).encode())
            if status not in BUSY:
                break
            self._wait(tries, status, headers, text)
        if status != 200:
            raise self._refusal(status, headers, text)
        with contextlib.suppress(ValueError, RecursionError):
            answer = json.loads(text)
            if isinstance(answer, dict):
                return without(answer, self._key)
        raise self._error("answers with something that is no JSON object; does --endpoint name its API?")

    def _post(self, body: bytes) -> tuple[int, Mapping[str, str], str]:
        headers = {"Content-Type": "application/json", "User-Agent": f"busistore/{__version__}"}
        if self._key:
            headers |= {"api-key": self._key} if self.endpoint.azure else {"Authorization": f"Bearer {self._key}"}
        request = urllib.request.Request(self.address, body, headers, method="POST")
        with self._readable_errors(), _opener(self.address).open(request, timeout=self.endpoint.timeout_s) as response:
            data = b"".join(self._pieces(response))
            return response.status, response.headers, data.decode(errors="replace")

    def _pieces(self, response: Any) -> Iterator[bytes]:
        """The body piece by piece: an endless or ever so slow one ends here."""
        until, size = time.monotonic() + self.endpoint.timeout_s, 0
        while piece := response.read1(65536):
            size += len(piece)
            if size > MAX_BYTES:
                raise self._error(f"answers with more than {MAX_BYTES:,} bytes")
            if time.monotonic() > until:
                raise TimeoutError
            yield piece

    def _wait(self, tries: int, status: int, headers: Mapping[str, str], text: str) -> None:
        """As long as the endpoint asks for, else twice as long each time; at most MAX_WAIT_S in all."""
        asked = retry_after_s(headers.get("Retry-After", ""))
        wait = 2.0 ** (tries - 1) if asked is None else asked
        if tries == MAX_TRIES or self.waited_s + wait > MAX_WAIT_S:
            state = "too many requests" if status == 429 else "unavailable"
            longer = f" and asks for {wait:.0f} s more" if asked else ""
            raise self._error(f"is busy ({status}, {state}) after {tries} tries{longer}{self._said(text)}; try later")
        self.note(f"{self.host} is busy ({status}): waiting {wait:.0f} s")
        self.waited_s += wait
        time.sleep(wait)

    def _refusal(self, status: int, headers: Mapping[str, str], text: str) -> BusistoreError:
        if 300 <= status < 400:
            target = _host_of(without(headers.get("Location", ""), self._key))
            return self._error(f"sends the request on to {target} ({status}), which would be given the key: refused; "
                               "name the right address with --endpoint")  # fmt: skip
        words = _SAID.get(status, "failed{said}; try later" if status >= 500 else "answers unexpectedly{said}")
        unset = f" (none is set in {' or '.join(_variables(self.endpoint))})"
        named = f" of {self._variable}" if self._variable else unset
        said = self._said(text)
        return self._error(words.format(said=said, named=named, model=self.endpoint.model) + f" (status {status})")

    def _said(self, text: str) -> str:
        """What the endpoint says of an error, in a few words and without the key."""
        try:
            told = json.loads(text)
            for field in ("error", "message", "detail"):
                told = told.get(field, told) if isinstance(told, dict) else told
            told = without(told, self._key)  # after parsing, since JSON has several ways to write a character
            text = told if isinstance(told, str) else json.dumps(told)
        except RecursionError:
            return ""
        except ValueError:
            text = without(text, self._key)
        words = "".join(c for c in " ".join(text.split()) if c.isprintable())
        return f": {words[:200]}" if words and not words.startswith("<") else ""

    @contextlib.contextmanager
    def _readable_errors(self) -> Iterator[None]:
        """What a network says, in one line. The original errors may hold the key, so none is chained."""
        try:
            yield
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise self._error(f"did not answer in {self.endpoint.timeout_s:g} s; try again, or raise "
                                  "--timeout") from None  # fmt: skip
            words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
            raise self._error(f"cannot be reached ({' '.join(without(words, self._key).split())[:200]})") from None

    def _error(self, words: str) -> BusistoreError:
        return BusistoreError(f"the LLM endpoint {self.host} {words}")


def _key(endpoint: Endpoint, environ: Mapping[str, str]) -> tuple[str, str]:
    """The variable that is set, and the key in it; two empty texts where this machine is asked without one."""
    for variable in _variables(endpoint):
        key = environ.get(variable, "").strip()
        if key and not (key.isascii() and _is_one_word(key)):
            raise BusistoreError(f"{variable} holds characters that no key has, such as a space; set it again")
        if key:
            return variable, key
    if is_loopback(urlsplit(endpoint.url).hostname or ""):
        return "", ""
    known = " or ".join(_variables(endpoint))
    raise BusistoreError(f"no key for {endpoint.host}: set the environment variable {known}")


def _variables(endpoint: Endpoint) -> tuple[str, ...]:
    """Where a key may come from: a vendor's own variable goes to its hosts, and to this machine, alone."""
    host, (own, vendors) = urlsplit(endpoint.url).hostname or "", AZURE_KEYS if endpoint.azure else KEYS
    theirs = host.endswith(".azure.com") if endpoint.azure else host == urlsplit(OPENAI).hostname
    return (own, vendors) if theirs or is_loopback(host) else (own,)


def _host_of(url: str) -> str:
    with contextlib.suppress(ValueError):
        return urlsplit(url).hostname or "elsewhere"
    return "elsewhere"


def _is_one_word(text: str) -> bool:
    return text.isprintable() and " " not in text


class _AsAnswered(urllib.request.HTTPErrorProcessor):
    """Every status is handed over as it comes: a redirect is never followed, since the key would go along."""

    def http_response(self, request: Any, response: Any) -> Any:
        return response

    https_response = http_response


def _opener(address: str) -> urllib.request.OpenerDirector:
    """A proxy is used for https alone, through which it cannot read; plain http stays on this machine."""
    direct = [urllib.request.ProxyHandler({})] if urlsplit(address).scheme == "http" else []
    return urllib.request.build_opener(_AsAnswered, *direct)


def retry_after_s(text: str) -> float | None:
    """Seconds that a Retry-After header asks for: a number, or a date; None where it says nothing sensible.

    >>> retry_after_s("2"), retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT"), retry_after_s("soon")
    (2.0, 0.0, None)
    """
    if text.strip().isdecimal():
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(0.0, (when - datetime.now(UTC)).total_seconds())


def without(value: Any, secret: str) -> Any:
    """JSON without the secret in any of its texts."""
    if not secret:
        return value
    if isinstance(value, str):
        return value.replace(secret, "[key]")
    if isinstance(value, dict):
        return {without(k, secret): without(v, secret) for k, v in value.items()}
    return [without(v, secret) for v in value] if isinstance(value, list) else value

"""The session that the official HTTP exporter is given: it sends our bytes once, and no failure makes it try again."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import requests

#: How much of an answer is read: a partial success is small, and whatever else comes is not worth our memory.
_ENOUGH = 64 * 1024


def one_attempt(
    inner: requests.Session, body: Callable[[], bytes], judge: Callable[[requests.Response | Exception], bool]
) -> requests.Session:
    """A session before the one that knows credentials and certificates.

    It sends the body, whatever the exporter would have sent. `judge` sees the answer, or what was raised instead, and
    says whether the exporter may take it for a success; else the exporter gets an exception for which it never retries.
    """
    import requests

    class NotTaken(requests.exceptions.RequestException):
        pass

    class Session(requests.Session):
        def request(self, method: Any, url: Any, **options: Any) -> requests.Response:  # type: ignore[override]
            told = {
                **options,
                "data": body(),
                "verify": options.get("verify", self.verify),
                "cert": options.get("cert", self.cert),
                "allow_redirects": False,
                "stream": True,
            }
            try:
                response = inner.request(method, url, **told)
                _read(response)
            except Exception as error:
                judge(error)
                raise NotTaken(str(error)) from error
            if not judge(response):
                raise NotTaken(f"HTTP {response.status_code}", response=response)
            return response

        def close(self) -> None:
            super().close()
            inner.close()

    session = Session()
    session.headers = inner.headers  # where 1.42 puts the exporter's
    return session


def _read(response: requests.Response) -> None:
    """Read as much as is wanted, and have the rest go with the connection."""
    source, words = response.raw, b""
    try:
        words = source.read(_ENOUGH, decode_content=True) or b""
        if len(words) < _ENOUGH:  # the end has to be seen for the connection to be used again
            words += source.read(_ENOUGH, decode_content=True) or b""
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # urllib3's, of which requests has no name of its own
            raise  # else it is not encoded as it says: the status has said what became of the batch
    finally:
        response.close()
    response.raw = io.BytesIO(words)

"""One Redis to ask: redis-py behind it, imported when it is needed, and its errors as the system's errors."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from ...errors import ConfigurationError
from ...values import masked

Word: TypeAlias = str | bytes | int

#: What Redis says where it takes no writes for now: a replica, one whose disk fails, one whose replicas are away.
_NO_WRITES = ("READONLY", "MISCONF", "NOREPLICAS")


class Asking:
    """Sends commands to one Redis, from any thread. Nothing is sent a second time: who asks knows whether it may be.

    Raises:
        ConfigurationError: redis-py is not installed, or the URL is none.

    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            import redis
            from redis.backoff import NoBackoff
            from redis.retry import Retry
        except ModuleNotFoundError as error:
            if error.name != "redis":
                raise
            raise ConfigurationError(
                f"The broker {masked(url)} cannot be spoken to without redis-py: install otel-agentbus[redis]."
            ) from None
        try:
            self._client: Any = redis.Redis.from_url(
                url,
                socket_timeout=timeout,
                socket_connect_timeout=timeout,
                **({} if url.startswith("unix:") else {"socket_keepalive": True}),
                retry=Retry(NoBackoff(), 0),  # else it waits for seconds, and sends again what was done
            )
        except (ValueError, TypeError):  # its sentence may have the password
            raise ConfigurationError(
                f"The broker's URL {masked(url)} cannot be read: write it like redis://localhost:6379/0."
            ) from None
        self.url = masked(url)

    def ask(self, *words: Word) -> Any:
        """The answer to this command.

        Raises:
            OSError: there is none.

        """
        with _as_os_errors():
            return self._client.execute_command(*words)

    def run(self, script: str, keys: Sequence[Word], arguments: Sequence[Word]) -> Any:
        """The answer of this script.

        Raises:
            OSError: there is none; whether it was done is not known, unless Redis refused it.

        """
        return self.ask(*words_of(script, keys, arguments))

    def ask_all(self, commands: Sequence[Sequence[Word]], *, at_once: bool = False) -> list[Any]:
        """The answers to these commands, sent together; among them the errors of those that Redis refused.

        Raises:
            OSError: there are no answers; which of the commands were done is not known.

        """
        with _as_os_errors(), self._client.pipeline(transaction=at_once) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            answers: list[Any] = pipeline.execute(raise_on_error=False)
            return [_translated(answer) if isinstance(answer, Exception) else answer for answer in answers]

    def close(self) -> None:
        """Close the connections; the next question opens one."""
        with _as_os_errors():
            self._client.connection_pool.disconnect()


def words_of(script: str, keys: Sequence[Word], arguments: Sequence[Word]) -> tuple[Word, ...]:
    """The command that runs a script. Redis keeps what it has compiled, by the script's text."""
    return ("EVAL", script, len(keys), *keys, *arguments)


def good(answer: Any) -> Any:
    """The answer, if it is no error.

    Raises:
        OSError: it is one.

    """
    if isinstance(answer, OSError):
        raise answer
    return answer


@contextmanager
def _as_os_errors() -> Iterator[None]:
    from redis.exceptions import RedisError

    try:
        yield
    except RedisError as error:
        raise _translated(error) from None


def _translated(error: Exception) -> OSError:
    """A Redis error as one of the system's, whose number says what to do about it."""
    from redis import exceptions

    text = str(error) or type(error).__name__
    if isinstance(error, exceptions.TimeoutError):
        return OSError(errno.ETIMEDOUT, text)
    if isinstance(error, (exceptions.AuthenticationError, exceptions.NoPermissionError, exceptions.AuthorizationError)):
        return OSError(errno.EACCES, text)
    if isinstance(error, exceptions.ReadOnlyError) or any(word in text for word in _NO_WRITES):
        return OSError(errno.EROFS, text)
    if "BUSY" in text:  # somebody's script runs for long
        return OSError(errno.ETIMEDOUT, text)
    if "OOM" in text or isinstance(error, exceptions.OutOfMemoryError):
        return OSError(errno.ENOSPC, text)
    if isinstance(error, exceptions.ConnectionError):
        refused = isinstance(error.__cause__ or error.__context__, ConnectionRefusedError)
        return OSError(errno.ECONNREFUSED if refused else errno.ECONNRESET, text)
    return OSError(errno.EIO, text)

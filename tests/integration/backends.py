"""The servers that the integration tests talk to: started on free loopback ports, watched, read back, ended."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import httpx
import yaml
from pydantic import BaseModel, Field

from .metrics import Metrics
from .otlp_json import ExportRequest, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).parents[2]
COLLECTOR_CONFIG = REPOSITORY / "collector-config.yaml"
COMPOSE_FILE = REPOSITORY / "docker-compose.yml"
PROMETHEUS_CONFIG = REPOSITORY / "deploy" / "prometheus.yml"
LEASH = Path(__file__).with_name("leash.py")

START_TIMEOUT = 30.0  # seconds until a server must be healthy
STOP_TIMEOUT = 10.0

T = TypeVar("T")


class Server:
    """A server process that lives as long as its fixture; `log` is a file with all that it said."""

    name: ClassVar[str]
    running: ClassVar[list[Server]] = []

    def __init__(self, binary: Path, directory: Path) -> None:
        self.binary = binary
        self.directory = directory
        self.log = directory / f"{self.name}.log"
        self._mark = 0
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def health_urls(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Starts the server and returns once it is healthy."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(LEASH), *self.command()],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is for the test run, which then ends its servers
            )
        self.running.append(self)
        if not eventually(self._is_settled, bool, START_TIMEOUT, interval=0.05) or self._process.poll() is not None:
            self.stop()
            raise ServerFailed(
                f"{self.name} was not healthy after {START_TIMEOUT:.0f} s; its log ends:\n{self.log_tail()}"
            )

    def stop(self) -> None:
        """Ends the server: politely by its leash, and by force if that takes too long."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._gone()

    def kill(self) -> None:
        """Ends the server as a crash would; `start()` brings it back on the same ports, without what was in memory."""
        assert self._process is not None
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._gone()

    def pause(self) -> None:
        """Has the server hang: what is sent to it gets no answer until `go_on()`."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Ends a pause."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)

    def _gone(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process = None
        self.running.remove(self)

    def log_tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def mark_log(self) -> None:
        """Remembers how far the log goes, for `log_since_mark`."""
        self._mark = self.log.stat().st_size

    def log_since_mark(self) -> str:
        return self.log.read_bytes()[self._mark :].decode(errors="replace")

    def _is_settled(self) -> bool:
        """Healthy, or ended before it was."""
        assert self._process is not None
        return self._process.poll() is not None or all(_answers(url) for url in self.health_urls())


class ServerFailed(Exception):
    """A server did not come up; the message ends with its log."""


class Jaeger(Server):
    """Jaeger v2 with its own OTLP receivers, traces in memory, read back through its HTTP API."""

    name = "jaeger"

    def __init__(self, binary: Path, directory: Path) -> None:
        super().__init__(binary, directory)
        grpc, http, query, query_grpc, self._health = free_ports(5)
        self.otlp_grpc_endpoint = f"http://127.0.0.1:{grpc}"
        self.otlp_http_endpoint = f"http://127.0.0.1:{http}"
        self.query_url = f"http://127.0.0.1:{query}"
        self._config = {
            "receivers": {
                "otlp": {
                    "protocols": {"grpc": {"endpoint": f"127.0.0.1:{grpc}"}, "http": {"endpoint": f"127.0.0.1:{http}"}}
                }
            },
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
            "extensions": {
                "healthcheckv2": {"use_v2": True, "http": {"endpoint": f"127.0.0.1:{self._health}"}},
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 100_000}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "enable_tracing": False,  # else it sends spans about our queries to the default OTLP port
                    "http": {"endpoint": f"127.0.0.1:{query}"},
                    "grpc": {"endpoint": f"127.0.0.1:{query_grpc}"},
                },
            },
            "service": {
                "extensions": ["healthcheckv2", "jaeger_storage", "jaeger_query"],
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
            },
        }

    def command(self) -> list[str]:
        return [str(self.binary), f"--config=yaml:{json.dumps(self._config)}"]

    def health_urls(self) -> list[str]:
        return [f"http://127.0.0.1:{self._health}/status", f"{self.query_url}/api/v3/services"]

    def trace(self, trace_id: str | int, spans: int = 1, timeout: float = 10.0) -> list[Span]:
        """The spans of a trace, first started first, once Jaeger has at least so many of them."""
        hex_id = f"{trace_id:032x}" if isinstance(trace_id, int) else trace_id
        found = eventually(lambda: self.spans(hex_id), lambda have: len(have) >= spans, timeout)
        if len(found) < spans:
            names = [span.name for span in found]
            raise TimeoutError(f"after {timeout} s Jaeger has {len(found)} of {spans} spans of trace {hex_id}: {names}")
        return sorted(found, key=lambda span: (span.start_ns, span.span_id))

    def spans(self, trace_id: str) -> list[Span]:
        """The spans of a trace (its id as hex) as far as Jaeger has them now."""
        response = _get(f"{self.query_url}/api/v3/traces/{trace_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        return list(_JaegerAnswer.model_validate_json(response.raise_for_status().text).result.spans())

    def traces(self, service: str) -> list[str]:
        """The ids of the traces of this service, as far as Jaeger has them now."""
        answer = _get(f"{self.query_url}/api/traces", service=service, limit="100").raise_for_status().json()
        return [trace["traceID"] for trace in answer["data"]]

    def places(self, trace_id: str) -> list[tuple[str, str | None]]:
        """Each span's id and its parent's, as far as Jaeger has them now: much faster than whole spans."""
        response = _get(f"{self.query_url}/api/v3/traces/{trace_id}")
        if response.status_code == httpx.codes.NOT_FOUND:
            return []
        found = response.raise_for_status().json()["result"]["resourceSpans"]
        scopes = (scope for resource in found for scope in resource.get("scopeSpans", ()))
        return [
            (span["spanId"], span.get("parentSpanId") or None) for scope in scopes for span in scope.get("spans", ())
        ]


class _JaegerAnswer(BaseModel):
    result: ExportRequest


class Collector(Server):
    """The Collector with the shipped configuration: addresses overridden, and a file added that repeats every span."""

    name = "collector"

    def __init__(self, binary: Path, directory: Path, jaeger: Jaeger) -> None:
        super().__init__(binary, directory)
        grpc, http, prometheus, health = free_ports(4)
        self.otlp_grpc_endpoint = f"http://127.0.0.1:{grpc}"
        self.otlp_http_endpoint = f"http://127.0.0.1:{http}"
        self.prometheus_url = f"http://127.0.0.1:{prometheus}/metrics"
        self.health_url = f"http://127.0.0.1:{health}/"
        self._spans_file = directory / "spans.otlp.jsonl"
        shipped = yaml.safe_load(COLLECTOR_CONFIG.read_text())
        exporters: list[str] = shipped["service"]["pipelines"]["traces"]["exporters"]
        self.addresses: dict[str, str] = {
            "receivers::otlp::protocols::grpc::endpoint": f"127.0.0.1:{grpc}",
            "receivers::otlp::protocols::http::endpoint": f"127.0.0.1:{http}",
            "exporters::otlp_http/jaeger::endpoint": jaeger.otlp_http_endpoint,
            "exporters::prometheus::endpoint": f"127.0.0.1:{prometheus}",
            "extensions::health_check::endpoint": f"127.0.0.1:{health}",
        }
        self.additions: dict[str, str] = {
            "exporters::file::path": str(self._spans_file),
            "exporters::file::flush_interval": "100ms",
            "service::pipelines::traces::exporters": json.dumps([*exporters, "file"]),
        }

    def config_arguments(self) -> list[str]:
        """What the Collector is started with: the shipped file, then what the tests override in it."""
        overrides = {**self.addresses, **self.additions}.items()
        return [f"--config={COLLECTOR_CONFIG}", *(f"--config=yaml:{key}: {value}" for key, value in overrides)]

    def command(self) -> list[str]:
        return [str(self.binary), *self.config_arguments()]

    def health_urls(self) -> list[str]:
        return [self.health_url]

    def metrics(self, name: str, samples: int = 1, timeout: float = 10.0, **labels: str) -> Metrics:
        """What Prometheus would scrape, once there are so many samples of this name with these labels."""
        found = eventually(self.scrape, lambda metrics: len(metrics.select(name, **labels)) >= samples, timeout)
        if len(have := found.select(name, **labels)) < samples:
            raise TimeoutError(
                f"after {timeout} s the Collector shows {len(have)} of {samples} {name} {labels or ''}: "
                f"{found.select(name) or sorted(found.names)}"
            )
        return found

    def scrape(self) -> Metrics:
        """What Prometheus would scrape now."""
        return Metrics.parse(_get(self.prometheus_url).raise_for_status().text)

    def otlp_json_lines(self, path: Path, *trace_ids: str, spans: int = 1, timeout: float = 10.0) -> list[Span]:
        """Writes these traces (none named: all) to `path`, an export request per line, once so many spans have come."""
        requests = eventually(
            lambda: list(self._requests(*trace_ids)),
            lambda requests: sum(len(list(request.spans())) for request in requests) >= spans,
            timeout,
        )
        found = [span for request in requests for span in request.spans()]
        if len(found) < spans:
            raise TimeoutError(f"after {timeout} s the Collector has written {len(found)} of {spans} spans")
        lines = [request.model_dump_json(by_alias=True, exclude_unset=True) for request in requests]
        path.write_text("".join(f"{line}\n" for line in lines))
        return found

    def _requests(self, *trace_ids: str) -> Iterator[ExportRequest]:
        *lines, _half_written = self._spans_file.read_text().split("\n")
        for line in lines:
            if not trace_ids:
                yield ExportRequest.model_validate_json(line)
            elif any(trace_id in line for trace_id in trace_ids):
                yield ExportRequest.model_validate_json(line).of_trace(*trace_ids)


class Prometheus(Server):
    """Prometheus with the shipped scrape configuration and rules, pointed at a Collector and in more of a hurry."""

    name = "prometheus"

    def __init__(self, binary: Path, directory: Path, collector: Collector) -> None:
        super().__init__(binary, directory)
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        config = yaml.safe_load(PROMETHEUS_CONFIG.read_text())
        config["global"].update(scrape_interval="1s", evaluation_interval="1s")
        config["rule_files"] = [str(PROMETHEUS_CONFIG.with_name(name)) for name in config["rule_files"]]
        (scrape,) = config["scrape_configs"]
        scrape["static_configs"] = [{"targets": [httpx.URL(collector.prometheus_url).netloc.decode()]}]
        self._config = directory / "prometheus.yml"
        self._config.write_text(yaml.safe_dump(config))
        shipped: list[str] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]["prometheus"]["command"]
        self._features = [flag for flag in shipped if flag.startswith("--enable-feature=")]

    def command(self) -> list[str]:
        address = httpx.URL(self.url).netloc.decode()
        files = [f"--config.file={self._config}", f"--storage.tsdb.path={self.directory / 'tsdb'}"]
        return [str(self.binary), *files, f"--web.listen-address={address}", *self._features]

    def health_urls(self) -> list[str]:
        return [f"{self.url}/-/ready"]

    def query(self, expression: str, at: float | None = None) -> list[tuple[dict[str, str], float]]:
        """The labels and values of an expression's series at a moment (Unix time, none: now); an error in it raises."""
        moment = {} if at is None else {"time": str(at)}
        response = _get(f"{self.url}/api/v1/query", query=expression, **moment)
        answer = _PrometheusAnswer.model_validate_json(response.text)
        if answer.status != "success":
            raise ValueError(f"{expression}: {answer.error}")
        return [(series.metric, float(series.value[1])) for series in answer.data.result]

    def label_values(self, label: str, selector: str) -> list[str]:
        """The values of a label among the series of a selector: Grafana's `label_values(selector, label)`."""
        answer = _get(f"{self.url}/api/v1/label/{label}/values", **{"match[]": selector})
        return _LabelsAnswer.model_validate_json(answer.raise_for_status().text).data

    def exemplars(self, expression: str, minutes: float = 10) -> list[dict[str, str]]:
        """The labels of the exemplars of an expression's series, of the last minutes."""
        now = time.time()
        since = {"start": str(now - 60 * minutes), "end": str(now)}
        answer = _get(f"{self.url}/api/v1/query_exemplars", query=expression, **since)
        found = _ExemplarsAnswer.model_validate_json(answer.raise_for_status().text).data
        return [exemplar.labels for series in found for exemplar in series.exemplars]

    def rules(self) -> list[Rule]:
        """The loaded rules and what has come of them."""
        answer = _get(f"{self.url}/api/v1/rules").raise_for_status()
        return [rule for group in _RulesAnswer.model_validate_json(answer.text).data.groups for rule in group.rules]


class Alert(BaseModel):
    """An alert that is pending or firing."""

    labels: dict[str, str]
    annotations: dict[str, str]
    state: str


class Rule(BaseModel):
    """An alert rule."""

    name: str
    query: str
    health: str
    state: str
    last_error: str = Field("", alias="lastError")
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    alerts: list[Alert]


class _Group(BaseModel):
    rules: list[Rule]


class _Groups(BaseModel):
    groups: list[_Group]


class _RulesAnswer(BaseModel):
    data: _Groups


class _LabelsAnswer(BaseModel):
    data: list[str]


class _Exemplar(BaseModel):
    labels: dict[str, str]


class _Exemplars(BaseModel):
    exemplars: list[_Exemplar]


class _ExemplarsAnswer(BaseModel):
    data: list[_Exemplars]


class _Series(BaseModel):
    metric: dict[str, str]
    value: tuple[float, str]


class _Vector(BaseModel):
    result: list[_Series] = []


class _PrometheusAnswer(BaseModel):
    status: str
    error: str = ""
    data: _Vector = _Vector()


def eventually(read: Callable[[], T], is_enough: Callable[[T], bool], timeout: float, interval: float = 0.1) -> T:
    """Reads again and again until it is enough or the time is over; returns what was read last."""
    deadline = time.monotonic() + timeout
    while True:
        value = read()
        if is_enough(value) or time.monotonic() >= deadline:
            return value
        time.sleep(interval)


#: Below what kernels give to clients: a server that comes back must not find its port taken by a connection.
PORTS = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """Ports on loopback that nobody listens on, all different."""
    found: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            found.append(port)
    return found


#: Each call would read all certificates of the system for one of its own, which is slower than what it asks for.
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _get(url: str, **parameters: str) -> httpx.Response:
    """Loopback is never behind a proxy."""
    return httpx.get(url, params=parameters, timeout=5.0, trust_env=False, verify=_NO_TLS)


def _answers(url: str) -> bool:
    try:
        return _get(url).is_success
    except httpx.TransportError:
        return False

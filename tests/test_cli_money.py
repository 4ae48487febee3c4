"""What `doctor` says of money: which prices and budgets are known here, and which models had no price."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from typer.testing import CliRunner, Result

from otel_agentbus.cli import app
from otel_agentbus.cli.money import Money, Unpriced, money
from otel_agentbus.errors import ConfigurationError
from otel_agentbus.settings import Settings
from tests.receivers import forget_environment


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    forget_environment(monkeypatch)


def series(calls: int, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "value": [1_800_000_000.0, str(calls)]}


@contextmanager
def prometheus(answer: object, code: int = 200) -> Iterator[tuple[str, list[str]]]:
    """A Prometheus that has this answer to every query, and the queries that it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked.extend(parse_qs(url.query)["query"])
            assert url.path == "/api/v1/query"
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, format: str, *args: Any) -> None:
            """Quietly."""

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


TWO_MODELS = {
    "data": {
        "result": [
            series(1, gen_ai_request_model="m", agentbus_reason="no_usage"),
            series(1200, gen_ai_provider_name="ollama", gen_ai_request_model="q", agentbus_reason="unknown_provider"),
        ]
    }
}


def doctor(*arguments: str, **environment: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env={**environment, "COLUMNS": "300"})


def test_each_model_without_a_price_is_listed_once_with_what_helps() -> None:
    with prometheus(TWO_MODELS) as (url, asked):
        result = doctor("--prometheus", url)
    assert [line.strip() for line in result.output.splitlines() if "without a price" in line] == [
        (
            "·  1,200 calls of q of ollama without a price (unknown_provider): "
            "give its models prices in the file of AGENTBUS_PRICES."
        ),
        (
            "·  1 call of m of a provider without a name without a price (no_usage): "
            "its producer tells no token counts; of a stream, ask the provider to send usage at the end."
        ),
    ]
    assert len(asked) == 1
    assert "agentbus_cost_unpriced_calls_total" in asked[0]


def test_the_report_for_machines_has_them_too() -> None:
    with prometheus(TWO_MODELS) as (url, _):
        report = json.loads(doctor("--json", "--prometheus", url).stdout)
    assert report["money"]["unpriced"] == [
        {"provider": "ollama", "model": "q", "reason": "unknown_provider", "calls": 1200},
        {"provider": "", "model": "m", "reason": "no_usage", "calls": 1},
    ]


def test_without_a_prometheus_nobody_is_asked() -> None:
    known = money(Settings())
    assert known.prices is not None
    assert known.prices.startswith("genai-prices ")
    assert known == Money(known.prices, None, ())


@pytest.mark.parametrize(
    ("answer", "code"), [({"data": {}}, 200), ([], 200), ({"data": {"result": [{}]}}, 200), ({}, 500)]
)
def test_what_is_no_answer_is_a_hint_and_no_problem(answer: object, code: int) -> None:
    with prometheus(answer, code) as (url, _):
        known = money(Settings(), url)
    assert known.unpriced is None
    assert known.trouble is not None
    assert known.trouble.startswith(f"{url} was asked for the unpriced calls and gave none: ")


@pytest.mark.parametrize("url", ["file:///etc/hostname", "localhost:9090", "http://127.0.0.1:1"])
def test_what_is_no_prometheus_is_said(url: str) -> None:
    assert (money(Settings(), url).trouble or "").startswith(f"{url} was asked")


def test_prices_and_budgets_of_your_own_are_named(tmp_path: Path) -> None:
    prices, budgets = tmp_path / "prices.toml", tmp_path / "budgets.toml"
    prices.write_text('[[price]]\nprovider = "ollama"\nmodel = "*"\ninput = 0\noutput = 0\n')
    budgets.write_text('[[budget]]\nname = "daily"\nusd = 20\nwindow = "1d"\n')
    result = doctor(AGENTBUS_PRICES=str(prices), AGENTBUS_BUDGETS=str(budgets))
    lines = [line.strip() for line in result.output.splitlines()]
    assert any(line.startswith(f"prices: your own file {prices}, then genai-prices ") for line in lines)
    assert "budgets: daily" in lines


def test_a_wrong_file_is_a_problem(tmp_path: Path) -> None:
    wrong = tmp_path / "budgets.toml"
    wrong.write_text('[[budget]]\nname = "daily"\nusd = -1\n')
    with pytest.raises(ConfigurationError, match="usd"):
        money(Settings(budgets=str(wrong)))
    result = doctor(AGENTBUS_BUDGETS=str(wrong))
    assert result.exit_code == 1
    assert "usd" in result.output


def test_a_sentence_names_the_model_the_reason_and_the_remedy() -> None:
    assert Unpriced("openai", "gpt-9", "unknown_model", 2).sentence == (
        "2 calls of gpt-9 of openai without a price (unknown_model): "
        "give it a price in the file of AGENTBUS_PRICES, or update genai-prices."
    )

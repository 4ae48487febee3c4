# Each target works on a machine with Python >= 3.11 (pip, venv), git and make; the rest is installed from the lock.

PYTHON ?= python3
VENV   ?= .venv
RUN    := $(VENV)/bin
PIP    := $(RUN)/python -m pip --disable-pip-version-check --quiet
#: In how many processes the unit tests run; some measure how threads meet, and want a core each.
WORKERS ?= 2
#: The same of the integration tests, which wait for other processes most of their time.
WAITING ?= 4
#: Tests of our own code and the standard library, or that reach nothing which the others do not: left out of the run
#: with the lowest versions.
OWN    := test_router*.py test_delivery*.py test_journal*.py test_streams*.py test_processes.py test_task_groups.py \
	test_invocation.py test_lineage*.py test_carriers*.py test_jobs.py test_fork.py test_*property.py test_*_ledger.py \
	test_permutations.py test_secrets.py test_passages.py test_architecture.py test_readme.py test_benchmarks.py
#: Tests that need what is not in the project's own environment: real servers, and the agent frameworks.
ELSEWHERE := --ignore=tests/integration --ignore=tests/frameworks
LOCKS  := requirements/build.txt requirements/run.txt requirements/dev.txt

.PHONY: help demo test cover soak killed integration backends lint types imports check bench bench-relay dashboards docs site lock lock-lowest lock-frameworks test-lowest test-frameworks test-oldest test-pythons clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:[^#]*## /\t/' | expand -t 16

$(VENV)/run.stamp: requirements/build.txt requirements/run.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --require-hashes -r requirements/build.txt -r requirements/run.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

demo: $(VENV)/run.stamp ## three agents at work, live in this terminal; no key, no network, no server
	@$(RUN)/otel-agentbus demo

test: $(VENV)/dev.stamp ## the unit tests
	$(RUN)/python -m pytest -q -n $(WORKERS) -p no:benchmark -m "not integration" $(ELSEWHERE) $(COVERAGE)

cover:           ## the same with the coverage gate, which takes twice as long
	@$(MAKE) test COVERAGE="--cov --cov-report=term:skip-covered"

backends: $(VENV)/dev.stamp ## the real Collector and Jaeger (needs Go), Redis (Debian), the agent frameworks; cached by version
	$(RUN)/python -m tests.integration.build_backends
	$(RUN)/python -m tests.integration.redis_server
	$(RUN)/python -m tests.frameworks --make

integration: $(VENV)/dev.stamp ## the tests against the real Collector, Jaeger, Prometheus and Redis
	$(RUN)/python -m pytest -q -n $(WAITING) --dist loadfile --no-loadscope-reorder -p no:benchmark tests/integration

soak: $(VENV)/dev.stamp ## half an hour, or 2,000,000 events, before a Collector that comes and goes (CI: 200,000)
	AGENTBUS_REQUIRE_BACKENDS=1 AGENTBUS_SOAK_EVENTS=2000000 AGENTBUS_SOAK_SECONDS=1800 \
		$(RUN)/python -m pytest -q tests/integration/test_soak.py

killed: $(VENV)/dev.stamp ## relay workers killed while 200,000 events flow (CI: 50,000)
	AGENTBUS_REQUIRE_BACKENDS=1 AGENTBUS_RELAY_EVENTS=200000 \
		$(RUN)/python -m pytest -q -p no:benchmark tests/integration/test_relay_killed.py

lint: $(VENV)/dev.stamp ## ruff: rules and format
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .

types: $(VENV)/dev.stamp ## mypy, strict, package and tests
	$(RUN)/mypy

imports: $(VENV)/dev.stamp ## the import contract: data flows one way
	$(RUN)/lint-imports

check: lint types imports site ## all that needs no run

test-frameworks: $(VENV)/dev.stamp ## every adapter with its framework, each where that is installed
	$(RUN)/python -m tests.frameworks

test-oldest: $(VENV)/dev.stamp ## the same with the oldest versions that the adapters support
	$(RUN)/python -m tests.frameworks --oldest

test-pythons: $(VENV)/dev.stamp ## streams, lineage and processes on every other CPython of this machine
	$(RUN)/python -m tests.pythons

bench: $(VENV)/dev.stamp ## the numbers, as ratios within one run, against the targets
	$(RUN)/python -m benchmarks $(if $(SLACK),--slack $(SLACK))

bench-relay: $(VENV)/dev.stamp ## the relay's numbers, with a real Redis; six minutes
	$(RUN)/python -m benchmarks.relay

dashboards: $(VENV)/run.stamp ## write the dashboards' JSON from its source, deploy/grafana/boards.py
	$(RUN)/python -m deploy.grafana

docs: $(VENV)/dev.stamp ## write what is made of the documentation: docs/{metrics,events}.md, and parts of the README
	$(RUN)/python -m tests.metrics_reference
	$(RUN)/python -m tests.events_reference
	$(RUN)/python -m tests.readme

site: $(VENV)/dev.stamp ## the documentation as pages, in .site
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --quiet

lock: ## renew the locks (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		requirements/build.in --output-file requirements/build.txt $(UPGRADE)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra prices --output-file requirements/run.txt $(UPGRADE)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra prices --group dev --constraint requirements/run.txt --constraint requirements/build.txt \
		--output-file requirements/dev.txt $(UPGRADE)

lock-lowest: ## renew the lock of the lowest versions (needs uv)
	uv pip compile --quiet --python-version 3.11 --resolution lowest-direct --generate-hashes --no-emit-index-url --no-header \
		pyproject.toml --extra prices --group test --output-file requirements/lowest.txt

FRAMEWORKS = $(basename $(notdir $(wildcard requirements/frameworks/*.in)))

lock-frameworks: ## renew the locks of the agent frameworks that the adapters are tested with (needs uv)
	for name in $(FRAMEWORKS); do \
		uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
			pyproject.toml requirements/frameworks/$$name.in --extra prices --group pytest \
			--output-file requirements/frameworks/$$name.txt $(UPGRADE) || exit 1; \
	done

# Without dependencies: the lock has them all, and pip would look for newer ones of those that are named with an extra.
.venv-lowest/stamp: pyproject.toml requirements/lowest.txt
	@test -x .venv-lowest/bin/python || $(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/build.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes --no-deps -r requirements/lowest.txt
	.venv-lowest/bin/python -m pip --disable-pip-version-check --quiet install --no-deps --no-build-isolation --editable .
	@touch $@

test-lowest: .venv-lowest/stamp ## the unit tests with the lowest versions that we say we work with
	.venv-lowest/bin/python -m pytest -q -n $(WORKERS) -p no:benchmark -m "not integration" $(ELSEWHERE) \
		$(addprefix --ignore-glob=tests/,$(OWN)) \
		-W ignore::DeprecationWarning -W ignore::ResourceWarning -W ignore::pytest.PytestUnraisableExceptionWarning

clean:           ## remove what these targets made here
	rm -rf .venv .venv-lowest .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .coverage dist build

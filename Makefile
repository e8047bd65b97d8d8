# `make` explains itself. Everything runs in .venv, which is made on demand from requirements.txt (pinned, hashed):
# by uv when it is on PATH, else by venv and pip. Written for POSIX sh and GNU make 3.81 on.

BIN := .venv/bin
READY := .venv/.ready
PYTHONS := python3.14 python3.13 python3.12 python3.11 python3

.DEFAULT_GOAL := help
.PHONY: help demo test test-cluster chaos lint types check format lock clean
.PHONY: bench bench-quick bench-readme bench-fleet bench-schedule bench-scale bench-faults bench-results bench-history bench-prune bench-lock

help: ## say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## run 2,000 jobs on four worker processes, kill one half-way, lose nothing
	@$(BIN)/rqueue demo

# Most tests wait for a server, a process or a lease: more at once than there are cores.
AT_ONCE := 4

# Bytecode is kept, beside the environment, also where the machine says not to: hundreds of processes that the tests
# start would each compile rqueue anew, and each of pytest's workers all tests.
unexport PYTHONDONTWRITEBYTECODE
export PYTHONPYCACHEPREFIX := $(CURDIR)/.venv/pycache

test: $(READY) ## run the tests (make test ARGS="-k name")
	@$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal $(ARGS)

test-cluster: $(READY) ## run the tests that hold for every store against a Redis Cluster of six servers
	@RQUEUE_TEST_STORES=cluster $(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal -k "[cluster" \
		tests/broker tests/client tests/worker $(ARGS)

chaos: $(READY) ## kill, freeze and cut off for ten minutes, and count what is lost and doubled (ARGS="--minutes 30")
	@$(BIN)/python -m tests.chaos $(ARGS)

lint: $(READY) ## check style and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: $(READY) ## check types
	@$(BIN)/mypy

check: lint types test ## what CI runs: lint, types and tests

bench: $(READY) ## measure all task queues side by side: 40 minutes (make bench ARGS="--workloads drain")
	@$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(READY) ## measure rqueue beside Celery and beside what Redis and Python allow: two minutes
	@$(BIN)/python -m benchmarks --quick $(ARGS)

bench-readme: $(READY) ## write the README's table from the last full results
	@$(BIN)/python -m benchmarks.readme

bench-lock: ## pin the contenders' environments anew (make bench-lock ARGS=--upgrade)
	@$(find_locker); \
	for wanted in benchmarks/requirements/*.in; do \
		$$uv pip compile $$wanted --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-emit-find-links --no-header --output-file $${wanted%.in}.txt $(ARGS); \
	done

bench-schedule: $(READY) ## measure how late scheduled jobs start, and what a hundred thousand due at once cost
	@$(BIN)/python benchmarks/schedule.py $(ARGS)

bench-scale: $(READY) ## measure a million waiting and scheduled jobs, and 5,000 idle connections (ARGS=--quick)
	@$(BIN)/python benchmarks/scale.py $(ARGS)

bench-results: $(READY) ## measure result stores beside Celery's: eight minutes (ARGS=--quick, or ARGS=--away)
	@$(BIN)/python -m benchmarks.results_store $(ARGS)

bench-history: $(READY) ## ask a million rows of history: five minutes (ARGS=--quick)
	@$(BIN)/python -m benchmarks.history $(ARGS)

bench-prune: $(READY) ## prune half of a million rows beside a worker: ten minutes (ARGS=--quick)
	@$(BIN)/python -m benchmarks.prune $(ARGS)

bench-fleet: $(READY) ## measure worker processes: scaling, memory, recovery (make bench-fleet ARGS=--quick)
	@$(BIN)/python benchmarks/fleet.py $(ARGS)

bench-faults: $(READY) ## kill the workers and the Redis of task queues side by side: an hour (ARGS="--contenders rqueue")
	@$(BIN)/python -m benchmarks.faults $(ARGS)

format: $(READY) ## format the code and fix what can be fixed
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

lock: ## pin requirements.txt anew from pyproject.toml (make lock ARGS=--upgrade)
	@$(find_locker); \
	$$uv pip compile pyproject.toml --quiet --group dev --all-extras --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-emit-find-links --no-header \
		--custom-compile-command "make lock" --output-file requirements.txt $(ARGS)

clean: ## remove .venv and everything that tools left
	@rm -rf .venv .venv-lock .venv-bench .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first uv and Python that really run: a pyenv shim can stand on PATH and fail.
find_uv = uv=""; if uv --version >/dev/null 2>&1; then uv=uv; fi

find_locker = $(find_uv); \
	$(find_python); \
	if [ -z "$$uv" ]; then \
		echo "lock: uv is not on PATH, so it goes into a venv of its own"; \
		$$python -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv && uv=.venv-lock/bin/uv; \
	fi

find_python = python=""; bare=""; \
	for candidate in $(PYTHONS); do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			if $$candidate -c 'import ensurepip, venv' >/dev/null 2>&1; then python=$$candidate; break; fi; \
			bare=$${bare:-$$candidate}; \
		fi; \
	done; \
	if [ -z "$$python$$uv" ] && [ -n "$$bare" ]; then \
		echo "$$bare cannot make a virtual environment, since its ensurepip module is missing:" \
			"install the package python3-venv (Debian, Ubuntu), or uv, and run make again." >&2; exit 1; \
	elif [ -z "$$python$$uv" ]; then \
		echo "rqueue needs Python 3.11 or later, and none of $(PYTHONS) runs:" \
			"install one, or uv, and run make again." >&2; exit 1; \
	fi

# The stamp is written last, so that an interrupted set-up is taken up again.
$(READY): requirements.txt pyproject.toml
	@$(find_uv); \
	$(find_python); \
	set -e; \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then rm -rf .venv; fi; \
	if [ -n "$$uv" ]; then \
		echo "set-up: .venv, by $$(uv --version)"; \
		[ -d .venv ] || uv venv --quiet --python '>=3.11' .venv; \
		install="uv pip install --quiet --python $(BIN)/python"; \
	else \
		echo "set-up: .venv, by $$($$python --version) and pip"; \
		[ -x $(BIN)/pip ] || { rm -rf .venv; $$python -m venv .venv; }; \
		install="$(BIN)/python -m pip install --quiet --disable-pip-version-check"; \
	fi; \
	echo "set-up: the locked packages of requirements.txt (a minute the first time)"; \
	$$install --require-hashes -r requirements.txt; \
	echo "set-up: rqueue itself, editable"; \
	$$install --no-deps --no-build-isolation --editable .; \
	touch $@

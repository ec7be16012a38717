# make run      the whole backend on this machine; Ctrl-C stops it
# make manage   run a management command on the stack that `make run` started; ARGS="tokens list"
# make test     run the tests that are not slow, on embedded servers; ARGS="-k robots -x" goes to pytest
# make test-all run all tests; ARGS="-m slow" runs only the slow ones
# make lint     style, imports between the rooms, types, security, migrations, production settings, the OpenAPI document
# make fuzz     call the API with 10,000 generated requests as each role; options: CASES=50000 SEED=1
# make chaos    kill and stop everything while tasks run, then check each task; options: SEED=1 TASKS=500 KILLS=20
# make bench    compare FMV with the same work without it: tests/bench/README.md
# make simulate     simulate fleets of 10, 1,000 and 100,000 robots: tests/simulation/README.md
# make image        build the Dockerfile's image with buildah on Debian trixie, run compose.yaml's services, use them
# make screenshots  renew the pictures in tests/pictures
# make format   format the code with ruff
# make requirements  compile requirements.txt and requirements-dev.txt from pyproject.toml; ARGS=--upgrade raises what
#                    the packages need in turn
# make clean    remove what these targets have built; the data under var/ stays

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
BIN := .venv/bin

.DEFAULT_GOAL := run
.PHONY: run manage test test-all lint fuzz chaos bench simulate image screenshots format requirements clean

run: .venv/installed
	@exec $(BIN)/python -m fmv.devstack.stack run

manage: .venv/installed
	@test -e var/environment || { echo "fmv: \`make run\` has not run here yet." >&2; exit 1; }
	@. ./var/environment && exec $(BIN)/python manage.py $(ARGS)

test: .venv/installed
	$(BIN)/python -m pytest -n 2 -m "not slow" $(ARGS)

test-all: .venv/installed
	$(BIN)/python -m pytest -n 2 $(ARGS)

# Production settings with a random key. Only makemigrations needs a database.
PRODUCTION = env -u FMV_DEBUG FMV_SECRET_KEY=$$($(BIN)/python -c 'import secrets; print(secrets.token_urlsafe(64))') \
	FMV_ALLOWED_HOSTS=fleet.example.org
MANAGE := $(BIN)/python -W error manage.py

lint: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	@! grep -rnF --include='*.py' '.select_for_update(' fmv robots tasks tests || \
		{ echo "select_for_update does nothing on MongoDB: use a conditional update." >&2; exit 1; }
	$(BIN)/lint-imports --no-cache
	FMV_DEBUG=1 $(BIN)/mypy
	$(BIN)/bandit -q -c pyproject.toml -r fmv robots tasks
	@$(BIN)/python -m tests.support.pip_audit
	@$(BIN)/python -m tests.support.migration_hashes
	@$(PRODUCTION) $(BIN)/python -m fmv.devstack.stack with_database $(MANAGE) makemigrations --check --dry-run
	@$(PRODUCTION) $(MANAGE) check --deploy --fail-level WARNING
	@$(PRODUCTION) $(MANAGE) spectacular --validate --fail-on-warn --file /dev/null

fuzz: .venv/installed
	@FMV_TEST_CASES=$(or $(CASES),10000) FMV_TEST_SEED=$(SEED) $(BIN)/python -m pytest -q -s tests/http/test_schemathesis.py \
		tests/accounts/test_agent_fuzz.py

chaos: .venv/installed
	@exec $(BIN)/python -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(TASKS),--tasks $(TASKS)) \
		$(if $(KILLS),--kills $(KILLS))

bench: .venv/installed
	@exec $(BIN)/python -m tests.bench

simulate: .venv/installed
	@exec $(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED)) $(ARGS)

image: .venv/installed
	@exec $(BIN)/python -m tests.image

screenshots: .venv/installed
	$(BIN)/python -m pytest -q tests/support/screenshots.py

format: .venv/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# Development first, for production must take no other version than the tests have met. The versions in the files stay,
# unless ARGS raises them.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --annotation-style line \
	--custom-compile-command "make requirements" $(ARGS)
requirements:
	@test -x $(BIN)/uv || $(MAKE) .venv/installed
	@$(COMPILE) --group dev --output-file requirements-dev.txt
	@$(COMPILE) --group production --constraints requirements-dev.txt --output-file requirements.txt

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis staticfiles

.venv/installed: requirements.txt requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "fmv: needs Python 3.11, 3.12 or 3.13 with its venv module; none was found." >&2; exit 1; }
	@echo "Installing the packages of requirements-dev.txt into .venv"
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

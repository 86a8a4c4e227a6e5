# Everything runs in .venv, which the first target that needs it makes and later ones reuse.
# It is brought up to date only when pyproject.toml changes; `make clean` removes it.

PYTHON ?= python3
# Named beside the package, so that pip takes this version and no newer one. Where pip also knows PyTorch's CPU index
# (PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu) it prefers that build, without gigabytes of CUDA packages.
TORCH ?= torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

# Nothing here needs a model hub: the published libraries are run on generated parameters.
export HF_HUB_OFFLINE := 1

.PHONY: verify test lint site screens kill adversary seeds bench conformance snapshots campaign-demo gpu gpu-wheels clean
# Two targets at once would install into one .venv at once.
.NOTPARALLEL:

verify: $(VENV)/installed
	$(BIN)/mhc-properties verify

test: $(VENV)/installed-test $(VENV)/installed-browser
	$(BIN)/pytest -n auto

# pyright runs on the node that its extra `nodejs` installs from PyPI: none is needed on the machine.
lint: $(VENV)/installed-test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-cache

# The site, from docs/ and the data files in it, into build/site: links are checked, and the sizes of its files are said.
site: $(VENV)/installed-docs
	$(BIN)/python -m properties.commands.site --out build/site

# Pictures of five of its pages, in two widths, light and dark, to be looked at.
screens: site $(VENV)/installed-browser
	$(BIN)/python -m properties.commands.site.screens build/site --out build/screens

# Outside CI: the kill matrix and a hundred seeds on every control (two cores: hours), the cost of the laws.
kill: $(VENV)/installed-test
	$(BIN)/mhc-properties kill --out docs

# Random mutants of the reference (two cores: an hour); a run that was ended goes on where it stopped.
adversary: $(VENV)/installed-test
	$(BIN)/mhc-properties adversary --seed 1 --mutants 500

seeds: $(VENV)/installed-test
	$(BIN)/mhc-properties seeds --seeds 100

bench: $(VENV)/installed-test
	$(BIN)/mhc-properties bench

# What a user sees of ten typical faults, anew: read the difference before you commit it.
snapshots: $(VENV)/installed-test
	UPDATE_SNAPSHOTS=1 $(BIN)/pytest tests/test_terminal_snapshots.py -m slow

# The published implementations, all of them, in an environment of their own. Triton is interpreted, which takes most of the time.
conformance: $(VENV)-conformance/installed
	$(VENV)-conformance/bin/mhc-properties conformance --out docs/conformance.json

# 200 cells, a process killed, the campaign stopped and resumed: docs/campaigns.md.
campaign-demo: $(VENV)/installed-test
	$(BIN)/python -m properties.campaign.demo

# What a machine with a GPU and no network needs beside PyTorch, into build/gpu-wheels: docs/gpu.md. For Linux on x86-64 and the
# Python that is there.
GPU_PYTHON ?= 3.12
GPU_WHEELS := build/gpu-wheels
GPU_SITE := build/gpu-site
MANYLINUX := $(foreach n,12 17 24 27 28 31 34 39,--platform manylinux_2_$(n)_x86_64) --platform manylinux2014_x86_64 --platform manylinux1_x86_64

gpu-wheels:
	rm -rf $(GPU_WHEELS)
	$(PYTHON) -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --implementation cp \
		--python-version $(GPU_PYTHON) $(MANYLINUX) --dest $(GPU_WHEELS) --requirement properties/campaign/gpu/wheels.txt
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir $(GPU_WHEELS) .

# On that machine: what a GPU can show, in nine minutes, the installation included. Nothing is fetched.
gpu:
	@ls $(GPU_WHEELS)/*.whl >/dev/null 2>&1 || { echo "there is nothing in $(GPU_WHEELS): run make gpu-wheels where there is a network"; exit 2; }
	began=$$(date +%s) && \
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --no-index --no-deps --no-compile --no-cache-dir --upgrade \
		--target $(GPU_SITE) $(GPU_WHEELS)/*.whl && \
	PYTHONPATH="$(CURDIR):$(CURDIR)/$(GPU_SITE)" $(PYTHON) -m properties.cli gpu --out build/gpu --since $$began

clean:
	rm -rf $(VENV) $(VENV)-conformance build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is touched last: an install that was interrupted is done again.
$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) '$(TORCH)' --editable '.[published]'
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) '$(TORCH)' --editable '.[published,test]'
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(INSTALL) '$(TORCH)' --editable '.[published,docs]'
	touch $@

# Without them the tests that look at pages say that they were not run, and why; in continuous integration they fail.
$(VENV)/installed-browser: $(VENV)/installed-test tests/browser/package-lock.json tests/browser/fetch.py properties/commands/site/katex/package-lock.json
	if $(BIN)/python tests/browser/fetch.py $(VENV)/browser && $(BIN)/python -m properties.commands.site.katex build/katex; then touch $@; fi

# By itself nemo-automodel asks for another transformers, and for much that its layers do not import.
NEMO = $(shell sed -n 's/^nemo-automodel = \["\(.*\)"\]$$/\1/p' pyproject.toml)

$(VENV)-conformance/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)-conformance
	$(VENV)-conformance/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)' --editable '.[conformance]'
	$(VENV)-conformance/bin/python -m pip install --quiet --disable-pip-version-check --no-deps '$(NEMO)'
	touch $@

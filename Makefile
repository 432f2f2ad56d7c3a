# One virtual environment in .venv, from the lock: exact versions, verified by hash.
PYTHON ?= python3
BIN := .venv/bin
UV := $(BIN)/uv
UV_VERSION := 0.13.8

.PHONY: help setup quickstart dev-cluster test test-ship check test-tools bench-controlplane bench-trainer crds reference chart dashboards lint types layering lock images test-images clean
.DEFAULT_GOAL := help

help:
	@echo 'make setup       install everything into .venv'
	@echo 'make quickstart  watch a tiny model learn from documents that it has never seen'
	@echo 'make dev-cluster a cluster on this machine, without containers, to try the operator on'
	@echo 'make check       lint, types, layering and the fast tests, without a control plane (under 3 minutes)'
	@echo 'make test        everything but what only a release needs (CI runs this)'
	@echo 'make test-ship   the rest: installations, images, several nodes, from beginning to end (nightly)'
	@echo 'make crds        write crds/ anew, after a change of the API types'
	@echo 'make reference   write docs/reference.md anew, after a change of crds/'
	@echo 'make dashboards  write the Grafana dashboards anew, after a change of monitoring/dashboards/*.py'
	@echo 'make images      build the container images of the operator and the workers'
	@echo 'make chart       write anew what the Helm chart takes from crds/, deploy/ and monitoring/'
	@echo 'make lock        renew requirements.lock after a change in pyproject.toml'

setup: .venv/installed

.venv/installed: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

quickstart: setup
	$(BIN)/evolve run examples/quickstart/run.yaml
	$(BIN)/evolve report examples/quickstart/run.yaml --output report.html

# Another place for its state: make dev-cluster FOLDER=some/folder
dev-cluster: setup
	$(BIN)/python tests/dev_cluster.py $(if $(FOLDER),--folder $(FOLDER))

check: setup lint types layering test-tools
	$(BIN)/python -m pytest -m 'not slow and not controlplane and not helm and not ship' -n 2 --dist worksteal

test: setup lint types layering test-tools
	$(BIN)/python -m pytest -m 'not ship' -n 2 --dist worksteal

# One after the other: most of them fill the machine by themselves.
test-ship: setup test-tools
	$(BIN)/python -m pytest -m ship

test-tools: setup
	-$(BIN)/python tests/tools/build.py

# Some of its parts only: make bench-controlplane PARTS='chains scale'
bench-controlplane: setup
	PYTHONPATH=tests $(BIN)/python -m bench.controlplane $(PARTS)

# Training is measured beside TRL, which the extra `bench` brings: make bench-trainer PARTS=training
bench-trainer: setup
	for part in $(or $(PARTS),round generation scoring growth); do \
		PYTHONPATH=tests $(BIN)/python -m bench.trainer.$$part || exit 1; done

crds: setup
	$(BIN)/python -m evolution.api.crd crds

chart: setup
	$(BIN)/python helm/write.py helm/evolution-operator

reference: setup
	$(BIN)/python docs/write_reference.py docs/reference.md

dashboards: setup
	$(BIN)/python monitoring/dashboards/write.py monitoring/dashboards

lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types:
	$(BIN)/mypy

layering:
	$(BIN)/lint-imports

# docs/images.md has the others: make images BUILDER=podman REGISTRY=registry.example/team/ BASE_IMAGE=…
BUILDER ?= docker
BASE_IMAGE ?= docker.io/library/python:3.11-slim
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
IMAGE_FLAGS = --build-arg BASE_IMAGE=$(BASE_IMAGE) --build-arg VERSION=$(VERSION) \
	--build-arg REVISION=$(shell git rev-parse HEAD) --build-arg SOURCE=$(SOURCE) $(BUILD_FLAGS)

images:
	$(BUILDER) build -f operator/Dockerfile -t $(REGISTRY)evolution-operator:$(VERSION) $(IMAGE_FLAGS) .
	$(BUILDER) build -f trainer_image/Dockerfile -t $(REGISTRY)evolution-trainer:$(VERSION) $(IMAGE_FLAGS) $(TRAINER_FLAGS) .

# Builds both images with buildah and runs them with runc, as root: a quarter of an hour, 30 GB of disk.
test-images: setup
	$(BIN)/python -m pytest -m ship tests/images

COMPILE = $(UV) pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-emit-index-url --no-header

# images/*.lock: the parts of requirements.lock that go into each image, and what their wheels are built with.
lock:
	$(COMPILE) --extra operator --extra trainer --extra dev pyproject.toml --output-file requirements.lock
	for image in operator trainer; do \
		$(COMPILE) --constraint requirements.lock --extra $$image pyproject.toml --output-file images/$$image.lock || exit 1; done
	$(COMPILE) --constraint requirements.lock --group build --output-file images/build.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# `make demo` and `make test` are the two commands; both install into .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo train serve serve-docker test test-slow siege check lock clean

demo: .venv/installed
	$(BIN)/python -m multitask.train --config model_training/recipes/demo.toml
	$(BIN)/python -m multitask.predict data/demo/test.parquet --images data/demo/images.zip
	@echo 'The report: model_training/runs/latest/report.html. In this shell: . .venv/bin/activate' 

train: .venv/installed
	$(BIN)/python -m multitask.train

serve: .venv/installed
	$(BIN)/python -m multitask.serve

# Needs Docker and a published version (python -m multitask.publish).
serve-docker:
	docker compose -f docker/compose.yaml up --build serving

test: .venv/installed-dev
	$(BIN)/python -m pytest -n auto

# What takes longer: every family of backbones against Keras, thousands of requests, fifty publishes.
test-slow: .venv/installed-dev
	$(BIN)/python -m pytest -n auto -m slow

siege: .venv/installed-dev
	$(BIN)/python -m pytest -m siege -s

check: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A week's wait lets a bad release be noticed before it is pinned here.
LOCK = $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-emit-index-url \
	--python-version 3.11 --custom-compile-command "make lock" --exclude-newer "7 days" pyproject.toml

lock: .venv/installed-dev
	$(LOCK) --group dev -o requirements-dev.txt
	$(LOCK) -c requirements-dev.txt -o requirements.txt
	$(LOCK) -c requirements-dev.txt --extra gpu -o requirements-gpu.txt
	$(LOCK) -c requirements-dev.txt --extra cluster -o requirements-cluster.txt

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -qq --require-hashes -r requirements.txt
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@

.venv/installed-dev: requirements-dev.txt pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install -qq --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install -qq --no-deps --no-build-isolation -e .
	touch $@ .venv/installed

clean:
	rm -rf .venv data/demo model_training/runs model_training/features predictions.parquet

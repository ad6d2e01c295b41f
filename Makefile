# make help lists the targets. ARGS="-k name" goes to pytest. PYTHON=python3.12 chooses the interpreter that the environments are made with.
.DEFAULT_GOAL := help
.PHONY: help demo test venv lint ruff mypy imports bench conformance fuzz wheel
SHELL := /bin/bash
export PYTHON ?= python3
PY := .venv/bin/python
FUZZ_SECONDS ?= 60

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: .venv-demo/.ready  ## recordings through the shipped models to an MQTT subscriber, and a picture; no torch, no broker needed
	@.venv-demo/bin/python -m demo.run

test: venv  ## set up, install what the tests need of the system, run them
	@command -v mosquitto /usr/sbin/mosquitto >/dev/null || .ci/system-packages.sh "the MQTT broker of the delivery tests" mosquitto \
		|| echo "!!! The tests that need mosquitto will be SKIPPED"
	@command -v arecord >/dev/null || .ci/system-packages.sh "the ALSA recorder of the microphone's tests" alsa-utils \
		|| echo "!!! The tests that need arecord will be SKIPPED"
	@command -v cc >/dev/null || .ci/system-packages.sh "the C compiler of the C runtime's tests" gcc libc6-dev \
		|| echo "!!! The tests that need a C compiler will be SKIPPED"
	@command -v clang >/dev/null || .ci/system-packages.sh "the fuzzer of the C runtime's tests" clang libclang-rt-14-dev \
		|| echo "!!! The tests that need clang will be SKIPPED"
	@(for tool in qemu-system-arm arm-none-eabi-gcc qemu-system-riscv32 riscv64-unknown-elf-gcc; do command -v $$tool >/dev/null || exit 1; done) \
		|| .ci/system-packages.sh "the emulated boards of the firmware's tests" qemu-system-arm gcc-arm-none-eabi libnewlib-arm-none-eabi \
			qemu-system-misc gcc-riscv64-unknown-elf picolibc-riscv64-unknown-elf \
		|| echo "!!! The tests that need emulated boards will be SKIPPED"
	$(PY) -m pytest $(ARGS)

venv: .venv/.ready  ## .venv with every extra, for people who develop

lint: ruff mypy imports  ## style, types and import contracts

ruff: venv
	$(PY) -m ruff check .

mypy: venv
	$(PY) -m mypy

imports: venv
	.venv/bin/lint-imports

bench: venv  ## speed, memory and latency of the agent on this machine, as JSON in benchmarks/results
	$(PY) -m benchmarks.run_all

conformance: venv  ## every runtime against the integer law, for each shipped model; golden vectors
	@for bundle in models/*.pdmu; do echo "$$bundle"; $(PY) -m deploy.conformance "$$bundle" --vectors demo/stream.flac || exit 1; done
	@$(PY) -m deploy.golden models/*.pdmu

fuzz: venv  ## broken bundles, serial lines and PCM, FUZZ_SECONDS each (60); what breaks is kept in fuzz-findings/
	$(PY) -m deploy.fuzz pcm models/cough.pdmu --seconds $(FUZZ_SECONDS)
	$(PY) -m deploy.fuzz board models/birds.pdmu --seconds $(FUZZ_SECONDS)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(PY) -m pytest -q --timeout=0 --hypothesis-profile=fuzz tests/test_bundle_fuzz.py

wheel: venv  ## dist/*.whl
	$(PY) -m build --wheel

.venv/.ready: pyproject.toml setup.py
	@.ci/venv.sh .venv all

.venv-demo/.ready: pyproject.toml setup.py
	@.ci/venv.sh .venv-demo agent,demo

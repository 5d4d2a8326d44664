# make demo   install, then generate text with the demo model
# make test   install, then run every test
# make clean  remove the virtual environment and all build products
#
# Everything is installed into .venv from this checkout. A stamp file in .venv says what is done already, so a second
# run starts at once: Python sources are installed editable, C++ sources are rebuilt when they change.

VENV   := .venv
BIN    := $(VENV)/bin
STAMPS := $(VENV)/stamps
JOBS   ?= 2
PIP    := $(BIN)/python -m pip --disable-pip-version-check

NATIVE_DISTS := $(patsubst ./%/pyproject.toml,./%,$(wildcard ./kernels/cpu/pyproject.toml))
PYTHON_DISTS := $(patsubst %/pyproject.toml,%,$(wildcard ./core/pyproject.toml ./backends/cpu-x86/pyproject.toml \
                ./backends/ppc64le/pyproject.toml ./plugins/demo-model/pyproject.toml ./plugins/server/pyproject.toml \
                ./kernels/xla/pyproject.toml ./backends/tpu/pyproject.toml ./backends/neuron/pyproject.toml \
                ./kernels/triton/pyproject.toml ./kernels/cuda/pyproject.toml ./backends/cuda/pyproject.toml \
                ./backends/rocm/pyproject.toml ./backends/xpu/pyproject.toml \
                ./conformance/pyproject.toml))
PYPROJECTS   := $(addsuffix /pyproject.toml,$(PYTHON_DISTS))
NATIVE_FILES := $(shell find $(NATIVE_DISTS) -name '*.cpp' -o -name '*.h' -o -name 'setup.py' -o -name 'pyproject.toml' \
                2>/dev/null | grep -v /build/)

.PHONY: demo test install clean
.DEFAULT_GOAL := install

demo: install
	@$(BIN)/quire demo

# Each test process computes with one thread: processes that share cores lose more by waiting for each other's threads.
test: install $(STAMPS)/test-tools
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow"

install: $(STAMPS)/python $(STAMPS)/native

clean:
	rm -rf $(VENV) build .pytest_cache .hypothesis
	find . -path ./.git -prune -o \( -name '*.egg-info' -o -name build -o -name __pycache__ \) -type d -print0 | xargs -0 rm -rf
	find kernels -name '*.so' -delete

$(STAMPS)/venv:
	@echo "== 1/4 virtual environment in $(VENV)"
	@sh .ci/make-venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/torch: constraints.txt | $(STAMPS)/venv
	@echo "== 2/4 torch (the largest download)"
	$(PIP) install --constraint constraints.txt torch setuptools
	@touch $@

$(STAMPS)/native: $(NATIVE_FILES) $(STAMPS)/torch
	@echo "== 3/4 native kernels, compiled here"
	@sh .ci/check-compiler
	$(PIP) install --no-build-isolation --no-deps $(addprefix --editable ,$(NATIVE_DISTS))
	@touch $@

$(STAMPS)/python: $(PYPROJECTS) $(STAMPS)/torch | $(STAMPS)/native
	@echo "== 4/4 quire and its plugins, editable"
	$(PIP) install --no-build-isolation --constraint constraints.txt $(addprefix --editable ,$(PYTHON_DISTS))
	$(PIP) check
	@touch $@

$(STAMPS)/test-tools: requirements-test.txt $(STAMPS)/torch
	@echo "== test tools"
	$(PIP) install --constraint constraints.txt --requirement requirements-test.txt
	@touch $@

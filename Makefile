# Short names for the CMake presets. Every target first installs what it needs
# (scripts/bootstrap.sh); BOOTSTRAP_FLAGS and CMAKE_FLAGS are passed on.
BOOTSTRAP_FLAGS ?=
CMAKE_FLAGS ?=

# Threads that wait for work must not spin: the cores are few.
export OMP_WAIT_POLICY ?= passive

# How long `make fuzz` gives each parser, and libFuzzer's seed (0: another one each time).
FUZZ_SECONDS ?= 600
FUZZ_SEED ?= 0

.PHONY: help bootstrap build demo test parity bench release package asan fuzz headers docs minimum-cmake \
  clang-format format format-check lint clean
help:
	@echo "make demo      fine-tune the bundled Gemma 4 checkpoint by DPO, merge, check"
	@echo "make test      build and run the tests (no Python packages needed)"
	@echo "make parity    compare with peft, transformers and trl, run side by side"
	@echo "make build     the libraries, the program, tests and examples (clang)"
	@echo "make bench     build and run the benchmarks"
	@echo "make release   the libraries and the program with g++ -O3, tried as a package"
	@echo "make package   of that a .deb and a .tar.gz, in build/release/packages"
	@echo "make asan      the core's and the parsers' tests under sanitizers"
	@echo "make fuzz      each parser on changed inputs for FUZZ_SECONDS ($(FUZZ_SECONDS)), under sanitizers"
	@echo "make headers   compile each public header alone"
	@echo "make minimum-cmake  configure with the oldest CMake that will do"
	@echo "make docs      the reference of the headers (Doxygen), build/docs/html"
	@echo "make format    clang-format everything; format-check only looks"
	@echo "make lint      that, and which way includes look, and the rules of docs/style.md"
	@echo "make clean     remove the build trees, keep build/venv"

bootstrap:
	@scripts/bootstrap.sh $(BOOTSTRAP_FLAGS)

configure-%:
	@scripts/bootstrap.sh --for $* $(BOOTSTRAP_FLAGS)
	@scripts/configure.sh $* $(CMAKE_FLAGS)

build: configure-dev
	@cmake --build --preset dev

test: build
	@ctest --preset dev

demo: configure-demo
	@cmake --build --preset demo
	@scripts/demo.sh build/demo

parity: configure-dev
	@cmake --build --preset dev --target parity_programs
	@scripts/parity.sh build/dev

bench: build
	@build/dev/bench/linear_bench
	@build/dev/bench/overlay_bench
	@build/dev/bench/dpo_bench float32
	@build/dev/bench/dpo_bench bfloat16
	@TORCHLORA_COMPUTE_ROUTE=upcast build/dev/bench/dpo_bench bfloat16
	@scripts/python_env.sh tests/parity/requirements.txt
	@build/venv/bin/python bench/initializers.py build/dev/bench/init_bench

release: configure-release
	@cmake --build --preset release
	@ctest --preset release

package: configure-release
	@cmake --build --preset release --target package

asan: configure-asan
	@cmake --build --preset asan
	@ctest --preset asan

fuzz: configure-asan
	@cmake --build --preset asan --target fuzzers
	@FUZZ_SECONDS=$(FUZZ_SECONDS) FUZZ_SEED=$(FUZZ_SEED) scripts/fuzz.sh build/asan

headers: configure-dev
	@cmake --build --preset dev --target torchlora_headers

minimum-cmake: bootstrap
	@scripts/minimum_cmake.sh $(CMAKE_FLAGS)

docs:
	@scripts/bootstrap.sh --for docs
	@rm -rf build/docs
	@doxygen docs/Doxyfile
	@scripts/check_docs.py
	@echo "build/docs/html/index.html"

sources = $$(git ls-files '*.h' '*.cpp')
clang-format:
	@scripts/bootstrap.sh --for lint

format: clang-format
	@clang-format-19 -i $(sources)

format-check: clang-format
	@clang-format-19 --dry-run -Werror $(sources)

lint: format-check
	@scripts/check_includes.py
	@scripts/check_sources.py

clean:
	@rm -rf build/dev build/demo build/first_build build/release build/asan build/docs build/minimum-cmake

# A thin front: each target calls CMake presets or a script in the environment that runtime/setup makes.
# `make help` lists them; runtime/setup/README.md names the variables. SLUICE_PRESET is release, or cpu without nvcc.
.PHONY: help setup build quickstart test bench format lint
.NOTPARALLEL:
in_env := @runtime/setup/with_env bash -euc

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 14

setup: ## install what is missing: Debian packages (as root), the Python venv with LibTorch
	@runtime/setup/setup.sh >/dev/null

build: ## build everything into build/<preset>
	$(in_env) 'cmake --preset $$SLUICE_PRESET && cmake --build --preset $$SLUICE_PRESET'

quickstart: ## fine-tune SmolLM2-135M with its state on disk, in minutes
	$(in_env) 'cmake --preset $$SLUICE_PRESET && cmake --build --preset $$SLUICE_PRESET --target sluice && \
	           configs/quickstart/quickstart.sh build/$$SLUICE_PRESET/sluice'

test: ## build and run all tests, those without LibTorch under ASan + UBSan and under TSan, then the fuzzers
	$(in_env) 'for preset in $$SLUICE_PRESET asan tsan; do cmake --workflow --preset $$preset; done; \
	           if command -v clang++-16 >/dev/null; then cmake --workflow --preset fuzz; \
	           else echo "make: no clang++-16 here: the fuzzers are skipped (tests/fuzz/README.md)"; fi'

bench: ## build, then run the benchmark programs (bench/README.md)
	$(in_env) 'cmake --preset $$SLUICE_PRESET && cmake --build --preset $$SLUICE_PRESET && bench/run build/$$SLUICE_PRESET'

format: ## format the C++ files in place
	$(in_env) 'tests/tidy/tidy.py --list .h .cpp .cu .cuh | xargs clang-format -i'

lint: ## the rules of tests/tidy, and clang-tidy on the product's files (minutes)
	$(in_env) 'tests/tidy/tidy.py && cmake --preset $$SLUICE_PRESET && \
	           run-clang-tidy.py -quiet -p build/$$SLUICE_PRESET "^$$PWD/(runtime|swap|optim|models)/"'

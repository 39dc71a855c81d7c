# Needs a Rust toolchain, a C compiler and GNU make; everything else is fetched by cargo.

CARGO ?= cargo
ARGS ?=

# etcd-client's build script runs protoc. One that works and brings its standard types is taken as it is (PROTOC, else the
# one in PATH); otherwise ours is built once, into the target directory.
ifndef PROTOC
PROTOC := $(shell protoc -o /dev/null google/protobuf/descriptor.proto 2>/dev/null && command -v protoc)
endif
OWN_PROTOC := $(CURDIR)/target/tools/bin/protoc
ifeq ($(strip $(PROTOC)),)
PROTOC := $(OWN_PROTOC)
endif
export PROTOC

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "  %-22s %s\n", $$1, $$2 }'

.PHONY: build-stream-service
build-stream-service: protoc ## Build the service in the release profile
	$(CARGO) build --release --locked --package stream-service
	@echo "built target/release/stream-service"

.PHONY: run-stream-service
run-stream-service: protoc ## Run all components on this machine; more arguments by ARGS="--api-listen=…"
	$(CARGO) run --release --locked --package stream-service -- all $(ARGS)

.PHONY: test
test: protoc test-servers ## Run all tests
	@# The end-to-end tests start the real binary, which "cargo test" alone does not build.
	$(CARGO) build --workspace --locked --bins --tests
	$(CARGO) test --workspace --locked $(ARGS)

.PHONY: test-servers
test-servers: ## Install the servers that tests need, where that can be done (Debian as root)
	@{ command -v etcd || [ -n "$$STREAM_TEST_ETCD" ]; } >/dev/null && command -v etcdctl >/dev/null || ! command -v apt-get >/dev/null || [ "$$(id -u)" != 0 ] || { \
		echo "installing etcd for the tests"; \
		apt-get install --yes --quiet=2 --no-install-recommends etcd-server etcd-client >/dev/null || \
		{ apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends etcd-server etcd-client >/dev/null; } || \
		echo "etcd could not be installed: the tests on a real etcd are skipped, or fail with CI=true"; \
	}

.PHONY: torture
torture: SEEDS ?= 10000
torture: FIRST_SEED ?= 0
torture: protoc ## Run many seeds of the volume on a simulated disk: SEEDS=10000 FIRST_SEED=0; one again: SEED=…
	STREAM_TEST_SEEDS=$(SEEDS) STREAM_TEST_FIRST_SEED=$(FIRST_SEED) $(if $(SEED),STREAM_TEST_SEED=$(SEED)) \
		$(CARGO) test --package stream-storage --locked --test simulation -- --nocapture --exact \
		nothing_acknowledged_is_lost_or_doubled_and_nothing_else_is_half_there

.PHONY: corruption
corruption: CASES ?= 100000
corruption: SEED ?= 1
corruption: protoc ## Damage volumes in many ways, one at a time (about 15 ms each): CASES=100000 SEED=1 (the first of the volumes)
	STREAM_TEST_CASES=$(CASES) STREAM_TEST_SEED=$(SEED) \
		$(CARGO) test --package stream-storage --locked --test corruption -- --nocapture cases::

.PHONY: torture-state
torture-state: TIME ?= 180
torture-state: OPERATIONS ?= 100000
torture-state: KILLS ?= 60
torture-state: DISKS ?= 500
torture-state: protoc test-servers ## Long runs of the state: TIME=180 (s of a cluster losing members) OPERATIONS=100000 KILLS=60 DISKS=500 SEED=…
	$(CARGO) build --workspace --locked --bins --tests
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_SECONDS=$(TIME) \
		$(CARGO) test --package stream-state --locked --test state members -- --nocapture
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_OPERATIONS=$(OPERATIONS) STREAM_TEST_KILLS=$(KILLS) STREAM_TEST_DISKS=$(DISKS) \
		$(CARGO) test --package stream-etcd-embedded --locked -- --nocapture differential killed crash

.PHONY: torture-crash
torture-crash: ROUNDS ?= 10
torture-crash: protoc ## Let the service die at every crash point, again and again: ROUNDS=10 POINTS=group-synced,… SEED=…
	$(CARGO) build --workspace --locked --bins --tests
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_ROUNDS=$(ROUNDS) STREAM_TEST_POINTS="$(POINTS)" \
		$(CARGO) test --workspace --locked --test cluster -- --nocapture crash_points

.PHONY: torture-kill
torture-kill: KILLS ?= 200
torture-kill: PROGRAM ?= target/release/stream-service
torture-kill: build-stream-service ## Kill the service under load at random moments: KILLS=200 SEED=… PROGRAM=target/release/stream-service
	$(CARGO) build --workspace --locked --bins --tests
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_KILLS=$(KILLS) STREAM_TEST_PROGRAM="$(abspath $(PROGRAM))" \
		$(CARGO) test --workspace --locked --test cluster -- --nocapture crash::

.PHONY: torture-pods
torture-pods: ROUNDS ?= 10
torture-pods: protoc test-servers ## Run every component as a process and kill each, and etcd, again and again under load: ROUNDS=10 SEED=…
	$(CARGO) build --workspace --locked --bins --tests
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_ROUNDS=$(ROUNDS) \
		$(CARGO) test --workspace --locked --test cluster -- --nocapture pods::kills pods::cuts idempotency::several

# libFuzzer is a crate like any other; what it needs of the compiler is known to the stable one too. `--target` keeps the
# flags away from build scripts.
FUZZ := internal/encoding/fuzz
FUZZ_FLAGS := -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
	-Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
	-Cllvm-args=-sanitizer-coverage-trace-compares
FUZZ_HOST = $(shell rustc --print host-tuple)
FUZZ_TARGETS := $(sort $(basename $(notdir $(wildcard $(FUZZ)/targets/*.rs))))
FUZZ_BIN = target/fuzz/$(FUZZ_HOST)/release

.PHONY: fuzz
fuzz: TIME ?= 60
fuzz: TARGET ?= $(FUZZ_TARGETS)
fuzz: build-fuzz ## Fuzz the encoding on one core: TIME=60 (s a target) TARGET="record form"; stops at the first find
	@for target in $(TARGET); do \
		mkdir -p target/fuzz/corpus/$$target target/fuzz/finds; \
		echo "fuzzing $$target for $(TIME) s"; \
		$(FUZZ_BIN)/$$target target/fuzz/corpus/$$target $(FUZZ)/corpus/$$target -dict=$(FUZZ)/dictionary -max_total_time=$(TIME) \
			-max_len=2048 -timeout=10 -rss_limit_mb=1024 -verbosity=0 -print_final_stats=1 -artifact_prefix=target/fuzz/finds/$$target- $(ARGS) || exit 1; \
	done

.PHONY: fuzz-corpus
fuzz-corpus: TARGET ?= $(FUZZ_TARGETS)
fuzz-corpus: build-fuzz ## Add to the corpus in git what "make fuzz" found and is not covered by it: TARGET="record form"
	@for target in $(TARGET); do \
		mkdir -p target/fuzz/corpus/$$target; \
		$(FUZZ_BIN)/$$target -set_cover_merge=1 -use_counters=0 -max_len=2048 $(FUZZ)/corpus/$$target target/fuzz/corpus/$$target || exit 1; \
	done

.PHONY: build-fuzz
build-fuzz:
	RUSTFLAGS="$(FUZZ_FLAGS)" $(CARGO) build --release --manifest-path $(FUZZ)/Cargo.toml --target-dir target/fuzz --target $(FUZZ_HOST)

# From PyPI, into a place of its own; newer versions may check more.
SCHEMATHESIS := target/tools/schemathesis/bin/schemathesis
.PHONY: fuzz-api
fuzz-api: TIME ?= 120
fuzz-api: SEED ?= 1
fuzz-api: PROGRAM ?= target/debug/stream-service
fuzz-api: protoc $(SCHEMATHESIS) ## Fuzz the configuration API by its own description: TIME=120 (s) SEED=1 PROGRAM=target/release/stream-service
	$(if $(filter target/debug/stream-service,$(PROGRAM)),$(CARGO) build --workspace --locked --bins)
	tests/api-fuzz/run $(PROGRAM) $(SCHEMATHESIS) $(TIME) $(SEED) $(ARGS)

$(SCHEMATHESIS): tests/api-fuzz/requirements.txt
	python3 -m venv target/tools/schemathesis
	target/tools/schemathesis/bin/pip install --quiet --requirement $<
	touch $@

.PHONY: lint
lint: protoc ## Check formatting, lints and (where installed) dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@if $(CARGO) tree --package stream-service --locked --edges normal --prefix none | grep -q '^fail '; then \
		echo "a released binary would have fail points"; \
		exit 1; \
	fi
	@if $(CARGO) deny --version >/dev/null 2>&1; then \
		$(CARGO) deny check; \
	else \
		echo "cargo-deny is not installed, dependencies not checked"; \
	fi

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all

.PHONY: bench
bench: build-stream-service ## Measure throughput and latency on this machine; more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- bench $(ARGS)

.PHONY: bench-http
bench-http: build-stream-service ## Measure the intake: sizes of records and requests, overload, a noisy neighbour (about 35 min)
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- bench --repeats 5 --duration 20s
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- http --body-bytes 1024 --batch 1,100 --sinks 1 --repeats 5
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- http --body-bytes 1024 --batch 100 --sinks 1 --with-import
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- http
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- http --jsonnet
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- overload
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- tenant

.PHONY: bench-api
bench-api: build-stream-service ## Measure the configuration API with 10 000 sinks (about 5 min); more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- api $(ARGS)

.PHONY: bench-volume
bench-volume: protoc ## Measure a volume alone with 1 to 10 000 slices (about 10 min); more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- volume $(ARGS)

.PHONY: bench-keys
bench-keys: build-stream-service ## Measure idempotency keys, a volume with ten million and the service on it (about 6 min); more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- keys $(ARGS)

.PHONY: bench-recovery
bench-recovery: protoc ## Measure the opening of a volume after a crash (about 10 min, 35 GB of disk); more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- recovery $(ARGS)

.PHONY: image
image: ## Build the container image stream-service
	docker build --file docker/service/Dockerfile --tag stream-service .

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean

.PHONY: protoc
protoc: $(filter $(OWN_PROTOC),$(PROTOC)) ## Provide the protobuf compiler if the machine has none

# For scripts that call cargo themselves.
.PHONY: protoc-path
protoc-path: protoc
	@echo "$(PROTOC)"

$(OWN_PROTOC):
	$(CARGO) run --release --locked --manifest-path provisioning/protoc/Cargo.toml --target-dir target/tools/build -- target/tools

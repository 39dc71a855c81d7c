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
torture-pods: protoc test-servers ## Run every component as a process and kill each again and again under load: ROUNDS=10 SEED=…
	$(CARGO) build --workspace --locked --bins --tests
	$(if $(SEED),STREAM_TEST_SEED=$(SEED)) STREAM_TEST_ROUNDS=$(ROUNDS) \
		$(CARGO) test --workspace --locked --test cluster -- --nocapture pods::kills pods::cuts

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

.PHONY: bench-volume
bench-volume: protoc ## Measure a volume alone with 1 to 10 000 slices (about 10 min); more arguments by ARGS
	$(CARGO) run --release --locked --package stream-tests --bin stream-load -- volume $(ARGS)

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

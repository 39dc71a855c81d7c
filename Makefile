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
test: protoc ## Run all tests
	@# The end-to-end tests start the real binary, which "cargo test" alone does not build.
	$(CARGO) build --workspace --locked --bins --tests
	$(CARGO) test --workspace --locked $(ARGS)

.PHONY: test-etcd
test-etcd: protoc ## Run the tests of the state against a real, empty etcd: STREAM_TEST_ETCD_ENDPOINT=http://…
	@test -n "$$STREAM_TEST_ETCD_ENDPOINT" || { echo "set STREAM_TEST_ETCD_ENDPOINT to the URL of an etcd that may be written to"; exit 1; }
	$(CARGO) test --locked --package stream-etcd-embedded --package stream-state $(ARGS) -- --include-ignored

.PHONY: lint
lint: protoc ## Check formatting, lints and (where installed) dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
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

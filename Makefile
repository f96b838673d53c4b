# Everything there is to do here. `make` alone lists it.

CARGO ?= cargo
# Tests get a throw-away PostgreSQL; nextest runs them if it is there, else cargo's own runner.
WITH_POSTGRES = target/debug/with-postgres
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help run build test test-slow lint layers bench bench-pure bench-once doc example clean setup setup-bench setup-slow

help: ## Lists the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: build .env ## Serves on :8080 with a database of its own; installs and makes what is missing
	@.ci/first-steps
	@exec ./bin/chatapi --env-file .env

build: setup ## Builds bin/chatapi
	$(CARGO) build --release -p chatapi
	@mkdir -p bin && cp -f target/release/chatapi bin/chatapi.new && mv -f bin/chatapi.new bin/chatapi

test: setup ## Runs the tests (under 3 minutes)
	$(CARGO) build --workspace --all-targets
ifeq ($(NEXTEST),yes)
	$(WITH_POSTGRES) $(CARGO) nextest run --workspace -E 'not test(/^slow::/)'
else
	$(WITH_POSTGRES) $(CARGO) test --workspace --tests -- --skip slow::
endif

test-slow: setup-slow ## Runs the tests that kill real processes, and those in a browser (some 3 minutes)
	$(CARGO) build --workspace --all-targets
ifeq ($(NEXTEST),yes)
	$(WITH_POSTGRES) $(CARGO) nextest run --workspace -E 'test(/^slow::/)'
else
	$(WITH_POSTGRES) $(CARGO) test --workspace --test it slow::
endif

lint: ## Checks format and lints, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --all-features -- -D warnings

layers: ## Checks which crate imports which
	@.ci/layers

example: setup ## Runs the embedding example on a throw-away PostgreSQL
	$(CARGO) build -p chatapi-testkit -p chatapi-storage --bins --examples
	$(WITH_POSTGRES) target/debug/examples/embed

bench: setup-bench ## Measures, and writes docs/benchmarks.md (some 15 minutes)
	$(CARGO) build --release -p chatapi -p chatapi-loadgen
	target/release/bench

bench-pure: ## Measures pure code: routing, parsing, encoding
	$(CARGO) bench -p chatapi-http --bench pure

bench-once: ## Runs those once each, untimed
	$(CARGO) test -p chatapi-http --benches

doc: ## Builds the crates' documentation
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

clean: ## Removes what was built; the database in ./data stays
	$(CARGO) clean
	rm -rf bin

setup:
	@.ci/setup

setup-bench:
	@.ci/setup
	@.ci/setup bench

setup-slow:
	@.ci/setup slow

.env:
	@umask 077; printf 'MASTER_API_KEY=%s\n' "$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" > .env
	@echo "Made .env with a fresh master key."

# `make run` starts the service, `make test` proves it, `make soak` and `make fuzz` break it on purpose, `make check` holds the house
# in order, `make bench` measures.

CARGO ?= cargo
CARGO_DENY = 0.20.2
MINUTES ?= 10
FAULTS ?=

.PHONY: run test check ci tools soak fuzz bench prepare

run:
	$(CARGO) run --release --locked

# Everything: unit tests, the architecture, the specification on SQLite and on a real Postgres.
test: prepare
	$(CARGO) test --locked

# What continuous integration runs.
ci: check test

# Formatting, lints, documentation, and the licences, duplicates and sources of dependencies.
check:
	@$(CARGO) deny --version >/dev/null 2>&1 || { echo "cargo-deny is not installed. Install it with: make tools" >&2; exit 1; }
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) deny --locked check bans licenses sources

# Installs cargo-deny, which `make check` needs, from crates.io. It is built without optimization: that takes one minute instead
# of several, and checking takes three seconds all the same.
tools:
	@if [ "$$($(CARGO) deny --version 2>/dev/null)" != "cargo-deny $(CARGO_DENY)" ]; then \
		CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_OPT_LEVEL=0 \
			$(CARGO) install --locked --force cargo-deny@$(CARGO_DENY); \
	fi

# Breaks everything that can break under load (tests/faults), for MINUTES minutes, and prints what came of it. FAULTS=killed: only
# what has that in its name.
soak: prepare
	$(CARGO) build --release --locked
	TEST_PROGRAM="$$PWD/target/release/cloudflare-images-webhook" SOAK_MINUTES=$(MINUTES) SOAK_FAULTS="$(FAULTS)" \
		$(CARGO) test --locked --test spec loses_nothing_under_faults -- --nocapture

# Inputs that nobody thought of, for MINUTES minutes each: requests to the webhook, and settings. What is found stands in
# fuzz/artifacts, and belongs into fuzz/samples when it is mended. Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler.
fuzz:
	for target in webhook config; do \
		mkdir -p fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/samples/$$target -- \
			-max_total_time=$$((60 * $(MINUTES))) </dev/null || exit 1; \
	done

# How fast it is here, beside what this machine could do: some twenty-five minutes. Writes bench/RESULTS.md.
bench:
	@sh tests/prepare.sh wrk
	$(CARGO) bench --locked --bench load

# What the tests need beside Rust: a C compiler for SQLite, and Postgres's programs.
prepare:
	@sh tests/prepare.sh

# make run    builds the service and starts it       make check  checks formatting, lints, links and dependencies
# make build  builds the release program              make docs   builds the book into target/book
# make test   runs all tests                          make tools  installs what `make check` and `make docs` need
# make soak   breaks things under load                make fuzz   searches for inputs that break the service
# make bench  measures the speed                      make ci     runs what continuous integration runs
# make audit  looks for known vulnerabilities of the dependencies; needs the internet

CARGO ?= cargo
CARGO_DENY = 0.20.2
MDBOOK = 0.5.4
MINUTES ?= 10
FAULTS ?=

# The database of known vulnerabilities, which cargo-deny reads.
ADVISORIES = https://github.com/RustSec/advisory-db

.PHONY: run build arm64-test image-test manifest-test test check audit docs ci tools cargo-deny mdbook require-cargo-deny soak fuzz bench prepare

run:
	$(CARGO) run --release --locked

# Builds target/release/cloudflare-images-webhook.
build:
	$(CARGO) build --release --locked

# Everything: unit tests, the architecture, the specification on SQLite and on a real Postgres.
test: prepare
	$(CARGO) test --locked

# What continuous integration runs.
ci: check docs manifest-test test

# Checks formatting, lints, rustdoc, links of the documentation, and the dependencies' licences, duplicates and sources.
check: require-cargo-deny
	$(CARGO) fmt --check
	$(CARGO) fmt --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --bench load -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	$(CARGO) test --locked --test links
	$(CARGO) deny --locked check bans licenses sources

# Looks for known vulnerabilities of the dependencies. The database is not part of the repository, so this is no part of `make
# check`: a build without internet must work. A workflow runs it every day.
audit: require-cargo-deny
	@$(CARGO) deny --locked fetch db >/dev/null 2>&1 || { \
		echo "Nothing was audited: the advisory database at $(ADVISORIES) cannot be fetched." >&2; exit 1; }
	$(CARGO) deny --locked check advisories

# Builds the program for 64-bit ARM, and tests it in an emulator. Needs rustup, gcc-aarch64-linux-gnu and qemu-user-static.
arm64-test: prepare
	CARGO="$(CARGO)" sh tests/arm64/run.sh

# Fails unless the pinned version of cargo-deny is installed. Another version may know other checks.
require-cargo-deny:
	@[ "$$($(CARGO) deny --version 2>/dev/null)" = "cargo-deny $(CARGO_DENY)" ] || { \
		echo "cargo-deny $(CARGO_DENY) is not installed. Install it with: make tools" >&2; exit 1; }

# Builds the documentation into target/book. The first page is target/book/index.html.
docs:
	@mdbook --version >/dev/null 2>&1 || { echo "mdbook is not installed. Install it with: make tools" >&2; exit 1; }
	mdbook build docs

# Installs cargo-deny and mdbook from crates.io. They are built without optimization: that takes one minute instead of several, and
# both need only seconds for their work.
tools: cargo-deny mdbook
cargo-deny mdbook: export CARGO_PROFILE_RELEASE_LTO = off
cargo-deny mdbook: export CARGO_PROFILE_RELEASE_CODEGEN_UNITS = 16
cargo-deny mdbook: export CARGO_PROFILE_RELEASE_OPT_LEVEL = 0
cargo-deny:
	@if [ "$$($(CARGO) deny --version 2>/dev/null)" != "cargo-deny $(CARGO_DENY)" ]; then \
		$(CARGO) install --locked --force cargo-deny@$(CARGO_DENY); \
	fi
mdbook:
	@if [ "$$(mdbook --version 2>/dev/null)" != "mdbook v$(MDBOOK)" ]; then \
		$(CARGO) install --locked --force --no-default-features --features search mdbook@$(MDBOOK); \
	fi

# Injects faults under load (tests/faults) for MINUTES minutes and prints the results. FAULTS=killed runs only the faults with that
# word in their name.
soak: prepare
	$(CARGO) build --release --locked
	TEST_PROGRAM="$$PWD/target/release/cloudflare-images-webhook" SOAK_MINUTES=$(MINUTES) SOAK_FAULTS="$(FAULTS)" \
		$(CARGO) test --locked --test spec loses_nothing_under_faults -- --nocapture

# Fuzzes webhook requests, headers, settings, database URLs, secrets, messages and nesting, for MINUTES minutes each. Inputs that fail are in fuzz/artifacts; after the fix, move them to
# fuzz/samples. Needs cargo-fuzz (cargo install cargo-fuzz) and a C++ compiler.
fuzz:
	for target in webhook headers config database_url secrets message nesting; do \
		mkdir -p fuzz/corpus/$$target && \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none $$target fuzz/corpus/$$target fuzz/samples/$$target -- \
			-max_total_time=$$((60 * $(MINUTES))) </dev/null || exit 1; \
	done

# Measures the speed on this machine in about 25 minutes. Writes bench/RESULTS.md.
bench:
	@sh tests/prepare.sh wrk
	$(CARGO) bench --locked --bench load

# Installs the programs that the tests need, such as a C compiler and Postgres.
prepare:
	@sh tests/prepare.sh

# Compares the Kubernetes manifests with the schemas of Kubernetes, which the package from PyPI contains.
manifest-test: prepare
	python3 -m venv target/manifest-test
	target/manifest-test/bin/pip install --quiet --disable-pip-version-check kubernetes-validate==1.37.0
	target/manifest-test/bin/kubernetes-validate --strict deploy/kubernetes/webhook.yaml

# Builds the container image with buildah and runs it as platforms do. Needs root.
image-test:
	sh tests/prepare.sh buildah debootstrap
	sh tests/image/run.sh

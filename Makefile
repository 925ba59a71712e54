# Builds, installs and tests pgraft. `make help` lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# The server to build for: the one named, else the one in PATH, else a Postgres 18 in .pg/18.
# Clusters and tests take the last unless PG_CONFIG names another, so that they install nothing
# into a server of the machine's that happens to be in PATH.
ifeq ($(origin PG_CONFIG),undefined)
FETCHED_18 = $(shell .ci/fetch-postgres 18)
PG_CONFIG = $(or $(shell command -v pg_config),$(FETCHED_18))
DEV_PG_CONFIG = $(FETCHED_18)
else
DEV_PG_CONFIG = $(PG_CONFIG)
endif

TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
SOURCES := Cargo.toml Cargo.lock $(shell find src -name '*.rs')
NEXTEST := $(shell cargo nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: all install uninstall cluster cluster-status cluster-stop cluster-clean
.PHONY: test test-fast test-cluster simulate simulate-bugs fuzz corpus demo chaos bench lint clean help

# One recursive call pins PG_CONFIG and its major version for the rules that need both.
all:
	@major=$$(.ci/pg-major '$(PG_CONFIG)'); \
	$(MAKE) build-for PG_CONFIG='$(PG_CONFIG)' PG_MAJOR="$$major"

install:
	@major=$$(.ci/pg-major '$(PG_CONFIG)'); \
	$(MAKE) install-for PG_CONFIG='$(PG_CONFIG)' PG_MAJOR="$$major"

ifdef PG_MAJOR
# One target folder for each major version: they share no object file.
LIBRARY := $(TARGET)/pg$(PG_MAJOR)/release/libpgraft.so
# The daemon knows no server's headers: one for all.
RAMD := $(TARGET)/release/ramd

.PHONY: build-for install-for
build-for: $(LIBRARY) $(RAMD)
	@echo "pgraft for PostgreSQL $(PG_MAJOR) is built: $(LIBRARY), and $(RAMD)"

$(RAMD): $(SOURCES)
	@.ci/need-build-tools
	cargo build --release --locked -p pgraft --bin ramd --target-dir '$(TARGET)'
	@touch '$@'

# Not on cargo's word: `make && sudo make install` must not run cargo as root again.
$(LIBRARY): $(SOURCES)
	@.ci/need-build-tools
	@echo "building pgraft for PostgreSQL $(PG_MAJOR), minutes at the first time ..."
	PGRX_PG_CONFIG_PATH='$(PG_CONFIG)' cargo build --release --locked --no-default-features \
		--features pg$(PG_MAJOR) --target-dir '$(TARGET)/pg$(PG_MAJOR)'
	@touch '$@'

install-for: PKGLIBDIR = $(DESTDIR)$(shell $(PG_CONFIG) --pkglibdir)
install-for: SHAREDIR = $(DESTDIR)$(shell $(PG_CONFIG) --sharedir)
install-for: BINDIR = $(DESTDIR)$(shell $(PG_CONFIG) --bindir)
install-for: INCLUDEDIR = $(DESTDIR)$(shell $(PG_CONFIG) --includedir)
# Files that are the same already stay as they are: a server that runs them is up to date.
install-for: $(LIBRARY) $(RAMD)
	@install -d '$(PKGLIBDIR)' '$(SHAREDIR)/extension' '$(INCLUDEDIR)' '$(BINDIR)'
	@install -C -m 755 '$(LIBRARY)' '$(PKGLIBDIR)/pgraft.so'
	@install -C -m 644 $(wildcard pgraft.control sql/pgraft.control sql/pgraft--*.sql) \
		'$(SHAREDIR)/extension/'
	@install -C -m 644 conf/pgraft.conf '$(SHAREDIR)/pgraft.conf.sample'
	@install -C -m 644 conf/ramd.conf '$(SHAREDIR)/ramd.conf.sample'
	@install -C -m 644 include/pgraft_shmem.h '$(INCLUDEDIR)/pgraft_shmem.h'
	@install -C -m 755 '$(RAMD)' '$(BINDIR)/ramd'
	@ln -f '$(BINDIR)/ramd' '$(BINDIR)/pgraftctl'
	@echo "pgraft is installed for $$('$(PG_CONFIG)' --version) in $(PKGLIBDIR)"
endif

uninstall:
	rm -f "$(DESTDIR)$$('$(PG_CONFIG)' --pkglibdir)/pgraft.so" \
		"$(DESTDIR)$$('$(PG_CONFIG)' --includedir)/pgraft_shmem.h" \
		"$(DESTDIR)$$('$(PG_CONFIG)' --bindir)"/{ramd,pgraftctl} \
		"$(DESTDIR)$$('$(PG_CONFIG)' --sharedir)"/{pgraft,ramd}.conf.sample \
		"$(DESTDIR)$$('$(PG_CONFIG)' --sharedir)"/extension/pgraft{.control,--*.sql}

# The cluster to play with. The program says what it does; cargo speaks when it has to build it.
CLUSTER = cargo run --quiet --locked -p pgraft-cluster --bin cluster --

cluster:
	@pg_config='$(DEV_PG_CONFIG)'; test -n "$$pg_config"; \
	$(MAKE) install PG_CONFIG="$$pg_config" DESTDIR= >&2; \
	echo "building the program that makes the cluster ..."; \
	PG_CONFIG="$$pg_config" $(CLUSTER) up

cluster-status:
	@PG_CONFIG='$(DEV_PG_CONFIG)' $(CLUSTER) status

cluster-stop:
	@PG_CONFIG='$(DEV_PG_CONFIG)' $(CLUSTER) stop

cluster-clean:
	@PG_CONFIG='$(DEV_PG_CONFIG)' $(CLUSTER) clean

test: test-fast test-cluster

# Those that a few seeds find.
SMOKE_BUGS = VoteNotStored AckBeforeSync QuorumOffByOne NoLeaseOfVoters ChangeBeforeCommit TwoChanges \
	StaleRead TruncateCommitted ApplyTwice SnapshotWithoutMembership WipedVotes VoteForShorterLog \
	FenceBeforeFormerLease FenceWithoutLease FenceWhileMoving NoSecondLook TimelineTwice

# No Postgres, no network beyond this machine: the core, the wire, the disk, the tidiness.
test-fast:
ifdef NEXTEST
	cargo nextest run --locked -p pgraft -p pgraft-history --no-default-features --no-fail-fast
else
	cargo test --locked -p pgraft -p pgraft-history --no-default-features --all-targets
endif
	cargo test --locked -p pgraft --bin ramd --quiet
	cargo test --locked --no-default-features --doc --quiet
	cargo test --locked --profile sim -p pgraft-simulation --quiet
	@$(MAKE) simulate SEEDS=2000 MINUTES= NODES=5
	@$(MAKE) simulate-bugs SEEDS=120 BUGS='$(SMOKE_BUGS)'

# The production code on a virtual clock, network and disk (docs/testing.md), assertions on:
#   make simulate SEEDS=a..b      these seeds; SEEDS=n: the first n
#   make simulate MINUTES=30      as many as fit, NODES=5 first members each
#   make simulate SEED=17 TRACE=1 one, and everything that happens in it
# THREADS=1 leaves the machine's other cores to others.
export SEEDS MINUTES NODES SEED TRACE THREADS BUGS
simulate:
	@cargo run --locked --profile sim -p pgraft-simulation --bin simulate

# Each deliberate bug (src/bugs.rs), and how many seeds it takes to be found; BUGS=a,b: only these.
simulate-bugs:
	@cargo run --locked --profile sim -p pgraft-simulation --features deliberate-bugs --bin bugs

# Real servers. Each test has its own ports and folder and removes both. TESTS='binary(fence)': those.
test-cluster:
	@[ -x /usr/sbin/ip ] || [ -x /sbin/ip ] || .ci/need-packages iproute2
	@[ -x /usr/sbin/haproxy ] || .ci/need-packages haproxy
	@pg_config='$(DEV_PG_CONFIG)'; test -n "$$pg_config"; \
	$(MAKE) install PG_CONFIG="$$pg_config" DESTDIR=; \
	export PG_CONFIG="$$pg_config"; \
	echo "cluster tests on $$("$$pg_config" --version) ..."; \
	if [ -n '$(NEXTEST)' ]; then \
		cargo nextest run --locked -p pgraft-cluster --config-file tests/cluster/nextest.toml \
			$(if $(TESTS),-E '$(TESTS)'); \
	else \
		cargo test --locked -p pgraft-cluster -- --test-threads=2; \
	fi

# Every way in for bytes from outside, so many seconds each, or those in FUZZ_TARGETS. An input
# that does not hold ends it and is named: once it is fixed it belongs into fuzz/regressions/.
FUZZ_SECONDS = 60
FUZZ_TARGETS = $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

fuzz:
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
		echo "fuzzing $$target for $(FUZZ_SECONDS) s ..."; \
		found='$(TARGET)/fuzz/found/'$$target; mkdir -p "$$found"; seeds="fuzz/corpus/$$target"; \
		[ ! -d "fuzz/regressions/$$target" ] || seeds="$$seeds fuzz/regressions/$$target"; \
		cargo fuzz run --sanitizer none --target-dir '$(TARGET)/fuzz' "$$target" "$$found" $$seeds \
			-- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=1024 -verbosity=0 \
			-print_final_stats=1 2>&1 | sed '/Recommended dict/,/End of recommended/d'; \
	done

# The seeds of the fuzz corpus, of the formats as they are now.
corpus:
	PGRAFT_WRITE_CORPUS=1 cargo test --locked --no-default-features --test decoders corpus_is

# Kills the primary of three servers under a running writer and tells what happened.
demo:
	@pg_config='$(DEV_PG_CONFIG)'; test -n "$$pg_config"; \
	$(MAKE) install PG_CONFIG="$$pg_config" DESTDIR= >&2; \
	PG_CONFIG="$$pg_config" cargo run --quiet --locked -p pgraft-cluster --bin demo

# Faults from a seed, on three real servers (or NODES=5) with clients, as root:
#   make chaos MINUTES=20 MODE=quorum    or MODE=async, the default
#   make chaos SEED=17 ROUNDS=3          the same faults again
export MODE ROUNDS
chaos:
	@[ -x /usr/sbin/ip ] || [ -x /sbin/ip ] || .ci/need-packages iproute2
	@pg_config='$(DEV_PG_CONFIG)'; test -n "$$pg_config"; \
	$(MAKE) install PG_CONFIG="$$pg_config" DESTDIR= >&2; \
	PG_CONFIG="$$pg_config" cargo run --quiet --locked -p pgraft-cluster --bin chaos

bench:
	@pg_config='$(DEV_PG_CONFIG)'; test -n "$$pg_config"; \
	$(MAKE) install PG_CONFIG="$$pg_config" DESTDIR=; \
	PG_CONFIG="$$pg_config" cargo run --release --locked -p pgraft-cluster --bin bench -- $(FIGURES)

# The last in the release profile, so that it shares the bindings that the build has made.
lint:
	cargo fmt --all --check
	cargo clippy --locked --no-default-features --all-targets -- -D warnings
	cargo clippy --locked -p pgraft --bin ramd --tests -- -D warnings
	cargo clippy --locked -p pgraft-cluster -p pgraft-history -p pgraft-raft-bench \
		-p pgraft-simulation --all-targets -- -D warnings
	@.ci/need-build-tools
	PGRX_PG_CONFIG_PATH="$$(.ci/fetch-postgres 18)" cargo clippy --release --locked \
		--no-default-features --features pg18 --target-dir '$(TARGET)/pg18' -- -D warnings

clean:
	cargo clean

help:
	@echo "make                  build for PG_CONFIG (default: pg_config in PATH, else .pg/18)"
	@echo "make install          install there; PG_CONFIG=/path/to/pg_config, DESTDIR honoured"
	@echo "make uninstall        remove what install put there"
	@echo "make cluster          three servers on 127.0.0.1:5501-5503 that elect a leader"
	@echo "make cluster-status   the table of the three; fails unless their HTTP ports answer"
	@echo "make cluster-stop     stop them; make cluster starts them again"
	@echo "make cluster-clean    stop them and remove target/cluster"
	@echo "make test             everything below, on Postgres 18 (or PG_CONFIG=...)"
	@echo "make test-fast        what needs no Postgres"
	@echo "make simulate         seeds of whole clusters: SEEDS=a..b MINUTES=30 NODES=5"
	@echo "make simulate-bugs    how many seeds each deliberate bug takes: SEEDS=n BUGS='A B'"
	@echo "make test-cluster     the tests with real servers"
	@echo "make fuzz             every decoder against mutated input, FUZZ_SECONDS=60 each"
	@echo "make corpus           the seeds for that, after a format changed"
	@echo "make demo             a primary is killed under a running writer: who did what, when"
	@echo "make chaos            faults on real servers: MINUTES=20 MODE=quorum SEED=17 NODES=5"
	@echo "make bench            the figures of docs/performance.md; FIGURES='kills moves=5'"
	@echo "make lint             rustfmt and clippy, warnings denied"

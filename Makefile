# README lists the targets; everything is built by cargo, the rest is where files go.
CARGO ?= cargo
PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
MANDIR ?= $(PREFIX)/share/man
BASHDIR ?= $(PREFIX)/share/bash-completion/completions
ZSHDIR ?= $(PREFIX)/share/zsh/site-functions
FISHDIR ?= $(PREFIX)/share/fish/vendor_completions.d
DESTDIR ?=
ARGS ?=

# Most tests wait for something most of the time.
export RUST_TEST_THREADS ?= 8

# Where cargo builds.
TARGET = $(or $(CARGO_TARGET_DIR),target)
BINARY = $(TARGET)/release/maxpool
MACHINE = $(shell uname -m)
MUSL = $(MACHINE)-unknown-linux-musl
PAGES = $(wildcard man/*.[1-8])

.PHONY: all run demo test e2e bench check static install uninstall clean

all:
	$(CARGO) build --release --locked

# The real thing; ARGS="server --plain" and the like go to it.
run:
	$(CARGO) run --release --locked -- $(ARGS)

# The server before a stand-in API, with pretend accounts, in a temporary home.
demo:
	$(CARGO) build --locked --bin maxpool --example demo
	@'$(TARGET)/debug/examples/demo'

test:
	$(CARGO) test --locked

# Claude Code and the SDKs through the program, with no network but loopback. ARGS="held" runs the cases with that word in their
# names, ARGS=--ignored those that take a quarter of an hour, E2E_RECORD=DIR keeps what the clients sent.
e2e:
	@sh tests/e2e/clients.sh || [ -n '$(ARGS)' ]
	$(CARGO) test --locked --test e2e --no-run
	unshare -rn sh -c 'ip link set lo up && exec $(CARGO) test --quiet --locked --offline --test e2e -- --test-threads=1 --nocapture $(ARGS)'

# How good the choice of accounts is, over made-up fortnights; ARGS="--help" tells what can be varied.
routing:
	@$(CARGO) run --profile soak --quiet --locked --example routing -- $(ARGS)

# The long runs: 200,000 seeds of the simulator, 100,000 requests with restarts, rotations, edits and leavers. Half an hour.
soak:
	@sh tests/soak/run.sh

.PHONY: routing soak

# The program beside a direct connection, nginx, shunt and the npm package, in turns; `ARGS=--help` says what can be asked for. In a
# network of its own: what is measured may want to call home.
bench:
	$(CARGO) build --release --locked --bin maxpool --example bench
	@unshare -rn sh -c 'ip link set lo up && exec "$$@"' bench '$(TARGET)/release/examples/bench' $(ARGS)

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items --locked
	@if [ -n '$(PAGES)' ] && command -v mandoc >/dev/null; then \
		echo mandoc -Tlint $(PAGES); mandoc -Tlint -W warning $(PAGES); fi
	$(CARGO) test --locked

# One file that needs nothing of the machine it runs on. musl, because its resolver works without
# the files that glibc's needs; a C compiler builds ring's few C sources.
static:
	@[ -d "$$(rustc --print target-libdir --target $(MUSL))" ] || { \
		echo 'make static needs the musl target: rustup target add $(MUSL)' >&2; exit 1; }
	CC_$(subst -,_,$(MUSL))="$${CC:-cc}" $(CARGO) build --release --locked --target $(MUSL)
	@install -D '$(TARGET)/$(MUSL)/release/maxpool' '$(TARGET)/static/maxpool'
	@ls -l '$(TARGET)/static/maxpool'
	@'$(TARGET)/static/maxpool' --version

# The program for every system that it is offered for: `cross` checks, `dist` makes the archives.
TARGETS ?= x86_64-unknown-linux-musl aarch64-unknown-linux-musl x86_64-apple-darwin aarch64-apple-darwin

cross:
	@TARGETS='$(TARGETS)' CARGO='$(CARGO)' sh tests/cross/run.sh check

dist:
	@TARGETS='$(TARGETS)' CARGO='$(CARGO)' sh tests/cross/run.sh build

# The tests with what other Unixes use in place of calls that only Linux has (src/platform.rs).
test-portable:
	RUSTFLAGS='--cfg portable' $(CARGO) test --locked --target-dir '$(TARGET)/portable'

.PHONY: cross dist test-portable

# Builds only what is not there, so that `make && sudo make install` runs no compiler as root.
$(BINARY):
	$(CARGO) build --release --locked

# The program prints its own completions; one that cannot run here (built for another machine) is installed without them.
install: $(BINARY)
	install -d '$(DESTDIR)$(BINDIR)'
	install -m 755 '$(BINARY)' '$(DESTDIR)$(BINDIR)/maxpool'
	@for page in $(PAGES); do \
		section="$${page##*.}"; \
		install -d "$(DESTDIR)$(MANDIR)/man$$section"; \
		install -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$$section/"; \
		echo "install $$page"; \
	done
	@if '$(BINARY)' version >/dev/null 2>&1; then set -e; \
		for place in bash:'$(BASHDIR)/maxpool' zsh:'$(ZSHDIR)/_maxpool' fish:'$(FISHDIR)/maxpool.fish'; do \
			file="$(DESTDIR)$${place#*:}"; \
			install -d "$${file%/*}"; \
			'$(BINARY)' completions "$${place%%:*}" > "$$file"; \
			chmod 644 "$$file"; \
			echo "install completions for $${place%%:*}"; \
		done; \
	fi

# Below a DESTDIR the directories go, too, as far as they are empty.
uninstall:
	rm -f '$(DESTDIR)$(BINDIR)/maxpool' '$(DESTDIR)$(BASHDIR)/maxpool' '$(DESTDIR)$(ZSHDIR)/_maxpool' '$(DESTDIR)$(FISHDIR)/maxpool.fish'
	@for page in $(PAGES); do \
		section="$${page##*.}"; \
		rm -f "$(DESTDIR)$(MANDIR)/man$$section/$${page##*/}"; \
	done
	@if [ -n '$(DESTDIR)' ]; then \
		for directory in '$(BINDIR)' '$(BASHDIR)' '$(ZSHDIR)' '$(FISHDIR)' $(addprefix '$(MANDIR)'/man,$(sort $(subst .,,$(suffix $(PAGES))))); do \
			(cd '$(DESTDIR)' 2>/dev/null && rmdir -p ".$$directory" 2>/dev/null) || true; \
		done; \
	fi

clean:
	$(CARGO) clean

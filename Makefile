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

BINARY = target/release/maxpool
MACHINE = $(shell uname -m)
MUSL = $(MACHINE)-unknown-linux-musl
GNU = $(MACHINE)-unknown-linux-gnu
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
	@target/debug/examples/demo

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

# The program beside a direct connection, nginx and the npm package, in turns; `ARGS=--help` says what can be asked for.
bench:
	$(CARGO) build --release --locked --bin maxpool --example bench
	@target/release/examples/bench $(ARGS)

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --no-deps --document-private-items --locked
	@if [ -n '$(PAGES)' ] && command -v mandoc >/dev/null; then \
		echo mandoc -Tlint $(PAGES); mandoc -Tlint -W warning $(PAGES); fi
	$(CARGO) test --locked

# The smallest build. musl where rustup has the target (its C compiler is only needed for ring), else glibc linked in. Functions that are
# the same are folded and relocations packed, which takes rustup's own linker; frame pointers make the tables for panics smaller, functions
# are not aligned for speed, and somewhat larger ones than at opt-level z are put in their callers' place, which takes 16 KB less. A Rust
# before 1.93 has a musl that cannot read packed relocations: the last line finds that out.
SMALL = -C linker=rust-lld -C link-arg=--icf=all -C link-arg=-O2 -C link-arg=--pack-dyn-relocs=relr -C link-arg=-znoseparate-code \
	-C force-frame-pointers=yes -C llvm-args=-align-all-functions=1 -C llvm-args=-align-loops=1 -C llvm-args=-inline-threshold=12 \
	--remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)/registry/src=

static: export CARGO_PROFILE_RELEASE_OPT_LEVEL = z
static:
	@mkdir -p target/static
	@if [ -d "$$(rustc --print sysroot)/lib/rustlib/$(MUSL)" ]; then \
		set -ex; CC_$(subst -,_,$(MUSL))="$${CC:-gcc}" CFLAGS_$(subst -,_,$(MUSL))=-fno-asynchronous-unwind-tables RUSTFLAGS='$(SMALL)' \
			$(CARGO) build --release --locked --target $(MUSL); \
		cp target/$(MUSL)/release/maxpool target/static/maxpool; \
	else \
		set -ex; RUSTFLAGS='-C target-feature=+crt-static' $(CARGO) build --release --locked --target $(GNU); \
		cp target/$(GNU)/release/maxpool target/static/maxpool; \
	fi
	@ls -l target/static/maxpool
	@target/static/maxpool --version

# Builds only what is not there, so that `make && sudo make install` runs no compiler as root.
$(BINARY):
	$(CARGO) build --release --locked

# The program prints its own completions; one that cannot run here (built for another machine) is installed without them.
install: $(BINARY)
	install -d '$(DESTDIR)$(BINDIR)'
	install -m 755 $(BINARY) '$(DESTDIR)$(BINDIR)/maxpool'
	@for page in $(PAGES); do \
		section="$${page##*.}"; \
		install -d "$(DESTDIR)$(MANDIR)/man$$section"; \
		install -m 644 "$$page" "$(DESTDIR)$(MANDIR)/man$$section/"; \
		echo "install $$page"; \
	done
	@if $(BINARY) version >/dev/null 2>&1; then set -e; \
		for place in bash:'$(BASHDIR)/maxpool' zsh:'$(ZSHDIR)/_maxpool' fish:'$(FISHDIR)/maxpool.fish'; do \
			file="$(DESTDIR)$${place#*:}"; \
			install -d "$${file%/*}"; \
			$(BINARY) completions "$${place%%:*}" > "$$file"; \
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

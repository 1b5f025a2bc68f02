# make help-free on purpose: README lists the targets.
CARGO ?= cargo

.PHONY: all test check clean
all:
	$(CARGO) build --release --locked

test:
	$(CARGO) test --locked

check:
	$(CARGO) fmt --check
	$(CARGO) clippy --all-targets --locked -- -D warnings
	$(CARGO) test --locked

clean:
	$(CARGO) clean

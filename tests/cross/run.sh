#!/bin/sh
# For `make cross` (check) and `make dist` (build): the same program for each of $TARGETS.
# Usage: run.sh check|build
set -eu

cargo=${CARGO:-cargo}
out=${CARGO_TARGET_DIR:-target}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
missing=""

need() {
	missing="$missing
  $1"
}

# Names what has to be installed first, all of it at once.
for target in $TARGETS; do
	[ -d "$(rustc --print target-libdir --target "$target")" ] || need "rustup target add $target"
done
cargo-zigbuild --version >/dev/null 2>&1 ||
	need "pip install ziglang cargo-zigbuild   (a C compiler and linker for every target)"
if [ -n "$missing" ]; then
	echo "make cross and make dist need:$missing" >&2
	exit 1
fi

check() {
	for target in $TARGETS; do
		echo "check $target"
		cargo-zigbuild clippy --locked --target "$target" --bin maxpool --lib -- -D warnings
	done
}

build() {
	dist=$out/dist
	rm -rf "$dist"
	mkdir -p "$dist"
	# The completions are printed by a program for this machine: they are the same everywhere.
	"$cargo" build --locked --bin maxpool
	for target in $TARGETS; do
		echo "build $target"
		"$cargo" zigbuild --release --locked --target "$target" --bin maxpool
		name=maxpool-$version-$target
		mkdir -p "$dist/$name/completions" "$dist/$name/man"
		install -m 755 "$out/$target/release/maxpool" "$dist/$name/maxpool"
		install -m 644 LICENSE README.md "$dist/$name/"
		install -m 644 man/*.[1-8] "$dist/$name/man/"
		"$out/debug/maxpool" completions bash >"$dist/$name/completions/maxpool.bash"
		"$out/debug/maxpool" completions zsh >"$dist/$name/completions/_maxpool"
		"$out/debug/maxpool" completions fish >"$dist/$name/completions/maxpool.fish"
		# The same tree gives the same archive: names in order, no owner, one time.
		tar -C "$dist" --sort=name --owner=0 --group=0 --numeric-owner \
			--mtime="@${SOURCE_DATE_EPOCH:-0}" -cf - "$name" | gzip -n >"$dist/$name.tar.gz"
		rm -rf "${dist:?}/$name"
	done
	(cd "$dist" && sha256sum ./*.tar.gz | sed 's|\./||' >SHA256SUMS && cat SHA256SUMS)
}

case $1 in
check) check ;;
build) build ;;
*)
	echo "usage: run.sh check|build" >&2
	exit 2
	;;
esac

#!/bin/sh
# What `make soak` does: the simulator, the tests that draw by chance, and two runs of the program under load, each bounded in time.
# Smaller or larger with the variables below; what the parts have to say is at the end, all of it in soak-report beside what cargo builds.
set -u
cargo=${CARGO:-cargo}
: "${MAXPOOL_SIM_SEEDS:=200000}" "${MAXPOOL_SIM_FIRST:=0}" "${MAXPOOL_FUZZ_TIMES:=100}"
: "${MAXPOOL_CHAOS_REQUESTS:=20000}" "${MAXPOOL_SOAK_REQUESTS:=100000}"
export MAXPOOL_SIM_SEEDS MAXPOOL_SIM_FIRST MAXPOOL_FUZZ_TIMES MAXPOOL_CHAOS_REQUESTS MAXPOOL_SOAK_REQUESTS
report=${CARGO_TARGET_DIR:-target}/soak-report
failed=0

"$cargo" test --profile soak --locked --lib --test main --no-run || exit 1
mkdir -p "$report"
: >"$report/summary"

# part NAME MINUTES ARGUMENTS: of `cargo test`; keeps all it says, and of that the lines that report.
part() {
	name=$1 minutes=$2
	shift 2
	begun=$(date +%s)
	echo "soak: $name, at most $minutes minutes"
	if timeout -k 10 "${minutes}m" "$cargo" test --quiet --profile soak --locked "$@" >"$report/$name" 2>&1; then
		verdict=ok
	else
		verdict=FAILED failed=1
		tail -n 40 "$report/$name"
	fi
	{
		echo "$name: $verdict in $(($(date +%s) - begun)) s"
		sed -n 's/^soak: /  /p; s/^[0-9]* seeds, /  &/p; s/^[0-9]* requests: /  &/p; s/^test result: [a-zA-Z]*\. /  /p' "$report/$name"
	} >>"$report/summary"
}

part simulator 60 --test main -- --nocapture simulation::seeds
part chance 60 --lib -- fuzz_tests garbage agrees slow_reader finds_the_same of_a_broken skipped_to_their_end fast_search
part chaos 20 --test main -- --nocapture chaos::
part endurance 60 --test main -- --nocapture endurance::

echo
echo "$(uname -sm), $(getconf _NPROCESSORS_ONLN) processors, $(date -u +%Y-%m-%d)"
cat "$report/summary"
exit "$failed"

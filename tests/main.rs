//! The integration tests of maxpool.

mod simulation;

#[test]
fn the_crate_builds() {
    let _run: fn() -> std::process::ExitCode = maxpool::run;
}

//! The integration tests of maxpool.

#[test]
fn the_crate_builds() {
    let _run: fn() -> std::process::ExitCode = maxpool::run;
}

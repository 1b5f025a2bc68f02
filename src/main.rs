//! The `maxpool` binary: the exit code of [`maxpool::run`].

use std::process::ExitCode;

fn main() -> ExitCode {
    maxpool::run()
}

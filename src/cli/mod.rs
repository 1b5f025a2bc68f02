//! The commands of SPEC section 8: from arguments to an exit code.
//!
//! Results go to stdout, everything else to stderr; exit 0, 1 (failed) or 2 (wrong usage). This file dispatches; each
//! family of commands has its own.

mod accounts;
mod api;
mod args;
mod change;
mod completions;
mod doctor;
mod env;
mod help;
mod login;
#[cfg(test)]
mod man_tests;
mod out;
mod spec;
mod status;
mod table;
mod watch;
mod web;

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use args::{Command, StatusView};
use out::Out;

use crate::config::{Config, file};
use crate::error::Result;
use crate::run;

/// Runs what the process's arguments say.
pub(crate) fn main() -> ExitCode {
    crate::host::secrecy::begin();
    let command = args::parse(std::env::args_os().skip(1));
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let color = out::shows_color(std::env::var_os("NO_COLOR"));
    let mut context = Context {
        out: Out::new(&mut stdout, &mut stderr, color),
        variable: &|name| std::env::var_os(name),
    };
    let done = match command {
        Ok(command) => perform(&mut context, command),
        Err(misuse) => {
            context.out.remark(&format!("maxpool: {}", misuse.0));
            return ExitCode::from(EXIT_MISUSE);
        }
    };
    done.unwrap_or_else(|error| {
        context.out.remark(&error.render());
        ExitCode::FAILURE
    })
}

/// The exit code of arguments that make no sense.
const EXIT_MISUSE: u8 = 2;

/// What a command works with.
struct Context<'a> {
    out: Out<'a>,
    /// Looks into the environment.
    variable: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Context<'_> {
    /// Where the config is.
    fn config_path(&self) -> Result<PathBuf> {
        file::path(self.variable)
    }

    /// The config; defaults where there is no file yet, since reading commands create none.
    fn config(&self) -> Result<Config> {
        match file::load(&self.config_path()?) {
            Err(error) if error.io_kind() == Some(io::ErrorKind::NotFound) => Ok(Config::default()),
            loaded => loaded,
        }
    }
}

#[cfg(test)]
impl<'a> Context<'a> {
    fn for_tests(
        stdout: &'a mut Vec<u8>,
        stderr: &'a mut Vec<u8>,
        variable: &'a dyn Fn(&str) -> Option<OsString>,
    ) -> Context<'a> {
        Context { out: Out::new(stdout, stderr, false), variable }
    }
}

fn perform(context: &mut Context<'_>, command: Command) -> Result<ExitCode> {
    match command {
        Command::Server(options) => return run::serve(&options),
        Command::Run(arguments) => {
            let config = context.config()?;
            env::run(context, &config, &arguments)?;
        }
        Command::Env { with_key } => {
            // The key comes into being with the file.
            let config = if with_key {
                file::load_or_create(&context.config_path()?)?
            } else {
                context.config()?
            };
            env::env(context, &config, with_key)?;
        }
        Command::Login(options) => login::login(context, &options)?,
        Command::Import(options) => login::import(context, &options)?,
        Command::Accounts { verbose, json } => accounts::list(context, verbose, json)?,
        Command::Change(change) => change::apply(context, &change)?,
        Command::Status(StatusView::Watch) => watch::watch(context)?,
        Command::Status(view) => status::status(context, view == StatusView::Json)?,
        Command::Explain(options) => status::explain(context, &options)?,
        Command::Api(options) => return api::call(context, &options),
        Command::Doctor => return doctor::examine(context),
        Command::Completions(shell) => context.out.result(&completions::of(shell)),
        Command::Help(None) => context.out.result(&help::all()),
        Command::Help(Some(command)) => context.out.result(&help::of(command)),
        Command::Version => context.out.line(concat!("maxpool ", env!("CARGO_PKG_VERSION"))),
    }
    Ok(ExitCode::SUCCESS)
}

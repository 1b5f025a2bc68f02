//! The commands of SPEC section 8: from arguments to an exit code.
//!
//! Results go to stdout, everything else to stderr; exit 0, 1 (failed) or 2 (wrong usage). This
//! file dispatches; each family of commands has its own.

mod accounts;
mod api;
mod args;
mod change;
mod completions;
mod context;
mod doctor;
mod env;
mod explain;
mod held_signals;
mod help;
mod login;
#[cfg(test)]
mod man_tests;
mod out;
mod secrecy;
mod service;
mod spec;
mod status;
mod status_line;
mod table;
mod usage;
mod watch;
mod web;

use std::io;
use std::process::ExitCode;

use args::{Command, StatusView};
use context::Context;
use out::Out;

use crate::config::file;
use crate::error::Result;
use crate::run;

/// Runs the command in the process's arguments.
pub(crate) fn main() -> ExitCode {
    secrecy::begin();
    let command = args::parse(std::env::args_os().skip(1));
    let (mut stdout, mut stderr) = (io::stdout(), io::stderr());
    let color = out::shows_color(std::env::var_os("NO_COLOR"));
    let mut context = Context {
        out: Out::new(&mut stdout, &mut stderr, color).within(out::terminal_width()),
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

/// The exit code for invalid arguments.
const EXIT_MISUSE: u8 = 2;

fn perform(context: &mut Context<'_>, command: Command) -> Result<ExitCode> {
    match command {
        Command::Server(options) => return run::serve(&options),
        Command::Run(arguments) => {
            let config = context.config()?;
            env::run(context, &config, &arguments)?;
        }
        Command::Env { with_key } => {
            // Creating the file creates the key.
            let config = if with_key {
                file::load_or_create(&context.config_path()?)?
            } else {
                context.config()?
            };
            env::env(context, &config, with_key)?;
        }
        Command::Login(options) => login::login(context, &options)?,
        Command::Import(options) => login::import(context, &options)?,
        Command::Accounts(view) => accounts::list(context, view)?,
        Command::Change(change) => change::command(context, &change)?,
        Command::Status(StatusView::Watch) => watch::watch(context)?,
        Command::Status(StatusView::Line) => status_line::print(context),
        Command::Status(StatusView::Json) => status::json(context)?,
        Command::Status(StatusView::Text) => status::status(context)?,
        Command::Usage { days, json } => usage::usage(context, days, json)?,
        Command::Explain(options) => explain::explain(context, &options)?,
        Command::Api(options) => return api::call(context, &options),
        Command::Doctor => return doctor::examine(context),
        Command::Service(supervisor) => service::print(context, supervisor)?,
        Command::Completions(shell) => context.out.result(&completions::of(shell)),
        Command::Help(None) => context.out.result(&help::all(context.out.room())),
        Command::Help(Some(command)) => context.out.result(&help::of(command, context.out.room())),
        Command::Version => context.out.line(concat!("maxpool ", env!("CARGO_PKG_VERSION"))),
    }
    Ok(ExitCode::SUCCESS)
}

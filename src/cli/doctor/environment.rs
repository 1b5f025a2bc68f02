//! What in the environment or in Claude Code's settings decides where clients on this machine
//! connect.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Finding, fine, odd, wrong};
use crate::cli::{Context, web};
use crate::config::Config;
use crate::report::text;

const BASE_URL: &str = "ANTHROPIC_BASE_URL";

pub(super) fn environment(context: &Context<'_>, config: &Config) -> Vec<Finding> {
    let Ok(own) = web::base_url(config) else {
        return Vec::new();
    };
    let mut findings = vec![base_url(context, &own)];
    findings.extend(other_ways(context));
    let files = settings_files(context);
    findings.extend(files.iter().filter_map(|path| settings(path, &own)));
    findings
}

fn variable(context: &Context<'_>, name: &str) -> Option<OsString> {
    (context.variable)(name).filter(|value| !value.is_empty())
}

/// Where the environment directs clients.
fn base_url(context: &Context<'_>, own: &str) -> Finding {
    let Some(url) = variable(context, BASE_URL) else {
        let text = format!("{BASE_URL} is not set here; maxpool run and maxpool env set it");
        return fine("environment", text);
    };
    let url = url.to_string_lossy();
    if web::is_same_place(&url, own) {
        return fine("environment", format!("{BASE_URL} points to maxpool"));
    }
    let url = text::clean(&url, 200);
    wrong(
        "environment",
        format!("{BASE_URL} is {url}, not {own}; unset it, or run: eval \"$(maxpool env)\""),
    )
}

/// Variables that make Claude Code use another login or another API.
fn other_ways(context: &Context<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"] {
        if variable(context, name).is_some() {
            let text = format!(
                "{name} is set, so Claude Code uses it instead of its own login; unset it if you \
                do not want that"
            );
            findings.push(odd("environment", text));
        }
    }
    for name in ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"] {
        if variable(context, name).is_some_and(|value| value != "0" && value != "false") {
            findings.push(wrong(
                "environment",
                format!("{name} is set, so Claude Code does not use {BASE_URL}; unset it"),
            ));
        }
    }
    findings
}

/// The base URL in a settings file of Claude Code, if it sets one.
fn settings(path: &Path, own: &str) -> Option<Finding> {
    let settings = fs::read_to_string(path).ok()?;
    let path = path.display();
    let Ok(settings) = serde_json::from_str::<Value>(&settings) else {
        let text = format!("{path} is not valid JSON; Claude Code ignores it");
        return Some(odd("settings", text));
    };
    let url = settings.get("env")?.get(BASE_URL)?.as_str()?;
    if web::is_same_place(url, own) {
        return Some(fine("settings", format!("{path} sets {BASE_URL} to maxpool")));
    }
    let url = text::clean(url, 200);
    let text =
        format!("{path} sets {BASE_URL} to {url}, which outranks the environment; remove it");
    Some(wrong("settings", text))
}

/// Files in which Claude Code may keep environment settings.
fn settings_files(context: &Context<'_>) -> Vec<PathBuf> {
    let directory = |name: &str| variable(context, name).map(PathBuf::from);
    let user = directory("CLAUDE_CONFIG_DIR")
        .or_else(|| directory("HOME").map(|home| home.join(".claude")));
    let managed = ["/etc/claude-code", "/Library/Application Support/ClaudeCode"];
    let mut files: Vec<PathBuf> = managed
        .iter()
        .map(|directory| Path::new(directory).join("managed-settings.json"))
        .collect();
    // In the home directory, user and project settings are the same.
    let project = Some(PathBuf::from(".claude"))
        .filter(|own| user.as_ref().is_none_or(|user| !is_same(own, user)));
    for directory in user.into_iter().chain(project) {
        files.extend(["settings.json", "settings.local.json"].map(|name| directory.join(name)));
    }
    files
}

fn is_same(one: &Path, other: &Path) -> bool {
    matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}

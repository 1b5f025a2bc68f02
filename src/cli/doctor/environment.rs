//! What in the environment or in Claude Code's settings decides where clients on this machine go.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{Finding, fine, odd, wrong};
use crate::cli::{Context, web};
use crate::config::Config;
use crate::report::text;

pub(super) fn environment(context: &Context<'_>, config: &Config) -> Vec<Finding> {
    const BASE_URL: &str = "ANTHROPIC_BASE_URL";
    let variable = |name: &str| (context.variable)(name).filter(|value| !value.is_empty());
    let Ok(own) = web::base_url(config) else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    let is_own = |url: &str| web::is_same_place(url, &own);
    match variable(BASE_URL).map(|value| value.to_string_lossy().into_owned()) {
        Some(url) if is_own(&url) => {
            findings.push(fine("environment", format!("{BASE_URL} points to maxpool")))
        }
        Some(url) => findings.push(wrong(
            "environment",
            format!(
                "{BASE_URL} is {}, not {own}; unset it, or run: eval \"$(maxpool env)\"",
                text::clean(&url, 200)
            ),
        )),
        None => findings.push(fine(
            "environment",
            format!("{BASE_URL} is not set here; maxpool run and maxpool env set it"),
        )),
    }
    for name in ["ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"] {
        if variable(name).is_some() {
            let text = format!(
                "{name} is set, so Claude Code uses it instead of its own login; unset it if you \
                do not want that"
            );
            findings.push(odd("environment", text));
        }
    }
    for name in ["CLAUDE_CODE_USE_BEDROCK", "CLAUDE_CODE_USE_VERTEX", "CLAUDE_CODE_USE_FOUNDRY"] {
        if variable(name).is_some_and(|value| value != "0" && value != "false") {
            findings.push(wrong(
                "environment",
                format!("{name} is set, so Claude Code does not use {BASE_URL}; unset it"),
            ));
        }
    }
    for path in settings_files(context) {
        let Ok(text) = fs::read_to_string(&path) else {
            continue;
        };
        let Ok(settings) = serde_json::from_str::<Value>(&text) else {
            findings.push(odd(
                "settings",
                format!("{} is not valid JSON; Claude Code ignores it", path.display()),
            ));
            continue;
        };
        let Some(url) =
            settings.get("env").and_then(|env| env.get(BASE_URL)).and_then(Value::as_str)
        else {
            continue;
        };
        findings.push(if is_own(url) {
            fine("settings", format!("{} sets {BASE_URL} to maxpool", path.display()))
        } else {
            let url = text::clean(url, 200);
            wrong(
                "settings",
                format!(
                    "{} sets {BASE_URL} to {url}, which outranks the environment; remove it",
                    path.display()
                ),
            )
        });
    }
    findings
}

/// Where Claude Code keeps settings that may hold an environment.
fn settings_files(context: &Context<'_>) -> Vec<PathBuf> {
    let variable =
        |name: &str| (context.variable)(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let user =
        variable("CLAUDE_CONFIG_DIR").or_else(|| variable("HOME").map(|home| home.join(".claude")));
    let managed = ["/etc/claude-code", "/Library/Application Support/ClaudeCode"];
    let mut files: Vec<PathBuf> = managed
        .iter()
        .map(|directory| Path::new(directory).join("managed-settings.json"))
        .collect();
    // Started at home, both are one.
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

//! Whether refreshed tokens can be stored, and whether they are safe in transit (SPEC A5, T7).

use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use super::finding::{Finding, fine, odd, wrong};
use crate::config::{BaseUrl, file, rescue};
use crate::net::proxies::is_loopback;

/// What a full disk, a lock that is held, a file that is a mount of its own and a directory that
/// cannot be written prevent, told without changing the config.
pub(super) fn storage(path: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    match file::probe(path, LOCK_WAIT) {
        Ok(true) => findings.push(fine("storage", "the config can be locked and replaced")),
        Ok(false) => findings.push(odd(
            "storage",
            "the config can be replaced, but its file system does not support locks; run only one \
            maxpool with it",
        )),
        Err(error) => {
            // The others say what to do.
            let is_of_the_system = error.io_kind().is_some_and(|kind| kind != ErrorKind::Other);
            let advice = match is_of_the_system {
                true => {
                    "; free some disk space, or make the file and its directory writable by you"
                }
                false => "",
            };
            let text = format!("renewed tokens cannot be stored: {error}{advice}");
            findings.push(wrong("storage", text));
        }
    }
    if rescue::has_pairs(path) {
        findings.push(odd(
            "storage",
            "a rescue file holds tokens that could not be written to the config; they are in use, \
            and will be moved into the config as soon as it can be written; do not delete that \
            file",
        ));
    }
    findings
}

/// Warns of an upstream whose traffic anybody on the way can read.
pub(super) fn unencrypted(url: &BaseUrl) -> Option<Finding> {
    let uri: ureq::http::Uri = url.as_str().parse().ok()?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let is_open = uri.scheme_str() == Some("http") && !is_loopback(host);
    is_open.then(|| {
        let text = format!(
            "{} is not encrypted: credentials and prompts can be read in transit; use https",
            url.as_str()
        );
        odd("TLS", text)
    })
}

/// Nobody holds the config's lock longer than a write takes.
const LOCK_WAIT: Duration = Duration::from_secs(3);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_upstream_without_tls_is_told_unless_it_is_this_machine() {
        for (url, is_told) in [
            ("http://api.example.com", true),
            ("http://10.0.0.7:8080/base", true),
            ("https://api.example.com", false),
            ("http://127.0.0.1:9", false),
            ("http://[::1]:9", false),
            ("http://localhost:9", false),
        ] {
            assert_eq!(unencrypted(&BaseUrl::parse(url).unwrap()).is_some(), is_told, "{url}");
        }
    }
}

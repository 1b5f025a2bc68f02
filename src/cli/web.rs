//! HTTP calls of commands: to the running server, and to upstreams through [`crate::net`].

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Context;
use crate::account::http::{Http, HttpCall, HttpFailure, HttpPhase, HttpReply, percent_encoded};
use crate::account::wire;
use crate::config::{Config, Secret};
use crate::error::{Error, Result};
use crate::net::{self, ProxyPolicy, tls};
use crate::proxy::context::proxies;

/// An HTTP client that uses the proxy and the certificates of config and environment.
pub(super) fn http(context: &Context<'_>, config: &Config) -> Result<Arc<Http>> {
    let extra = (context.variable)("SSL_CERT_FILE").filter(|path| !path.is_empty());
    let tls = tls::client_config(extra.as_ref().map(Path::new)).map_err(Error::operator)?;
    let proxies = proxies(config).map_err(Error::operator)?;
    Ok(wire::http(net::agent(tls, proxies)))
}

/// The server that runs with this config, reached over its local routes.
pub(super) struct Server {
    http: Arc<Http>,
    base: String,
    key: Option<Secret>,
}

/// Whether the server runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// maxpool answers.
    Running,
    /// Nothing listens.
    Absent,
    /// Something else answers, or nothing answers in time: what happened.
    Strange(String),
}

/// Local answers are immediate; status with many accounts may take a moment on a busy machine.
const LOCAL_TIMEOUT: Duration = Duration::from_secs(10);
/// A refresh waits for the token endpoint, and perhaps for a lock.
const REFRESH_TIMEOUT: Duration = Duration::from_secs(90);
/// Most bytes read of a local answer.
const LOCAL_BYTES_MAX: usize = 64 * 1024 * 1024;

impl Server {
    /// The server of this config. Nothing is sent yet.
    pub(super) fn of(config: &Config) -> Result<Server> {
        // Our own server is never behind a proxy, and uses no TLS.
        let tls = tls::client_config(None).map_err(Error::ours)?;
        Ok(Server {
            http: wire::http(net::agent(tls, ProxyPolicy::direct())),
            base: base_url(config)?,
            key: config.proxy.api_key.clone(),
        })
    }

    /// `http://127.0.0.1:3456`.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// Checks whether it runs.
    pub(super) fn presence(&self) -> Presence {
        match self.call(LOCAL_TIMEOUT, "GET", "/maxpool/health", None) {
            Ok(reply) if reply.status == 200 && is_health(&reply.body) => Presence::Running,
            Ok(reply) => Presence::Strange(format!(
                "something other than maxpool answers at {} (status {})",
                self.base, reply.status
            )),
            Err(failure) if failure.phase == HttpPhase::Connect => Presence::Absent,
            Err(failure) => {
                Presence::Strange(format!("{} gave no answer: {}", self.base, failure.cause))
            }
        }
    }

    /// Calls a route that answers with JSON; any status other than 200 is an error with the
    /// server's own message.
    pub(super) fn json(
        &self,
        method: &'static str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Vec<u8>> {
        self.json_within(LOCAL_TIMEOUT, method, path, body)
    }

    fn json_within(
        &self,
        timeout: Duration,
        method: &'static str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Vec<u8>> {
        let reply =
            self.call(timeout, method, path, body).map_err(|failure| match failure.phase {
                HttpPhase::Connect => Error::operator(format!(
                    "no proxy answers at {} ({}); start it with: maxpool server",
                    self.base, failure.cause
                )),
                HttpPhase::MayHaveArrived => Error::operator(format!(
                    "{}{path} gave no answer: {}; see: maxpool doctor",
                    self.base, failure.cause
                )),
            })?;
        if reply.status == 200 {
            return Ok(reply.body);
        }
        Err(Error::operator(match message_of(&reply.body) {
            Some(message) => message,
            None => {
                format!(
                    "{}{path} answered with status {}; is it maxpool? See: maxpool doctor",
                    self.base, reply.status
                )
            }
        }))
    }

    /// Makes the server refresh an account's expired token.
    pub(super) fn refresh(&self, name: &str) -> Result<()> {
        let path = format!("/maxpool/accounts/{}/refresh", percent_encoded(name));
        self.json_within(REFRESH_TIMEOUT, "POST", &path, None).map(|_| ())
    }

    fn call(
        &self,
        timeout: Duration,
        method: &'static str,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> std::result::Result<HttpReply, HttpFailure> {
        let mut headers = Vec::new();
        if let Some(key) = &self.key {
            headers.push(("x-api-key", key.expose().to_owned()));
        }
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let call = HttpCall {
            method,
            url: format!("{}{path}", self.base),
            headers,
            // A POST needs an explicitly empty body.
            body: match body {
                Some(body) => Some(body.to_string().into_bytes()),
                None => (method == "POST").then(Vec::new),
            },
            timeout,
            reply_bytes_max: LOCAL_BYTES_MAX,
        };
        (self.http)(call)
    }
}

/// Whether this is the answer of `/maxpool/health`.
fn is_health(body: &[u8]) -> bool {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    document.is_some_and(|document| {
        document.get("version").is_some() && document.get("status").is_some()
    })
}

/// `error.message` of an error in the API's format.
pub(super) fn message_of(body: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    let message = document.get("error")?.get("message")?.as_str()?;
    Some(message.to_owned())
}

/// The server's address for clients on this machine.
pub(super) fn base_url(config: &Config) -> Result<String> {
    if config.proxy.port == 0 {
        return Err(Error::operator(
            "proxy.port is 0, so the port changes with each start; set a fixed port in the config",
        ));
    }
    let host = match config.proxy.host.as_str() {
        "0.0.0.0" | "*" => "127.0.0.1",
        "::" | "[::]" => "::1",
        host => host,
    };
    let host = if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    };
    Ok(format!("http://{host}:{}", config.proxy.port))
}

/// Whether a URL leads to our server, under whatever name for loopback.
pub(super) fn is_same_place(url: &str, own: &str) -> bool {
    let place = |url: &str| {
        let uri: ureq::http::Uri = url.parse().ok()?;
        let host = uri.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let is_loopback = host == "localhost"
            || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        let host = if is_loopback { "loopback".to_owned() } else { host };
        Some((uri.scheme_str()?.to_owned(), host, uri.port_u16()))
    };
    place(url).is_some() && place(url) == place(own)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn clients_find_the_server_on_this_machine() {
        for (host, port, url) in [
            ("127.0.0.1", 3456, "http://127.0.0.1:3456"),
            ("0.0.0.0", 1, "http://127.0.0.1:1"),
            ("::", 1, "http://[::1]:1"),
            ("::1", 1, "http://[::1]:1"),
            ("[::1]", 1, "http://[::1]:1"),
            ("box.lan", 80, "http://box.lan:80"),
        ] {
            let mut config = Config::default();
            config.proxy.host = host.to_owned();
            config.proxy.port = port;
            assert_eq!(base_url(&config).unwrap(), url);
        }
        let mut config = Config::default();
        config.proxy.port = 0;
        assert!(base_url(&config).unwrap_err().to_string().contains("proxy.port is 0"));
    }
}

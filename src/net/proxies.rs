//! Which upstream is reached through which proxy (SPEC A2 `upstreamProxy`, `HTTPS_PROXY`,
//! `ALL_PROXY`, `NO_PROXY`).
//!
//! A proxy from the environment is never used for a loopback upstream; a configured one is used for
//! every upstream. The proxy is asked with CONNECT, so it never sees a request.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use ureq::http::Uri;

/// An HTTP proxy that is used with CONNECT.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct HttpProxy {
    /// Host name or address, without brackets.
    pub(crate) host: String,
    /// TCP port; 80 if the URL names none.
    pub(crate) port: u16,
    /// `user:password` from the URL, percent-decoded.
    pub(crate) userinfo: Option<String>,
}

impl fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}", self.host, self.port)
    }
}

impl HttpProxy {
    /// Parses a proxy URL: `http://[user[:password]@]host[:port]`; the scheme may be omitted.
    ///
    /// # Errors
    /// What is wrong with it, without the URL (it may hold a password).
    pub(crate) fn parse(url: &str) -> Result<HttpProxy, String> {
        let rest = match url.split_once("://") {
            None => url,
            Some(("http", rest)) => rest,
            Some((scheme, _)) => {
                return Err(format!(
                    "proxies with the scheme {scheme} are not supported; use http://host:port"
                ));
            }
        };
        let rest = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (userinfo, address) = match rest.rsplit_once('@') {
            Some((userinfo, address)) => {
                (Some(percent_decode_str(userinfo).decode_utf8_lossy().into_owned()), address)
            }
            None => (None, rest),
        };
        let (host, port) =
            split_port(address).ok_or("a proxy must have the form http://host:port")?;
        Ok(HttpProxy { host: host.to_owned(), port: port.unwrap_or(80), userinfo })
    }
}

/// Decides for each upstream whether it is reached through a proxy.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProxyPolicy {
    https: Option<HttpProxy>,
    http: Option<HttpProxy>,
    none: Vec<String>,
    loopback: Loopback,
}

/// Whether upstreams on this machine are reached through a proxy too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Loopback {
    /// A proxy elsewhere could not reach them.
    #[default]
    Direct,
    /// The user said so.
    Proxied,
}

impl ProxyPolicy {
    /// Every upstream is reached directly (`upstreamProxy: false`).
    pub(crate) fn direct() -> ProxyPolicy {
        ProxyPolicy::default()
    }

    /// Every upstream goes through `proxy` (`upstreamProxy: URL`).
    pub(crate) fn always(proxy: HttpProxy) -> ProxyPolicy {
        ProxyPolicy {
            https: Some(proxy.clone()),
            http: Some(proxy),
            none: Vec::new(),
            loopback: Loopback::Proxied,
        }
    }

    /// The policy of the environment; `variable` looks a variable up, and lower-case names count
    /// too.
    ///
    /// # Errors
    /// Names the variable that cannot be used.
    pub(crate) fn from_env(
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<ProxyPolicy, String> {
        let either = |upper: &str| {
            variable(upper)
                .or_else(|| variable(&upper.to_lowercase()))
                .filter(|value| !value.trim().is_empty())
        };
        let read = |name: &str| match either(name) {
            Some(url) => {
                HttpProxy::parse(url.trim()).map(Some).map_err(|why| format!("{name}: {why}"))
            }
            None => Ok(None),
        };
        let all = read("ALL_PROXY")?;
        let https = read("HTTPS_PROXY")?.or_else(|| all.clone());
        let none = either("NO_PROXY").unwrap_or_default();
        let none = none
            .split(',')
            .map(|name| name.trim().to_ascii_lowercase())
            .filter(|name| !name.is_empty());
        Ok(ProxyPolicy { https, http: all, none: none.collect(), loopback: Loopback::Direct })
    }

    /// The proxy for `upstream`, if one applies.
    pub(crate) fn proxy_for(&self, upstream: &Uri) -> Option<&HttpProxy> {
        let proxy = match upstream.scheme_str() {
            Some("https") => self.https.as_ref(),
            _ => self.http.as_ref(),
        }?;
        let host = upstream.host()?.trim_matches(['[', ']']).to_ascii_lowercase();
        let exempt = self.loopback == Loopback::Direct && is_loopback(&host)
            || self.none.iter().any(|rule| exempts(rule, &host));
        (!exempt).then_some(proxy)
    }
}

pub(crate) fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One element of `NO_PROXY`: `*`, a name, a domain with or without a leading dot; a port is
/// ignored.
fn exempts(rule: &str, host: &str) -> bool {
    if rule == "*" {
        return true;
    }
    let rule = split_port(rule).map_or(rule, |(name, _)| name);
    let rule = rule.trim_start_matches("*.").trim_start_matches('.');
    host == rule
        || host.strip_suffix(rule).is_some_and(|head| head.ends_with('.') && !rule.is_empty())
}

/// `host[:port]` or `[v6][:port]`; `None` if the port is not a number or the host is empty.
fn split_port(address: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match address.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => (address, None),
            Some((host, port)) => (host, Some(port)),
            None => (address, None),
        }
    };
    let port = match port {
        Some(port) => Some(port.parse().ok()?),
        None => None,
    };
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(pairs: &[(&str, &str)]) -> Result<ProxyPolicy, String> {
        ProxyPolicy::from_env(|name| {
            pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_proxy_applies_by_scheme_and_never_to_loopback() {
        let env = policy(&[
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("NO_PROXY", "internal.example,.corp, 10.0.0.1"),
        ]);
        let env = env.expect("a valid environment");
        let rows = [
            ("https://api.anthropic.com/v1", true),
            ("http://api.anthropic.com/v1", false),
            ("https://127.0.0.1:8443/", false),
            ("https://[::1]:8443/", false),
            ("https://localhost/", false),
            ("https://internal.example/", false),
            ("https://a.internal.example/", false),
            ("https://notinternal.example/", true),
            ("https://x.corp/", false),
            ("https://10.0.0.1/", false),
        ];
        for (uri, proxied) in rows {
            let parsed: Uri = uri.parse().expect("a valid URI");
            assert_eq!(env.proxy_for(&parsed).is_some(), proxied, "{uri}");
        }
    }

    #[test]
    fn urls_are_read_strictly_and_errors_hide_them() {
        let with_user = HttpProxy::parse("http://me:p%40ss@[::1]:8080/").expect("a valid URL");
        assert_eq!((with_user.host.as_str(), with_user.port), ("::1", 8080));
        assert_eq!(with_user.userinfo.as_deref(), Some("me:p@ss"));
        assert_eq!(format!("{with_user:?}"), "http://::1:8080");
        assert_eq!(HttpProxy::parse("proxy").map(|proxy| proxy.port), Ok(80));
        for bad in ["socks5://secret@host:1", "http://", "host:notaport"] {
            let error = HttpProxy::parse(bad).expect_err(bad);
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(
            policy(&[("ALL_PROXY", "socks5://h:1")])
                .expect_err("unsupported")
                .starts_with("ALL_PROXY: ")
        );
    }
}

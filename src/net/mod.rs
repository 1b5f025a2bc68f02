//! Outgoing connections: name look-up, TCP, upstream proxies, TLS, and the HTTP agent over them.
//!
//! Everything runs on the calling thread and never blocks on a single event: the user of the
//! [`Agent`] installs a [`wait::Waiter`] for its thread, and every wait of a connection (look-up,
//! connect, handshake, send, receive) goes through it. The module knows nothing of accounts and
//! requests.
//!
//! OAuth, the commands and the proxy all connect this way, with the same CA certificates and the
//! same upstream proxies.

mod idle;
pub(crate) mod proxies;
pub(crate) mod resolve;
pub(crate) mod socket;
#[cfg(test)]
mod tests;
pub(crate) mod tls;
pub(crate) mod transport;
mod tunnel;
pub(crate) mod wait;

use std::sync::Arc;

use rustls::ClientConfig;
use ureq::config::AutoHeaderValue;

pub(crate) use proxies::ProxyPolicy;
pub(crate) use ureq::Agent;

/// Larger response heads are refused.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

/// An HTTP/1.1 client that keeps its own idle connections.
///
/// It follows no redirects, adds no header except `host` and the framing, decodes nothing, and
/// returns every status as an answer.
pub(crate) fn agent(tls: Arc<ClientConfig>, proxies: ProxyPolicy) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .user_agent(AutoHeaderValue::None)
        .accept(AutoHeaderValue::None)
        .accept_encoding(AutoHeaderValue::None)
        .allow_non_standard_methods(true)
        .proxy(None)
        .max_response_header_size(RESPONSE_HEAD_BYTES_MAX)
        // [`idle`] keeps them.
        .max_idle_connections(0)
        .max_idle_age(idle::AGE_MAX)
        .build();
    let proxies = Arc::new(proxies);
    let resolver = resolve::CachedResolver::new(Arc::clone(&proxies));
    Agent::with_parts(config, transport::WireConnector::new(tls, proxies), resolver)
}

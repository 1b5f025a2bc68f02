//! The listening socket: one that this process inherited, or a new one.

use std::net::{IpAddr, SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::host::restart::Origin;
use crate::proxy::reply;
use crate::server::{self, Bounds};

/// Refuses to open a proxy that anybody in the network could use without a key (SPEC P2).
fn refuse_open_door(config: &Config, passed: Option<&TcpListener>) -> Result<()> {
    let named = || match config.proxy.host.parse::<IpAddr>() {
        Ok(ip) => ip.to_canonical().is_loopback(),
        Err(_) => config.proxy.host.eq_ignore_ascii_case("localhost"),
    };
    let (loopback, host) = match passed.and_then(|socket| socket.local_addr().ok()) {
        Some(address) => (address.ip().to_canonical().is_loopback(), address.ip().to_string()),
        None => (named(), config.proxy.host.clone()),
    };
    if loopback || config.proxy.api_key.is_some() {
        return Ok(());
    }
    Err(Error::operator(format!(
        "proxy.host is {host}, which others can reach, and proxy.apiKey is empty; set a key, or \
         proxy.host to 127.0.0.1"
    )))
}

/// The socket to serve: the inherited one if it still matches the config, or a new one.
pub(super) fn listen(
    config: &Config,
    passed: Option<OwnedFd>,
    origin: Origin,
) -> Result<TcpListener> {
    let passed = passed.map(TcpListener::from);
    let supervised = passed.as_ref().filter(|_| origin == Origin::Supervisor);
    refuse_open_door(config, supervised)?;
    let addresses = addresses(config)?;
    let wanted = |socket: &TcpListener| {
        let Ok(has) = socket.local_addr() else {
            return false;
        };
        let port = config.proxy.port;
        (port == 0 || has.port() == port)
            && addresses.iter().any(|address| address.ip() == has.ip())
    };
    match passed {
        Some(socket) if origin == Origin::Supervisor || wanted(&socket) => {
            server::prepare(&socket).map_err(|error| {
                Error::ours(format!("the listening socket cannot be used: {error}"))
            })?;
            Ok(socket)
        }
        Some(_) | None => bind(config, addresses),
    }
}

fn addresses(config: &Config) -> Result<Vec<SocketAddr>> {
    let (host, port) = (config.proxy.host.as_str(), config.proxy.port);
    let found = (host, port).to_socket_addrs().map_err(|error| {
        Error::operator(format!("proxy.host {host} cannot be looked up: {error}"))
    })?;
    Ok(found.collect())
}

fn bind(config: &Config, addresses: Vec<SocketAddr>) -> Result<TcpListener> {
    let mut last = None;
    for address in addresses {
        match server::bind(address) {
            Ok(socket) => return Ok(socket),
            Err(error) => last = Some((address, error)),
        }
    }
    let Some((address, error)) = last else {
        return Err(Error::operator(format!("proxy.host {} has no address", config.proxy.host)));
    };
    let what = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "the port is in use, perhaps by another maxpool; stop it, or choose another proxy.port"
                .to_owned()
        }
        std::io::ErrorKind::PermissionDenied => {
            "permission denied; choose a proxy.port above 1023".to_owned()
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "this machine has no such address; correct proxy.host".to_owned()
        }
        _ => error.to_string(),
    };
    Err(Error::operator(format!("cannot listen on {address}: {what}")))
}

/// The listener's limits.
pub(super) fn bounds(config: &Config) -> Bounds {
    Bounds {
        connections: match config.proxy.connections_max {
            0 => usize::MAX,
            count => count,
        },
        client: config.timeouts.client,
        crowded: reply::on_the_wire(&reply::crowded()),
    }
}

//! Name look-up with a cache, on a helper thread so that the wait for it can be cancelled.
//!
//! An address in the URL is used at once. A name is looked up at most once a minute; if a look-up
//! fails, the previous addresses stay in use.

use std::collections::HashMap;
use std::fmt;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use ureq::Error;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::NextTimeout;

use super::proxies::ProxyPolicy;
use super::wait::{self, Phase, Ready};
use crate::clock;
use crate::scheduler::time::Mono;

/// How long a look-up stays valid.
const FRESH: Duration = Duration::from_secs(60);
/// If a look-up takes longer than this, the previous addresses are used: a silent name server must
/// not consume the whole connect timeout.
const STALE_AFTER: Duration = Duration::from_secs(2);
/// Names in the cache; there are few upstreams.
const NAMES_MAX: usize = 64;
/// Addresses tried for each name.
const ADDRESSES_MAX: usize = 8;
/// Stack of a look-up thread: the C library's resolver needs little.
const STACK_BYTES: usize = 256 * 1024;

/// A failed look-up. It is a local failure, so no account is to blame (SPEC P7).
#[derive(Debug)]
pub(crate) struct LookupFailed {
    pub(crate) host: String,
    /// The system's error text.
    pub(crate) why: String,
}

impl fmt::Display for LookupFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot resolve the name {}: {}", self.host, self.why)
    }
}

impl std::error::Error for LookupFailed {}

impl LookupFailed {
    /// The failed look-up inside an error of the HTTP client.
    pub(crate) fn of(error: &Error) -> Option<&LookupFailed> {
        match error {
            Error::Io(error) => error.get_ref()?.downcast_ref::<LookupFailed>(),
            _ => None,
        }
    }
}

struct Known {
    addresses: Vec<SocketAddr>,
    at: Mono,
}

/// The HTTP agent's resolver.
pub(crate) struct CachedResolver {
    proxies: Arc<ProxyPolicy>,
    known: Arc<Mutex<HashMap<(String, u16), Known>>>,
}

impl fmt::Debug for CachedResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CachedResolver")
    }
}

impl CachedResolver {
    /// A resolver with an empty cache; names behind a proxy are left to the proxy.
    pub(crate) fn new(proxies: Arc<ProxyPolicy>) -> CachedResolver {
        CachedResolver { proxies, known: Arc::default() }
    }

    fn lookup(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let key = (host.to_owned(), port);
        let now = clock::mono();
        if let Some(known) = self.lock().get(&key)
            && now.since(known.at) < FRESH
        {
            return Ok(known.addresses.clone());
        }
        let known_before = self.lock().get(&key).map(|known| known.addresses.clone());
        let pause = known_before.as_ref().map(|_| STALE_AFTER);
        match look_up_cancellable(&key, pause) {
            Ok(addresses) => {
                let mut known = self.lock();
                if known.len() >= NAMES_MAX {
                    known.clear();
                }
                known.insert(key, Known { addresses: addresses.clone(), at: now });
                Ok(addresses)
            }
            Err(error) if wait::Stop::of_io(&error).is_some() => Err(Error::Io(error)),
            Err(error) => match known_before {
                Some(stale) => Ok(stale),
                None => {
                    let failed = LookupFailed { host: host.to_owned(), why: error.to_string() };
                    Err(Error::Io(io::Error::other(failed)))
                }
            },
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, u16), Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Resolver for CachedResolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        _timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let found = match self.proxies.proxy_for(uri) {
            Some(proxy) => self.lookup(&proxy.host, proxy.port)?,
            None => {
                let host = uri.host().ok_or(Error::HostNotFound)?.trim_matches(['[', ']']);
                let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") {
                    443
                } else {
                    80
                });
                self.lookup(host, port)?
            }
        };
        let mut addresses = self.empty();
        for address in found.into_iter().take(ADDRESSES_MAX) {
            addresses.push(address);
        }
        Ok(addresses)
    }
}

/// Runs `getaddrinfo` on its own thread while the calling thread waits as its waiter allows. An
/// abandoned look-up ends by itself when the system's resolver gives up.
fn look_up_cancellable(
    key: &(String, u16),
    pause: Option<Duration>,
) -> io::Result<Vec<SocketAddr>> {
    let (mut done, finish) = io::pipe()?;
    let result: Arc<Mutex<Option<io::Result<Vec<SocketAddr>>>>> = Arc::default();
    let slot = Arc::clone(&result);
    let (host, port) = key.clone();
    thread::Builder::new().name("lookup".into()).stack_size(STACK_BYTES).spawn(move || {
        let found = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        *slot.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        drop(finish);
    })?;
    let mut fds = [PollFd::from_borrowed_fd(done.as_fd(), PollFlags::IN)];
    if wait::current().wait(&mut fds, Phase::Connect, pause)? == Ready::Pause {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let _end_of_file = done.read(&mut [0])?;
    match result.lock().unwrap_or_else(PoisonError::into_inner).take() {
        Some(Ok(addresses)) if addresses.is_empty() => Err(io::Error::other("no address")),
        Some(found) => found,
        None => Err(io::Error::other("the look-up gave no result")),
    }
}

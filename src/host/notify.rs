//! The supervisor protocols: readiness (`NOTIFY_SOCKET`), a watchdog, and an inherited socket
//! (`LISTEN_FDS`).
//!
//! Both are systemd's protocols, which other supervisors speak too; see sd_notify(3) and
//! sd_listen_fds(3). A supervisor that cannot be reached is not an error.

use std::net::TcpListener;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use rustix::net::{SendFlags, SocketAddrUnix, sendto};

use crate::clock;
use crate::error::{Error, Result};
use crate::platform;

/// The variables of both protocols. They are meant for one process only.
pub(crate) const VARIABLES: [&str; 6] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
];

/// The first descriptor that a supervisor passes.
const LISTEN_FDS_START: RawFd = 3;

/// The connection to the supervisor, if there is one.
pub(crate) struct Supervisor {
    way: Option<(OwnedFd, SocketAddrUnix)>,
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The supervisor that the environment names.
    pub(crate) fn of_environment(variable: &dyn Fn(&str) -> Option<String>) -> Supervisor {
        let way = variable("NOTIFY_SOCKET").and_then(|name| {
            Some((platform::local_datagram_socket().ok()?, platform::notify_address(&name)?))
        });
        let meant = is_for_us(variable("WATCHDOG_PID").as_deref()).unwrap_or(true);
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| meant)
            .and_then(|span| span.parse().ok())
            .filter(|span| *span > 0)
            .map(Duration::from_micros);
        Supervisor { watchdog: watchdog.filter(|_| way.is_some()), way }
    }

    /// How often the supervisor expects a sign of life.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    /// `READY=1`: everything is in order.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// `RELOADING=1`: settings or processes change; [`Supervisor::ready`] follows.
    pub(crate) fn reloading(&self) {
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={}\nSTATUS=reloading",
            clock::monotonic_us()
        ));
    }

    /// `STOPPING=1`.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=finishing running requests");
    }

    /// `WATCHDOG=1`: alive.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    fn tell(&self, text: &str) {
        if let Some((socket, address)) = &self.way {
            // A supervisor that does not listen needs nothing.
            let _ = sendto(socket, text.as_bytes(), SendFlags::DONTWAIT, address);
        }
    }
}

/// The listening socket that the supervisor opened for this process, if any.
///
/// # Errors
/// The passed socket cannot be used. It occupies the port, so starting would fail anyway.
pub(crate) fn passed_socket(variable: &dyn Fn(&str) -> Option<String>) -> Result<Option<OwnedFd>> {
    if is_for_us(variable("LISTEN_PID").as_deref()) != Some(true) {
        return Ok(None);
    }
    let count: usize = match variable("LISTEN_FDS").and_then(|count| count.parse().ok()) {
        None | Some(0) => return Ok(None),
        Some(count) => count,
    };
    if count > 1 {
        return Err(Error::operator(format!(
            "LISTEN_FDS is {count}, but only one listening socket is supported; keep one \
             ListenStream= in the socket unit"
        )));
    }
    let socket = platform::inherited_listener(LISTEN_FDS_START).map_err(|why| {
        let advice = "check ListenStream= in the socket unit, or start without socket activation";
        Error::operator(format!("LISTEN_FDS: {why}; {advice}"))
    })?;
    let listener = TcpListener::from(socket);
    if listener.local_addr().is_err() {
        return Err(Error::operator(
            "LISTEN_FDS: the passed socket is not a TCP socket; check ListenStream= in the socket \
             unit",
        ));
    }
    Ok(Some(listener.into()))
}

/// Whether a variable that names a process names this one; `None` if it is not set.
fn is_for_us(pid: Option<&str>) -> Option<bool> {
    let pid: u32 = pid?.parse().ok()?;
    Some(pid == std::process::id())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn with<'a>(pairs: &'a [(&'a str, String)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| {
            let found = pairs.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| value.clone())
        }
    }

    #[cfg(all(target_os = "linux", not(portable)))]
    #[test]
    fn an_abstract_name_is_an_address() {
        use std::os::linux::net::SocketAddrExt as _;

        let name = format!("maxpool-test-{}", std::process::id());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Supervisor::of_environment(&with(&[("NOTIFY_SOCKET", format!("@{name}"))])).alive();
        let mut buffer = [0; 64];
        let count = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..count], b"WATCHDOG=1");
    }

    #[test]
    fn a_socket_with_a_path_hears_each_step() {
        let folder = crate::testing::scratch::Scratch::new();
        let path = folder.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let name = path.display().to_string();
        let supervisor = Supervisor::of_environment(&with(&[("NOTIFY_SOCKET", name)]));
        supervisor.ready();
        supervisor.reloading();
        supervisor.stopping();
        supervisor.alive();
        let hear = || {
            let mut buffer = [0; 256];
            let count = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..count].to_vec()).unwrap()
        };
        assert_eq!(hear(), "READY=1\nSTATUS=serving");
        let reloading = hear();
        let digits = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(digits.split('\n').next().unwrap().parse::<u64>().unwrap() > 0);
        assert!(hear().starts_with("STOPPING=1\n"));
        assert_eq!(hear(), "WATCHDOG=1");
        assert_eq!(supervisor.watchdog(), None);
    }

    #[test]
    fn a_supervisor_that_is_gone_or_absent_is_no_error() {
        Supervisor::of_environment(&with(&[])).ready();
        let gone = [("NOTIFY_SOCKET", "/nonexistent/notify".to_owned())];
        Supervisor::of_environment(&with(&gone)).ready();
    }

    #[test]
    fn the_watchdog_is_for_the_process_that_it_names() {
        let us = std::process::id();
        let rows = [
            (us.to_string(), "3000000", Some(Duration::from_secs(3))),
            ((us + 1).to_string(), "3000000", None),
            (us.to_string(), "0", None),
            (us.to_string(), "soon", None),
        ];
        for (pid, span, expected) in rows {
            let pairs = [
                ("NOTIFY_SOCKET", "/nonexistent/notify".to_owned()),
                ("WATCHDOG_PID", pid),
                ("WATCHDOG_USEC", span.to_owned()),
            ];
            let supervisor = Supervisor::of_environment(&with(&pairs));
            assert_eq!(supervisor.watchdog(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn sockets_for_another_process_are_not_touched() {
        let us = std::process::id();
        let rows = [
            (None, None),
            (Some((us + 1).to_string()), Some("1")),
            (Some(us.to_string()), None),
            (Some(us.to_string()), Some("0")),
            (Some("x".to_owned()), Some("1")),
        ];
        for (pid, count) in rows {
            let mut pairs = Vec::new();
            pairs.extend(pid.map(|pid| ("LISTEN_PID", pid)));
            pairs.extend(count.map(|count| ("LISTEN_FDS", count.to_owned())));
            assert!(passed_socket(&with(&pairs)).unwrap().is_none(), "{pairs:?}");
        }
        let two = [("LISTEN_PID", us.to_string()), ("LISTEN_FDS", "2".to_owned())];
        let why = passed_socket(&with(&two)).unwrap_err().to_string();
        assert!(why.starts_with("LISTEN_FDS is 2"), "{why}");
    }
}

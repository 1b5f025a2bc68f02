//! How much of a connection has been read, which no call on its socket tells without unsafe code: the kernel's socket diagnostics
//! (`sock_diag(7)`) count the bytes that came, and those that wait to be read.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h: both the question and its answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST` of linux/netlink.h.
const REQUEST: u16 = 1;
/// `INET_DIAG_INFO` of linux/inet_diag.h: the attribute that has the `tcp_info`.
const INFO: u16 = 2;
/// `AF_INET`, `AF_INET6` and `IPPROTO_TCP`.
const INET: u8 = 2;
const INET6: u8 = 10;
const TCP: u8 = 6;
/// Bytes of a `nlmsghdr`.
const HEADER: usize = 16;
/// Where `inet_diag_msg` has the peer's port and the length of the receive queue, and where it ends.
const PORT_AT: usize = 6;
const QUEUE_AT: usize = 56;
const MESSAGE: usize = 72;
/// Where `tcp_info` has `tcpi_bytes_received` (Linux 4.1).
const RECEIVED_AT: usize = 128;
/// Room for one answer: those of today have some 400 bytes.
const ANSWER: usize = 4096;

/// A way to ask. One thread asks at a time: an answer that is not the question's counts as none.
#[derive(Debug)]
pub(super) struct Diagnostics {
    netlink: OwnedFd,
    asked: AtomicU32,
}

impl Diagnostics {
    /// None where the kernel or a filter on system calls does not permit it.
    pub(super) fn open() -> Option<Diagnostics> {
        let netlink = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        );
        Some(Diagnostics {
            netlink: netlink.ok()?,
            asked: AtomicU32::new(0),
        })
    }

    /// Bytes that were taken out of the receive queue of this end of a connection since it began.
    pub(super) fn taken(&self, local: SocketAddr, peer: SocketAddr) -> Option<u64> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        send(
            &self.netlink,
            &question(number, local, peer),
            SendFlags::DONTWAIT,
        )
        .ok()?;
        let mut answer = [0; ANSWER];
        // The kernel answers within the call that asks. An answer to an earlier question may still lie there.
        loop {
            let (length, _) = recv(&self.netlink, &mut answer, RecvFlags::DONTWAIT).ok()?;
            let answer = answer.get(..length)?;
            if u32_at(answer, 8)? == number {
                return taken_of(answer, peer.port());
            }
        }
    }
}

/// `inet_diag_req_v2` for one connection behind its `nlmsghdr`.
fn question(number: u32, local: SocketAddr, peer: SocketAddr) -> Vec<u8> {
    let mut body = Vec::with_capacity(MESSAGE);
    let family = if local.is_ipv4() { INET } else { INET6 };
    body.extend([family, TCP, 1 << (INFO - 1), 0]);
    // In any state.
    body.extend(u32::MAX.to_ne_bytes());
    body.extend(local.port().to_be_bytes());
    body.extend(peer.port().to_be_bytes());
    for end in [local, peer] {
        let mut room = [0; 16];
        match end.ip() {
            IpAddr::V4(ip) => room[..4].copy_from_slice(&ip.octets()),
            IpAddr::V6(ip) => room = ip.octets(),
        }
        body.extend(room);
    }
    let scope = match local {
        SocketAddr::V6(local) => local.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    body.extend(scope.to_ne_bytes());
    // No cookie: the addresses are enough.
    body.extend([0xff; 8]);
    let mut message = Vec::with_capacity(HEADER + body.len());
    let length = u32::try_from(HEADER + body.len()).unwrap_or(u32::MAX);
    message.extend(length.to_ne_bytes());
    message.extend(BY_FAMILY.to_ne_bytes());
    message.extend(REQUEST.to_ne_bytes());
    message.extend(number.to_ne_bytes());
    message.extend([0; 4]);
    message.extend(body);
    message
}

/// What is told of the connection with `port` at its other end. Without such a one the listening socket is told of.
fn taken_of(answer: &[u8], port: u16) -> Option<u64> {
    let message = answer.get(HEADER..)?;
    if u16_at(answer, 4)? != BY_FAMILY || u16_at(message, PORT_AT)? != port.to_be() {
        return None;
    }
    let waiting = u32_at(message, QUEUE_AT)?;
    let mut attributes = message.get(MESSAGE..)?;
    loop {
        let length = usize::from(u16_at(attributes, 0)?);
        if u16_at(attributes, 2)? == INFO {
            let received = attributes.get(4..length)?.get(RECEIVED_AT..)?;
            let received = u64::from_ne_bytes(received.get(..8)?.try_into().ok()?);
            return Some(received.saturating_sub(waiting.into()));
        }
        // Attributes are aligned to four bytes; one of no length would never end.
        attributes = attributes.get(length.max(4).next_multiple_of(4)..)?;
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let found = bytes.get(at..)?.get(..2)?;
    Some(u16::from_ne_bytes(found.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let found = bytes.get(at..)?.get(..4)?;
    Some(u32::from_ne_bytes(found.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    #[test]
    fn what_was_read_is_counted_and_what_waits_is_not() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else {
                continue;
            };
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (mut server, peer) = listener.accept().unwrap();
            let local = server.local_addr().unwrap();
            let Some(asked) = Diagnostics::open() else {
                return;
            };
            let Some(none) = asked.taken(local, peer) else {
                // Not permitted here.
                return;
            };
            assert_eq!(none, 0);
            client.write_all(&[b'x'; 5000]).unwrap();
            let mut some = [0; 1200];
            server.read_exact(&mut some).unwrap();
            assert_eq!(asked.taken(local, peer), Some(1200));
            let mut rest = [0; 3800];
            server.read_exact(&mut rest).unwrap();
            assert_eq!(asked.taken(local, peer), Some(5000));
            let nobody = SocketAddr::new(peer.ip(), 1);
            assert_eq!(asked.taken(local, nobody), None);
            assert_eq!(asked.taken(local, peer), Some(5000));
        }
    }

    #[test]
    fn an_answer_of_any_shape_is_read_without_harm() {
        let mut answer = question(
            7,
            SocketAddr::from(([127, 0, 0, 1], 1)),
            SocketAddr::from(([127, 0, 0, 1], 2)),
        );
        answer.resize(HEADER + MESSAGE, 0);
        for attributes in [
            &[][..],
            &[0, 0, 0, 0],
            &[4, 0, 1, 0],
            &[200, 0, 2, 0],
            &[12, 0, 2, 0, 1, 1, 1, 1, 1, 1, 1, 1],
        ] {
            let mut whole = answer.clone();
            whole.extend(attributes);
            for length in 0..whole.len() {
                assert_eq!(taken_of(&whole[..length], 0), None);
            }
            assert_eq!(taken_of(&whole, 0), None);
        }
    }
}

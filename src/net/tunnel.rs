//! The way through an HTTP proxy: CONNECT and its answer.

use std::io;
use std::net::TcpStream;

use ureq::Error;

use super::proxies::HttpProxy;
use super::transport::{receive, send_all};
use super::wait::Phase;

/// A proxy's answer to CONNECT is longer only if something is wrong.
const CONNECT_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks an HTTP proxy for a tunnel to `host:port`.
pub(super) fn ask_proxy(
    socket: &mut TcpStream,
    proxy: &HttpProxy,
    host: &str,
    port: u16,
) -> Result<(), Error> {
    let target = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(userinfo) = &proxy.userinfo {
        head.push_str("Proxy-Authorization: Basic ");
        head.push_str(&base64(userinfo.as_bytes()));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    send_all(socket, head.as_bytes(), Phase::Connect)?;
    let mut answer = Vec::new();
    // Byte by byte at the end of the head: what follows it belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if answer.len() >= CONNECT_ANSWER_BYTES_MAX
            || receive(socket, &mut byte, Phase::Connect)? == 0
        {
            return Err(Error::Io(io::Error::other(format!(
                "the proxy {proxy:?} gave no proper answer to CONNECT"
            ))));
        }
        answer.push(byte[0]);
    }
    let line = String::from_utf8_lossy(
        answer
            .split(|byte| *byte == b'\r')
            .next()
            .unwrap_or_default(),
    )
    .into_owned();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => Err(Error::Io(io::Error::other(format!(
            "the proxy {proxy:?} refused the tunnel: {line}"
        )))),
    }
}

/// Standard base64 with padding, for `Proxy-Authorization`.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group
            .iter()
            .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
            << (8 * (3 - group.len()));
        for place in 0..4 {
            let sextet = (bits >> (18 - 6 * place)) as usize & 63;
            out.push(if place > group.len() {
                '='
            } else {
                char::from(ALPHABET[sextet])
            });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_pads_as_rfc_4648_does() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}

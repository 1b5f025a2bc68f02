//! Tunnels through an HTTP proxy: CONNECT and its answer.

use std::io;
use std::net::TcpStream;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::Error;

use super::proxies::HttpProxy;
use super::socket::{receive, send_all};
use super::wait::Phase;

/// A longer answer to CONNECT means that something is wrong.
const CONNECT_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Asks an HTTP proxy for a tunnel to `host:port`.
pub(super) fn ask_proxy(
    socket: &mut TcpStream,
    proxy: &HttpProxy,
    host: &str,
    port: u16,
) -> Result<(), Error> {
    let target =
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n");
    if let Some(userinfo) = &proxy.userinfo {
        head.push_str("Proxy-Authorization: Basic ");
        head.push_str(&STANDARD.encode(userinfo));
        head.push_str("\r\n");
    }
    head.push_str("\r\n");
    send_all(socket, head.as_bytes(), Phase::Connect)?;
    let mut answer = Vec::new();
    // Reads byte by byte: what follows the head belongs to the tunnel.
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if answer.len() >= CONNECT_ANSWER_BYTES_MAX
            || receive(socket, &mut byte, Phase::Connect)? == 0
        {
            return Err(Error::Io(io::Error::other(format!(
                "the proxy {proxy:?} gave an invalid answer to CONNECT"
            ))));
        }
        answer.push(byte[0]);
    }
    let line =
        String::from_utf8_lossy(answer.split(|byte| *byte == b'\r').next().unwrap_or_default())
            .into_owned();
    match line.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(()),
        _ => Err(Error::Io(io::Error::other(format!(
            "the proxy {proxy:?} refused the tunnel: {line}"
        )))),
    }
}

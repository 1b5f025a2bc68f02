//! One non-blocking connection, with or without TLS.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};

use rustls::Connection;

/// The most bytes that one read takes.
const READ_BYTES: usize = 64 * 1024;

/// A connection and the bytes that it still has to send.
pub struct Link {
    socket: TcpStream,
    tls: Option<Box<Connection>>,
    out: Vec<u8>,
    sent: usize,
}

/// The result of a read.
pub enum Read {
    /// No bytes are available yet.
    Nothing,
    /// The peer has closed the connection.
    End,
    /// Bytes, and whether to read again.
    Bytes(More),
}

/// Whether more bytes may be available.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum More {
    Perhaps,
    No,
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Link {
    /// Takes a connected socket.
    pub fn new(socket: TcpStream, mut tls: Option<Connection>) -> io::Result<Link> {
        socket.set_nonblocking(true)?;
        socket.set_nodelay(true)?;
        if let Some(tls) = &mut tls {
            tls.set_buffer_limit(None);
        }
        Ok(Link { socket, tls: tls.map(Box::new), out: Vec::new(), sent: 0 })
    }

    /// Reads once whatever is available.
    pub fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<Read> {
        buffer.resize(READ_BYTES, 0);
        let read = match &mut self.tls {
            None => self.socket.read(buffer),
            Some(tls) => read_tls(tls, &mut self.socket, buffer),
        };
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.flush()?;
                return Ok(Read::Nothing);
            }
            Err(error) => return Err(error),
        };
        buffer.truncate(count);
        Ok(match count {
            0 => Read::End,
            READ_BYTES => Read::Bytes(More::Perhaps),
            _ if self.tls.is_some() => Read::Bytes(More::Perhaps),
            _ => Read::Bytes(More::No),
        })
    }

    /// Sends these bytes, now or as soon as the socket accepts them.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None if self.out.is_empty() => {
                let count = match self.socket.write(bytes) {
                    Ok(count) => count,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                    Err(error) => return Err(error),
                };
                self.out.extend_from_slice(&bytes[count..]);
            }
            None => self.out.extend_from_slice(bytes),
        }
        self.flush()
    }

    /// Sends buffered bytes until the socket accepts no more.
    pub fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(&mut self.socket) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            return Ok(());
        }
        while self.sent < self.out.len() {
            match self.socket.write(&self.out[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        self.sent = 0;
        Ok(())
    }

    /// Whether buffered bytes wait for the socket to become writable.
    pub fn wants_write(&self) -> bool {
        match &self.tls {
            Some(tls) => tls.wants_write(),
            None => !self.out.is_empty(),
        }
    }
}

fn read_tls(tls: &mut Connection, socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match tls.reader().read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            // Many peers close without a TLS close_notify; that is an ordinary end here.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(0),
            read => return read,
        }
        tls.read_tls(socket)?;
        tls.process_new_packets().map_err(io::Error::other)?;
    }
}

//! A client of gRPC that costs next to nothing: frames of HTTP/2 as they stand, for one method, on a blocking socket.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use socket2::{Domain, Socket, Type};

/// An answer may take so long.
const PATIENCE: Duration = Duration::from_secs(20);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What the connection may be sent before it says that there is room again (RFC 9113, section 6.9.1).
const WINDOW: u32 = (1 << 31) - 1 - 65_535;

/// Frame types and flags (RFC 9113, section 6).
mod frame {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const PING: u8 = 6;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

/// The headers of the first request: literals that the server remembers (RFC 7541, section 6.2.1).
fn first_headers(path: &str) -> Vec<u8> {
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(&[0x44][..], path), (&[0x41], "admin"), (&[0x5f], "application/grpc")] {
        block.extend_from_slice(name);
        text(&mut block, value);
    }
    block.push(0x40);
    text(&mut block, "te");
    text(&mut block, "trailers");
    block
}

/// The same, remembered.
const HEADERS: [u8; 6] = [0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];

fn text(block: &mut Vec<u8>, value: &str) {
    block.push(u8::try_from(value.len()).expect("a short header"));
    block.extend_from_slice(value.as_bytes());
}

/// What carries a connection: TCP, or TLS over it.
pub(super) trait Carrier: Read + Write {}

impl<T: Read + Write> Carrier for T {}

/// A socket connected from an address of loopback's network.
pub(super) fn connect(from: Ipv4Addr, to: SocketAddrV4) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddrV4::new(from, 0).into()).with_context(|| format!("binding {from}"))?;
    socket.connect(&to.into()).with_context(|| format!("connecting {from} to {to}"))?;
    socket.set_tcp_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(TcpStream::from(socket))
}

/// What is said on a connection, for requests of one method: bytes out, bytes in.
pub(super) struct Dialogue {
    path: &'static str,
    next: u32,
    outgoing: Vec<u8>,
    incoming: Vec<u8>,
    consumed: u32,
}

/// What came of bytes that were heard: requests that were answered, and those that are over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub(super) answered: usize,
    pub(super) ended: usize,
}

impl Dialogue {
    /// A new one. What is to be sent first waits in [`outgoing`](Self::outgoing).
    pub(super) fn new(path: &'static str) -> Self {
        let mut outgoing = PREFACE.to_vec();
        head(&mut outgoing, 0, frame::SETTINGS, 0, 0);
        head(&mut outgoing, 4, frame::WINDOW_UPDATE, 0, 0);
        outgoing.extend_from_slice(&WINDOW.to_be_bytes());
        Self { path, next: 1, outgoing, incoming: Vec::new(), consumed: 0 }
    }

    /// Puts a request behind those that wait to be sent; returns its stream.
    pub(super) fn push(&mut self, message: &[u8]) -> u32 {
        let stream = self.next;
        self.next += 2;
        if stream == 1 {
            let block = first_headers(self.path);
            head(&mut self.outgoing, block.len(), frame::HEADERS, frame::END_HEADERS, stream);
            self.outgoing.extend_from_slice(&block);
        } else {
            head(&mut self.outgoing, HEADERS.len(), frame::HEADERS, frame::END_HEADERS, stream);
            self.outgoing.extend_from_slice(&HEADERS);
        }
        head(&mut self.outgoing, message.len() + 5, frame::DATA, frame::END_STREAM, stream);
        self.outgoing.push(0);
        self.outgoing.extend_from_slice(&(message.len() as u32).to_be_bytes());
        self.outgoing.extend_from_slice(message);
        stream
    }

    /// What waits to be sent.
    pub(super) fn outgoing(&self) -> &[u8] {
        &self.outgoing
    }

    /// Reads what has come; `answer` is told the stream and the message of each answer.
    ///
    /// # Errors
    /// If the server ends a stream, or nothing more comes.
    pub(super) fn read(
        &mut self,
        from: &mut impl Read,
        mut answer: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<Heard> {
        let length = self.incoming.len();
        self.incoming.resize(length + 16_384, 0);
        let got = from.read(&mut self.incoming[length..]).context("waiting for answers")?;
        self.incoming.truncate(length + got);
        ensure!(got > 0, "the server closed the connection");
        let mut heard = Heard::default();
        let mut rest = &self.incoming[..];
        while let Some((kind, flags, stream, payload, behind)) = split(rest) {
            match kind {
                frame::DATA if !payload.is_empty() => {
                    let message = payload.get(5..).context("a message without its length")?;
                    answer(stream, message)?;
                    heard.answered += 1;
                    self.consumed += payload.len() as u32;
                }
                frame::SETTINGS if flags & frame::ACK == 0 => {
                    head(&mut self.outgoing, 0, frame::SETTINGS, frame::ACK, 0);
                }
                frame::PING if flags & frame::ACK == 0 => {
                    head(&mut self.outgoing, payload.len(), frame::PING, frame::ACK, 0);
                    self.outgoing.extend_from_slice(payload);
                }
                frame::GOAWAY | frame::RST_STREAM => {
                    bail!("the server ended stream {stream}: {payload:?}")
                }
                _ => {}
            }
            let ends = matches!(kind, frame::DATA | frame::HEADERS) && flags & frame::END_STREAM != 0;
            heard.ended += usize::from(ends);
            rest = behind;
        }
        let left = rest.len();
        let start = self.incoming.len() - left;
        self.incoming.copy_within(start.., 0);
        self.incoming.truncate(left);
        Ok(heard)
    }
}

/// One connection, for requests of one method.
pub(super) struct Connection {
    carrier: Box<dyn Carrier>,
    dialogue: Dialogue,
}

impl Connection {
    /// Connects from an address of loopback's network. What is to be sent first waits for [`send`](Self::send).
    pub(super) fn open(from: Ipv4Addr, to: SocketAddrV4, path: &'static str) -> Result<Self> {
        Ok(Self::over(Box::new(connect(from, to)?), path))
    }

    /// The same over what is connected.
    pub(super) fn over(carrier: Box<dyn Carrier>, path: &'static str) -> Self {
        Self { carrier, dialogue: Dialogue::new(path) }
    }

    /// Puts a request behind those that wait to be sent; returns its stream.
    pub(super) fn push(&mut self, message: &[u8]) -> u32 {
        self.dialogue.push(message)
    }

    /// Sends what waits.
    pub(super) fn send(&mut self) -> Result<()> {
        self.carrier.write_all(&self.dialogue.outgoing).context("sending requests")?;
        self.carrier.flush().context("sending requests")?;
        self.dialogue.outgoing.clear();
        Ok(())
    }

    /// Waits until so many requests are answered; `answer` is told the stream and the message of each.
    ///
    /// # Errors
    /// If one is refused, for then it has no message.
    pub(super) fn receive(
        &mut self,
        count: usize,
        mut answer: impl FnMut(u32, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let Self { carrier, dialogue } = self;
        let (mut answered, mut ended) = (0, 0);
        while ended < count {
            let heard = dialogue.read(carrier, &mut answer)?;
            answered += heard.answered;
            ended += heard.ended;
        }
        ensure!(answered == ended, "{} of {ended} requests were refused", ended - answered);
        if dialogue.consumed > WINDOW / 2 {
            head(&mut dialogue.outgoing, 4, frame::WINDOW_UPDATE, 0, 0);
            dialogue.outgoing.extend_from_slice(&dialogue.consumed.to_be_bytes());
            dialogue.consumed = 0;
        }
        Ok(())
    }
}

fn head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

type Split<'a> = (u8, u8, u32, &'a [u8], &'a [u8]);

/// The first frame, if all of it is there, and what is behind it.
fn split(bytes: &[u8]) -> Option<Split<'_>> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let &[a, b, c, kind, flags, s, t, u, v] = head;
    let (payload, behind) = rest.split_at_checked(u32::from_be_bytes([0, a, b, c]) as usize)?;
    Some((kind, flags, u32::from_be_bytes([s & 0x7f, t, u, v]), payload, behind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_split_off_once_all_of_it_is_there() {
        let mut bytes = Vec::new();
        head(&mut bytes, 3, frame::DATA, frame::END_STREAM, 7);
        bytes.extend_from_slice(b"abcd");
        assert_eq!(split(&bytes), Some((frame::DATA, frame::END_STREAM, 7, &b"abc"[..], &b"d"[..])));
        assert_eq!(split(&bytes[..11]), None);
        assert_eq!(split(&bytes[..8]), None);
    }
}

//! A connection's first bytes, gathered: what either layer says unasked (session tickets, RFC 8446 §4.6.1; SETTINGS and
//! their acknowledgement, RFC 9113 §6.5) goes out with the first answer, by one call of the kernel instead of four.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Bytes that are kept back at most.
const MOST: usize = 16 * 1024;

/// When what is written is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// When there is nothing to read: the other end may be waiting for it.
    UntilRead,
    /// With what is written after [`Gathered::release`].
    Held,
    AtOnce,
}

/// A stream that keeps back what is written first.
#[derive(Debug)]
pub(super) struct Gathered<S> {
    stream: S,
    mode: Mode,
    held: Vec<u8>,
    /// The other end says nothing more. It ends so, and nobody reads what is written now.
    ended: bool,
}

impl<S> Gathered<S> {
    /// One that sends when it finds nothing to read.
    pub(super) const fn new(stream: S) -> Self {
        Self { stream, mode: Mode::UntilRead, held: Vec::new(), ended: false }
    }

    /// Keeps everything back from now on.
    pub(super) const fn hold(&mut self) {
        self.mode = Mode::Held;
    }

    /// Sends at once from now on, what was kept back with the next write or flush.
    pub(super) const fn release(&mut self) {
        self.mode = Mode::AtOnce;
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Sends what was kept back.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.held.is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, &self.held))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.held.drain(..sent);
        }
        // It is not needed again.
        self.held = Vec::new();
        Poll::Ready(Ok(()))
    }

    /// Keeps bytes, and sends them with all that was kept before if they are not to wait.
    fn poll_keep(
        &mut self,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.held.len() > MOST {
            self.mode = Mode::AtOnce;
            ready!(self.poll_send(context))?;
        }
        buffers.iter().for_each(|buffer| self.held.extend_from_slice(buffer));
        if self.mode == Mode::AtOnce
            && let Poll::Ready(Err(error)) = self.poll_send(context)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(length))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        match read {
            Poll::Ready(Ok(())) => self.ended |= buffer.remaining() > 0 && buffer.filled().len() == before,
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                if self.mode == Mode::UntilRead
                    && let Poll::Ready(Err(error)) = self.poll_send(context)
                {
                    return Poll::Ready(Err(error));
                }
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(buffers.iter().map(|buffer| buffer.len()).sum()));
        }
        if self.mode == Mode::AtOnce && self.held.is_empty() {
            return Pin::new(&mut self.stream).poll_write_vectored(context, buffers);
        }
        self.poll_keep(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended || self.mode != Mode::AtOnce {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            // Dropped, it is closed.
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Whether bytes are frames of HTTP/2 that nobody waits for: SETTINGS and WINDOW_UPDATE, whole ones (RFC 9113 §4.1).
pub(super) fn can_wait(mut bytes: &[u8]) -> bool {
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;
    while let Some((&[a, b, c, kind, ..], behind)) = bytes.split_first_chunk::<9>() {
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        match behind.get(length..) {
            Some(rest) if matches!(kind, SETTINGS | WINDOW_UPDATE) => bytes = rest,
            Some(_) | None => return false,
        }
    }
    bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const SETTINGS: [u8; 15] = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 32];
    const ACK: [u8; 9] = [0, 0, 0, 4, 1, 0, 0, 0, 0];
    const HEADERS: [u8; 10] = [0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88];

    /// Counts the writes that reach it.
    struct Counted {
        stream: DuplexStream,
        writes: usize,
    }

    impl AsyncRead for Counted {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(context, buffer)
        }
    }

    impl AsyncWrite for Counted {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.writes += 1;
            Pin::new(&mut self.stream).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(context)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(context)
        }
    }

    fn pair(room: usize) -> (Gathered<Counted>, DuplexStream) {
        let (stream, other) = duplex(room);
        (Gathered::new(Counted { stream, writes: 0 }), other)
    }

    async fn read_nothing(gathered: &mut Gathered<Counted>) {
        let mut buffer = [0; 8];
        poll_fn(|context| {
            let read = Pin::new(&mut *gathered).poll_read(context, &mut ReadBuf::new(&mut buffer));
            assert!(read.is_pending());
            Poll::Ready(())
        })
        .await;
    }

    #[tokio::test]
    async fn a_flight_goes_out_when_there_is_nothing_to_read() {
        let (mut gathered, mut other) = pair(1024);
        gathered.write_all(b"server hello").await.unwrap();
        gathered.write_all(b" finished").await.unwrap();
        gathered.flush().await.unwrap();
        assert_eq!(gathered.stream.writes, 0);
        read_nothing(&mut gathered).await;
        assert_eq!(gathered.stream.writes, 1);
        let mut got = [0; 21];
        other.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"server hello finished");
    }

    #[tokio::test]
    async fn what_can_wait_goes_out_with_the_answer_in_order_and_once() {
        let (mut gathered, mut other) = pair(1024);
        gathered.hold();
        for bytes in [&SETTINGS[..], &ACK] {
            gathered.write_all(bytes).await.unwrap();
            gathered.flush().await.unwrap();
            read_nothing(&mut gathered).await;
        }
        assert_eq!(gathered.stream.writes, 0);
        gathered.release();
        gathered.write_all(&HEADERS).await.unwrap();
        gathered.flush().await.unwrap();
        assert_eq!(gathered.stream.writes, 1);
        gathered.write_all(b"next").await.unwrap();
        assert_eq!(gathered.stream.writes, 2);
        drop(gathered);
        let mut got = Vec::new();
        other.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, [&SETTINGS[..], &ACK, &HEADERS, b"next"].concat());
    }

    #[tokio::test]
    async fn nobody_makes_it_keep_more_than_it_may_and_a_full_stream_loses_nothing() {
        let (mut gathered, mut other) = pair(64);
        gathered.hold();
        let write = async {
            for _ in 0..4_000 {
                gathered.write_all(&ACK).await.unwrap();
                assert!(gathered.held.len() <= MOST + ACK.len());
            }
            gathered.flush().await.unwrap();
            drop(gathered);
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(write, other.read_to_end(&mut got));
        read.unwrap();
        assert_eq!(got, ACK.repeat(4_000));
    }

    #[tokio::test]
    async fn to_who_has_ended_nothing_more_is_sent() {
        let (mut gathered, mut other) = pair(1024);
        other.shutdown().await.unwrap();
        assert_eq!(gathered.read(&mut [0; 8]).await.unwrap(), 0);
        gathered.release();
        gathered.write_all(b"good bye").await.unwrap();
        gathered.shutdown().await.unwrap();
        assert_eq!(gathered.stream.writes, 0);
    }

    #[tokio::test]
    async fn what_is_kept_back_goes_out_before_the_end() {
        let (mut gathered, mut other) = pair(1024);
        gathered.write_all(b"alert").await.unwrap();
        gathered.shutdown().await.unwrap();
        let mut got = Vec::new();
        other.read_to_end(&mut got).await.unwrap();
        assert_eq!(got, b"alert");
    }

    #[test]
    fn only_whole_frames_that_nobody_waits_for_can_wait() {
        assert!(can_wait(&[]));
        assert!(can_wait(&[&SETTINGS[..], &ACK].concat()));
        assert!(can_wait(&[0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0]));
        assert!(!can_wait(&HEADERS));
        assert!(!can_wait(&[&SETTINGS[..], &HEADERS].concat()));
        assert!(!can_wait(&SETTINGS[..14]));
        assert!(!can_wait(&ACK[..8]));
    }
}

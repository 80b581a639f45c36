//! The control socket: where the operator's commands are answered.
//!
//! [`Control::start`] listens, and hands each question to the role through a channel, so that the
//! role answers from its one loop and shares nothing.

mod asker;
mod connection;
mod socket;
#[cfg(test)]
mod tests;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::AsyncWriteExt,
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};
use tracing::{debug, warn};
use vmcast_api::{Request, Response, encode};

use crate::{clock, telemetry::RateLimit};

pub use asker::Asker;
pub use socket::BindError;

/// A question, and where the answer goes.
pub type Call = (Request, oneshot::Sender<Response>);

/// Most connections at a time.
const MAX_CONNECTIONS: usize = 32;
/// A connection that asks nothing for this long is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take to read an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A control socket that answers; dropping it closes every connection and removes the socket file.
#[derive(Debug)]
pub struct Control {
    file: socket::SocketFile,
    asker: Asker,
    task: AbortHandle,
}

impl Control {
    /// Listens at `path` and sends every question through the channel that is returned.
    ///
    /// A socket file that nobody answers at is replaced. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// If another daemon answers there, or the socket cannot be made.
    pub fn start(path: &Path) -> Result<(Self, mpsc::Receiver<Call>), BindError> {
        let (file, listener) = socket::bind(path)?;
        let listener = UnixListener::from_std(listener).map_err(|source| BindError::Kernel {
            path: path.to_owned(),
            what: "listen at",
            source,
        })?;
        let (calls, receiver) = mpsc::channel(MAX_CONNECTIONS);
        let asker = Asker::new(calls);
        let task = tokio::spawn(accept(listener, asker.clone(), path.to_owned())).abort_handle();
        Ok((Self { file, asker, task }, receiver))
    }

    /// Asks the role from within the process.
    #[must_use]
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.file.path()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves connections until it is aborted; they end with it.
async fn accept(listener: UnixListener, asker: Asker, path: PathBuf) {
    let mut limit = RateLimit::new(5, Duration::from_secs(60));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(connection::serve(stream, asker.clone()));
                }
                Ok((stream, _)) => {
                    if let Some(held_back) = limit.admit(clock::now()) {
                        warn!(held_back, "control socket: more than {MAX_CONNECTIONS} connections, refused one");
                    }
                    refuse(stream).await;
                }
                Err(error) => {
                    if let Some(held_back) = limit.admit(clock::now()) {
                        warn!(held_back, path = %path.display(), %error, "control socket: accept failed");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "control socket: a connection ended badly");
                }
            }
        }
    }
}

/// Tells a client that there is no room. A line of this length fits the socket's empty buffer.
async fn refuse(mut stream: UnixStream) {
    let line = encode(&Response::error(format!(
        "the daemon serves {MAX_CONNECTIONS} connections already, try again"
    )));
    match timeout(WRITE_TIMEOUT, stream.write_all(&line)).await {
        Ok(Ok(())) | Err(_) => {}
        Ok(Err(error)) => debug!(%error, "control socket: a refused client is gone"),
    }
}

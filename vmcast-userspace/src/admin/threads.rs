//! The threads that serve: each accepts connections, and serves those that it accepted from their handshake to their
//! end, by a runtime of its own. They share one listener, so whoever has time takes the next connection.

use std::{
    net, thread,
    thread::{JoinHandle, available_parallelism},
};

use anyhow::{Context as _, anyhow};
use tokio::{
    net::TcpListener,
    runtime::Builder,
    sync::{mpsc, watch},
};
use vmcast_signal::tonic::transport::server::Router;

use super::{
    Limits,
    connection::{Room, incoming},
    gate::Gate,
};

/// Threads at most. What they serve comes to one thread that writes, and each of them is woken when a connection comes.
const MOST: usize = 8;

/// What the threads are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Serve,
    /// Take no more, answer what is under way, and end.
    Finish,
    /// End at once.
    Cut,
}

/// Threads that serve. Dropped, they are cut, and have ended.
#[derive(Debug)]
pub(super) struct Threads {
    order: watch::Sender<Order>,
    outcomes: mpsc::Receiver<anyhow::Result<()>>,
    threads: Vec<JoinHandle<()>>,
}

impl Threads {
    /// Starts one for each core that this process may use.
    ///
    /// # Errors
    /// If the host has not what they need.
    pub(super) fn start(
        listener: &net::TcpListener,
        router: &Router,
        gate: &Gate,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let count = available_parallelism().map_or(1, |cores| cores.get().min(MOST));
        let (outcome, outcomes) = mpsc::channel(count);
        let mut started = Self { order: watch::channel(Order::Serve).0, outcomes, threads: Vec::new() };
        let room = Room::new(limits);
        for number in 0..count {
            let serving = Serving {
                listener: listener.try_clone().context("the socket cannot be shared")?,
                router: router.clone(),
                gate: gate.clone(),
                room: room.clone(),
                ordered: started.order.subscribe(),
            };
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.context("cannot make a runtime of a thread that serves")?;
            let outcome = outcome.clone();
            let work = move || {
                let ended = runtime.block_on(serving.run());
                // With it end the connections, before anybody is told.
                drop(runtime);
                // Nobody asks once all are to be cut.
                let _ = outcome.try_send(ended);
            };
            let thread = thread::Builder::new().name(format!("serving-{number}")).spawn(work);
            started.threads.push(thread.context("cannot start a thread that serves")?);
        }
        Ok(started)
    }

    /// Ready when one has ended, which none does by itself.
    ///
    /// # Errors
    /// What it ended with.
    pub(super) async fn broken(&mut self) -> anyhow::Result<()> {
        self.outcomes.recv().await.unwrap_or_else(|| Err(anyhow!("the threads that serve have ended")))
    }

    /// Lets them end, and returns once all have.
    ///
    /// # Errors
    /// What the first that failed ended with.
    pub(super) async fn finish(&mut self) -> anyhow::Result<()> {
        self.order.send_replace(Order::Finish);
        let mut all = Ok(());
        while let Some(ended) = self.outcomes.recv().await {
            all = all.and(ended);
        }
        all
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.order.send_replace(Order::Cut);
        for thread in self.threads.drain(..) {
            // A panic was told on its thread.
            let _ = thread.join();
        }
    }
}

/// What one thread serves with.
struct Serving {
    listener: net::TcpListener,
    router: Router,
    gate: Gate,
    room: Room,
    ordered: watch::Receiver<Order>,
}

impl Serving {
    async fn run(self) -> anyhow::Result<()> {
        let listener = TcpListener::from_std(self.listener).context("the socket cannot be waited for")?;
        let (mut finish, mut cut) = (self.ordered.clone(), self.ordered);
        let server =
            self.router.serve_with_incoming_shutdown(incoming(listener, self.gate, self.room), async move {
                // An error means that the sender is gone, and that is an end too.
                let _ = finish.wait_for(|order| *order != Order::Serve).await;
            });
        tokio::select! {
            ended = server => ended.context("the server ended"),
            _ = cut.wait_for(|order| *order == Order::Cut) => Ok(()),
        }
    }
}

//! A DNS name of the configuration, or what DNS-SD lists under one, resolved again and again.
//!
//! Names move, and name servers are away at times: a role starts all the same, goes on with the last good
//! answer, and asks again ever more rarely until there is another.

use std::{io, net::SocketAddr, time::Duration};

use tokio::{net::lookup_host, sync::watch, task::AbortHandle, time::sleep};

use crate::relays::Service;

/// How often a name that resolves is resolved again.
const INTERVAL: Duration = Duration::from_secs(60);
/// First and longest pause after it did not resolve; it doubles with each failure.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Follows the addresses of a name, until it is dropped.
#[derive(Debug)]
pub(crate) struct Resolver {
    host: String,
    addresses: watch::Receiver<Vec<SocketAddr>>,
    task: AbortHandle,
}

impl Resolver {
    /// Starts to resolve; each address is given with this port.
    pub(crate) fn start(host: String, port: u16) -> Self {
        Self::follow(host.clone(), Wanted::Host(host, port))
    }

    /// Starts to look for the relays of a network.
    pub(crate) fn of_service(service: Service) -> Self {
        Self::follow(service.place(), Wanted::Service(service))
    }

    fn follow(host: String, wanted: Wanted) -> Self {
        let (sender, addresses) = watch::channel(Vec::new());
        let task = tokio::spawn(follow(host.clone(), wanted, sender)).abort_handle();
        Self { host, addresses, task }
    }

    /// The name.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Waits for addresses that differ from those before; there is at least one. Dropping the future
    /// loses nothing.
    pub(crate) async fn changed(&mut self) -> Vec<SocketAddr> {
        if self.addresses.changed().await.is_err() {
            // The task only ends with this.
            return std::future::pending().await;
        }
        self.addresses.borrow_and_update().clone()
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What is to be resolved.
enum Wanted {
    /// A host, with a port of ours.
    Host(String, u16),
    /// Whatever is listed.
    Service(Service),
}

impl Wanted {
    async fn look(&self) -> io::Result<Vec<SocketAddr>> {
        match self {
            Self::Host(host, port) => lookup_host((host.as_str(), *port)).await.and_then(in_order),
            Self::Service(service) => service.look().await,
        }
    }
}

async fn follow(host: String, wanted: Wanted, addresses: watch::Sender<Vec<SocketAddr>>) {
    let mut schedule = Schedule::new();
    loop {
        let pause = match wanted.look().await {
            Ok(found) => {
                addresses.send_if_modified(|known| {
                    let changed = *known != found;
                    if changed {
                        tracing::info!(host, addresses = ?found, "name resolved");
                        *known = found;
                    }
                    changed
                });
                schedule.resolved()
            }
            Err(error) => {
                let pause = schedule.failed();
                tracing::warn!(host, %error, again_in = ?pause, "a name cannot be resolved");
                pause
            }
        };
        sleep(pause).await;
    }
}

/// The addresses of a name in an order of their own, for that of answers rotates and means nothing: IPv4 first,
/// whose tunnels leave more room for packets.
fn in_order(found: impl Iterator<Item = SocketAddr>) -> io::Result<Vec<SocketAddr>> {
    let mut found: Vec<_> = found.collect();
    found.sort_unstable();
    found.dedup();
    if found.is_empty() {
        Err(io::Error::new(io::ErrorKind::NotFound, "it has no address"))
    } else {
        Ok(found)
    }
}

/// When to ask again.
#[derive(Debug)]
struct Schedule {
    retry: Duration,
}

impl Schedule {
    const fn new() -> Self {
        Self { retry: RETRY.0 }
    }

    /// The pause after an answer.
    const fn resolved(&mut self) -> Duration {
        self.retry = RETRY.0;
        INTERVAL
    }

    /// The pause after one more failure.
    fn failed(&mut self) -> Duration {
        let pause = self.retry;
        self.retry = (pause * 2).min(RETRY.1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(last: u8) -> SocketAddr {
        (Ipv4Addr::new(192, 0, 2, last), 2268).into()
    }

    fn v6() -> SocketAddr {
        (Ipv6Addr::LOCALHOST, 2268).into()
    }

    #[test]
    fn a_name_is_asked_for_ever_more_rarely_until_it_resolves() {
        let mut schedule = Schedule::new();
        let pauses: Vec<u64> = (0..8).map(|_| schedule.failed().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(schedule.resolved(), INTERVAL);
        assert_eq!(schedule.failed(), RETRY.0, "what failed long ago is forgotten");
    }

    #[test]
    fn answers_that_differ_in_order_alone_are_the_same() {
        let answers = [vec![v4(2), v6(), v4(1), v4(2)], vec![v4(1), v4(2), v6()]];
        for answer in answers {
            assert_eq!(in_order(answer.into_iter()).expect("it has addresses"), [v4(1), v4(2), v6()]);
        }
    }

    #[test]
    fn a_name_without_any_address_is_a_failure() {
        let error = in_order([].into_iter()).expect_err("no tunnel leads anywhere");
        assert_eq!(error.to_string(), "it has no address");
    }

    #[tokio::test]
    async fn what_a_name_stands_for_is_told_once() {
        let mut resolver = Resolver::start("192.0.2.7".into(), 2268);
        assert_eq!(resolver.changed().await, [v4(7)]);
        assert_eq!(resolver.host(), "192.0.2.7");
        assert!(!resolver.addresses.has_changed().expect("it goes on"));
    }
}

//! Proves that a VMR is at the endpoints that it registered, as long as its line stands.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::{Semaphore, mpsc},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};
use vmcast_proto::registry::{
    Found, NodeId, NodeRecord,
    proof::{Prover, ProverOutput},
};
use vmcast_signal::v1::{self, command::What};

use super::{Handle, Kept, convert};

/// Answers of a VMR that wait for the round.
pub(super) const QUEUE: usize = 8;
/// Between two looks whether a VMR has an endpoint that was not probed.
const LOOK: Duration = Duration::from_millis(250);
/// Between two rounds while all is proved.
const INTERVAL: Duration = Duration::from_secs(300);
/// After the first round in which something was not; twice as long after each further one, to [`INTERVAL`].
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// Rounds at a time, each of which has two sockets: after a power cut all VMRs come at once.
static PLACES: Semaphore = Semaphore::const_new(128);
/// Bytes of an answer that are looked at; a Relay Advertisement has 24 at most.
const BUFFER: usize = 64;

/// Probes a VMR until its line, of which `notes` are, ends.
pub(super) async fn run<S: Kept>(handle: Handle<S>, vmr: NodeId, mut notes: mpsc::Receiver<v1::Noted>) {
    let mut retry = FIRST_RETRY;
    let mut told = Told::default();
    // At once: nobody is given the VMR before.
    let (mut next, mut soonest) = (Instant::now(), Instant::now());
    loop {
        told.tell(&handle, &vmr);
        let record = match handle.to_prove(&vmr) {
            Some((record, awaits)) if Instant::now() >= if awaits { soonest } else { next } => record,
            Some(_) | None => {
                tokio::select! {
                    note = notes.recv() => match note {
                        // Of a round that is over.
                        Some(_) => continue,
                        None => return,
                    },
                    () = sleep_until(Instant::now() + LOOK) => continue,
                }
            }
        };
        let Some(is_proved) = round(&handle, &record, &mut told, &mut notes).await else { return };
        let wait = if is_proved { INTERVAL } else { retry };
        retry = if is_proved { FIRST_RETRY } else { (retry * 2).min(INTERVAL) };
        // Those that came together are not probed together for ever.
        let jitter = wait.mul_f64(f64::from(random()) / f64::from(u16::MAX) / 4.0);
        next = Instant::now() + wait - jitter;
        // What could not be kept is looked for again, but not without a pause.
        soonest = Instant::now() + LOOK;
    }
}

/// What a VMR was told on this line, so that it hears only what is new.
#[derive(Debug, Default)]
struct Told(v1::Proofs);

impl Told {
    /// Tells a VMR what is known of its endpoints, whoever found it.
    fn tell<S: Kept>(&mut self, handle: &Handle<S>, vmr: &NodeId) {
        let Some((record, _)) = handle.to_prove(vmr) else { return };
        let proofs = v1::Proofs { endpoints: convert::endpoint_proofs(&record) };
        if self.0 != proofs && handle.lines().tell(vmr, What::Proofs(proofs.clone())) {
            self.0 = proofs;
        }
    }
}

/// Tells the operator what was found, and the registry.
async fn note<S: Kept>(handle: &Handle<S>, record: &NodeRecord, found: Vec<(SocketAddr, Found)>) {
    for (endpoint, found) in &found {
        tell(record.id(), *endpoint, *found, record.found(endpoint));
    }
    let id = record.id().clone();
    if let Err(failure) = handle.write(move |registry, now| registry.note_found(now, &id, &found)).await {
        // The lease has ended meanwhile, or another admin has written it, or the store fails.
        debug!(vmr = %record.id(), %failure, "what was found is not kept");
    }
}

/// Tells the operator what is new.
fn tell(vmr: &NodeId, endpoint: SocketAddr, found: Found, before: Option<Found>) {
    if before == Some(found) {
        return;
    }
    match found {
        Found::Awaited => {}
        Found::Proved => info!(%vmr, %endpoint, "the VMR is where it says"),
        Found::Foreign => {
            warn!(%vmr, %endpoint, "somebody else answers at the endpoint that the VMR says is its own; it is not given by it");
        }
        Found::Silent if before == Some(Found::Proved) => {
            info!(%vmr, %endpoint, "a return probe found nobody where the VMR was found before");
        }
        Found::Silent => {
            warn!(%vmr, %endpoint, "nobody answers at the VMR's endpoint; it is not given by it. If this admin cannot reach \
                   VMRs by UDP, set return_probe = false");
        }
        Found::Mute => {
            warn!(%vmr, %endpoint, "the VMR does not answer to return probes; is its software older?")
        }
    }
}

/// One round; whether all is proved, or `None` if the line ended.
async fn round<S: Kept>(
    handle: &Handle<S>,
    record: &NodeRecord,
    told: &mut Told,
    notes: &mut mpsc::Receiver<v1::Noted>,
) -> Option<bool> {
    let (vmr, endpoints) = (record.id(), &record.registration.endpoints[..]);
    let mut is_proved = true;
    // It is never closed.
    let _place = PLACES.acquire().await;
    let v4 = socket(Ipv4Addr::UNSPECIFIED.into(), endpoints).await;
    let v6 = socket(Ipv6Addr::UNSPECIFIED.into(), endpoints).await;
    let mut prover = Prover::new(now(), endpoints.iter().copied(), random);
    let (mut buffer4, mut buffer6) = ([0; BUFFER], [0; BUFFER]);
    loop {
        while let Some(output) = prover.poll_output() {
            match output {
                ProverOutput::Tell(tag) => {
                    // A line that does not take it ends, or the round does by time.
                    handle.lines().tell(vmr, What::ReturnProbe(v1::ReturnProbe { tag: tag.into() }));
                }
                ProverOutput::Transmit { to, bytes } => {
                    let socket = if to.is_ipv4() { &v4 } else { &v6 };
                    if let Some(socket) = socket
                        && let Err(error) = socket.send_to(&bytes, to).await
                    {
                        debug!(%vmr, endpoint = %to, %error, "cannot probe");
                    }
                }
                ProverOutput::Found(found) => {
                    is_proved &= found.iter().all(|(_, found)| *found == Found::Proved);
                    note(handle, record, found).await;
                    told.tell(handle, vmr);
                }
                ProverOutput::Done => return Some(is_proved),
            }
        }
        let timeout = prover.poll_timeout()?;
        tokio::select! {
            note = notes.recv() => {
                let v1::Noted { tag, nonces } = note?;
                if let Ok(tag) = u16::try_from(tag) {
                    prover.on_noted(now(), tag, &nonces);
                }
            }
            Some((from, length)) = receive(v4.as_ref(), &mut buffer4) => {
                prover.on_received(now(), from, &buffer4[..length]);
            }
            Some((from, length)) = receive(v6.as_ref(), &mut buffer6) => {
                prover.on_received(now(), from, &buffer6[..length]);
            }
            () = sleep_until(timeout.into()) => prover.handle_timeout(now()),
        }
    }
}

/// A socket of the family of `any`, if an endpoint needs it and the host has it.
async fn socket(any: IpAddr, endpoints: &[SocketAddr]) -> Option<UdpSocket> {
    if !endpoints.iter().any(|endpoint| endpoint.is_ipv4() == any.is_ipv4()) {
        return None;
    }
    let socket = UdpSocket::bind((any, 0)).await;
    socket.inspect_err(|error| debug!(%error, "no socket for return probes")).ok()
}

/// The next datagram; never without a socket. `None` for an error, as of ICMP: it is as if nothing came.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> Option<(SocketAddr, usize)> {
    match socket {
        Some(socket) => socket.recv_from(buffer).await.ok().map(|(length, from)| (from, length)),
        None => std::future::pending().await,
    }
}

/// A number that nobody can foretell.
fn random() -> u16 {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).expect("the operating system has randomness");
    u16::from_ne_bytes(bytes)
}

/// The runtime's clock, which a test can hold.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

//! The secret of the Response MACs changes under streams (RFC 7450 §5.3.6): gateways notice nothing of it, and what a
//! secret of long ago made is worth nothing, as what was made for somebody else.

use libtest_mimic::{Failed, Trial};
use vmcast_lab::roles::wait_ready;
use vmcast_wire::amt::ResponseMac;

use super::{
    bad_input::{Peer, join, report},
    bed::{Bed, Outcome, ensure, trial},
    outer::{Outer, until_ends},
    small::{Router, SOURCE, STREAM, Small, static_agent},
    spoofed::bad_macs,
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("gateways over IPv4 and IPv6 lose nothing while the relay's secret changes", test)]
}

const SOME: u64 = 150;
/// How often the secret changes in the test.
const CHANGES: usize = 3;
const NONCE: u32 = 7;

/// Times by which a secret may change often.
const TUNNEL: &str = "[tunnel]\nsecret_lifetime_seconds = 10\n";
const TIMES: &str = "query_interval_seconds = 4\nquery_response_interval_seconds = 1\n\
                     [mld]\nquery_interval_seconds = 4\nquery_response_interval_seconds = 1\n";

/// Waits until the relay answers, which over IPv6 may not be reached at once after a start.
fn answered(bed: &Bed, peer: &Peer) -> Result<ResponseMac, Failed> {
    let mut mac = None;
    bed.until("the relay answers", || {
        mac = peer.handshake(NONCE).ok();
        Ok(mac.is_some())
    })?;
    mac.ok_or_else(|| "the relay has not answered".into())
}

/// Waits until the relay makes another MAC of the same Request than this one.
fn changed(bed: &Bed, peer: &Peer, before: ResponseMac) -> Result<ResponseMac, Failed> {
    let mut mac = before;
    bed.until("the relay has another secret", || {
        mac = peer.handshake(NONCE)?;
        Ok(mac != before)
    })?;
    Ok(mac)
}

// proves RFC 7450 §5.3.6 and §5.3.3.4 on sockets of both versions of IP
fn test(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    Outer::V6.number(&small)?;
    let router = small.router_with_timers(bed, Router { tables: TUNNEL, ..Router::default() }, TIMES, "")?;
    let mut agents = [
        static_agent(bed, small.client(1), Outer::V4.relay(1), "")?,
        static_agent(bed, small.client(2), Outer::V6.relay(2), "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners = [
        Listener::join(small.client(1), STREAM, None)?,
        Listener::join(small.client(2), STREAM, Some(SOURCE))?,
    ];

    // Who has a MAC and does not use it sees when they change.
    let peers = [Outer::V4, Outer::V6].map(|outer| Peer::new(small.client(3), outer.relay(3)));
    let [v4, v6] = peers;
    let peers = [v4?, v6?];
    let first = [answered(bed, &peers[0])?, answered(bed, &peers[1])?];
    let mut last = first;
    for _ in 0..CHANGES {
        for (peer, mac) in peers.iter().zip(&mut last) {
            *mac = changed(bed, peer, *mac)?;
        }
        for listener in &listeners {
            listener.more(bed, SOME)?;
        }
    }
    ensure!(bad_macs(&router) == 0, "what the agents said was refused {} times", bad_macs(&router));

    // One that is too old, and one of a secret in use that another one was given.
    let joins = report(vec![join(STREAM.group)]);
    for ((peer, first), (outer, last)) in peers.iter().zip(first).zip([Outer::V4, Outer::V6].iter().zip(last))
    {
        peer.update(first, NONCE, &joins)?;
        let stranger = Peer::new(small.client(3), outer.relay(3))?;
        stranger.update(last, NONCE, &joins)?;
    }
    bed.until("each of them is counted", || Ok(bad_macs(&router) >= 4))?;
    ensure!(bad_macs(&router) == 4, "{} were refused, 4 were sent", bad_macs(&router));
    until_ends(bed, &router, "remote", &[Outer::V4.on_link(1, 2), Outer::V6.on_link(2, 2)])?;

    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let end = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, end)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "who had no tunnel was sent {:?}", bystander.stray());
    Ok(())
}

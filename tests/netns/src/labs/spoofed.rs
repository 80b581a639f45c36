//! Updates in a gateway's name that are not of it: they change nothing, whoever has overheard what (RFC 7450 §6).
//!
//! The first client has an agent with a stream. Somebody at the second, and another program on the first client's own
//! host, say what that agent's Update said, with its nonce and Response MAC; and somebody who knows neither forges the
//! agent's own address and port.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{roles::wait_ready, traffic::packet_socket};
use vmcast_wire::{
    amt::{Message, PORT, ResponseMac},
    igmp::{Record, RecordType},
};

use super::{
    bad_input::{Peer, join, report},
    bed::{Bed, Outcome, ensure, trial},
    forged,
    outer::{Outer, shown, until_ends},
    small::{Router, SOURCE, STREAM, Small, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("updates in the name of another gateway are counted and change nothing", |bed| {
            test(bed, Outer::V4)
        }),
        trial("updates in the name of another gateway over IPv6 are counted and change nothing", |bed| {
            test(bed, Outer::V6)
        }),
    ]
}

const SOME: u64 = 150;

fn leave(group: Ipv4Addr) -> Record {
    Record { record_type: RecordType::ChangeToIncludeMode, group, sources: Vec::new() }
}

/// The payload of a UDP datagram to the port of AMT.
fn amt_in(frame: &[u8]) -> Option<&[u8]> {
    let udp = match frame.get(12..14)? {
        [0x08, 0x00] if frame.get(23) == Some(&17) => 14 + 4 * usize::from(frame.get(14)? & 15),
        [0x86, 0xdd] if frame.get(20) == Some(&17) => 54,
        _ => return None,
    };
    let [_, _, port @ ..] = *frame.get(udp..)?.first_chunk::<4>()?;
    let length = u16::from_be_bytes(*frame.get(udp + 4..)?.first_chunk()?);
    (u16::from_be_bytes(port) == PORT).then_some(())?;
    frame.get(udp + 8..udp + usize::from(length))
}

// proves RFC 7450 §6 with Updates and Teardowns from other addresses and ports than the handshake, over either version
fn test(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 3)?;
    outer.number(&small)?;
    let router = small.router(bed, Router::default())?;
    let (relay, victim) = (outer.relay(1), outer.on_link(1, 2));
    let mut agents = [static_agent(bed, small.client(1), relay, "")?];
    wait_ready(&mut agents, bed.clock)?;
    let bystanders = [small.forbid(bed, 2)?, small.forbid(bed, 3)?];
    let wire = small.client(1).enter(|| packet_socket("eth0", Duration::from_millis(20)))??;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;

    // What the agent said when it joined.
    let mut overheard: Option<(ResponseMac, u32)> = None;
    let mut buffer = vec![0; 2048];
    bed.until("the agent says what it wants", || {
        // The stream passes there, too, and never pauses.
        for _ in 0..SOME {
            let Ok(length) = nix::unistd::read(&wire, &mut buffer) else { break };
            if let Some(Ok(Message::MembershipUpdate { response_mac, nonce, .. })) =
                amt_in(&buffer[..length]).map(Message::parse)
            {
                overheard = Some((response_mac, nonce));
                return Ok(true);
            }
        }
        Ok(false)
    })?;
    let (mac, nonce) = overheard.ok_or("no Update was seen")?;
    listener.more(bed, SOME)?;
    until_ends(bed, &router, "remote", &[victim])?;
    let port = port_of(&router.ask(&["tunnel", "list"]).unwrap_or_default(), victim)?;

    let before = bad_macs(&router);
    let others = [Peer::new(small.client(2), relay)?, Peer::new(small.client(1), relay)?];
    for other in &others {
        let own = other.local()?;
        other.update(mac, nonce, &report(vec![leave(STREAM.group)]))?;
        other.update(mac, nonce, &report(vec![join(STREAM.group)]))?;
        other.send(&Message::Teardown { response_mac: mac, nonce, gateway: own.into() }.to_vec())?;
    }
    let guessed = mac.map(|byte| !byte);
    let leaves = report(vec![leave(STREAM.group)]);
    let victim = SocketAddr::new(victim, port);
    let messages = [
        Message::MembershipUpdate { response_mac: guessed, nonce, update: &leaves },
        Message::Teardown { response_mac: guessed, nonce, gateway: victim.into() },
    ];
    let attacker = small.client(2).enter(|| packet_socket("eth0", Duration::from_millis(20)))??;
    for message in messages {
        let frame = forged::frame(small.vmr_mac(2)?, victim, SocketAddr::new(relay, PORT), &message.to_vec());
        nix::unistd::write(&attacker, &frame)?;
    }
    bed.until("each of them is counted", || Ok(bad_macs(&router) >= before + 8))?;
    ensure!(bad_macs(&router) == before + 8, "{} were refused, 8 were sent", bad_macs(&router) - before);

    // Nothing has changed: one tunnel, one member, and the stream goes on.
    until_ends(bed, &router, "remote", &[victim.ip()])?;
    let members = router.ask(&["member", "list"]).unwrap_or_default();
    ensure!(members["members"].as_array().is_some_and(|members| members.len() == 1), "{members}");
    listener.more(bed, SOME)?;
    listener.until_last(bed, sender.stop()? - 1)?;
    listener.heard().is_whole()?;
    for bystander in &bystanders {
        ensure!(bystander.stray().packets == 0, "another link was sent {:?}", bystander.stray());
    }
    Ok(())
}

pub(super) fn bad_macs(router: &vmcast_lab::roles::Role) -> u64 {
    let stats = router.ask(&["stats"]).unwrap_or_default();
    stats["control"]["relay"]["bad_mac"].as_u64().unwrap_or(0)
}

/// The port at which a tunnel ends at this address.
fn port_of(tunnels: &serde_json::Value, address: IpAddr) -> Result<u16, Failed> {
    let all = tunnels["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
    let end = all.iter().filter_map(|tunnel| tunnel["remote"].as_str());
    let port = end.filter_map(|end| end.strip_prefix(&shown(address))).next().ok_or("no tunnel to it")?;
    Ok(port.parse()?)
}

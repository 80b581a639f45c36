//! Bad MLD on a link of a running router, and bad AMT that comes by IPv6: it is counted, and the streams are not
//! touched.

use std::{
    net::{Ipv6Addr, SocketAddr},
    thread,
    time::Duration,
};

use libtest_mimic::Trial;
use vmcast_common::hdr::eth::multicast_mac_v6;
use vmcast_lab::{Namespace, roles::Engine, traffic::packet_socket};
use vmcast_wire::{
    ipv6,
    mld::{self, NEXT_ICMPV6, Record, RecordType},
};

use super::{
    bad_input::until_counted,
    bed::{Bed, Outcome, ensure, trial},
    hosts::{Hosts, V4, V6},
    stream::payload,
    untouched::internet_checksum,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("bad MLD on a link is counted and no stream is touched", on_a_link)]
}

const SOME: u64 = 150;
/// A host on the second link.
const HOST: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0x77);
const TO: Ipv6Addr = mld::ALL_MLDV2_ROUTERS;

/// A message as a host sends it, if everything about it is in order.
struct Sent {
    from: Ipv6Addr,
    to: Ipv6Addr,
    hop_limit: u8,
    message: Vec<u8>,
}

impl Sent {
    fn new(message: Vec<u8>) -> Self {
        Self { from: HOST, to: TO, hop_limit: 1, message }
    }

    fn datagram(&self) -> Vec<u8> {
        ipv6::encapsulate(self.from, self.to, self.hop_limit, 0, NEXT_ICMPV6, true, &self.message)
    }
}

/// Sends datagrams as they are, in bursts that fit the ring of a veth.
fn send(node: &Namespace, datagrams: &[Vec<u8>]) -> Outcome {
    let socket = node.enter(|| packet_socket("eth0", Duration::from_millis(1)))??;
    for (number, datagram) in (1..).zip(datagrams) {
        let to: [u8; 16] = datagram[24..40].try_into()?;
        let frame = [&multicast_mac_v6(&to)[..], &[2, 0, 0, 0, 0, 0x77], &[0x86, 0xdd], datagram].concat();
        nix::unistd::write(&socket, &frame)?;
        if number % 64 == 0 {
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

/// The message with a checksum that fits (RFC 8200 §8.1).
fn sealed(mut message: Vec<u8>) -> Vec<u8> {
    if message.len() >= 4 {
        message[2..4].fill(0);
        let length = (message.len() as u32).to_be_bytes();
        let pseudo = [&HOST.octets()[..], &TO.octets(), &length, &[0, 0, 0, NEXT_ICMPV6], &message].concat();
        message[2..4].copy_from_slice(&internet_checksum(&pseudo).to_be_bytes());
    }
    message
}

fn report(record_type: RecordType, group: Ipv6Addr, sources: Vec<Ipv6Addr>) -> Vec<u8> {
    mld::Message::ReportV2 { records: vec![Record { record_type, group, sources }] }.emit(HOST, TO)
}

// proves RFC 9777 §5.2.13, §7.4 and §10 with a host that does everything wrong
fn on_a_link(bed: &mut Bed) -> Outcome {
    let mut hosts = Hosts::start(bed, 3, Engine::default())?;
    let group = match V6.any {
        SocketAddr::V6(stream) => *stream.ip(),
        SocketAddr::V4(_) => return Err("an IPv6 group".into()),
    };
    let bystanders = [hosts.forbid(bed, 3, V6.any)?, hosts.forbid(bed, 2, V6.any)?];
    let senders = [hosts.send(V6.sources[0], V6.any)?, hosts.send(V4.sources[0], V4.any)?];
    let listeners = [hosts.join(1, V6.any, None)?, hosts.join(1, V4.any, None)?];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }

    let right = report(RecordType::ChangeToExcludeMode, group, Vec::new());
    let mut broken = right.clone();
    broken[2] ^= 0x55;
    let mut bad = vec![Sent::new(broken)];
    // Cut at each length, and counts of records and of sources that lie.
    bad.extend((1..right.len()).map(|length| Sent::new(sealed(right[..length].to_vec()))));
    for counts in [6..8, 10..12] {
        let mut lying = right.clone();
        lying[counts].fill(0xff);
        bad.push(Sent::new(sealed(lying)));
    }
    bad.push(Sent { hop_limit: 5, ..Sent::new(right.clone()) });
    // Of an address that is not link-local, of none, and of one that is no host's.
    for from in ["2001:db8:5::2", "::", "ff02::1"] {
        let from = from.parse()?;
        let message = mld::Message::ReportV1 { group }.emit(from, group);
        bad.push(Sent { from, to: group, hop_limit: 1, message });
    }
    let elsewhere: Ipv6Addr = "ff02::5".parse()?;
    let message = mld::Message::ReportV1 { group }.emit(HOST, elsewhere);
    bad.push(Sent { to: elsewhere, message, ..Sent::new(Vec::new()) });
    let sources =
        |page: u16| (1..=80).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 9, page, 0, 0, 0, last)).collect();
    let channel: Ipv6Addr = "ff3e::8000:9".parse()?;
    bad.push(Sent::new(report(RecordType::ChangeToExcludeMode, "ff02::fb".parse()?, Vec::new())));
    bad.push(Sent::new(report(RecordType::ChangeToExcludeMode, "2001:db8::1".parse()?, Vec::new())));
    bad.push(Sent::new(report(RecordType::AllowNewSources, channel, vec!["ff0e::1".parse()?])));
    bad.push(Sent::new(report(RecordType::ChangeToExcludeMode, channel, Vec::new())));
    bad.push(Sent::new(report(RecordType::Unrecognized(77), group, Vec::new())));
    // One group of thousands of sources.
    bad.extend((0..40).map(|page| Sent::new(report(RecordType::AllowNewSources, channel, sources(page)))));
    let mut datagrams: Vec<Vec<u8>> = bad.iter().map(Sent::datagram).collect();
    // PadN in the place of Router Alert, and bytes that are nothing.
    let mut plain = Sent::new(right.clone()).datagram();
    let alert = plain[40..48].windows(2).position(|option| option == [5, 2]).ok_or("no Router Alert")?;
    plain[40 + alert] = 1;
    datagrams.push(plain);
    datagrams.extend((0..64).map(|number| {
        let noise = payload(number)[..number as usize + 1].to_vec();
        Sent::new(sealed([&[143][..], &noise].concat())).datagram()
    }));
    send(hosts.host(2), &datagrams)?;
    until_counted(
        bed,
        &hosts.router,
        &[
            "mld.malformed",
            "mld.bad_checksum",
            "mld.bad_ttl",
            "mld.bad_source",
            "mld.bad_destination",
            "mld.no_router_alert",
            "mld.not_multicast",
            "mld.link_local_group",
            "mld.source_specific_group",
            "mld.bad_listed_source",
            "mld.unknown_record_type",
            "mld.too_many_sources",
        ],
    )?;
    hosts.router.check_alive()?;
    for (listener, sender) in listeners.iter().zip(senders) {
        listener.more(bed, SOME)?;
        let last = sender.stop()? - 1;
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    for bystander in &bystanders {
        ensure!(bystander.stray().packets == 0, "another link was sent {:?}", bystander.stray());
    }
    Ok(())
}

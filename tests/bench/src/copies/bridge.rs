//! A bridge that turns multicast into a unicast copy for every host that joined (`mcast_to_unicast`).

use std::{net::Ipv4Addr, thread, time::Duration};

use anyhow::{Context as _, Result};
use etherparse::PacketBuilder;
use vmcast_lab::Lab;

use super::{
    case::Case,
    engine::{Engine, Receiver, Run},
    feed::Feeder,
    stand::{INGRESS, Stand, egress_name},
    stream::{self, Ranges},
};
use crate::{
    kernel::{
        layout::{HOST_KEYS, HOST_PREFIX},
        sink::Sink,
    },
    wire::FrameSocket,
};

const BRIDGE: &str = "br0";
/// How long the bridge floods before it trusts what it has heard, in hundredths of a second.
const RESPONSE_INTERVAL: u32 = 10;
/// Until it has heard the last reports.
const SETTLE: Duration = Duration::from_millis(20);
const PROTO_IGMP: u8 = 2;

pub(super) struct BridgeEngine {
    stand: Stand,
    feeder: Feeder,
    ranges: Ranges,
}

impl BridgeEngine {
    pub(super) fn new(lab: &mut Lab, sink: &mut Sink, outputs: usize) -> Result<Self> {
        let stand = Stand::with_sink(lab, sink, "bridge", outputs)?;
        // The interval has to be known when the bridge becomes the querier.
        let mut lines = format!(
            "link add {BRIDGE} type bridge mcast_snooping 1 mcast_query_response_interval {RESPONSE_INTERVAL}\n\
             link set {BRIDGE} up\nlink set {BRIDGE} type bridge mcast_querier 1\n\
             link set {INGRESS} master {BRIDGE}\n"
        );
        for number in 0..outputs {
            let name = egress_name(number);
            lines += &format!(
                "link set {name} master {BRIDGE}\nlink set {name} type bridge_slave mcast_to_unicast on\n"
            );
        }
        stand.dut.ip(&lines)?;
        thread::sleep(Duration::from_millis(u64::from(RESPONSE_INTERVAL) * 20));
        Ok(Self { stand, feeder: Feeder::load()?, ranges: Ranges::default() })
    }

    /// Sends a report of every host from the far end of its cable.
    fn join(&self, case: &Case, range: u8) -> Result<()> {
        let sockets: Vec<FrameSocket> = self.stand.egress[..case.devices()]
            .iter()
            .map(|cable| self.stand.far.enter(|| FrameSocket::open(cable.far_ifindex))?)
            .collect::<Result<_>>()?;
        for number in 0..case.groups {
            let group = stream::group(range, number);
            for member in 0..case.members {
                let frame = report(host(member)?, group)?;
                sockets[member % sockets.len()].send(&frame).context("sending a report")?;
            }
        }
        thread::sleep(SETTLE);
        Ok(())
    }
}

impl Engine for BridgeEngine {
    fn label(&self) -> &'static str {
        "bridge mcast_to_unicast"
    }

    fn output(&self, _case: &Case) -> &'static str {
        "Ethernet"
    }

    fn prepare(&mut self, case: &Case) -> Result<Vec<Receiver>> {
        let (range, new) = self.ranges.give(case)?;
        if new {
            self.join(case, range)?;
        }
        Ok((HOST_KEYS..).take(case.members).map(Receiver::once).collect())
    }

    fn run(&mut self, case: &Case, at_least: Duration) -> Result<Run> {
        self.feeder.run(&self.stand, case, self.ranges.of(case)?, at_least)
    }

    fn clear(&mut self) -> Result<()> {
        // The groups time out; none is used again.
        self.ranges.take();
        Ok(())
    }

    fn explain_loss(&self) -> Result<String> {
        Ok("the kernel says nothing of them".to_owned())
    }
}

/// The link-layer address of a member.
fn host(member: usize) -> Result<[u8; 6]> {
    let [a, b, c, d] = HOST_PREFIX;
    let [e, f] = u16::try_from(member).context("a host has a number of two bytes")?.to_be_bytes();
    Ok([a, b, c, d, e, f])
}

/// A Version 2 Membership Report (RFC 2236 §2).
fn report(host: [u8; 6], group: Ipv4Addr) -> Result<Vec<u8>> {
    const TYPE: u8 = 0x16;
    let [a, b, c, d] = group.octets();
    let mut message = [TYPE, 0, 0, 0, a, b, c, d];
    let sum: u32 =
        message.chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    message[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let address = [10, 201, host[4], host[5]];
    let builder =
        PacketBuilder::ethernet2(host, [0x01, 0x00, 0x5e, b & 0x7f, c, d]).ipv4(address, group.octets(), 1);
    let mut frame = Vec::new();
    builder.write(&mut frame, PROTO_IGMP.into(), &message)?;
    Ok(frame)
}

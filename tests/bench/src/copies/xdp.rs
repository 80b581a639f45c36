//! The XDP plane, fed with live frames.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use etherparse::PacketBuilder;
use vmcast_common::{
    AMT_PORT,
    fib::{
        FibOp, Input, Interface, Members, NextHop, NextHopId, Output, Rpf, Stream, Tunnel, TunnelId,
        TunnelKind,
    },
    hdr::eth::multicast_mac,
};
use vmcast_dataplane::{
    Dataplane as _,
    xdp::{Options, XdpPlane},
};

use super::{
    core_time::CoreTime,
    rig::{Cable, EGRESS, NATIVE_PORT, Rig},
    run::{Engine, Run},
    source::Source,
};

const SOURCE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const MTU: u16 = 1500;
/// Time to live of the frames put in.
const TTL: u8 = 16;
/// Packets of one call: setting it up takes the kernel some 20 ms.
const A_CALL: u32 = 1_000;
/// Packets where a few are enough.
const A_FEW: u32 = 400;
/// Most frames between two turns of the softirqs, as a driver's poll has it (`NAPI_POLL_WEIGHT`).
const MAX_BATCH: usize = 64;
/// Most copies between two turns: as many as the caches and the page allocator's lists of one core
/// hold, as when packets arrive a few at a time. The softirqs would take about 3,000 (ten times
/// `netdev_budget`) before they hand the rest to a thread.
const COPIES_PER_BATCH: usize = 256;

/// The plane with its streams, whose members all get AMT.
pub(super) struct XdpEngine {
    plane: XdpPlane,
    source: Source,
    tunnels: usize,
    core: CoreTime,
}

impl XdpEngine {
    /// Loads the plane. The calling thread must be in the namespace under test.
    pub(super) fn new(rig: &Rig) -> Result<Self> {
        let mut plane = XdpPlane::open(&Options::default())?;
        let mut ops = vec![set_interface(&rig.ingress)];
        ops.extend(rig.egress.iter().zip(0..).map(|(cable, id)| {
            let hop = NextHop {
                ifindex: cable.ifindex,
                source_mac: cable.near_mac,
                destination_mac: Some(cable.far_mac),
                mtu: MTU,
            };
            FibOp::SetNextHop(NextHopId(id), hop)
        }));
        plane.apply(&ops)?;
        let source = Source::load(&plane.ingress_program()?)?;
        Ok(Self { plane, source, tunnels: 0, core: CoreTime::of(0) })
    }

    fn set_members(&mut self, rig: &Rig, stream: Stream, members: usize) -> Result<()> {
        let mut ops = Vec::new();
        for member in self.tunnels..members {
            let tunnel = Tunnel {
                kind: TunnelKind::Amt,
                local: SocketAddr::new(rig.cable(member).near.into(), AMT_PORT),
                remote: rig.member(member).into(),
                accepts_sources: false,
                next_hop: Some(NextHopId((member % EGRESS) as u32)),
            };
            ops.push(FibOp::SetTunnel(TunnelId(member as u32), tunnel));
        }
        self.tunnels = self.tunnels.max(members);
        ops.push(FibOp::SetStream(stream, Rpf::Exact(Input::Interface(rig.ingress.ifindex)), Members::Own));
        ops.extend(
            (0..members).map(|member| FibOp::AddMember(stream, Output::Tunnel(TunnelId(member as u32)))),
        );
        self.plane.apply(&ops)?;
        Ok(())
    }

    fn packets_of(&self, stream: Stream) -> Result<u64> {
        let counters = self.plane.counters()?;
        Ok(counters
            .streams
            .iter()
            .find(|stats| stats.stream == stream)
            .map_or(0, |stats| stats.counters.packets))
    }

    fn drops(&self) -> Result<String> {
        let drops = self.plane.counters()?.drops;
        let list: Vec<String> =
            drops.iter().map(|(reason, count)| format!("{}: {count}", reason.label())).collect();
        Ok(if list.is_empty() { "none".to_owned() } else { list.join(", ") })
    }
}

impl Engine for XdpEngine {
    fn label(&self) -> &'static str {
        self.plane.engine().engine.label()
    }

    fn burst(&self, members: usize) -> usize {
        (COPIES_PER_BATCH / members).clamp(1, MAX_BATCH)
    }

    fn run(&mut self, rig: &Rig, members: usize, payload: usize, at_least: Duration) -> Result<Run> {
        // One stream for each number of members.
        let group = Ipv4Addr::from(u32::from(Ipv4Addr::new(232, 1, 0, 0)) + members as u32);
        let stream = Stream { source: Some(SOURCE.into()), group: IpAddr::V4(group) };
        self.set_members(rig, stream, members)?;
        let frame = frame(rig, group, payload)?;
        let batch = self.burst(members) as u32;

        let before = (rig.arrived(members)?, self.packets_of(stream)?);
        let mut run = Run::default();
        let packets = if at_least.is_zero() { A_FEW } else { A_CALL };
        let softirqs = self.core.softirqs();
        loop {
            run.time += self.source.run(rig.ingress.ifindex, &frame, packets, batch)?;
            run.packets += u64::from(packets);
            if run.time >= at_least {
                break;
            }
        }
        // The kernel's own time of a run leaves out when the core was given to somebody else.
        run.time += self.core.softirqs() - softirqs;
        let arrived = rig.arrived(members)?;
        run.copies = arrived.iter().zip(&before.0).map(|(after, before)| after - before).collect();
        let counted = self.packets_of(stream)? - before.1;
        ensure!(
            counted == run.packets,
            "{} frames went in, the stream's counter says {counted}; drops: {}",
            run.packets,
            self.drops()?
        );
        Ok(run)
    }

    fn explain_loss(&self) -> Result<String> {
        Ok(format!("drops counted by the plane: {}", self.drops()?))
    }
}

fn set_interface(cable: &Cable) -> FibOp {
    FibOp::SetInterface(Interface {
        ifindex: cable.ifindex,
        mac: cable.near_mac,
        mtu: MTU,
        accepts_sources: true,
    })
}

/// A packet of the stream as the ingress interface receives it.
fn frame(rig: &Rig, group: Ipv4Addr, payload: usize) -> Result<Vec<u8>> {
    let builder = PacketBuilder::ethernet2(rig.ingress.far_mac, multicast_mac(group))
        .ipv4(SOURCE.octets(), group.octets(), TTL)
        .udp(NATIVE_PORT, NATIVE_PORT);
    let mut frame = Vec::with_capacity(builder.size(payload));
    builder.write(&mut frame, &vec![0x47; payload])?;
    Ok(frame)
}

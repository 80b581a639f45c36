//! The planes of vmcast, each on a stand.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Range,
};

use anyhow::{Result, ensure};
use aya::programs::ProgramFd;
use vmcast_common::{
    AMT_PORT,
    fib::{
        self, EcnMode, EngineWish, FibOp, IfIndex, Input, Interface, Link, NextHop, NextHopId, Output as Way,
        Rpf, Stream, Tunnel, TunnelId, TunnelKind,
    },
    maps,
};
use vmcast_dataplane::{
    Dataplane,
    kernel::{KernelPlane, Options, Rule, Statistics},
    software,
};

use super::{
    case::{Case, Output},
    engine::{Receiver, Run},
    stand::{Cable, Stand, interface_receiver, member_port, port_receiver},
    stream::{self, Ranges},
};

const MTU: u16 = 1500;
/// How often a plane looks at its tables before those that do not change share their memory, and once more.
const LOOKS_BEFORE_REST: u32 = 6;

/// What forwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Xdp,
    /// XDP without the counters of streams.
    XdpUncounted,
    Tc,
    /// TC without them.
    TcUncounted,
    Software,
}

impl Kind {
    /// Its name in results.
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Xdp => "XDP broadcast",
            Self::XdpUncounted => "XDP broadcast, statistics off",
            Self::Tc => "TC clone",
            Self::TcUncounted => "TC clone, statistics off",
            Self::Software => "software",
        }
    }

    /// Its name in namespaces.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpUncounted => "xdpoff",
            Self::Tc => "tc",
            Self::TcUncounted => "tcoff",
            Self::Software => "soft",
        }
    }

    /// The plane, and its program where frames can be handed to that without a wire.
    fn open(self) -> Result<(Box<dyn Dataplane>, Option<ProgramFd>)> {
        let reason = "it is measured".to_owned();
        let (rule, statistics) = match self {
            Self::Xdp => (Rule::Xdp, Statistics::On),
            Self::XdpUncounted => (Rule::Xdp, Statistics::Off),
            Self::Tc => (Rule::Tc, Statistics::On),
            Self::TcUncounted => (Rule::Tc, Statistics::Off),
            Self::Software => {
                return Ok((Box::new(software::Plane::new(software::Limits::default(), reason)?), None));
            }
        };
        let mut plane = KernelPlane::open(&Options { rule, reason, statistics, ..Options::default() })?;
        let program = match rule {
            Rule::Auto | Rule::Xdp => Some(plane.xdp_program()?),
            Rule::Tc => None,
        };
        Ok((Box::new(plane), program))
    }
}

/// A plane on a stand, without members.
pub(crate) struct Plane {
    pub(super) kind: Kind,
    plane: Box<dyn Dataplane>,
    /// The program that frames are handed to; without it they come in by the stack.
    pub(super) program: Option<ProgramFd>,
    ranges: Ranges,
}

impl Plane {
    /// Loads the plane, which looks at every interface of the stand.
    pub(crate) fn open(stand: &Stand, kind: Kind) -> Result<Self> {
        let (plane, program) = stand.dut.enter(|| kind.open())??;
        let interfaces = std::iter::once(&stand.ingress).chain(&stand.egress).map(set_interface);
        let next_hops = stand.egress.iter().zip(0..).map(|(cable, id)| {
            let hop = NextHop {
                ifindex: IfIndex(cable.ifindex),
                link: Link::PLAIN,
                source_mac: cable.near_mac,
                destination_mac: Some(cable.far_mac),
                mtu: MTU,
            };
            FibOp::SetNextHop(NextHopId(id), hop)
        });
        let ops: Vec<FibOp> = interfaces.chain(next_hops).collect();
        let mut plane = Self { kind, plane, program, ranges: Ranges::default() };
        plane.apply(stand, &ops)?;
        Ok(plane)
    }

    /// Makes tunnels to members, spread over the first `devices` egress devices. Their numbers start at
    /// `first`, so that members who are spread in another way have others.
    pub(crate) fn set_tunnels(
        &mut self,
        stand: &Stand,
        first: u32,
        members: Range<usize>,
        devices: usize,
    ) -> Result<()> {
        self.set_tunnels_between(stand, first, members, devices, IpAddr::V4)
    }

    /// The same with other addresses of their ends.
    fn set_tunnels_between(
        &mut self,
        stand: &Stand,
        first: u32,
        members: Range<usize>,
        devices: usize,
        end: fn(Ipv4Addr) -> IpAddr,
    ) -> Result<()> {
        let ops: Vec<FibOp> = members
            .map(|member| {
                let device = member % devices;
                let cable = &stand.egress[device];
                let tunnel = Tunnel {
                    kind: TunnelKind::Amt,
                    local: SocketAddr::new(end(cable.near), AMT_PORT),
                    remote: SocketAddr::new(end(cable.far), member_port(member)?),
                    ecn: EcnMode::Compatibility,
                    accepts_sources: false,
                    next_hop: Some(NextHopId(device as u32)),
                };
                Ok(FibOp::SetTunnel(TunnelId(first + member as u32), tunnel))
            })
            .collect::<Result<_>>()?;
        self.apply(stand, &ops)
    }

    /// Makes streams, each with the same members.
    pub(crate) fn set_streams(
        &mut self,
        stand: &Stand,
        range: u8,
        groups: u32,
        members: &Members,
    ) -> Result<()> {
        self.set_streams_of(stand, (0..groups).map(|number| stream_of(range, number)), members)
    }

    fn set_streams_of(
        &mut self,
        stand: &Stand,
        streams: impl Iterator<Item = Stream>,
        members: &Members,
    ) -> Result<()> {
        let mut ops = Vec::with_capacity(members.0.len() + 1);
        for stream in streams {
            let rpf = Rpf::Exact(Input::Interface(IfIndex(stand.ingress.ifindex)));
            ops.clear();
            ops.push(FibOp::SetStream(stream, rpf, fib::Members::Own));
            ops.extend(members.0.iter().map(|way| FibOp::AddMember(stream, *way)));
            self.apply(stand, &ops)?;
        }
        self.let_rest(stand)
    }

    /// Lets the member tables become what they are once nobody has joined or left for ten seconds: the floors are as those
    /// from the start.
    fn let_rest(&mut self, stand: &Stand) -> Result<()> {
        let plane = &mut self.plane;
        stand.dut.enter(|| (0..LOOKS_BEFORE_REST).try_for_each(|_| plane.refresh()))??;
        Ok(())
    }

    /// Lets members of a range's first stream come and go, one change at a time, for as long as it is told to. Returns
    /// how many changes there were; in the end all of them have left.
    pub(crate) fn churn(
        &mut self,
        stand: &Stand,
        range: u8,
        members: &Members,
        go_on: impl Fn() -> bool + Sync,
    ) -> Result<u64> {
        let (stream, plane, go_on) = (stream_of(range, 0), &mut self.plane, &go_on);
        stand.dut.enter(|| {
            let mut changes = 0;
            let mut there = vec![false; members.0.len()];
            // Steps of 7 are none of those in which members are spread over devices.
            let order = (0..).map(|turn| turn * 7 % members.0.len());
            for at in order.take_while(|_| go_on()) {
                let way = members.0[at];
                let change =
                    if there[at] { FibOp::RemoveMember(stream, way) } else { FibOp::AddMember(stream, way) };
                plane.apply(&[change])?;
                there[at] = !there[at];
                changes += 1;
            }
            let left: Vec<_> = members.0.iter().map(|way| FibOp::RemoveMember(stream, *way)).collect();
            plane.apply(&left)?;
            Ok(changes)
        })?
    }

    /// Takes those of a case away.
    fn remove_streams(&mut self, stand: &Stand, case: &Case, range: u8) -> Result<()> {
        let ops: Vec<_> = streams_of(case, range).map(FibOp::RemoveStream).collect();
        self.apply(stand, &ops)
    }

    fn apply(&mut self, stand: &Stand, ops: &[FibOp]) -> Result<()> {
        stand.dut.enter(|| self.plane.apply(ops).map_err(anyhow::Error::from))?
    }

    /// Packets of a case that the plane says to have taken.
    fn packets_of(&self, case: &Case, range: u8) -> Result<u64> {
        let of = |number| stream_for(case, range, number);
        let (first, last) = (of(0), of(case.groups - 1));
        let streams = self.plane.counters()?.streams;
        Ok(streams
            .iter()
            .filter(|stats| (first..=last).contains(&stats.stream))
            .map(|stats| stats.counters.packets)
            .sum())
    }

    /// Makes the members of a case and their streams; says who they are.
    pub(super) fn prepare(&mut self, stand: &Stand, case: &Case) -> Result<Vec<Receiver>> {
        let (range, new) = self.ranges.give(case)?;
        if new {
            let members = match case.output {
                Output::Unicast => {
                    // The next free numbers: no two fan-outs share one.
                    let first = case.members as u32;
                    self.set_tunnels(stand, first, 0..case.members, case.devices())?;
                    Members::tunnels(first, 0..case.members)
                }
                Output::UnicastV6 => {
                    let first = FIRST_V6 + case.members as u32;
                    self.set_tunnels_between(stand, first, 0..case.members, case.devices(), as_v6)?;
                    Members::tunnels(first, 0..case.members)
                }
                Output::Native => Members::interfaces(stand, case.members),
            };
            self.set_streams_of(stand, streams_of(case, range), &members)?;
        }
        match case.output {
            Output::Unicast | Output::UnicastV6 => (0..case.members).map(port_receiver).collect(),
            Output::Native => Ok(stand.egress[..case.members].iter().map(interface_receiver).collect()),
        }
    }

    /// Forgets what was prepared.
    pub(super) fn clear(&mut self, stand: &Stand) -> Result<()> {
        for (case, range) in self.ranges.take() {
            self.remove_streams(stand, &case, range)?;
        }
        Ok(())
    }

    /// Does `work` with the groups of a prepared case, after which the plane's counters must say that it
    /// took as many packets as went in.
    pub(super) fn counting(&self, case: &Case, work: impl FnOnce(u8) -> Result<Run>) -> Result<Run> {
        let range = self.ranges.of(case)?;
        let before = self.packets_of(case, range)?;
        let run = work(range)?;
        if matches!(self.kind, Kind::XdpUncounted | Kind::TcUncounted) {
            return Ok(run);
        }
        let counted = self.packets_of(case, range)? - before;
        ensure!(
            counted == run.packets,
            "{} packets went in, the streams' counters say {counted}; drops: {}",
            run.packets,
            self.drops()?
        );
        Ok(run)
    }

    /// What the plane says of copies that it did not send.
    pub(crate) fn drops(&self) -> Result<String> {
        let drops = self.plane.counters()?.drops;
        let list: Vec<String> =
            drops.iter().map(|(reason, count)| format!("{}: {count}", reason.label())).collect();
        Ok(if list.is_empty() { "none".to_owned() } else { list.join(", ") })
    }
}

/// Where the copies of a stream go.
pub(crate) struct Members(Vec<Way>);

impl Members {
    /// Through tunnels, by the number of the first and of the members.
    pub(crate) fn tunnels(first: u32, members: Range<usize>) -> Self {
        Self(members.map(|member| Way::Tunnel(TunnelId(first + member as u32))).collect())
    }

    /// Natively, on the first egress devices.
    pub(crate) fn interfaces(stand: &Stand, count: usize) -> Self {
        Self(stand.egress[..count].iter().map(|cable| Way::Interface(IfIndex(cable.ifindex))).collect())
    }
}

/// The numbers of tunnels over IPv6 lie behind those of the others.
const FIRST_V6: u32 = 1 << 20;

/// An address of a cable as one of IPv6.
fn as_v6(address: Ipv4Addr) -> IpAddr {
    const PREFIX: u128 = 0xfd00 << 112;
    Ipv6Addr::from(PREFIX | u128::from(u32::from(address))).into()
}

fn stream_for(case: &Case, range: u8, number: u32) -> Stream {
    match case.output {
        Output::Unicast | Output::Native => stream_of(range, number),
        Output::UnicastV6 => Stream {
            source: Some(stream::SOURCE_V6.into()),
            group: IpAddr::V6(stream::group_v6(range, number)),
        },
    }
}

/// The streams of a case.
fn streams_of(case: &Case, range: u8) -> impl Iterator<Item = Stream> {
    (0..case.groups).map(move |number| stream_for(case, range, number))
}

fn stream_of(range: u8, number: u32) -> Stream {
    Stream { source: Some(stream::SOURCE.into()), group: IpAddr::V4(stream::group(range, number)) }
}

fn set_interface(cable: &Cable) -> FibOp {
    FibOp::SetInterface(Interface {
        ifindex: IfIndex(cable.ifindex),
        device: IfIndex(cable.ifindex),
        link: Link::PLAIN,
        peer: None,
        mac: cable.near_mac,
        mtu: MTU,
        accepts_sources: true,
        shared: false,
        engine: EngineWish::Any,
        xdp_members: None,
    })
}

/// What an entry of a kernel table belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Member,
    Stream,
    Tunnel,
    /// The plane as a whole, an interface or a next hop.
    Other,
}

impl Owner {
    /// That of the entries of a table that is allocated as a whole.
    pub(crate) fn of_table(name: &str) -> Self {
        match name {
            maps::MEMBERS => Self::Member,
            maps::STREAMS | maps::STREAM_STATS | maps::TABLES | maps::LISTS | maps::QUEUES => Self::Stream,
            maps::TUNNELS => Self::Tunnel,
            _ => Self::Other,
        }
    }
}

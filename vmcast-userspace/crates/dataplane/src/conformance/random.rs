//! Random tables and packets, the same for the same seed.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use vmcast_common::fib::{
    Conversion, ConversionId, EcnMode, FibOp, IfIndex, Input, Link, Members, NextHop, NextHopId, Output,
    Priority, Rpf, Stream, Tunnel, TunnelId, TunnelKind, Way,
};

use super::{
    device::{Device, Devices},
    packet::{Packet, seal},
    scene::{
        GROUP, LOCAL, OTHER_GROUP, OTHER_SOURCE, SOURCE, Scene, UPSTREAM, UPSTREAM_ADDRESS, outer, stream,
    },
};

/// A step of a random case.
#[derive(Clone, Debug)]
pub enum RandomStep {
    /// Operations, all valid at this point.
    Apply(Vec<FibOp>),
    /// A received frame of 14 to 1514 bytes.
    Inject(IfIndex, Vec<u8>),
}

/// How often tables change in a case, and how many frames follow each change.
const ROUNDS: u64 = 4;
const FRAMES: u64 = 12;
const TUNNELS: u64 = 12;
const CONVERSIONS: u64 = 6;
/// Where streams come in by unicast.
const INPUT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, 1), 5004);

/// A random case: valid operations between random packets, most of them nearly right.
///
/// Tunnels and next hops keep their device, since the order of copies on a device that a member
/// moved to is nobody's promise.
#[must_use]
pub fn random_case(seed: u64, devices: &Devices) -> Vec<RandomStep> {
    let scene = Scene { devices: *devices };
    let mut case = Random { seed, scene };
    let mut steps = vec![RandomStep::Apply(scene.base())];
    for _ in 0..ROUNDS {
        let ops = case.ops();
        steps.push(RandomStep::Apply(ops));
        for _ in 0..FRAMES {
            let (ingress, frame) = case.frame();
            steps.push(RandomStep::Inject(ingress, frame));
        }
    }
    steps
}

struct Random {
    seed: u64,
    scene: Scene,
}

impl Random {
    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    fn device(&mut self) -> Device {
        let devices = self.scene.devices.all();
        self.pick(&devices)
    }

    fn stream(&mut self) -> Stream {
        let group = self.pick(&[GROUP, OTHER_GROUP]);
        match self.below(3) {
            0 => Stream { source: None, group: group.into() },
            1 => stream(OTHER_SOURCE, group),
            _ => stream(SOURCE, group),
        }
    }

    fn tunnel_number(&mut self) -> u64 {
        self.below(TUNNELS)
    }

    /// The tunnel with this number always leaves by the same device.
    fn tunnel(&mut self, number: u64) -> FibOp {
        let device = self.scene.devices.all()[number as usize % 3];
        let tunnel = Tunnel {
            kind: TunnelKind::Amt,
            local: LOCAL.into(),
            remote: SocketAddr::V4(remote(number)),
            ecn: self.pick(&[EcnMode::Normal, EcnMode::Compatibility]),
            accepts_sources: self.one_in(3),
            next_hop: Some(NextHopId(device.ifindex.0 + if number >= 6 { 0x1000 } else { 0 })),
        };
        FibOp::SetTunnel(id(number), tunnel)
    }

    fn port(&mut self) -> u16 {
        self.below(65_535) as u16 + 1
    }

    /// The conversion with this number always leaves by the same device.
    fn conversion(&mut self, number: u64) -> FibOp {
        let device = self.scene.devices.all()[number as usize % 3].ifindex;
        let last = self.below(256) as u8;
        let source = (Ipv4Addr::new(10, 4, 0, last), self.port()).into();
        let (host, group) = (Ipv4Addr::new(10, 5, 0, last), Ipv4Addr::new(239, 200, 3, last));
        let hop = Way::NextHop(Some(NextHopId(device.0 + 0x1000)));
        let (ip, way) = if number < 3 { (group, Way::Interface(device)) } else { (host, hop) };
        let destination = (ip, self.port()).into();
        let source = self.one_in(2).then_some(source);
        FibOp::SetConversion(ConversionId(number as u32), Conversion { source, destination, way })
    }

    fn ops(&mut self) -> Vec<FibOp> {
        let mut ops = Vec::new();
        for device in self.scene.devices.all() {
            let destination_mac = (!self.one_in(4)).then_some([2, 3, 4, 5, 6, self.below(256) as u8]);
            let mtu = self.pick(&[device.mtu, device.mtu, 576, 150]);
            let hop = NextHop {
                ifindex: device.ifindex,
                link: Link::PLAIN,
                source_mac: device.mac,
                destination_mac,
                mtu,
            };
            ops.push(FibOp::SetNextHop(NextHopId(device.ifindex.0 + 0x1000), hop));
            let accepts = self.one_in(2);
            ops.push(FibOp::SetInterface(device.interface(accepts)));
        }
        ops.extend((0..TUNNELS).map(|number| self.tunnel(number)));
        ops.extend((0..CONVERSIONS).map(|number| self.conversion(number)));
        let group = (self.pick(&[GROUP, OTHER_GROUP]), self.port()).into();
        ops.push(FibOp::SetUnicastInput { endpoint: INPUT.into(), group });
        if self.one_in(6) {
            ops.push(FibOp::RemoveUnicastInput(INPUT.into()));
        }
        if self.one_in(3) {
            let (device, group) = (self.device().ifindex, self.pick(&[GROUP, OTHER_GROUP]));
            ops.push(FibOp::ShareGroup(device, group.into()));
        }
        for _ in 0..self.below(6) + 1 {
            let stream = self.stream();
            self.change_stream(stream, &mut ops);
        }
        ops
    }

    fn change_stream(&mut self, stream: Stream, ops: &mut Vec<FibOp>) {
        if self.one_in(8) {
            ops.push(FibOp::RemoveStream(stream));
            return;
        }
        let device = self.device().ifindex;
        let tunnel = id(self.tunnel_number());
        let rpf = self.pick(&[
            Rpf::AnyUpstream,
            Rpf::Exact(Input::Interface(device)),
            Rpf::Exact(Input::Tunnel(UPSTREAM)),
            Rpf::Exact(Input::Tunnel(tunnel)),
        ]);
        let members =
            if stream.source.is_some() && self.one_in(4) { Members::OfAnySource } else { Members::Own };
        ops.push(FibOp::SetStream(stream, rpf, members));
        if self.one_in(3) {
            let dscp = self.one_in(2).then_some(self.below(64) as u8);
            let skb_priority = self.one_in(2).then_some(self.below(16) as u32);
            let at_tc = self.one_in(4);
            let priority = Priority { dscp, pcp: self.below(8) as u8, skb_priority, queue: None, at_tc };
            ops.push(FibOp::SetPriority(stream, priority));
        }
        for _ in 0..self.below(8) {
            let output = self.output();
            ops.push(FibOp::AddMember(stream, output));
        }
        for _ in 0..self.below(4) {
            let output = self.output();
            ops.push(FibOp::RemoveMember(stream, output));
        }
        if self.one_in(10) {
            let number = self.tunnel_number();
            ops.push(FibOp::RemoveTunnel(id(number)));
            let tunnel = self.tunnel(number);
            ops.push(tunnel);
        }
    }

    fn output(&mut self) -> Output {
        match self.below(8) {
            0 | 1 => Output::Interface(self.device().ifindex),
            2 | 3 => Output::Converted(ConversionId(self.below(CONVERSIONS) as u32)),
            _ => Output::Tunnel(id(self.tunnel_number())),
        }
    }

    fn frame(&mut self) -> (IfIndex, Vec<u8>) {
        let ingress = self.device().ifindex;
        let packet = self.packet();
        let mut frame = if self.one_in(2) {
            self.scene.native(&packet)
        } else if self.one_in(3) {
            self.scene.unicast(&Packet { destination: *INPUT.ip(), ..packet })
        } else {
            let mut inner = packet.bytes();
            if self.one_in(4) {
                mutate(self, &mut inner);
                seal(&mut inner);
            }
            let source = if self.one_in(3) { remote(self.below(TUNNELS + 1)) } else { UPSTREAM_ADDRESS };
            let payload = [&[6, self.below(256) as u8][..], &inner].concat();
            self.scene.unicast(&outer(source, LOCAL, &payload))
        };
        if self.one_in(3) {
            mutate(self, &mut frame);
        }
        if self.one_in(5) {
            let len = self.below(frame.len() as u64 + 40) as usize;
            frame.resize(len, 0x5a);
        }
        frame.resize(frame.len().clamp(14, 1514), 0);
        (ingress, frame)
    }

    fn packet(&mut self) -> Packet {
        let source = self.pick(&[SOURCE, SOURCE, OTHER_SOURCE, Ipv4Addr::new(198, 51, 100, 9)]);
        let group = self.pick(&[GROUP, GROUP, OTHER_GROUP, Ipv4Addr::new(239, 9, 9, 9)]);
        let len = self.pick(&[0, 5, 100, 118, 119, 500, 1316, 1400]);
        let words = self.below(11) as usize;
        let options = if self.one_in(4) { vec![1; words * 4] } else { Vec::new() };
        Packet {
            ttl: self.pick(&[0, 1, 2, 16, 16, 16, 64, 255]),
            tos: self.below(256) as u8,
            more_fragments: self.one_in(10),
            fragment_offset: if self.one_in(10) { self.below(8192) as u16 } else { 0 },
            identification: self.below(65_536) as u16,
            options,
            ..Packet::udp(source, group, len)
        }
    }
}

fn id(number: u64) -> TunnelId {
    TunnelId(0x100 + number as u32)
}

fn remote(number: u64) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 3, 0, number as u8), 2268)
}

/// Changes a few bytes, mostly of the headers.
fn mutate(random: &mut Random, bytes: &mut [u8]) {
    for _ in 0..random.below(3) + 1 {
        let reach = random.pick(&[24, 64, bytes.len() as u64]).min(bytes.len() as u64);
        let at = random.below(reach) as usize;
        bytes[at] = match random.below(3) {
            0 => bytes[at] ^ (1 << random.below(8)),
            1 => random.pick(&[0, 1, 0x45, 0x46, 0xe0, 0xff]),
            _ => random.below(256) as u8,
        };
    }
}

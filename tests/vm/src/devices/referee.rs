//! The referee is tested first: frames made by hand, and the kernel's devices that must take or refuse them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use etherparse::IpNumber;
use libtest_mimic::Failed;

use super::{
    Device, Tunnel,
    ears::{Ears, Sent},
};
use crate::{
    bed::{Bed, Outcome},
    frame::{self, Port, SENDER},
    numbered::Stream,
    vm::MAC,
    wire::{self, BRIDGE, Wire},
};

const SENT: [Sent; 2] = [
    Sent {
        source: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)),
        stream: Stream { group: IpAddr::V4(Ipv4Addr::new(239, 192, 7, 2)), port: 5004 },
    },
    Sent {
        source: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
        stream: Stream { group: IpAddr::V6(Ipv6Addr::new(0xff18, 0, 0, 0, 0, 0, 0x70, 2)), port: 5006 },
    },
];

/// Frames of each encapsulation and family.
const FRAMES: u64 = 50;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(1);

/// Each device gets its own frames between frames of each other device, and takes its own alone. Whoever
/// takes another's shows it: the numbers are none of its own.
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let _sessions = super::make(bed, &mut vm, SENDER)?;
    let port = Port::open(&wire.node, BRIDGE)?;
    let ears = Ears::join(bed, &vm, &SENT)?;
    let devices = super::of(&bed.kernel);
    for place in 0..FRAMES {
        for device in devices.iter().copied() {
            for sent in SENT.iter().filter(|sent| device.carries(sent.stream)) {
                let packet = frame::packet(sent.source, sent.stream, first(device) + place)?;
                port.send(&encapsulate(device, sent.stream, &packet)?)?;
                thread::sleep(PACE);
            }
        }
    }
    ears.judge(bed, |device, _| (first(device)..first(device) + FRAMES).collect())
}

/// The number of the first frame for a device.
fn first(device: Device) -> u64 {
    FRAMES * u64::from(device.number())
}

/// A packet as the device expects it.
pub(crate) fn encapsulate(device: Device, stream: Stream, packet: &[u8]) -> Result<Vec<u8>, Failed> {
    let link = device.link;
    let session = link.session().map(|(number, _)| number);
    let Some(kind) = device.tunnel else {
        // A session has one other end.
        let to = if session.is_some() { MAC } else { frame::group_mac(stream.group) };
        return frame::ethernet(to, link.tags(), session, packet);
    };
    let inner = if stream.group.is_ipv4() { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let (protocol, payload) = match kind {
        Tunnel::Gre(key) | Tunnel::Ip6gre(key) => (IpNumber::GRE, frame::gre(key, packet)),
        Tunnel::Ipip | Tunnel::Sit | Tunnel::Ip6tnl => (inner, packet.to_vec()),
    };
    let (host, guest) = link.ends(kind.is_over_v6());
    frame::ethernet(MAC, link.tags(), session, &frame::ip(host, guest, protocol, &payload)?)
}

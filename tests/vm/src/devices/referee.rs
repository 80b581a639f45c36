//! The referee is tested first: frames made by hand, and the kernel's devices that must take or refuse them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    thread,
    time::Duration,
};

use etherparse::IpNumber;
use libtest_mimic::Failed;

use super::Device;
use crate::{
    bed::{Bed, Outcome, ensure},
    frame::{self, CUSTOMER_TAG, Port, SERVICE_TAG},
    guest::GuestListener,
    numbered::{Hears as _, Stream},
    vm::MAC,
    wire::{self, BRIDGE, Wire},
};

const STREAM4: Stream = Stream { group: IpAddr::V4(Ipv4Addr::new(239, 192, 7, 2)), port: 5004 };
const SOURCE4: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2));
const STREAM6: Stream =
    Stream { group: IpAddr::V6(Ipv6Addr::new(0xff18, 0, 0, 0, 0, 0, 0x70, 2)), port: 5006 };
const SOURCE6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2));

/// Frames of each encapsulation.
const FRAMES: u64 = 100;
/// Between two of them: the machine is slow.
const PACE: Duration = Duration::from_millis(1);

const DEVICES: [Device; 10] = [
    Device::Vlan(100),
    Device::QinQ { outer: 200, inner: 5 },
    Device::StackedVlan { outer: 300, inner: 6 },
    Device::Gre(None),
    Device::Gre(Some(4711)),
    Device::Ipip,
    Device::Sit,
    Device::Ip6tnl,
    Device::Ip6gre(None),
    Device::Ip6gre(Some(4712)),
];

/// Each device gets its own frames between frames of each other device, and takes its own alone.
pub(super) fn test(bed: &mut Bed) -> Outcome {
    let wire = Wire::open(bed)?;
    let mut vm = bed.boot(&wire)?;
    wire::set_up(&mut vm)?;
    let port = Port::open(&wire.node, BRIDGE)?;
    for device in DEVICES {
        for (source, stream) in [(SOURCE4, STREAM4), (SOURCE6, STREAM6)] {
            if !carries(device, stream) {
                continue;
            }
            device.make(&mut vm)?;
            let what = |failed: Failed| -> Failed {
                format!("{device:?}, {}: {}", stream.group, failed.message().unwrap_or_default()).into()
            };
            let listener = device.listen(bed, &vm, stream, None)?;
            let outside = GuestListener::join(bed, &vm, "eth0", stream, None)?;
            for number in 0..FRAMES {
                for other in DEVICES.into_iter().filter(|other| carries(*other, stream)) {
                    // Whoever takes another's frame shows it: its numbers are none of ours.
                    let number = if other == device { number } else { FRAMES + number };
                    let packet = frame::packet(source, stream, number)?;
                    if other == device || number % 16 == 0 {
                        port.send(&encapsulate(other, stream, &packet)?)?;
                        thread::sleep(PACE);
                    }
                }
            }
            listener.until_last(bed, FRAMES - 1).map_err(what)?;
            let heard = listener.leave(bed)?;
            heard.is_whole(source).map_err(what)?;
            ensure!(heard.packets.len() as u64 == FRAMES, "{device:?}: {} came", heard.packets.len());
            let stray = outside.leave(bed)?;
            ensure!(stray.packets.is_empty(), "{device:?}: the wire itself took {}", stray.packets.len());
            device.remove(&mut vm)?;
        }
    }
    Ok(())
}

/// Whether a device carries this family.
fn carries(device: Device, stream: Stream) -> bool {
    match device {
        Device::Ipip => stream.group.is_ipv4(),
        Device::Sit => stream.group.is_ipv6(),
        Device::Vlan(_)
        | Device::QinQ { .. }
        | Device::StackedVlan { .. }
        | Device::Gre(_)
        | Device::Ip6tnl
        | Device::Ip6gre(_) => true,
    }
}

/// A packet as the device expects it.
fn encapsulate(device: Device, stream: Stream, packet: &[u8]) -> Result<Vec<u8>, Failed> {
    let inner = if stream.group.is_ipv4() { IpNumber::IPV4 } else { IpNumber::IPV6 };
    let group = frame::group_mac(stream.group);
    let tunnel = |v6: bool, protocol: IpNumber, payload: &[u8]| {
        let (host, guest) = wire::ends(v6);
        Ok(frame::ethernet(MAC, &[], &frame::ip(host, guest, protocol, payload)?))
    };
    match device {
        Device::Vlan(vlan) => Ok(frame::ethernet(group, &[(CUSTOMER_TAG, vlan)], packet)),
        Device::QinQ { outer, inner } => {
            Ok(frame::ethernet(group, &[(SERVICE_TAG, outer), (CUSTOMER_TAG, inner)], packet))
        }
        Device::StackedVlan { outer, inner } => {
            Ok(frame::ethernet(group, &[(CUSTOMER_TAG, outer), (CUSTOMER_TAG, inner)], packet))
        }
        Device::Gre(key) => tunnel(false, IpNumber::GRE, &frame::gre(key, packet)),
        Device::Ipip | Device::Sit => tunnel(false, inner, packet),
        Device::Ip6tnl => tunnel(true, inner, packet),
        Device::Ip6gre(key) => tunnel(true, IpNumber::GRE, &frame::gre(key, packet)),
    }
}

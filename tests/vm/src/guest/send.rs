//! A source inside the machine.

use std::{net::IpAddr, thread};

use libtest_mimic::Failed;

use super::agent::own_files;
use crate::numbered::{PACE, Stream, TTL, class, payload, socket};

/// `send INTERFACE LOCAL GROUP PORT [PACKETS [DSCP]]`; says how many it sent. With a code point for differentiated
/// services packets have each congestion mark in turn (RFC 3168 §5): that of their number.
pub(super) fn run(arguments: &[&str]) -> Result<(), Failed> {
    let [interface, local, group, port, more @ ..] = arguments else {
        return Err("send needs an interface, an address of it, a group and a port".into());
    };
    let local: IpAddr = local.parse()?;
    let stream = Stream { group: group.parse()?, port: port.parse()? };
    let packets: Option<u64> = more.first().map(|packets| packets.parse()).transpose()?;
    let dscp: Option<u8> = more.get(1).map(|dscp| dscp.parse()).transpose()?;
    let stop = own_files()?.stop();
    let socket = socket::sender(local, interface, TTL)?;
    let mut sent = 0;
    while packets.is_none_or(|packets| sent < packets) && !stop.exists() {
        if let Some(dscp) = dscp {
            socket::mark(&socket, class(dscp, sent))?;
        }
        socket.send_to(&payload(sent), stream.address())?;
        sent += 1;
        thread::sleep(PACE);
    }
    println!("{sent}");
    Ok(())
}

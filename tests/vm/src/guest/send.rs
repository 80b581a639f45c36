//! A source inside the machine.

use std::{net::IpAddr, thread};

use libtest_mimic::Failed;

use super::agent::own_files;
use crate::numbered::{PACE, Stream, TTL, payload, socket};

/// `send INTERFACE LOCAL GROUP PORT [PACKETS]`; says how many it sent.
pub(super) fn run(arguments: &[&str]) -> Result<(), Failed> {
    let [interface, local, group, port, packets @ ..] = arguments else {
        return Err("send needs an interface, an address of it, a group and a port".into());
    };
    let local: IpAddr = local.parse()?;
    let stream = Stream { group: group.parse()?, port: port.parse()? };
    let packets: Option<u64> = packets.first().map(|packets| packets.parse()).transpose()?;
    let stop = own_files()?.stop();
    let socket = socket::sender(local, interface, TTL)?;
    let mut sent = 0;
    while packets.is_none_or(|packets| sent < packets) && !stop.exists() {
        socket.send_to(&payload(sent), stream.address())?;
        sent += 1;
        thread::sleep(PACE);
    }
    println!("{sent}");
    Ok(())
}

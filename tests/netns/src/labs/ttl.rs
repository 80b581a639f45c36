//! Time to live along a chain of VMRs: each lowers it once, the delivery to an application does not.

use std::{net::Ipv4Addr, time::Duration};

use libtest_mimic::Trial;
use socket2::{Domain, Protocol, Socket, Type};
use vmcast_lab::{
    roles::wait_ready,
    traffic::{Carriage, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{IGMP, SOURCE, STREAM, VMR, static_agent},
    stream::multicast_socket,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "each router on the way lowers the time to live once and none forwards what has expired",
        chain,
    )]
}

const VMR1_BACKBONE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 1);
const VMR2_BACKBONE: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);
const VMR2_ACCESS: Ipv4Addr = Ipv4Addr::new(10, 5, 0, 1);

// proves that the TTL is lowered per hop and TTL 0 is dropped
fn chain(bed: &mut Bed) -> Outcome {
    let [source, vmr1, vmr2, client] = bed.lab.namespaces(["source", "vmr1", "vmr2", "client"])?;
    bed.lab.veths(&[
        ((&source, "eth0"), (&vmr1, "src0")),
        ((&vmr1, "bb0"), (&vmr2, "bb0")),
        ((&vmr2, "acc0"), (&client, "eth0")),
    ])?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
    vmr1.ip(&format!("addr add {VMR}/24 dev src0\naddr add {VMR1_BACKBONE}/24 dev bb0"))?;
    vmr2.ip(&format!("addr add {VMR2_BACKBONE}/24 dev bb0\naddr add {VMR2_ACCESS}/24 dev acc0"))?;
    client.ip(&format!("addr add 10.5.0.2/24 dev eth0\nroute add default via {VMR2_ACCESS}"))?;
    let interfaces = |first: &str, accepts: bool, second: &str| {
        format!(
            "{IGMP}[[interface]]\nname = \"{first}\"\naccepts_sources = {accepts}\n[[interface]]\nname = \"{second}\"\n"
        )
    };
    let mut first = bed.launcher.start(&vmr1, "router", "rank = 0\n", &interfaces("src0", true, "bb0"))?;
    let upstream = format!("[upstream]\nfrom = \"static\"\naddress = \"{VMR1_BACKBONE}\"\n");
    let tables = upstream + &interfaces("bb0", false, "acc0");
    let mut second = bed.launcher.start(&vmr2, "router", "rank = 1\n", &tables)?;
    let mut agent = static_agent(bed, &client, VMR2_ACCESS, "")?;
    wait_ready([&mut first, &mut second, &mut agent], bed.clock)?;

    let access = Witness::start(&client, "eth0", STREAM, bed.clock)?;
    // A raw socket gives the packet with its header, as it comes to the application.
    let application = client.enter(|| -> std::io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::UDP))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        socket.join_multicast_v4(&STREAM.group, &Ipv4Addr::UNSPECIFIED)?;
        Ok(socket)
    })??;
    for router in [&first, &second] {
        bed.until_answer("the join has arrived", router, &["member", "list"], |answer| {
            answer["members"].as_array().is_some_and(|members| members.len() == 1)
        })?;
    }
    for ttl in [1, 2, 3, 64] {
        let socket = source.enter(|| multicast_socket(SOURCE, ttl))??;
        socket.send_to(&[ttl], &STREAM.socket_addr().into())?;
    }
    let mut arrived = Vec::new();
    let socket = std::net::UdpSocket::from(application);
    bed.until("the packet of the longest life arrives", || {
        let mut buffer = [0; 2048];
        while let Ok(length) = socket.recv(&mut buffer) {
            let ip = &buffer[..length];
            if ip[16..20] == STREAM.group.octets() {
                // Time to live as it arrived, and as it was sent.
                arrived.push((ip[8], ip[28]));
            }
        }
        Ok(arrived.last().is_some_and(|(_, sent)| *sent == 64))
    })?;
    ensure!(arrived == [(1, 3), (62, 64)], "with and of TTL there arrived {arrived:?}");
    ensure!(access.incoming(Carriage::Amt).packets == 2, "VMR 2 forwarded what had expired");
    for (router, forwarded) in [(&first, 3), (&second, 2)] {
        bed.until_answer("the expired packet is counted", router, &["stats"], |answer| {
            let streams = answer["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
            let total: u64 = streams.iter().filter_map(|stream| stream["packets"].as_u64()).sum();
            answer["drops"]["ttl_expired"] == 1 && total == forwarded
        })?;
    }
    Ok(())
}

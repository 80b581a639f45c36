//! What the kernel alone takes of a flood: sockets that nobody reads, each behind a filter that lets nothing in.

use std::{
    net::UdpSocket,
    os::fd::{AsRawFd, OwnedFd},
    sync::atomic::AtomicBool,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::net::if_::if_nametoindex;
use vmcast_lab::{Lab, clock::Clock};
use vmcast_wire::amt;

use super::{
    RELAY,
    flood::{self, Came, Kind},
};
use crate::wire::FrameSocket;

/// Lets a flood come in for so long at a host without a router.
pub(super) fn run(kind: Kind, time: Duration, clock: Clock) -> Result<Came> {
    let mut lab = Lab::new("bench-unheard")?;
    let [host, others] = lab.namespaces(["host", "others"])?;
    lab.veths(&[((&host, "acc0"), (&others, "acc0")), ((&host, "lan0"), (&others, "lan0"))])?;
    for (interface, address, near) in
        [("acc0", format!("{RELAY}/24"), 1), ("lan0", "10.62.0.1/24".to_owned(), 3)]
    {
        host.ip(&format!("link set {interface} address 02:60:00:00:00:{near:02x}"))?;
        host.ip(&format!("addr add {address} dev {interface}"))?;
    }
    let tunnels = host.enter(|| UdpSocket::bind((RELAY, amt::PORT)))?;
    let tunnels = OwnedFd::from(tunnels.context("a socket that nobody reads")?);
    let reports = host.enter(|| {
        FrameSocket::listening(if_nametoindex("lan0")?, kind.family().ether_type(), Duration::ZERO)
    })??;
    let reports = OwnedFd::from(reports);
    [&tunnels, &reports].into_iter().try_for_each(let_nothing_in)?;
    let near = [2, 0x60, 0, 0, 0, kind.near()];
    flood::run(&host, kind, near, time, clock, &AtomicBool::new(false))
}

/// A classic BPF program that keeps no byte of a packet.
fn let_nothing_in(socket: &OwnedFd) -> Result<()> {
    let mut program = [libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 }];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: the filter names one instruction, which outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            size_of::<libc::sock_fprog>() as libc::socklen_t,
        )
    };
    let error = std::io::Error::last_os_error();
    ensure!(result == 0, "a filter that lets nothing in: {error}");
    Ok(())
}

//! What the data plane encapsulates and decapsulates, with the devices of another kernel at the far end.
//!
//! ```text
//! +--------+      +-----+ wire, and what is on it +---------+
//! | source |------| vmr |-------------------------| machine |
//! +--------+ src0 |     | mch0     links, tunnels | devices |
//!                 |     |                         +---------+
//!                 |     |------ member
//!                 +-----+ acc1
//! ```
//!
//! The node has the kernel programs alone: no VLAN, PPPoE or tunnel device of its own.

mod at_tc;
mod bare;
mod cable;
mod code_points;
mod come;
mod convert;
mod fragments;
mod inside;
mod leave;
mod marks;
mod member;
mod program;
mod redial;
mod router;
mod shape;
mod wireguard;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::Trial;
use vmcast_dataplane::kernel::Rule;
use vmcast_lab::roles::Engine;

use crate::{
    bed::{Bed, Outcome},
    capture,
    devices::ears::Sent,
    numbered::Stream,
    pieces::Kernel,
};

/// The streams of these tests, one of each family.
const SENT: [Sent; 2] = [
    Sent {
        source: IpAddr::V4(Ipv4Addr::new(10, 1, 0, 2)),
        stream: Stream { group: IpAddr::V4(Ipv4Addr::new(232, 192, 7, 3)), port: PORT },
    },
    Sent {
        source: IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
        stream: Stream { group: IpAddr::V6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 3)), port: PORT },
    },
];

/// A port of which no dissector guesses what it carries.
const PORT: u16 = 49_152;

/// Whether copies are made by each device's best engine, which is XDP here, or at TC.
const RULES: [(Rule, &str); 2] = [(Rule::Auto, "at XDP"), (Rule::Tc, "at TC")];

/// The engines of the router program, the first being each device's best.
const ENGINES: [Engine; 3] = [Engine::Auto, Engine::Tc, Engine::Software];

type Test = fn(&mut Bed) -> Outcome;

/// Both directions on one kernel. What differs in the rule or the engine alone is done with each in turn in one machine: a
/// boot and the making of the devices take as long as much of it.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    let tests: [(&str, Test); 8] = [
        (
            "its devices and tshark take what we encapsulate, all of it, once, in order, at XDP and TC",
            leave::test,
        ),
        ("we take what its devices encapsulate, all of it, once, in order, at XDP and TC", come::test),
        (
            "we put together what its tunnels send in fragments, all of it, once, in order, at XDP and TC",
            fragments::test,
        ),
        (
            "its sockets and tshark take what we convert in each of four directions, once, in order, at XDP and TC",
            convert::test,
        ),
        (
            "the router program's copies leave by the VLANs and sessions of its interfaces, once each",
            program::test,
        ),
        (
            "its verifier takes the TC programs, and a long list of members at TC gets every packet once, in order",
            at_tc::test,
        ),
        (
            "copies leave by its tunnels and PPP devices, natively and in tunnels, with each engine",
            bare::leave,
        ),
        ("a stream comes in by each of its tunnels and PPP devices, with each engine", bare::come),
    ];
    let trials = tests.map(|(name, test)| crate::trial(series, kernel, name, test));
    let no_nft = capture::installed(&["nft"]).err();
    if let Some(reason) = &no_nft {
        eprintln!("SKIPPED priorities and congestion marks on Linux {series}: {reason}");
    }
    let marks: [(&str, Test); 2] = [
        (
            "its devices and tshark take the priorities and congestion marks of what we encapsulate, at XDP and TC",
            marks::test,
        ),
        (
            "priorities and congestion marks go through its tunnels and VLANs, both ways, with each engine",
            cable::test,
        ),
    ];
    let marks = marks
        .map(|(name, test)| crate::trial(series, kernel, name, test).with_ignored_flag(no_nft.is_some()));
    let no_wireguard = kernel.and_then(|kernel| kernel.wireguard().err());
    if let Some(reason) = &no_wireguard {
        eprintln!("SKIPPED WireGuard of Linux {series}: {reason}");
    }
    let wireguard = crate::trial(
        series,
        kernel,
        "a stream crosses WireGuard, natively and in tunnels, and one comes in by it, in software and not",
        wireguard::test,
    )
    .with_ignored_flag(no_wireguard.is_some());
    let no_ppp = kernel.is_none_or(|kernel| kernel.ppp().is_err());
    let redial = crate::trial(
        series,
        kernel,
        "members behind a session that is dialled again get their stream again, others all of it, with each engine",
        redial::test,
    )
    .with_ignored_flag(no_ppp);
    trials.into_iter().chain(marks).chain([wireguard, redial]).collect()
}

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
const RULES: [(Rule, &str); 2] = [(Rule::Auto, "XDP"), (Rule::Tc, "TC")];

type ByRule = fn(&mut Bed, Rule) -> Outcome;

/// Both directions on one kernel.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    let by_rules: [(&str, ByRule); 4] = [
        ("its devices and tshark take what we encapsulate, all of it, once, in order", leave::test),
        ("we take what its devices encapsulate, all of it, once, in order", come::test),
        ("we put together what its tunnels send in fragments, all of it, once, in order", fragments::test),
        (
            "its sockets and tshark take what we convert in each of four directions, once, in order",
            convert::test,
        ),
    ];
    let mut trials: Vec<Trial> = by_rules
        .into_iter()
        .flat_map(|(what, test)| RULES.map(|(rule, at)| (format!("{what}, at {at}"), test, rule)))
        .map(|(name, test, rule)| crate::trial(series, kernel, name, move |bed| test(bed, rule)))
        .collect();
    trials.extend([
        crate::trial(
            series,
            kernel,
            "the router program's copies leave by the VLANs and sessions of its interfaces, once each",
            program::test,
        ),
        crate::trial(
            series,
            kernel,
            "its verifier takes the TC programs, and a long list of members at TC gets every packet once, in order",
            at_tc::test,
        ),
    ]);
    trials.extend([Engine::Auto, Engine::Tc, Engine::Software].into_iter().flat_map(|engine| {
        let label = engine.label();
        let leave =
            format!("copies leave by its tunnels and PPP devices, natively and in tunnels, engine {label}");
        let come = format!("a stream comes in by each of its tunnels and PPP devices, engine {label}");
        [
            crate::trial(series, kernel, leave, move |bed| bare::leave(bed, engine)),
            crate::trial(series, kernel, come, move |bed| bare::come(bed, engine)),
        ]
    }));
    let no_nft = capture::installed(&["nft"]).err();
    if let Some(reason) = &no_nft {
        eprintln!("SKIPPED priorities and congestion marks on Linux {series}: {reason}");
    }
    let marks = RULES.map(|(rule, at)| {
        let name = format!(
            "its devices and tshark take the priorities and congestion marks of what we encapsulate, at {at}"
        );
        crate::trial(series, kernel, name, move |bed| marks::test(bed, rule))
    });
    let both_ways = [Engine::Auto, Engine::Tc, Engine::Software].map(|engine| {
        let name = format!(
            "priorities and congestion marks go through its tunnels and VLANs, both ways, engine {}",
            engine.label()
        );
        crate::trial(series, kernel, name, move |bed| cable::test(bed, engine))
    });
    let marks = marks.into_iter().chain(both_ways);
    trials.extend(marks.map(|trial| trial.with_ignored_flag(no_nft.is_some())));
    let no_wireguard = kernel.and_then(|kernel| kernel.wireguard().err());
    if let Some(reason) = &no_wireguard {
        eprintln!("SKIPPED WireGuard of Linux {series}: {reason}");
    }
    trials.extend([Engine::Auto, Engine::Software].map(|engine| {
        let label = engine.label();
        let name = format!(
            "a stream crosses WireGuard, natively and in tunnels, and one comes in by it, engine {label}"
        );
        let test = move |bed: &mut Bed| wireguard::test(bed, engine);
        crate::trial(series, kernel, name, test).with_ignored_flag(no_wireguard.is_some())
    }));
    let no_ppp = kernel.is_none_or(|kernel| kernel.ppp().is_err());
    trials.extend([Engine::Auto, Engine::Tc, Engine::Software].map(|engine| {
        let name = format!(
            "members behind a session that is dialled again get their stream again, others all of it, engine {}",
            engine.label()
        );
        crate::trial(series, kernel, name, move |bed| redial::test(bed, engine)).with_ignored_flag(no_ppp)
    }));
    trials
}

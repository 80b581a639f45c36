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
mod come;
mod convert;
mod fragments;
mod inside;
mod leave;
mod member;
mod program;
mod redial;
mod router;
mod shape;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::Trial;
use vmcast_dataplane::kernel::Rule;
use vmcast_lab::roles::Engine;

use crate::{
    bed::{Bed, Outcome},
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

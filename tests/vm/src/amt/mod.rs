//! AMT (RFC 7450) with the Linux kernel's own driver at the other end.

mod gateway;
mod relay;

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    roles::{Engine, Role},
    traffic::{Carriage, GroupPort, Witness},
};

use crate::{
    bed::{Bed, Outcome, ensure},
    numbered::Stream,
    pieces::Kernel,
};

/// The stream of these tests.
const STREAM: Stream = Stream { group: IpAddr::V4(GROUP), port: PORT };
/// The same as witnesses have it.
const WITNESSED: GroupPort = GroupPort { group: GROUP, port: PORT };
const GROUP: Ipv4Addr = Ipv4Addr::new(239, 192, 7, 1);
const PORT: u16 = 5004;

/// Packets that have to arrive without a gap.
const MANY: usize = 3000;
/// Packets that are sent while none may arrive.
const SOME: u64 = 300;

/// IGMP for labs: a leave is complete soon (RFC 9776 §8.8).
const IGMP: &str = "[igmp]\nlast_member_query_interval_seconds = 0.2\n";

/// Types of the AMT messages from a Request to the data (RFC 7450 §5.1.3 to §5.1.6).
const REQUEST_TO_DATA: [u8; 4] = [3, 4, 5, 6];
/// The same after Relay Discovery and Relay Advertisement (RFC 7450 §5.1.1, §5.1.2).
const DISCOVERY_TO_DATA: [u8; 6] = [1, 2, 3, 4, 5, 6];

type Test = fn(&mut Bed, Engine) -> Outcome;

/// Each test with each engine on one kernel.
pub(crate) fn trials(series: &str, kernel: Option<&Kernel>) -> Vec<Trial> {
    let tests: [[(&'static str, Test, Engine); 2]; 2] = [
        [
            (
                "the kernel's gateway gets every packet of our relay until it leaves, engine xdp",
                gateway::test,
                Engine::Xdp,
            ),
            (
                "the kernel's gateway gets every packet of our relay until it leaves, engine software",
                gateway::test,
                Engine::Software,
            ),
        ],
        [
            (
                "our gateway gets every packet of the kernel's relay until it leaves, engine xdp",
                relay::test,
                Engine::Xdp,
            ),
            (
                "our gateway gets every packet of the kernel's relay until it leaves, engine software",
                relay::test,
                Engine::Software,
            ),
        ],
    ];
    let tests = tests.into_iter().flatten();
    tests
        .map(|(name, test, engine)| crate::trial(series, kernel, name, move |bed| test(bed, engine)))
        .collect()
}

/// Fails unless a router replicates by the engine that it was told.
fn is_engine(router: &Role, engine: Engine) -> Outcome {
    let label = router.engine().map(|(label, _)| label);
    let expected = if engine == Engine::Software { "software" } else { "xdp-broadcast" };
    ensure!(label.as_deref() == Some(expected), "the engine is {label:?}");
    Ok(())
}

/// How much of the stream came in at a witness.
fn came_in(witness: &Witness) -> u64 {
    witness.incoming(Carriage::Amt).packets + witness.incoming(Carriage::Native).packets
}

/// Waits until a witness sees nothing of the stream while a source sends more of it.
fn until_silent(bed: &Bed, witness: &Witness, mut send: impl FnMut() -> Result<(), Failed>) -> Outcome {
    bed.until("the stream stops after the leave", || {
        let before = came_in(witness);
        send()?;
        Ok(came_in(witness) == before)
    })
}

//! What hosts of an interface may ask for: groups that are not allowed and more than a host may have are refused and
//! counted by name, and what is allowed flows on, theirs and others'.

use std::net::Ipv4Addr;

use libtest_mimic::Trial;
use vmcast_lab::{roles::Role, traffic::GroupPort};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "groups that are not allowed and those beyond a host's limit are refused, and nothing else",
        limits,
    )]
}

const SOME: u64 = 150;
/// Allowed, as [`STREAM`] is.
const SECOND: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };
/// Allowed, and one too many.
const THIRD: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 3), port: 5004 };
/// Not allowed.
const FORBIDDEN: GroupPort = GroupPort { group: Ipv4Addr::new(239, 200, 7, 1), port: 5004 };

fn refused(role: &Role, label: &str) -> u64 {
    role.ask(&["stats"]).and_then(|stats| stats["control"]["igmp"][label].as_u64()).unwrap_or(0)
}

// proves E2: access lists, and limits of a host, in a daemon's configuration
fn limits(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let interface = "groups = [\"239.192.0.0/16\"]\nmax_groups_per_host = 2\n";
    let router = Router { querier: true, ..Router::default() };
    let router = small.router_with_timers(bed, router, "", interface)?;
    let all = [STREAM, SECOND, THIRD, FORBIDDEN];
    let senders = all
        .map(|stream| Sender::start(&small.source, SOURCE, stream))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let other = Listener::join(small.client(2), THIRD, None)?;
    other.more(bed, SOME)?;

    let first = Listener::join(small.client(1), STREAM, None)?;
    let second = Listener::join(small.client(1), SECOND, None)?;
    first.more(bed, SOME)?;
    second.more(bed, SOME)?;
    let forbidden = Listener::join(small.client(1), FORBIDDEN, None)?;
    bed.until("the group is refused", || Ok(refused(&router, "group_not_allowed") > 0))?;
    let third = Listener::join(small.client(1), THIRD, None)?;
    bed.until("one group too many is refused", || Ok(refused(&router, "too_many_groups_of_host") > 0))?;
    first.more(bed, SOME)?;
    second.more(bed, SOME)?;
    ensure!(forbidden.count() == 0, "{} packets came of a group that is not allowed", forbidden.count());
    ensure!(third.count() == 0, "{} packets came of one group too many", third.count());

    // One that is left makes room for another.
    second.leave().is_whole()?;
    drop(third.leave());
    bed.until("the group is left", || {
        let members = router.ask(&["member", "list"]).unwrap_or_default();
        let text = members["members"].to_string();
        Ok(members["members"].is_array() && !text.contains("239.192.7.2"))
    })?;
    let third = Listener::join(small.client(1), THIRD, None)?;
    third.more(bed, SOME)?;
    third.heard().is_whole()?;
    first.heard().is_whole()?;
    other.more(bed, SOME)?;
    other.heard().is_whole()?;
    ensure!(forbidden.count() == 0, "{} packets came of a group that is not allowed", forbidden.count());
    drop(senders);
    Ok(())
}

//! What hosts of an interface may ask for, by IGMP and by MLD: groups that are not allowed and more than a host or its
//! link may have are refused and counted by name, and what is allowed flows on, theirs and others'.

use libtest_mimic::Trial;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    hosts::{Hosts, Keys, Streams, V4, V6},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "groups that are not allowed and those beyond a host's limit are refused, and nothing else",
            |bed| limits(bed, V4, "239.192.0.0/16"),
        ),
        trial(
            "IPv6 groups that are not allowed and those beyond a host's limit are refused, and nothing else",
            |bed| limits(bed, V6, "ff0e::7:0/112"),
        ),
        trial("groups beyond the limit of a link are refused there, and on no other", |bed| of_link(bed, V4)),
        trial("IPv6 groups beyond the limit of a link are refused there, and on no other", |bed| {
            of_link(bed, V6)
        }),
    ]
}

const SOME: u64 = 150;

fn refused(hosts: &Hosts, streams: Streams, label: &str) -> u64 {
    hosts.counted(streams.protocol)[label].as_u64().unwrap_or(0)
}

// proves E2: access lists, and limits of a host, in a daemon's configuration
fn limits(bed: &mut Bed, streams: Streams, allowed: &str) -> Outcome {
    let interface = format!("groups = [\"{allowed}\"]\nmax_groups_per_host = 2\n");
    let hosts = Hosts::start_with(bed, 2, Keys { interface: &interface, ..Keys::default() })?;
    // What is allowed, one too many, and what is not allowed.
    let [stream, second, third] = [1, 2, 3].map(|last| streams.another(last));
    let forbidden = if streams.any.is_ipv4() { "239.200.7.1" } else { "ff0e::8:1" };
    let forbidden = std::net::SocketAddr::new(forbidden.parse()?, streams.any.port());
    let senders = [stream, second, third, forbidden]
        .map(|stream| hosts.send(streams.sources[0], stream))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let other = hosts.join(2, third, None)?;
    other.more(bed, SOME)?;

    let first_joined = hosts.join(1, stream, None)?;
    let second_joined = hosts.join(1, second, None)?;
    first_joined.more(bed, SOME)?;
    second_joined.more(bed, SOME)?;
    let not_allowed = hosts.join(1, forbidden, None)?;
    bed.until("the group is refused", || Ok(refused(&hosts, streams, "group_not_allowed") > 0))?;
    let third_joined = hosts.join(1, third, None)?;
    bed.until("one group too many is refused", || {
        Ok(refused(&hosts, streams, "too_many_groups_of_host") > 0)
    })?;
    first_joined.more(bed, SOME)?;
    second_joined.more(bed, SOME)?;
    ensure!(not_allowed.count() == 0, "{} packets came of a group that is not allowed", not_allowed.count());
    ensure!(third_joined.count() == 0, "{} packets came of one group too many", third_joined.count());

    // One that is left makes room for another.
    second_joined.leave().is_whole()?;
    drop(third_joined.leave());
    bed.until_answer("the group is left", &hosts.router, &["member", "list"], |answer| {
        answer["members"]
            .as_array()
            .is_some_and(|members| members.iter().all(|member| member["group"] != second.ip().to_string()))
    })?;
    let third_joined = hosts.join(1, third, None)?;
    third_joined.more(bed, SOME)?;
    third_joined.heard().is_whole()?;
    first_joined.heard().is_whole()?;
    other.more(bed, SOME)?;
    other.heard().is_whole()?;
    ensure!(not_allowed.count() == 0, "{} packets came of a group that is not allowed", not_allowed.count());
    drop(senders);
    Ok(())
}

// proves E2: limits of an interface, by real hosts
fn of_link(bed: &mut Bed, streams: Streams) -> Outcome {
    let keys = Keys { interface: "max_groups = 2\n", ..Keys::default() };
    let hosts = Hosts::start_with(bed, 3, keys)?;
    let three = [1, 2, 3].map(|last| streams.another(last));
    let senders = three
        .map(|stream| hosts.send(streams.sources[0], stream))
        .into_iter()
        .collect::<Result<Vec<_>, _>>()?;
    let bystander = hosts.forbid(bed, 3, three[2])?;
    let joined = [hosts.join(1, three[0], None)?, hosts.join(1, three[1], None)?];
    for listener in &joined {
        listener.more(bed, SOME)?;
    }
    let refused_there = hosts.forbid(bed, 1, three[2])?;
    let beyond = hosts.join(1, three[2], None)?;
    bed.until("the group is refused", || Ok(refused(&hosts, streams, "too_many_groups") > 0))?;
    // The limit is the link's: another one has its own.
    let elsewhere = hosts.join(2, three[2], None)?;
    elsewhere.more(bed, SOME)?;
    senders[2].more(bed, SOME)?;
    ensure!(beyond.count() == 0, "{} packets came of the group beyond the limit", beyond.count());
    ensure!(refused_there.stray().packets == 0, "it crossed the link: {:?}", refused_there.stray());
    for listener in joined.iter().chain([&elsewhere]) {
        listener.more(bed, SOME)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

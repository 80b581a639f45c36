//! An application on the VMR's host listens to one of two groups that stream in by the same interface: that one goes by TC
//! for as long, which shares it, and back to XDP, and nobody else notices.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role},
    traffic::GroupPort,
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    small::{Router, SOURCE, Small},
    stream::{Frames, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    const ALL: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];
    let v4 = trials_by_engines(
        ALL,
        "an application on the VMR gets one of two groups, and the members of both notice nothing",
        |bed, engine| one_of_two(bed, engine, V4),
    );
    let v6 = trials_by_engines(
        ALL,
        "an application on the VMR gets one of two IPv6 groups, and the members of both notice nothing",
        |bed, engine| one_of_two(bed, engine, V6),
    );
    v4.into_iter().chain(v6).collect()
}

const SOME: u64 = 150;
const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2);
/// A group of each family that the application listens to, and another.
const V4: [SocketAddr; 2] = [v4(1), v4(2)];
const V6: [SocketAddr; 2] = [v6(1), v6(2)];

const fn v4(last: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::new(239, 192, 7, last)), 5004)
}

const fn v6(last: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0xff1e, 0, 0, 0, 0, 0, 0, last)), 5004)
}

fn one_of_two(bed: &mut Bed, engine: Engine, groups: [SocketAddr; 2]) -> Outcome {
    let small = Small::build(bed, 2)?;
    small.source.ip(&format!("addr add {SOURCE_V6}/64 dev eth0 nodad"))?;
    small.vmr.ip("addr add fd01::1/64 dev src0 nodad\nroute add 239.0.0.0/8 dev src0")?;
    let tables = "[mld]\nlast_listener_query_interval_seconds = 0.2\n";
    let router = small.router(bed, Router { engine, querier: true, tables, ..Router::default() })?;
    let bystanders = groups.map(|group| frames(small.client(2), group.ip()));
    let members = groups.map(|group| join(small.client(1), "eth0", group, None));
    let [shared_member, other_member] = members;
    let members = [shared_member?, other_member?];
    let senders = [send(&small, groups[0])?, send(&small, groups[1])?];
    let more = || members.iter().try_for_each(|member| member.more(bed, SOME));
    more()?;
    let usual = match engine {
        Engine::Tc => "tc",
        Engine::Software => "packet-socket",
        Engine::Auto | Engine::Xdp => "xdp",
    };
    let is_xdp = usual == "xdp";
    taken(bed, &router, groups, [usual, usual])?;

    let source = senders_address(groups[0]);
    for source in [None, Some(source)] {
        let application = join(&small.vmr, "src0", groups[0], source)?;
        application.more(bed, SOME)?;
        taken(bed, &router, groups, [if is_xdp { "tc" } else { usual }, usual])?;
        if is_xdp {
            let stats = router.ask(&["stats"]).unwrap_or_default();
            let reason = stats["engine"]["reason"].as_str().unwrap_or_default();
            ensure!(
                reason.contains("listen to 1 of the groups by src0"),
                "the engine's reason is {reason:?}"
            );
            let answer = router.ask(&["interface", "list"]).unwrap_or_default();
            let mut all = answer["interfaces"].as_array().into_iter().flatten();
            let is_at_xdp = all.any(|shown| shown["name"] == "src0" && shown["attached"] == "xdp");
            ensure!(is_at_xdp, "src0 is not at XDP: {answer}");
        }
        more()?;
        application.leave().is_whole()?;
        taken(bed, &router, groups, [usual, usual])?;
        more()?;
    }
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let reason = stats["engine"]["reason"].as_str().unwrap_or_default();
    ensure!(!reason.contains("listen to"), "nobody listens any more: {reason:?}");
    for (sender, member) in senders.into_iter().zip(&members) {
        let last = sender.stop()? - 1;
        member.until_last(bed, last)?;
        member.heard().is_whole()?;
    }
    for bystander in bystanders {
        let count = bystander?.count();
        ensure!(count == 0, "the bystander was sent {count} packets");
    }
    Ok(())
}

/// Waits until what comes of each group from the source is taken in where it should be.
fn taken(bed: &Bed, router: &Role, groups: [SocketAddr; 2], at: [&str; 2]) -> Outcome {
    let is_taken = |answer: &Value, group: SocketAddr, at: &str| {
        let all = answer["groups"].as_array().map(Vec::as_slice).unwrap_or_default();
        let of_source = |shown: &&Value| {
            shown["group"] == group.ip().to_string() && shown["source"] == senders_address(group).to_string()
        };
        all.iter().find(of_source).is_some_and(|shown| {
            let is_told = shown["taken"]["reason"].as_str().is_some_and(|why| why.contains("on src0"));
            shown["taken"]["at"] == at && (at != "tc" || is_told || groups_at_tc(all))
        })
    };
    bed.until_answer(&format!("the groups are at {at:?}"), router, &["group", "list"], |answer| {
        groups.into_iter().zip(at).all(|(group, at)| is_taken(answer, group, at))
    })?;
    Ok(())
}

/// Whether all groups are taken in at TC, as with its engine.
fn groups_at_tc(all: &[Value]) -> bool {
    all.iter().filter(|shown| !shown["source"].is_null()).all(|shown| shown["taken"]["at"] == "tc")
}

fn senders_address(group: SocketAddr) -> IpAddr {
    if group.is_ipv4() { SOURCE.into() } else { SOURCE_V6.into() }
}

fn send(small: &Small, group: SocketAddr) -> Result<Sender, Failed> {
    match group {
        SocketAddr::V4(group) => {
            Sender::start(&small.source, SOURCE, GroupPort { group: *group.ip(), port: group.port() })
        }
        SocketAddr::V6(group) => Sender::start_v6(&small.source, SOURCE_V6, group, "eth0"),
    }
}

fn join(
    node: &Namespace,
    interface: &str,
    group: SocketAddr,
    source: Option<IpAddr>,
) -> Result<Listener, Failed> {
    match (group, source) {
        (SocketAddr::V4(group), source) => {
            let source = source.and_then(|source| match source {
                IpAddr::V4(source) => Some(source),
                IpAddr::V6(_) => None,
            });
            Listener::join(node, GroupPort { group: *group.ip(), port: group.port() }, source)
        }
        (SocketAddr::V6(group), Some(IpAddr::V6(source))) => {
            Listener::join_source_v6(node, group, source, interface)
        }
        (SocketAddr::V6(group), _) => Listener::join_v6(node, group, interface),
    }
}

/// Counts the datagrams to a group that come to a node.
fn frames(node: &Namespace, group: IpAddr) -> Result<Frames, Failed> {
    match group {
        IpAddr::V4(group) => Frames::watch(node, "eth0", move |frame| {
            frame[12..14] == [8, 0] && frame[23] == 17 && frame[30..34] == group.octets()
        }),
        IpAddr::V6(group) => Frames::start(node, "eth0", group),
    }
}

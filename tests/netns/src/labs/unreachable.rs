//! Far ends that are gone, of which their hosts or routers on the way tell by ICMP (RFC 7450 §5.2.3.9, §5.3.3.6.4).

use std::{net::IpAddr, time::Duration};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    roles::{Engine, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    chain::{Chain, UPSTREAM, upstream_is_up},
    over_ipv6::{self, ends},
    small::{Router, SOURCE, STREAM, Small, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("an agent whose VMR was killed knows it with the first join, by IPv4 and by IPv6", killed_vmr),
        trial("a VMR whose upstream was killed knows it with the first join", killed_upstream),
        trial("a VMR ends the tunnel of an agent that has vanished, and nobody else's", vanished_agent),
        trial("a VMR ends the tunnel to a host that nobody finds any more", |bed| nobody_there(bed, false)),
        trial("a VMR ends the tunnel to a host that nobody finds any more by IPv6", |bed| {
            nobody_there(bed, true)
        }),
    ]
}

const SOME: u64 = 150;
/// Without ICMP an Update that nobody takes is followed by the next Request, after the query interval of two minutes.
const AT_ONCE: Duration = Duration::from_secs(5);

fn counted(role: &Role, of: &str, label: &str) -> u64 {
    let stats = role.ask(&["stats"]).unwrap_or_default();
    stats["control"][of][label].as_u64().unwrap_or_default()
}

fn tunnels(answer: &Value) -> usize {
    answer["tunnels"].as_array().map_or(0, Vec::len)
}

fn is_up(bed: &Bed, agent: &Role) -> Outcome {
    bed.until_answer("the VMR answers", agent, &["status"], |status| status["upstream"]["state"] == "up")?;
    Ok(())
}

// proves A6: RFC 7450 section 5.2.3.9
fn killed_vmr(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    over_ipv6::number(&small)?;
    let mut router = small.router(bed, Router::default())?;
    let mut agents = vec![
        static_agent(bed, small.client(1), gateway_of(1), "")?,
        static_agent(bed, small.client(2), ends(2)[0], "")?,
        static_agent(bed, small.client(3), gateway_of(3), "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    for agent in &agents {
        is_up(bed, agent)?;
    }
    let bystander = small.forbid(bed, 3)?;
    router.process.kill()?;
    let killed = bed.clock.now();
    let listeners = [1, 2].map(|client| Listener::join(small.client(client), STREAM, None));
    let [first, second] = listeners;
    let listeners = [first?, second?];
    for agent in &agents[..2] {
        bed.until_answer("the VMR is known to be gone", agent, &["status"], |status| {
            status["upstream"]["state"] != "up"
        })?;
        ensure!(counted(agent, "amt_gateway", "requests") < 20, "it asks like mad");
    }
    let after = bed.clock.now() - killed;
    ensure!(after < AT_ONCE, "it took {after:?}");
    // Who wants nothing was told of nothing.
    ensure!(counted(&agents[2], "amt_gateway", "unreachable") == 0, "the bystander has sent something");

    let _router = small.router(bed, Router::default())?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }
    let last = sender.stop()? - 1;
    for listener in &listeners {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6: RFC 7450 section 5.2.3.9, of a gateway that is a VMR's
fn killed_upstream(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    let mut upper = chain.start_upper(bed)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{UPSTREAM}\"\n");
    let mut lower = chain.start_lower(&bed.launcher, bed, &from)?;
    wait_ready([&mut lower], bed.clock)?;
    let _agents = chain.agents(bed)?;
    upstream_is_up(bed, &lower)?;
    let bystander = Witness::start(&chain.clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    upper.process.kill()?;
    ensure!(counted(&lower, "gateway", "unreachable") == 0, "nobody has said anything yet");
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    bed.until_answer("the upstream is known to be gone", &lower, &["status"], |status| {
        status["upstream"]["state"] != "up"
    })?;
    ensure!(counted(&lower, "gateway", "unreachable") > 0, "it was not ICMP that told");
    ensure!(counted(&lower, "gateway", "requests") < 20, "it asks like mad");

    let _upper = chain.start_upper(bed)?;
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    listener.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Waits until a tunnel was ended for what ICMP said; two are there before.
fn until_one_is_left(bed: &Bed, router: &Role, left: IpAddr) -> Outcome {
    let answer =
        bed.until_answer("the tunnel is ended", router, &["tunnel", "list"], |all| tunnels(all) == 1)?;
    let remote = answer["tunnels"][0]["remote"].as_str().unwrap_or_default();
    ensure!(remote.contains(&left.to_string()), "{remote} is left, not {left}");
    let (ended, heard) =
        (counted(router, "relay", "tunnels_unreachable"), counted(router, "relay", "unreachable"));
    ensure!(ended == 1 && heard > 4, "{ended} tunnels ended after {heard} messages");
    Ok(())
}

/// Both come, and then the one that stays gets all until the end.
fn judge(
    bed: &Bed,
    small: &Small,
    router: &Role,
    [stays, goes]: [&Listener; 2],
    left: IpAddr,
    vanish: impl FnOnce() -> Result<(), Failed>,
) -> Outcome {
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    for listener in [stays, goes] {
        listener.more(bed, SOME)?;
    }
    vanish()?;
    until_one_is_left(bed, router, left)?;
    stays.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    stays.until_last(bed, last)?;
    stays.heard().is_whole()
}

// proves A6: RFC 7450 section 5.3.3.6.4
fn vanished_agent(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let router = small.router(bed, Router { engine: Engine::Auto, ..Router::default() })?;
    let mut agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 3)?;
    let stays = Listener::join(small.client(1), STREAM, None)?;
    let goes = Listener::join(small.client(2), STREAM, None)?;
    let mut agent = agents.remove(1);
    judge(bed, &small, &router, [&stays, &goes], [10, 5, 1, 2].into(), || {
        agent.process.kill()?;
        Ok(())
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The agent of a host behind a router, which does not find that host all of a sudden. A host without the agent would not do
/// over IPv6: Linux says nothing of a datagram without a checksum that nobody takes (RFC 6935 §5).
// proves A6: RFC 7450 section 5.3.3.6.4
fn nobody_there(bed: &mut Bed, by_ipv6: bool) -> Outcome {
    let small = Small::build(bed, 2)?;
    over_ipv6::number(&small)?;
    let home = bed.lab.namespace("home")?;
    let between = small.client(2);
    bed.lab.veth((between, "home0"), (&home, "eth0"))?;
    between.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    between.ip("addr add 192.168.7.1/24 dev home0\naddr add 2001:db8:7::1/64 dev home0 nodad")?;
    home.ip("addr add 192.168.7.2/24 dev eth0\naddr add 2001:db8:7::2/64 dev eth0 nodad\n\
         route add default via 192.168.7.1\nroute add default via 2001:db8:7::1")?;
    small.vmr.ip(&format!(
        "route add 192.168.7.0/24 via 10.5.2.2\nroute add 2001:db8:7::/64 via {}",
        ends(2)[1]
    ))?;
    let router = small.router(bed, Router::default())?;
    let vmr: IpAddr = if by_ipv6 { ends(2)[0].into() } else { gateway_of(2).into() };
    let mut agents = small.agents(bed, [1])?;
    agents.push(static_agent(bed, &home, vmr, "")?);
    wait_ready(&mut agents, bed.clock)?;
    let stays = Listener::join(small.client(1), STREAM, None)?;
    let goes = Listener::join(&home, STREAM, None)?;
    judge(bed, &small, &router, [&stays, &goes], [10, 5, 1, 2].into(), || {
        // A route that says so itself would not do: Linux tells of it two or three times and falls silent.
        Ok(home.ip("addr del 192.168.7.2/24 dev eth0\naddr del 2001:db8:7::2/64 dev eth0")?)
    })
}

//! Links that change while a stream is on them: an interface that goes and comes back, an MTU that shrinks, a
//! neighbour whose link-layer address changes. Others lose nothing, and the operator sees it.
//!
//! Of four clients the first is an ordinary host whose link is shaken, the second one whose link is not; the
//! third and fourth are the same with agents.

use std::{fs, net::IpAddr, process::Command};

use libtest_mimic::{Failed, Trial};
use nix::net::if_::if_nametoindex;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    netns::Offload,
    roles::{Engine, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engines},
    over_ipv6,
    small::{Router, SOURCE, STREAM, Small, client_address, gateway_of, static_agent},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    const ALL: [Engine; 3] = [Engine::Xdp, Engine::Tc, Engine::Software];
    let by_v4 = [
        trials_by_engines(
            ALL,
            "an interface that goes and comes back costs others nothing",
            |bed, engine| deleted(bed, engine, Family::V4),
        ),
        trials_by_engines(
            ALL,
            "an interface that is made anew at once under its own number is served, and costs others nothing",
            made_anew,
        ),
        trials_by_engines(ALL, "an interface that is set down and up costs others nothing", down_and_up),
        trials_by_engines(ALL, "an MTU that shrinks and grows costs others nothing", |bed, engine| {
            mtu(bed, engine, Family::V4)
        }),
        trials_by_engines(
            ALL,
            "a neighbour with a new link-layer address costs others nothing",
            |bed, engine| neighbour(bed, engine, Family::V4),
        ),
    ];
    let by_v6 = [
        trials_by_engines(
            ALL,
            "an interface with a tunnel over IPv6 goes and comes back and costs others nothing",
            |bed, engine| deleted(bed, engine, Family::V6),
        ),
        trials_by_engines(
            ALL,
            "an MTU below a tunnel over IPv6 shrinks and grows and costs others nothing",
            |bed, engine| mtu(bed, engine, Family::V6),
        ),
        trials_by_engines(
            ALL,
            "an IPv6 neighbour with a new link-layer address costs others nothing",
            |bed, engine| neighbour(bed, engine, Family::V6),
        ),
    ];
    by_v4.into_iter().chain(by_v6).flatten().collect()
}

/// By which version of IP the agents reach their VMR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    /// The VMR and the client, on the client's link.
    fn ends(self, client: u8) -> [IpAddr; 2] {
        match self {
            Self::V4 => [gateway_of(client).into(), client_address(client).into()],
            Self::V6 => over_ipv6::ends(client.into()).map(IpAddr::from),
        }
    }
}

const SOME: u64 = 100;
/// IP and UDP of the stream's packets and the tunnel's outer headers do not fit this with their payload.
const SMALL_MTU: u32 = 1_300;

/// The network with its VMR, its agents, and a stream that two hosts and two agents receive.
struct Shaken {
    small: Small,
    router: Role,
    agents: Vec<Role>,
    sender: Sender,
    /// Those whose links stay as they are.
    steady: [Listener; 2],
    /// A client on whose link nothing is ever to be.
    bystander: vmcast_lab::traffic::Witness,
}

/// The clients whose links are shaken.
const HOST: u8 = 1;
const GUEST: u8 = 3;
/// Those who must not notice.
const STEADY: [u8; 2] = [2, 4];
/// One who joins nothing.
const BYSTANDER: u8 = 5;

impl Shaken {
    fn start(bed: &mut Bed, engine: Engine, family: Family) -> Result<Self, Failed> {
        let small = Small::build(bed, 5)?;
        over_ipv6::number(&small)?;
        let router = small.router(bed, Router { engine, querier: true, ..Router::default() })?;
        let agent = |client| static_agent(bed, small.client(client), family.ends(client)[0], "");
        let mut agents = vec![agent(GUEST)?, agent(STEADY[1])?];
        wait_ready(&mut agents, bed.clock)?;
        let bystander = small.forbid(bed, BYSTANDER)?;
        let sender = Sender::start(&small.source, SOURCE, STREAM)?;
        let join = |client| Listener::join(small.client(client), STREAM, None);
        let steady = [join(STEADY[0])?, join(STEADY[1])?];
        for listener in &steady {
            listener.more(bed, SOME)?;
        }
        Ok(Self { small, router, agents, sender, steady, bystander })
    }

    fn join(&self, client: u8) -> Result<Listener, Failed> {
        Listener::join(self.small.client(client), STREAM, None)
    }

    /// What `vmcast interface list` says of an interface, once it is as wanted.
    fn until_shown(&self, bed: &Bed, what: &str, name: &str, wanted: impl Fn(&Value) -> bool) -> Outcome {
        bed.until_answer(what, &self.router, &["interface", "list"], |answer| {
            let all = answer["interfaces"].as_array().map(Vec::as_slice).unwrap_or_default();
            all.iter().any(|shown| shown["name"] == name && wanted(shown))
        })?;
        Ok(())
    }

    fn log(&self, bed: &Bed) -> Result<String, Failed> {
        Ok(fs::read_to_string(bed.lab.dir().join("vmr.log"))?)
    }

    /// Copies of the stream that members missed for a reason.
    fn dropped(&self, reason: &str) -> u64 {
        let stats = self.router.ask(&["stats"]).unwrap_or_default();
        let streams = stats["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
        streams.iter().filter_map(|stream| stream["drops"][reason].as_u64()).sum()
    }

    /// Waits until the source has sent more, all of which came to those whose links are steady.
    fn go_on(&self, bed: &Bed) -> Outcome {
        self.sender.more(bed, SOME)?;
        let sent = self.sender.sent();
        self.steady.iter().try_for_each(|listener| listener.until_last(bed, sent - 1))
    }

    /// Fails unless those whose links are steady got each packet once and in order, and nobody else any.
    fn end(mut self, bed: &Bed) -> Outcome {
        self.router.check_alive()?;
        for agent in &mut self.agents {
            agent.check_alive()?;
        }
        let last = self.sender.stop()? - 1;
        for (client, listener) in STEADY.into_iter().zip(self.steady) {
            listener.until_last(bed, last)?;
            listener
                .leave()
                .is_whole()
                .map_err(|failed| format!("client {client}: {}", failed.message().unwrap_or_default()))?;
        }
        ensure!(self.bystander.stray().packets == 0, "the bystander was sent {:?}", self.bystander.stray());
        Ok(())
    }
}

/// What comes from now on comes whole.
fn whole_again(bed: &Bed, listener: &Listener) -> Outcome {
    // What was under way while the link came back may be lost.
    listener.more(bed, 20)?;
    let before = usize::try_from(listener.count())?;
    listener.more(bed, SOME)?;
    let mut heard = listener.heard();
    heard.packets.drain(..before);
    heard.is_whole()?;
    listener.heard().is_in_order()
}

/// Makes the cable of a client anew, under the names and with the addresses that it had.
fn lay_again(bed: &Bed, small: &Small, client: u8) -> Outcome {
    let (vmr, node) = (&small.vmr, small.client(client));
    let gateway = gateway_of(client);
    // The name comes last: a VMR that is on one end may keep the offloads of the other from being set.
    bed.lab.veth((vmr, "spare"), (node, "eth0"))?;
    vmr.ip(&format!(
        "link set spare down\nlink set spare name acc{client}\nlink set acc{client} up\n\
         addr add {gateway}/24 dev acc{client}"
    ))?;
    node.ip(&format!("addr add {}/24 dev eth0\nroute add default via {gateway}", client_address(client)))?;
    let [gateway, host] = over_ipv6::ends(client.into());
    vmr.ip(&format!("addr add {gateway}/64 dev acc{client} nodad"))?;
    node.ip(&format!("addr add {host}/64 dev eth0 nodad\nroute add default via {gateway}"))?;
    Ok(())
}

// proves that a member's interface may vanish and come back while others are served
fn deleted(bed: &mut Bed, engine: Engine, family: Family) -> Outcome {
    let shaken = Shaken::start(bed, engine, family)?;
    let host = shaken.join(HOST)?;
    let guest = shaken.join(GUEST)?;
    for listener in [&host, &guest] {
        listener.more(bed, SOME)?;
        listener.heard().is_whole()?;
    }
    for round in 0..3 {
        shaken.small.vmr.ip("link del acc1\nlink del acc3")?;
        for name in ["acc1", "acc3"] {
            shaken.until_shown(bed, "the operator sees that it is gone", name, |shown| {
                shown["ifindex"].is_null() && shown["up"] == false
            })?;
        }
        let gone = shaken.log(bed)?.matches("interface gone").count();
        ensure!(gone == 2 * (round + 1), "{gone} interfaces are said to be gone in round {round}");
        bed.until_answer("the host is no member any more", &shaken.router, &["member", "list"], |answer| {
            let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            !members.is_empty() && members.iter().all(|member| member["output"]["name"] != "acc1")
        })?;
        shaken.go_on(bed)?;
        for client in [HOST, GUEST] {
            lay_again(bed, &shaken.small, client)?;
        }
        for name in ["acc1", "acc3"] {
            shaken.until_shown(bed, "the operator sees that it is back", name, |shown| {
                shown["up"] == true && !shown["attached"].is_null()
            })?;
        }
        // The host's membership went with its interface: it joins anew. The agent's tunnel follows the route.
        let again = shaken.join(HOST)?;
        whole_again(bed, &again)?;
        whole_again(bed, &guest)?;
    }
    shaken.end(bed)
}

// as a link does that was in another namespace for a moment: nobody sees by its number that it was gone
fn made_anew(bed: &mut Bed, engine: Engine) -> Outcome {
    let shaken = Shaken::start(bed, engine, Family::V4)?;
    let Shaken { small, .. } = &shaken;
    for round in 1..=3 {
        for client in [HOST, GUEST] {
            let name = format!("acc{client}");
            let number = small.vmr.enter(|| if_nametoindex(name.as_str()))??;
            let (node, gateway) = (small.client(client), gateway_of(client));
            small.vmr.ip(&format!(
                "link del {name}\nlink add {name} index {number} type veth peer name eth0 netns {peer}\n\
                 addr add {gateway}/24 dev {name}",
                peer = node.name()
            ))?;
            // What the other end takes is seen when it is set up.
            node.set_offload("eth0", Offload::Gro, true)?;
            small.vmr.ip(&format!("link set {name} up"))?;
            node.ip(&format!(
                "addr add {}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}",
                client_address(client)
            ))?;
            let now = small.vmr.enter(|| if_nametoindex(name.as_str()))??;
            ensure!(now == number, "{name} had number {number} and has {now}");
        }
        let log = shaken.log(bed)?;
        let gone = log.matches("interface gone").count();
        ensure!(gone <= 2 * round, "{gone} interfaces are said to be gone in round {round}");
        let host = shaken.join(HOST)?;
        let guest = shaken.join(GUEST)?;
        for listener in [&host, &guest] {
            whole_again(bed, listener)?;
        }
        shaken.go_on(bed)?;
    }
    shaken.end(bed)
}

fn down_and_up(bed: &mut Bed, engine: Engine) -> Outcome {
    let shaken = Shaken::start(bed, engine, Family::V4)?;
    let host = shaken.join(HOST)?;
    let guest = shaken.join(GUEST)?;
    for listener in [&host, &guest] {
        listener.more(bed, SOME)?;
    }
    for _ in 0..3 {
        shaken.small.vmr.ip("link set acc1 down\nlink set acc3 down")?;
        for name in ["acc1", "acc3"] {
            shaken.until_shown(bed, "the operator sees that it is down", name, |shown| {
                shown["up"] == false && !shown["ifindex"].is_null()
            })?;
        }
        // The host is a member still, and what it misses is counted.
        let refused = |answer: &Value| answer["drops"]["device_refused"].as_u64().unwrap_or(0);
        let before = shaken.router.ask(&["stats"]).as_ref().map_or(0, refused);
        shaken.go_on(bed)?;
        bed.until_answer("copies for it are refused", &shaken.router, &["stats"], |answer| {
            refused(answer) > before
        })?;
        shaken.small.vmr.ip("link set acc1 up\nlink set acc3 up")?;
        whole_again(bed, &host)?;
        whole_again(bed, &guest)?;
    }
    shaken.end(bed)
}

fn mtu(bed: &mut Bed, engine: Engine, family: Family) -> Outcome {
    let shaken = Shaken::start(bed, engine, family)?;
    for client in [HOST, GUEST] {
        let listener = shaken.join(client)?;
        listener.more(bed, SOME)?;
        let name = format!("acc{client}");
        let set = |mtu: u32| -> Outcome {
            shaken.small.vmr.ip(&format!("link set {name} mtu {mtu}"))?;
            shaken.until_shown(bed, "the operator sees the MTU", &name, |shown| shown["mtu"] == mtu)
        };
        set(SMALL_MTU)?;
        // From here on every packet is delivered, in whatever way, or counted.
        shaken.go_on(bed)?;
        let (sent, came, counted) = (shaken.sender.sent(), listener.count(), shaken.dropped("oversize"));
        shaken.go_on(bed)?;
        let sent = shaken.sender.sent() - sent;
        let mut account = (0, 0);
        bed.until("each packet is delivered or counted", || {
            account = (listener.count() - came, shaken.dropped("oversize") - counted);
            Ok(account.0 + account.1 >= sent)
        })
        .map_err(|failed| {
            format!("{}: of {sent} {account:?} came and were counted", failed.message().unwrap_or_default())
        })?;
        listener.heard().is_in_order()?;
        set(1_500)?;
        whole_again(bed, &listener)?;
        listener.leave();
    }
    shaken.end(bed)
}

/// Lets a node answer who asks for its link-layer address, or not (ARP and RFC 4861 §7.2.4).
fn answers(node: &Namespace, answers: bool) -> Outcome {
    let nft = |rules: &str| -> Outcome {
        let mut nft = Command::new("nft");
        nft.arg(rules);
        node.run(nft)?;
        Ok(())
    };
    if answers {
        node.ip("link set eth0 arp on")?;
        nft("delete table ip6 silence")
    } else {
        node.ip("link set eth0 arp off")?;
        nft("table ip6 silence {\nchain input {\ntype filter hook input priority 0;\n\
             icmpv6 type nd-neighbor-solicit drop\n}\n}")
    }
}

fn neighbour(bed: &mut Bed, engine: Engine, family: Family) -> Outcome {
    let shaken = Shaken::start(bed, engine, family)?;
    let guest = shaken.join(GUEST)?;
    guest.more(bed, SOME)?;
    guest.heard().is_whole()?;
    let (vmr, client) = (&shaken.small.vmr, shaken.small.client(GUEST));
    let [_, address] = family.ends(GUEST);

    // A new address that the kernel is told of at once, as by an announcement.
    client.ip("link set eth0 address 02:00:00:00:99:01")?;
    vmr.ip(&format!("neigh replace {address} lladdr 02:00:00:00:99:01 dev acc3 nud reachable"))?;
    whole_again(bed, &guest)?;

    // Nobody knows it for a while.
    answers(client, false)?;
    vmr.ip(&format!("neigh flush dev acc3\nneigh replace {address} dev acc3 nud failed"))?;
    let before = shaken.dropped("next_hop_unresolved");
    bed.until("copies without a link-layer address are counted", || {
        Ok(shaken.dropped("next_hop_unresolved") > before + 10)
    })?;
    shaken.go_on(bed)?;
    client.ip("link set eth0 address 02:00:00:00:99:02")?;
    answers(client, true)?;
    whole_again(bed, &guest)?;
    shaken.end(bed)
}

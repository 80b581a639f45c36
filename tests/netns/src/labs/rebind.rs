//! Tunnels whose far end moves under a stream: a translator that takes another port or another address, as after a
//! re-dial, and a host whose own address changes, over IPv4 and IPv6. Loss is counted in packets of a stream of known
//! pace.

use std::net::{IpAddr, Ipv4Addr};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engine},
    chain::{self, Chain, LOWER, UPPER, UPSTREAM, upstream_is_up},
    outer::{Outer, until_ends},
    small::{Router, SOURCE, STREAM, Small, VMR, client_address, gateway_of, static_agent},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("an agent whose translator takes another port goes on with its stream", |bed| {
            another_port(bed, Outer::V4)
        }),
        trial("an agent whose translator of IPv6 takes another port goes on with its stream", |bed| {
            another_port(bed, Outer::V6)
        }),
        trial(
            "an agent whose translator takes another port goes on with its stream of a full relay",
            |bed| port_of_full_relay(bed, Outer::V4),
        ),
        trial(
            "an agent whose translator of IPv6 takes another port goes on with its stream of a full relay",
            |bed| port_of_full_relay(bed, Outer::V6),
        ),
        trial("an agent whose translator is dialled in anew goes on with its stream", |bed| {
            redial(bed, Outer::V4)
        }),
        trial("an agent whose translator of IPv6 is dialled in anew goes on with its stream", |bed| {
            redial(bed, Outer::V6)
        }),
        trial("an agent whose own address changes goes on with its stream", |bed| {
            own_address(bed, Outer::V4)
        }),
        trial("an agent whose own IPv6 address changes goes on with its stream", |bed| {
            own_address(bed, Outer::V6)
        }),
        trial("a VMR whose own address changes goes on with its stream", |bed| vmr_address(bed, Outer::V4)),
        trial("a VMR whose own IPv6 address changes goes on with its stream", |bed| {
            vmr_address(bed, Outer::V6)
        }),
    ]
    .into_iter()
    .chain(trials_by_engine("a VMR whose translator is dialled in anew goes on with its stream", vmr_redial))
    .collect()
}

/// The stream's packets in 200 ms, which a change costs at most where the processors are not busy with other things:
/// a sender is never faster than its pace.
const TWO_HUNDRED_MS: u64 = 200 / Sender::PACE.as_millis() as u64;
/// What it may cost in a test. Only virtual time says how fast the machines are; here the figure is printed.
const MOST: u64 = 15 * TWO_HUNDRED_MS;
/// Packets before a change and after it.
const SOME: u64 = 100;
/// How often the change is made.
const CHANGES: u8 = 3;

/// What came must be of the source alone, in order, once, unchanged; how many are missing in the middle.
pub(super) fn lost(heard: &Heard, from: Ipv4Addr) -> Result<u64, Failed> {
    ensure!(heard.damaged == 0, "{} packets came damaged", heard.damaged);
    let mut lost = 0;
    for pair in heard.packets.windows(2) {
        let ((_, before), (_, next)) = (pair[0], pair[1]);
        ensure!(next > before, "after packet {before} came packet {next}");
        lost += next - before - 1;
    }
    ensure!(heard.packets.iter().all(|(source, _)| *source == from), "another source was heard");
    Ok(lost)
}

/// Lets something change under the stream, several times, and counts what each change costs.
fn judge(bed: &Bed, sender: Sender, listener: &Listener, change: impl FnMut(u8) -> Outcome) -> Outcome {
    judge_of(bed, SOURCE, sender, listener, change)
}

/// The same of another source.
pub(super) fn judge_of(
    bed: &Bed,
    from: Ipv4Addr,
    sender: Sender,
    listener: &Listener,
    mut change: impl FnMut(u8) -> Outcome,
) -> Outcome {
    listener.more(bed, SOME)?;
    ensure!(lost(&listener.heard(), from)? == 0, "packets were lost before anything had changed");
    let mut so_far = 0;
    for number in 1..=CHANGES {
        change(number)?;
        listener.more(bed, SOME)?;
        let all = lost(&listener.heard(), from)?;
        let of_change = all - so_far;
        eprintln!("change {number} cost {of_change} packets of the stream; 200 ms are {TWO_HUNDRED_MS}");
        ensure!(of_change < MOST, "change {number} cost {of_change} packets");
        so_far = all;
    }
    listener.until_last(bed, sender.stop()? - 1)?;
    ensure!(lost(&listener.heard(), from)? == so_far, "packets were lost after the last change");
    Ok(())
}

/// A client's host behind a translator, with an agent, and a bystander.
struct Home {
    outer: Outer,
    small: Small,
    home: Namespace,
    router: Role,
    _agents: Vec<Role>,
    bystander: Witness,
}

impl Home {
    fn build(bed: &mut Bed, outer: Outer) -> Result<Self, Failed> {
        Self::build_with(bed, outer, "")
    }

    /// `tables` are more of the router.
    fn build_with(bed: &mut Bed, outer: Outer, tables: &str) -> Result<Self, Failed> {
        let small = Small::build(bed, 2)?;
        outer.number(&small)?;
        let home = bed.lab.namespace("home")?;
        bed.lab.veth((small.client(1), "home0"), (&home, "eth0"))?;
        let translator = small.client(1);
        match outer {
            Outer::V4 => {
                translator.sysctl(&[("ipv4/ip_forward", "1")])?;
                translator.ip("addr add 192.168.7.1/24 dev home0")?;
                home.ip("addr add 192.168.7.2/24 dev eth0\nroute add default via 192.168.7.1")?;
            }
            Outer::V6 => {
                translator.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
                translator.ip("addr add fd07::1/64 dev home0 nodad")?;
                home.ip("addr add fd07::2/64 dev eth0 nodad\nroute add default via fd07::1")?;
            }
        }
        translator.translate(outer == Outer::V6, "eth0", 40_000)?;
        let router = small.router(bed, Router { tables, ..Router::default() })?;
        let mut agents = vec![
            static_agent(bed, &home, outer.relay(1), "")?,
            static_agent(bed, small.client(2), outer.relay(2), "")?,
        ];
        wait_ready(&mut agents, bed.clock)?;
        let bystander = small.forbid(bed, 2)?;
        Ok(Self { outer, small, home, router, _agents: agents, bystander })
    }

    /// Gives the translator another address, its host's number on the link; what it knew of translations by the one
    /// before is gone.
    fn dial(&self, before: u8, after: u8) -> Outcome {
        let addresses = [before, after].map(|host| self.outer.on_link(1, host));
        self.outer.renumber(self.small.client(1), "eth0", addresses, self.outer.relay(1))
    }

    /// `end` says with what host's number on the link the tunnel ends after a change.
    fn judge(&self, bed: &Bed, change: impl Fn(u8) -> Outcome, end: impl Fn(u8) -> u8) -> Outcome {
        let sender = Sender::start(&self.small.source, SOURCE, STREAM)?;
        let listener = Listener::join(&self.home, STREAM, None)?;
        judge(bed, sender, &listener, |number| {
            change(number)?;
            listener.more(bed, SOME)?;
            until_ends(bed, &self.router, "remote", &[self.outer.on_link(1, end(number))])
        })?;
        ensure!(self.bystander.stray().packets == 0, "the bystander was sent {:?}", self.bystander.stray());
        Ok(())
    }
}

// proves A6: the tunnel follows a port that changes
fn another_port(bed: &mut Bed, outer: Outer) -> Outcome {
    let home = Home::build(bed, outer)?;
    takes_another_port(bed, &home)
}

// proves A6: the tunnel that is left behind does not take the room of the one that follows it (RFC 7450 §5.2.3.7.1)
fn port_of_full_relay(bed: &mut Bed, outer: Outer) -> Outcome {
    // The bystander has no stream, so no tunnel.
    let home = Home::build_with(bed, outer, "[tunnel]\nmax_tunnels = 1\n")?;
    takes_another_port(bed, &home)
}

fn takes_another_port(bed: &Bed, home: &Home) -> Outcome {
    let outer = home.outer;
    let change = |number| {
        let translator = home.small.client(1);
        translator.translate(outer == Outer::V6, "eth0", 40_000 + 100 * u16::from(number))?;
        match outer {
            // The translations go with the address.
            Outer::V4 => home.dial(2, 2),
            // By way of another one, as the new one comes first.
            Outer::V6 => home.dial(2, 3).and_then(|()| home.dial(3, 2)),
        }
    };
    home.judge(bed, change, |_| 2)
}

// proves A6: the tunnel follows an address that changes, which is known to nobody but the relay
fn redial(bed: &mut Bed, outer: Outer) -> Outcome {
    let home = Home::build(bed, outer)?;
    home.judge(bed, |number| home.dial(1 + number, 2 + number), |number| 2 + number)
}

// proves A6
fn own_address(bed: &mut Bed, outer: Outer) -> Outcome {
    let small = Small::build(bed, 2)?;
    outer.number(&small)?;
    let router = small.router(bed, Router::default())?;
    let mut agents = Vec::new();
    for client in [1, 2] {
        agents.push(static_agent(bed, small.client(client), outer.relay(client), "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    judge(bed, sender, &listener, |number| {
        let [before, after] = [1, 2].map(|offset| outer.on_link(1, number + offset));
        outer.renumber(small.client(1), "eth0", [before, after], outer.relay(1))?;
        listener.more(bed, SOME)?;
        until_ends(bed, &router, "remote", &[after])
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6
fn vmr_address(bed: &mut Bed, outer: Outer) -> Outcome {
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    let upper_v6: IpAddr = "2001:db8:2::1".parse()?;
    let (upstream, ends): (IpAddr, [IpAddr; 2]) = match outer {
        Outer::V4 => (UPSTREAM.into(), LOWER.map(IpAddr::from)),
        Outer::V6 => (upper_v6, ["2001:db8:2::2".parse()?, "2001:db8:2::3".parse()?]),
    };
    if outer == Outer::V6 {
        outer.give(&chain.upper, "core0", upstream)?;
        outer.give(&chain.lower, "core0", ends[0])?;
    }
    let above = chain.start_upper_at(bed, upstream)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{upstream}\"\n");
    let mut lower = chain.start_lower(&bed.launcher, bed, &from)?;
    wait_ready([&mut lower], bed.clock)?;
    upstream_is_up(bed, &lower)?;
    let _agents = chain.agents(bed)?;
    let bystander = Witness::start(&chain.clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    judge(bed, sender, &listener, |number| {
        let [before, after] = if number % 2 == 1 { ends } else { [ends[1], ends[0]] };
        outer.replace(&chain.lower, "core0", [before, after])?;
        if outer == Outer::V4 {
            chain.open_way()?;
        }
        listener.more(bed, SOME)?;
        until_ends(bed, &above, "remote", &[after])
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// The VMR of a home behind a translator, whose upstream sees the translator alone.
// proves A6, A15: a home gateway as a VMR below another one
fn vmr_redial(bed: &mut Bed, engine: Engine) -> Outcome {
    let [source, upper, translator, lower] =
        bed.lab.namespaces(["source", "upper", "translator", "lower"])?;
    let clients = bed.lab.namespaces(["client1", "client2"])?;
    bed.lab.veths(&[
        ((&source, "eth0"), (&upper, "src0")),
        ((&upper, "core0"), (&translator, "out0")),
        ((&translator, "in0"), (&lower, "core0")),
        ((&lower, "acc1"), (&clients[0], "eth0")),
        ((&lower, "acc2"), (&clients[1], "eth0")),
    ])?;
    source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
    upper.ip(&format!("addr add {VMR}/24 dev src0\naddr add {UPPER}/24 dev core0"))?;
    translator.sysctl(&[("ipv4/ip_forward", "1")])?;
    translator.ip("addr add 10.2.0.2/24 dev out0\naddr add 192.168.8.1/24 dev in0")?;
    lower.ip("addr add 192.168.8.2/24 dev core0\nroute add default via 192.168.8.1")?;
    for (number, client) in (1..).zip(&clients) {
        let gateway = gateway_of(number);
        lower.ip(&format!("addr add {gateway}/24 dev acc{number}"))?;
        let address = client_address(number);
        client.ip(&format!("addr add {address}/24 dev eth0\nroute add default via {gateway}"))?;
    }
    translator.translate(false, "out0", 40_000)?;
    let launcher = &bed.launcher;
    let up = [("src0", true), ("core0", false)];
    let mut above = chain::start_with(launcher, bed, &upper, 0, "", &up, engine)?;
    wait_ready([&mut above], bed.clock)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{UPPER}\"\n");
    let down = [("core0", false), ("acc1", false), ("acc2", false)];
    let mut below = chain::start_with(launcher, bed, &lower, 1, &from, &down, engine)?;
    wait_ready([&mut below], bed.clock)?;
    upstream_is_up(bed, &below)?;
    let mut agents = vec![
        static_agent(bed, &clients[0], gateway_of(1), "")?,
        static_agent(bed, &clients[1], gateway_of(2), "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    let bystander = Witness::start(&clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&source, SOURCE, STREAM)?;
    let listener = Listener::join(&clients[0], STREAM, None)?;
    // The pace is known once the counters have been read twice.
    listener.more(bed, 6 * SOME)?;
    judge(bed, sender, &listener, |number| {
        Ok(translator.ip(&format!(
            "addr del 10.2.0.{}/24 dev out0\naddr add 10.2.0.{}/24 dev out0",
            1 + number,
            2 + number
        ))?)
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

//! Tunnels whose far end moves under a stream: a translator that takes another port or another address, as after a
//! re-dial, and a host whose own address changes. Loss is counted in packets of a stream of known pace.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
    process::{Command, Stdio},
};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engine},
    chain::{self, Chain, LOWER, UPPER, UPSTREAM, upstream_is_up},
    over_ipv6,
    small::{Router, SOURCE, STREAM, Small, VMR, client_address, gateway_of, static_agent},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an agent whose translator takes another port loses less than 200 ms of a stream",
            another_port,
        ),
        trial("an agent whose translator is dialled in anew loses less than 200 ms of a stream", redial),
        trial("an agent whose own address changes loses less than 200 ms of a stream", own_address),
        trial("an agent whose own IPv6 address changes gets the stream at the new one", own_address_v6),
        trial(
            "an agent whose translator of IPv6 is dialled in anew gets the stream at the new one",
            redial_v6,
        ),
        trial("a VMR whose own address changes loses less than 200 ms of a stream", vmr_address),
    ]
    .into_iter()
    .chain(trials_by_engine(
        "a VMR whose translator is dialled in anew loses less than 200 ms of a stream",
        vmr_redial,
    ))
    .collect()
}

/// The stream's packets in 200 ms: a sender is never faster than its pace.
const MOST: u64 = 200 / Sender::PACE.as_millis() as u64;
/// Packets before a change and after it.
const SOME: u64 = 200;
/// How often the change is made.
const CHANGES: u8 = 3;

/// What came must be of the source alone, in order, once, unchanged; how many are missing in the middle.
fn lost(heard: &Heard, from: Ipv4Addr) -> Result<u64, Failed> {
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
        ensure!(of_change < MOST, "change {number} cost {of_change} packets, {MOST} are 200 ms");
        so_far = all;
    }
    listener.until_last(bed, sender.stop()? - 1)?;
    ensure!(lost(&listener.heard(), from)? == so_far, "packets were lost after the last change");
    Ok(())
}

/// Lets a node translate what it sends out of an interface, by ports from one on.
pub(super) fn translate(node: &Namespace, interface: &str, port: u16) -> Outcome {
    translate_of("ip", node, interface, port)
}

/// The same of `ip` or `ip6`.
fn translate_of(family: &str, node: &Namespace, interface: &str, port: u16) -> Outcome {
    let rules = format!(
        "table {family} translator\ndelete table {family} translator\ntable {family} translator {{ chain out {{ type nat hook postrouting priority 100; \
         oifname \"{interface}\" udp dport 2268 masquerade to :{port}-{}\n }}\n }}\n",
        port + 99
    );
    let status = node.enter(|| {
        let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
        if let Some(mut stdin) = nft.stdin.take() {
            stdin.write_all(rules.as_bytes())?;
        }
        nft.wait()
    })??;
    ensure!(status.success(), "nft does not take {rules}");
    Ok(())
}

/// A client's host behind a translator, with an agent, and a bystander.
struct Home {
    small: Small,
    home: Namespace,
    _roles: Vec<Role>,
    bystander: Witness,
}

impl Home {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let small = Small::build(bed, 2)?;
        let home = bed.lab.namespace("home")?;
        bed.lab.veth((small.client(1), "home0"), (&home, "eth0"))?;
        let translator = small.client(1);
        translator.sysctl(&[("ipv4/ip_forward", "1")])?;
        translator.ip("addr add 192.168.7.1/24 dev home0")?;
        home.ip("addr add 192.168.7.2/24 dev eth0\nroute add default via 192.168.7.1")?;
        translate(translator, "eth0", 40_000)?;
        let mut roles = vec![small.router(bed, Router::default())?];
        roles.push(static_agent(bed, &home, gateway_of(1), "")?);
        roles.push(static_agent(bed, small.client(2), gateway_of(2), "")?);
        wait_ready(&mut roles, bed.clock)?;
        let bystander = small.forbid(bed, 2)?;
        Ok(Self { small, home, _roles: roles, bystander })
    }

    /// Gives the translator another address; what it knew of translations by the one before is gone.
    fn dial(&self, before: u8, after: u8) -> Outcome {
        Ok(self.small.client(1).ip(&format!(
            "addr del 10.5.1.{before}/24 dev eth0\naddr add 10.5.1.{after}/24 dev eth0\nroute add default via {}",
            gateway_of(1)
        ))?)
    }

    fn judge(&self, bed: &Bed, change: impl FnMut(u8) -> Outcome) -> Outcome {
        let sender = Sender::start(&self.small.source, SOURCE, STREAM)?;
        let listener = Listener::join(&self.home, STREAM, None)?;
        judge(bed, sender, &listener, change)?;
        ensure!(self.bystander.stray().packets == 0, "the bystander was sent {:?}", self.bystander.stray());
        Ok(())
    }
}

// proves A6: the tunnel follows a port that changes
fn another_port(bed: &mut Bed) -> Outcome {
    let home = Home::build(bed)?;
    home.judge(bed, |number| {
        translate(home.small.client(1), "eth0", 40_000 + 100 * u16::from(number))?;
        // The translations go with the address.
        home.dial(2, 2)
    })
}

// proves A6: the tunnel follows an address that changes
fn redial(bed: &mut Bed) -> Outcome {
    let home = Home::build(bed)?;
    home.judge(bed, |number| home.dial(1 + number, 2 + number))
}

// proves A6
fn own_address(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let _router = small.router(bed, Router::default())?;
    let _agents = small.agents(bed, [1, 2])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    judge(bed, sender, &listener, |number| {
        Ok(small.client(1).ip(&format!(
            "addr del 10.5.1.{}/24 dev eth0\naddr add 10.5.1.{}/24 dev eth0\nroute add default via {}",
            1 + number,
            2 + number,
            gateway_of(1)
        ))?)
    })?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6 over IPv6
fn own_address_v6(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    over_ipv6::number(&small)?;
    let router = small.router(bed, Router::default())?;
    let mut agents = Vec::new();
    for client in [1, 2] {
        let [relay, _] = over_ipv6::ends(client.into());
        agents.push(static_agent(bed, small.client(client), relay, "")?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    let own = |number: u16| {
        let [network @ .., _] = over_ipv6::ends(1)[1].segments();
        let [a, b, c, d, e, f, g] = network;
        Ipv6Addr::new(a, b, c, d, e, f, g, number)
    };
    listener.more(bed, SOME)?;
    for number in 1..=u16::from(CHANGES) {
        let [before, after] = [1, 2].map(|offset| own(number + offset));
        // The new one first: with the last address of a network the way there would go.
        small.client(1).ip(&format!("addr add {after}/64 dev eth0 nodad\naddr del {before}/64 dev eth0"))?;
        listener.more(bed, SOME)?;
        follows(bed, &router, after)?;
    }
    listener.until_last(bed, sender.stop()? - 1)?;
    // In order, each once, of the source alone; how fast it is, is measured over IPv4.
    lost(&listener.heard(), SOURCE)?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Waits until the relay's one tunnel ends at an address.
fn follows(bed: &Bed, router: &Role, end: Ipv6Addr) -> Outcome {
    bed.until_answer(
        "the tunnel has followed, and no other is left",
        router,
        &["tunnel", "list"],
        |answer| {
            let tunnels = answer["tunnels"].as_array().map(Vec::as_slice).unwrap_or_default();
            let ends: Vec<&str> = tunnels.iter().filter_map(|tunnel| tunnel["remote"].as_str()).collect();
            matches!(ends[..], [only] if only.starts_with(&format!("[{end}]:")))
        },
    )?;
    Ok(())
}

// proves A6 over IPv6: the outside address is known to nobody but the relay
fn redial_v6(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    over_ipv6::number(&small)?;
    let home = bed.lab.namespace("home")?;
    let translator = small.client(1);
    bed.lab.veth((translator, "home0"), (&home, "eth0"))?;
    translator.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
    translator.ip("addr add fd07::1/64 dev home0 nodad")?;
    home.ip("addr add fd07::2/64 dev eth0 nodad\nroute add default via fd07::1")?;
    translate_of("ip6", translator, "eth0", 40_000)?;
    let router = small.router(bed, Router::default())?;
    let [relay, _] = over_ipv6::ends(1);
    let mut agents = vec![
        static_agent(bed, &home, relay, "")?,
        static_agent(bed, small.client(2), over_ipv6::ends(2)[0], "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(&home, STREAM, None)?;
    listener.more(bed, SOME)?;
    let [a, b, c, d, e, f, g, _] = relay.segments();
    let outside = |number: u16| Ipv6Addr::new(a, b, c, d, e, f, g, number);
    for number in 1..=u16::from(CHANGES) {
        let [before, after] = [1, 2].map(|offset| outside(number + offset));
        // What the translator knew of translations by the one before goes with it.
        translator.ip(&format!("addr add {after}/64 dev eth0 nodad\naddr del {before}/64 dev eth0"))?;
        listener.more(bed, SOME)?;
        follows(bed, &router, after)?;
    }
    listener.until_last(bed, sender.stop()? - 1)?;
    // In order, each once, of the source alone; how fast it is, is measured over IPv4, and in virtual time.
    lost(&listener.heard(), SOURCE)?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves A6
fn vmr_address(bed: &mut Bed) -> Outcome {
    let chain = Chain::build(bed)?;
    chain.open_way()?;
    let _above = chain.start_upper(bed)?;
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{UPSTREAM}\"\n");
    let lower = chain.start_lower(&bed.launcher, bed, &from)?;
    upstream_is_up(bed, &lower)?;
    let _agents = chain.agents(bed)?;
    let bystander = Witness::start(&chain.clients[1], "eth0", STREAM, bed.clock)?;
    bystander.forbid(true);
    let sender = Sender::start(&chain.source, SOURCE, STREAM)?;
    let listener = Listener::join(&chain.clients[0], STREAM, None)?;
    judge(bed, sender, &listener, |number| {
        let [before, after] = if number % 2 == 1 { LOWER } else { [LOWER[1], LOWER[0]] };
        Ok(chain.lower.ip(&format!(
            "addr del {before}/24 dev core0\naddr add {after}/24 dev core0\nroute add {UPSTREAM}/32 via {UPPER}"
        ))?)
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
    translate(&translator, "out0", 40_000)?;
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
    listener.more(bed, 3 * SOME)?;
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

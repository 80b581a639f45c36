//! A gateway whose own session is dialled again: the device that its tunnel leaves by vanishes, and another one comes,
//! with another address and a default route of its own. Nobody tells vmcast but the kernel.
//!
//! ```text
//! +--------+ 10.1.0.0/24 +-------+ 10.2.0.0/24 +--------+ 192.168.7.0/24 +------+
//! | source |-------------| relay |-------------| access |----------------| home |---- clients, if it is a VMR
//! +--------+        src0 |       | core0   net0|        | line0     wan0 +------+
//!                        |       |----------------- bystander
//!                        +-------+ acc1
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libtest_mimic::{Failed, Trial};
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role, wait_ready},
    traffic::Witness,
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trials_by_engines},
    chain::{UPPER, start_with, upstream_is_up},
    outer::{Outer, until_ends},
    rebind::lost,
    small::{SOURCE, STREAM, VMR, client_address, gateway_of, static_agent},
    stream::{Heard, Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    let engines = [Engine::Xdp, Engine::Tc, Engine::Software];
    let agents = [
        trial("an agent whose own session is dialled again goes on with its stream", |bed| {
            agent(bed, Outer::V4)
        }),
        trial("an agent whose own session of IPv6 is dialled again goes on with its stream", |bed| {
            agent(bed, Outer::V6)
        }),
    ];
    let vmrs = [
        trials_by_engines(
            engines,
            "a VMR whose own session is dialled again goes on with its stream",
            |bed, engine| vmr(bed, Outer::V4, engine),
        ),
        trials_by_engines(
            engines,
            "a VMR whose own session of IPv6 is dialled again goes on with its stream",
            |bed, engine| vmr(bed, Outer::V6, engine),
        ),
    ];
    agents.into_iter().chain(vmrs.into_iter().flatten()).collect()
}

/// Packets before a dial and after it.
const SOME: u64 = 100;
const DIALS: u8 = 3;
/// The stream's packets in 200 ms, which a new address may cost where the processors are not busy with other things.
const TWO_HUNDRED_MS: u64 = 200 / Sender::PACE.as_millis() as u64;

/// The relay, for both versions.
const RELAY_V6: Ipv6Addr = Ipv6Addr::new(0xfd02, 0, 0, 0, 0, 0, 0, 1);

fn relay_by(outer: Outer) -> IpAddr {
    match outer {
        Outer::V4 => UPPER.into(),
        Outer::V6 => RELAY_V6.into(),
    }
}

/// A host's address on the line, from its number there; the access node has the first.
fn on_line(outer: Outer, host: u8) -> IpAddr {
    match outer {
        Outer::V4 => Ipv4Addr::new(192, 168, 7, host).into(),
        Outer::V6 => Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, host.into()).into(),
    }
}

/// The network up to the home.
struct Site {
    outer: Outer,
    source: Namespace,
    relay: Role,
    access: Namespace,
    home: Namespace,
    nobody: Witness,
}

impl Site {
    fn build(bed: &mut Bed, outer: Outer, engine: Engine) -> Result<Self, Failed> {
        let [source, upper, access, home, bystander] =
            bed.lab.namespaces(["source", "upper", "access", "home", "bystander"])?;
        bed.lab.veths(&[
            ((&source, "eth0"), (&upper, "src0")),
            ((&upper, "core0"), (&access, "net0")),
            ((&upper, "acc1"), (&bystander, "eth0")),
        ])?;
        source.ip(&format!("addr add {SOURCE}/24 dev eth0\nroute add default via {VMR}"))?;
        upper.ip(&format!(
            "addr add {VMR}/24 dev src0\naddr add {UPPER}/24 dev core0\naddr add {RELAY_V6}/64 dev core0 nodad\n\
             addr add {}/24 dev acc1\nroute add 192.168.7.0/24 via 10.2.0.2\nroute add fd07::/64 via fd02::2",
            gateway_of(1)
        ))?;
        access.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        access.ip("addr add 10.2.0.2/24 dev net0\naddr add fd02::2/64 dev net0 nodad")?;
        bystander.ip(&format!(
            "addr add {}/24 dev eth0\nroute add default via {}",
            client_address(1),
            gateway_of(1)
        ))?;
        let interfaces = [("src0", true), ("core0", false), ("acc1", false)];
        let tunnel = format!("[tunnel]\naddress = \"{}\"\n", relay_by(outer));
        let mut relay = start_with(&bed.launcher, bed, &upper, 0, &tunnel, &interfaces, engine)?;
        wait_ready([&mut relay], bed.clock)?;
        let nobody = Witness::start(&bystander, "eth0", STREAM, bed.clock)?;
        nobody.forbid(true);
        let site = Self { outer, source, relay, access, home, nobody };
        site.dial(bed, 2)?;
        Ok(site)
    }

    /// Makes the line to the home anew, where the home has this number now.
    fn dial(&self, bed: &Bed, host: u8) -> Outcome {
        // The name comes last: a VMR that is on one end may keep the offloads of the other from being set.
        bed.lab.veth((&self.access, "line0"), (&self.home, "spare"))?;
        self.home.ip("link set spare down\nlink set spare name wan0\nlink set wan0 up")?;
        let [first, own] = [1, host].map(|host| on_line(self.outer, host));
        self.outer.give(&self.access, "line0", first)?;
        self.outer.give(&self.home, "wan0", own)?;
        Ok(self.home.ip(&format!("route add default via {first}"))?)
    }

    /// Dials again and again under the stream, which comes to nobody else, once and in order. What a dial costs is
    /// counted from when the new address is of use.
    fn judge(&self, bed: &Bed, listener: &Listener, sender: Sender) -> Outcome {
        listener.more(bed, SOME)?;
        listener.heard().is_whole()?;
        for number in 1..=DIALS {
            self.home.ip("link del wan0")?;
            // As long as a session takes.
            sender.more(bed, SOME / 2)?;
            self.dial(bed, 2 + number)?;
            let usable = sender.sent();
            listener.more(bed, SOME)?;
            let heard = listener.heard();
            let first = heard.packets.iter().map(|(_, packet)| *packet).find(|packet| *packet >= usable);
            let cost = first.ok_or("the stream does not go on")? - usable;
            eprintln!("dial {number} cost {cost} packets from then on; 200 ms are {TWO_HUNDRED_MS}");
            ensure!(gaps(&heard) <= usize::from(number), "the stream stopped {} times", gaps(&heard));
            until_ends(bed, &self.relay, "remote", &[on_line(self.outer, 2 + number)])?;
        }
        listener.until_last(bed, sender.stop()? - 1)?;
        let heard = listener.heard();
        lost(&heard, SOURCE)?;
        ensure!(gaps(&heard) <= usize::from(DIALS), "the stream stopped {} times", gaps(&heard));
        ensure!(self.nobody.stray().packets == 0, "the bystander was sent {:?}", self.nobody.stray());
        Ok(())
    }
}

/// How often packets are missing in the middle.
fn gaps(heard: &Heard) -> usize {
    heard.packets.windows(2).filter(|pair| pair[1].1 != pair[0].1 + 1).count()
}

// proves A6: the host of an agent
fn agent(bed: &mut Bed, outer: Outer) -> Outcome {
    let site = Site::build(bed, outer, Engine::Auto)?;
    let mut agent = static_agent(bed, &site.home, relay_by(outer), "")?;
    wait_ready([&mut agent], bed.clock)?;
    let sender = Sender::start(&site.source, SOURCE, STREAM)?;
    let listener = Listener::join(&site.home, STREAM, None)?;
    site.judge(bed, &listener, sender)
}

// proves A6, A15: a home gateway as a VMR below another one
fn vmr(bed: &mut Bed, outer: Outer, engine: Engine) -> Outcome {
    let site = Site::build(bed, outer, engine)?;
    let clients = bed.lab.namespaces(["client2", "client3"])?;
    for (number, client) in (2..).zip(&clients) {
        bed.lab.veth((&site.home, &format!("acc{number}")), (client, "eth0"))?;
        let gateway = gateway_of(number);
        site.home.ip(&format!("addr add {gateway}/24 dev acc{number}"))?;
        client.ip(&format!(
            "addr add {}/24 dev eth0\nroute add default via {gateway}",
            client_address(number)
        ))?;
    }
    let from = format!("[upstream]\nfrom = \"static\"\naddress = \"{}\"\n", relay_by(outer));
    let interfaces = [("wan0", false), ("acc2", false), ("acc3", false)];
    let mut below = start_with(&bed.launcher, bed, &site.home, 1, &from, &interfaces, engine)?;
    wait_ready([&mut below], bed.clock)?;
    upstream_is_up(bed, &below)?;
    let mut agents = [
        static_agent(bed, &clients[0], gateway_of(2), "")?,
        static_agent(bed, &clients[1], gateway_of(3), "")?,
    ];
    wait_ready(&mut agents, bed.clock)?;
    let beside = Witness::start(&clients[1], "eth0", STREAM, bed.clock)?;
    beside.forbid(true);
    let sender = Sender::start(&site.source, SOURCE, STREAM)?;
    let listener = Listener::join(&clients[0], STREAM, None)?;
    site.judge(bed, &listener, sender)?;
    ensure!(beside.stray().packets == 0, "the other client was sent {:?}", beside.stray());
    below.check_alive()?;
    Ok(())
}

//! Policy by identity where addresses do not tell who is who.

use std::net::{IpAddr, Ipv6Addr};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    over_ipv6,
    policy::{change, ends},
    small::{SOURCE, STREAM, Small, client_address},
    stream::{Listener, Sender},
    tokens::{agent, router, token},
    two_vmrs::translate,
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "of two agents behind one translator a rule cuts the one it names, and the other loses nothing",
            translated,
        ),
        trial("of two agents behind one router of IPv6 a rule cuts the one it names", by_ipv6),
    ]
}

const SOME: u64 = 150;
/// The admin by IPv6.
const ADMIN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 2);

/// Two hosts behind the first client, and the address at which the second is seen.
struct Homes {
    small: Small,
    host: Namespace,
    homes: Vec<Namespace>,
    url: String,
    seen: IpAddr,
}

impl Homes {
    fn build(bed: &mut Bed) -> Result<Self, Failed> {
        let small = Small::build(bed, 2)?;
        let host = small.admin(bed)?;
        let homes = vec![bed.lab.namespace("home1")?, bed.lab.namespace("home2")?];
        for (port, home) in ["home1", "home2"].into_iter().zip(&homes) {
            bed.lab.veth((small.client(1), port), (home, "eth0"))?;
        }
        let url = "https://10.9.0.2:8440".to_owned();
        Ok(Self { small, host, homes, url, seen: client_address(1).into() })
    }

    /// Behind a translator, by IPv4.
    fn translated(bed: &mut Bed) -> Result<Self, Failed> {
        let built = Self::build(bed)?;
        let translator = built.small.client(1);
        translator.sysctl(&[("ipv4/ip_forward", "1")])?;
        for (number, home) in (1..).zip(&built.homes) {
            translator.ip(&format!("addr add 192.168.{number}.1/24 dev home{number}"))?;
            home.ip(&format!(
                "addr add 192.168.{number}.2/24 dev eth0\nroute add default via 192.168.{number}.1"
            ))?;
        }
        translate(translator, "eth0")?;
        Ok(built)
    }

    /// With addresses of their own, by IPv6 alone.
    fn by_ipv6(bed: &mut Bed) -> Result<Self, Failed> {
        let built = Self::build(bed)?;
        over_ipv6::number(&built.small)?;
        let (way, vmr) = (built.small.client(1), &built.small.vmr);
        for router in [way, vmr] {
            router.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
        }
        vmr.ip(&format!(
            "addr add 2001:db8:9::1/64 dev adm0 nodad\nroute add 2001:db8:7::/48 via {}",
            over_ipv6::ends(1)[1]
        ))?;
        built
            .host
            .ip(&format!("addr add {ADMIN6}/64 dev eth0 nodad\nroute add default via 2001:db8:9::1"))?;
        for (number, home) in (1..).zip(&built.homes) {
            way.ip(&format!("addr add 2001:db8:7:{number}::1/64 dev home{number} nodad"))?;
            home.ip(&format!(
                "addr add 2001:db8:7:{number}::2/64 dev eth0 nodad\nroute add default via 2001:db8:7:{number}::1"
            ))?;
        }
        let seen = Ipv6Addr::new(0x2001, 0xdb8, 7, 2, 0, 0, 0, 2).into();
        Ok(Self { url: format!("https://[{ADMIN6}]:8440"), seen, ..built })
    }

    fn admin(&self, bed: &Bed) -> Result<Role, Failed> {
        let database = bed.lab.dir().join("admin.db");
        let keys = format!(
            "listen = \"[::]:8440\"\nlease_seconds = 9\ndatabase = \"{}\"\nnames = [\"10.9.0.2\", \"{ADMIN6}\"]\n",
            database.display()
        );
        let mut role = bed.launcher.start(&self.host, "admin", &keys, "")?;
        wait_ready([&mut role], bed.clock)?;
        Ok(role)
    }
}

// proves D4: policy by identity, also of nodes that a translator gives one address
fn translated(bed: &mut Bed) -> Outcome {
    let homes = Homes::translated(bed)?;
    one_of_two(bed, &homes)
}

fn by_ipv6(bed: &mut Bed) -> Outcome {
    let homes = Homes::by_ipv6(bed)?;
    one_of_two(bed, &homes)
}

/// The first home keeps the stream whole, whatever is said of the second by its name.
fn one_of_two(bed: &mut Bed, of: &Homes) -> Outcome {
    let Homes { small, homes, url, seen, .. } = of;
    let admin = of.admin(bed)?;
    let router = router(bed, small, &admin)?;
    let mut agents = Vec::new();
    for home in homes {
        let word = token(&admin, &["--role", "agent"])?;
        agents.push(agent(bed, home, url, &["--token", &word])?);
    }
    wait_ready(&mut agents, bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let stays = Listener::join(&homes[0], STREAM, None)?;
    let goes = Listener::join(&homes[1], STREAM, None)?;
    for listener in [&stays, &goes] {
        listener.more(bed, SOME)?;
    }
    // Both have said at which tunnels they are; the rule is about something else.
    change(&admin, &["add", "deny", "receive", "--node", "home2", "--groups", "239.255.0.0/16"])?;
    bed.until_answer("the rule is about one of them", &admin, &["policy", "list"], |policy| {
        let shared = &policy["rules"][0]["shared_with"];
        shared.is_null() || shared == &Value::Array(vec![])
    })?;
    change(&admin, &["remove", "1"])?;

    let deny = ["add", "deny", "receive", "--node", "home2", "--groups", "239.192.0.0/16"];
    ends(bed, &admin, &deny, (&sender, &goes))?;
    bed.until_answer("the refusal is shown, once", &router, &["status"], |status| {
        status["refused"][0]["who"] == seen.to_string() && status["refused"][1].is_null()
    })?;
    bed.until_answer("and told to the one", &agents[1], &["status"], |status| {
        status["refused"][0]["reason"] == "rule 1 of the policy forbids it"
    })?;
    let status = agents[0].ask(&["status"]).unwrap_or_default();
    ensure!(status["refused"].is_null(), "the neighbour is told {}", status["refused"]);
    stays.more(bed, SOME)?;
    change(&admin, &["remove", "1"])?;
    goes.more(bed, SOME)?;

    // Nobody but the first, by its name.
    change(&admin, &["add", "allow", "receive", "--node", "home1"])?;
    change(&admin, &["add", "allow", "send"])?;
    ends(bed, &admin, &["default", "deny"], (&sender, &goes))?;
    stays.more(bed, SOME)?;
    stays.leave().is_whole()?;

    // One that starts again is who it was, whatever port it has.
    drop(agents.remove(0));
    let mut again = agent(bed, &homes[0], url, &[])?;
    wait_ready([&mut again], bed.clock)?;
    let stays = Listener::join(&homes[0], STREAM, None)?;
    let count = goes.count();
    stays.more(bed, 2 * SOME)?;
    ensure!(goes.count() == count, "what is allowed to the neighbour came to the other one");
    let last = sender.stop()? - 1;
    stays.until_last(bed, last)?;
    stays.heard().is_whole()?;
    let stats = router.ask(&["stats"]).unwrap_or_default();
    let unproved = &stats["control"]["policy"]["claims_unproved"];
    ensure!(*unproved == 0, "{unproved} claims were not proved");
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

//! The router program inside the machine, on the kernel's own VLAN and PPPoE devices, told by its configuration who
//! the members are.

use std::fmt::Write as _;

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_common::{fib::TunnelKind, hdr::eth::Mac};
use vmcast_lab::roles::Engine;

use super::member::Member;
use crate::{
    bed::{self, Bed, Outcome, ensure},
    devices::{Device, Link, ears::Sent},
    frame,
    vm::{Job, Vm},
};

pub(super) const SOCKET: &str = "/tmp/router.sock";

/// How the program knows which PPPoE session an interface is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sessions {
    /// Its configuration says so.
    Stated,
    /// There is one at most, or of several each is served as the device that it is.
    Found,
}

/// The running program.
pub(super) struct RouterInside {
    program: String,
    job: Job,
}

impl RouterInside {
    /// Starts it with these members of each stream, and waits until all of them are. Hosts are neighbours of which the
    /// link-layer address is stated.
    pub(super) fn start(
        bed: &Bed,
        vm: &mut Vm,
        engine: Engine,
        streams: &[Sent],
        members: &[Member],
        hosts: &[(Link, Mac)],
        sessions: Sessions,
    ) -> Result<Self, Failed> {
        let wanted = streams.len() * (members.len() + hosts.len());
        Self::run(bed, vm, &config(engine, streams, members, hosts, sessions, &[]), wanted)
    }

    /// The same with networks behind tunnels of the kernel's, of which each gets the streams that it carries.
    pub(super) fn start_with(
        bed: &Bed,
        vm: &mut Vm,
        engine: Engine,
        streams: &[Sent],
        members: &[Member],
        networks: &[Device],
    ) -> Result<Self, Failed> {
        let carried = |sent: &Sent| networks.iter().filter(|device| device.carries(sent.stream)).count();
        let wanted = streams.iter().map(|sent| members.len() + carried(sent)).sum();
        Self::run(bed, vm, &config(engine, streams, members, &[], Sessions::Found, networks), wanted)
    }

    /// Starts it with this configuration, and waits until there are so many members.
    pub(super) fn run(bed: &Bed, vm: &mut Vm, config: &str, wanted: usize) -> Result<Self, Failed> {
        let program = bed::program()?.display().to_string();
        let job = vm.start(&format!(
            "cat > /tmp/router.toml <<'END'\n{config}END\necho $$ > /tmp/router.pid\n\
             exec {program} router --config /tmp/router.toml"
        ))?;
        let router = Self { program, job };
        bed.until("every output is a member", || {
            ensure!(router.job.status()?.is_none(), "the router has ended: {}", router.said());
            let answer = router.ask(vm, "member list --json")?;
            Ok(answer.matches("\"configured\": true").count() == wanted)
        })
        .map_err(|failed| format!("{}\n{}", failed.message().unwrap_or_default(), router.said()))?;
        router.until_reached(bed, vm)?;
        Ok(router)
    }

    /// Waits until the way to the far end of every tunnel is known.
    fn until_reached(&self, bed: &Bed, vm: &mut Vm) -> Outcome {
        let mut unreached = Vec::new();
        bed.until("every tunnel has its way", || {
            let answer: Value = serde_json::from_str(&self.ask(vm, "tunnel list --json")?)?;
            let tunnels = answer["tunnels"].as_array().cloned().unwrap_or_default();
            unreached = tunnels.into_iter().filter(|tunnel| tunnel["next_hop"].is_null()).collect();
            Ok(unreached.is_empty())
        })
        .map_err(|failed| {
            let message = failed.message().unwrap_or_default();
            format!("{message}; not known is that of {unreached:?}\n{}", self.said()).into()
        })
    }

    /// What it answers to an operator's question; nothing if it does not.
    pub(super) fn ask(&self, vm: &mut Vm, question: &str) -> Result<String, Failed> {
        vm.run(&format!("{} {question} --socket {SOCKET} 2>/dev/null || true", self.program))
    }

    /// Its log so far.
    pub(super) fn said(&self) -> String {
        self.job.said()
    }

    /// Ends it in order, and waits for that.
    pub(super) fn end(&self, bed: &Bed, vm: &mut Vm) -> Outcome {
        vm.run("kill $(cat /tmp/router.pid)")?;
        bed.until("the router has ended", || Ok(self.job.status()?.is_some()))
    }
}

fn config(
    engine: Engine,
    streams: &[Sent],
    members: &[Member],
    hosts: &[(Link, Mac)],
    sessions: Sessions,
    networks: &[Device],
) -> String {
    let mut text = format!(
        "rank = 0\n[control]\nsocket = \"{SOCKET}\"\n[dataplane]\nengine = \"{}\"\n\
         [[interface]]\nname = \"eth0\"\naccepts_sources = true\n",
        engine.label()
    );
    let links = || members.iter().map(|member| member.link()).chain(hosts.iter().map(|(link, _)| *link));
    let used = |link: &Link| *link != Link::Wire && links().any(|of| of == *link);
    for link in Link::ALL.iter().filter(|link| used(link)) {
        write!(text, "[[interface]]\nname = \"{}\"\n", link.name()).expect("writing to a string");
        if let (Sessions::Stated, Some((number, below))) = (sessions, link.session()) {
            write!(text, "device = \"{}\"\npppoe_session = {number}\n", below.name())
                .expect("writing to a string");
        }
    }
    let mut to: Vec<String> = members
        .iter()
        .enumerate()
        .map(|(place, member)| {
            if let Some((kind, v6)) = member.tunnelled() {
                text.push_str(&tunnel(place, kind, member.link(), v6));
                return format!("\"way{place}\"");
            }
            match member {
                Member::Neighbour(link) => format!("{{ neighbour = \"{}\" }}", link.ends(false).0),
                Member::Device(Device { link, .. }) | Member::Amt { link, .. } => {
                    format!("\"{}\"", link.name())
                }
            }
        })
        .collect();
    to.extend(hosts.iter().map(|(link, mac)| {
        format!("{{ mac = \"{}\", interface = \"{}\" }}", frame::text(*mac), link.name())
    }));
    for device in networks {
        write!(text, "[[interface]]\nname = \"{}\"\n", device.name()).expect("writing to a string");
    }
    for sent in streams {
        let carrying = networks.iter().filter(|device| device.carries(sent.stream));
        let names = carrying.map(|device| format!("\"{}\"", device.name()));
        let to: Vec<String> = to.iter().cloned().chain(names).collect();
        write!(
            text,
            "[[forward]]\ngroup = \"{}\"\nsource = \"{}\"\nfrom = \"eth0\"\nto = [{}]\n",
            sent.stream.group,
            sent.source,
            to.join(", ")
        )
        .expect("writing to a string");
    }
    text
}

/// The table of a tunnel; the machine is its near end.
fn tunnel(place: usize, kind: TunnelKind, link: Link, v6: bool) -> String {
    let (kind, key) = match kind {
        TunnelKind::Gre(key) => ("gre", key),
        TunnelKind::Ipip => ("ipip", None),
        TunnelKind::Amt => ("amt", None),
    };
    let (far, near) = link.ends(v6);
    let key = key.map(|key| format!("key = {key}\n")).unwrap_or_default();
    format!(
        "[[static_tunnel]]\nname = \"way{place}\"\nkind = \"{kind}\"\nlocal = \"{near}\"\nremote = \"{far}\"\n{key}"
    )
}

//! What a VMR tells the admin of itself, and how that follows what it has.

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use vmcast_lab::roles::{Role, wait_ready};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN_TABLE, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial(
        "the admin shows a VMR's tunnels, networks of sources and load, also after they have changed",
        told,
    )]
}

const SOME: u64 = 150;

/// An admin without TLS, with leases that are renewed often: load is told with each renewal.
fn start_admin(bed: &mut Bed, small: &Small) -> Result<Role, Failed> {
    let host = small.admin(bed)?;
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 6\ninsecure = true\ndatabase = \"{}\"\n",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(&host, "admin", &keys, "")?;
    wait_ready([&mut admin], bed.clock)?;
    Ok(admin)
}

fn until_shown(
    bed: &Bed,
    what: &str,
    admin: &Role,
    wanted: impl Fn(&Value) -> bool,
) -> Result<Value, Failed> {
    bed.until_answer(what, admin, &["node", "show", "vmr"], wanted)
}

// proves A1: capabilities, tunnels of each kind, networks of sources, load and version of a real VMR
fn told(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let admin = start_admin(bed, &small)?;
    let tables = format!(
        "{ADMIN_TABLE}[tunnel]\nmax_tunnels = 70\n[[static_tunnel]]\nname = \"pop\"\nkind = \"gre\"\n\
         local = \"10.5.2.1\"\nremote = \"10.5.2.2\"\nkey = 7\n"
    );
    let router = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let node = until_shown(bed, "the VMR is registered", &admin, |node| node["id"] == "vmr")?;
    ensure!(node["capabilities"] == json!(["amt", "drain", "probe"]), "it can do {}", node["capabilities"]);
    ensure!(
        node["tunnel_ends"] == json!([{ "kind": "gre", "endpoint": "10.5.2.1:0" }]),
        "its static tunnels end at {}",
        node["tunnel_ends"]
    );
    ensure!(
        node["source_prefixes"] == json!(["10.1.0.0/24"]),
        "its sources are in {}",
        node["source_prefixes"]
    );
    ensure!(node["connections"] == 0 && node["capacity"] == 70, "its load is {node}");
    ensure!(
        node["software"].as_str().is_some_and(|software| software.starts_with("vmcast ")),
        "its software is {}",
        node["software"]
    );

    // Without TLS both ends say so.
    for (role, says) in
        [(&admin, "INSECURE: admin is listening without TLS"), (&router, "INSECURE: nothing that")]
    {
        let log = role.process.log().map(std::fs::read_to_string).transpose()?.unwrap_or_default();
        ensure!(log.lines().any(|line| line.contains("WARN") && line.contains(says)), "it said\n{log}");
    }

    let _agents = small.agents(bed, [1])?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    until_shown(bed, "the member is told of", &admin, |node| node["connections"] == 1)?;
    let shown = bed.table(&admin, &["node", "show", "vmr"])?;
    for word in ["static      gre 10.5.2.1\n", "load        1 of 70 tunnels\n", "sources in  10.1.0.0/24\n"] {
        ensure!(shown.contains(word), "{word:?} is not in\n{shown}");
    }

    // Another network at the sources' interface, and no longer; where there are none it makes no difference.
    small.vmr.ip("addr add 10.7.0.1/24 dev acc2")?;
    small.vmr.ip("addr add 10.8.0.1/24 dev src0\naddr add 2001:db8:8::1/64 dev src0 nodad")?;
    let all = json!(["10.1.0.0/24", "10.8.0.0/24", "2001:db8:8::/64"]);
    until_shown(bed, "the new networks are told", &admin, |node| node["source_prefixes"] == all)?;
    small.vmr.ip("addr del 10.8.0.1/24 dev src0")?;
    let left = json!(["10.1.0.0/24", "2001:db8:8::/64"]);
    until_shown(bed, "the network that went is told", &admin, |node| node["source_prefixes"] == left)?;
    let status = router.ask(&["status"]).unwrap_or_default();
    ensure!(status["admin"]["state"] == "registered", "the router's link is {}", status["admin"]);

    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

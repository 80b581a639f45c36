//! What a VMR tells the admin of itself, and how that follows what it has.

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    over_ipv6,
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small, client_address, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "the admin shows a VMR's tunnels, networks of sources and load, also after they have changed",
            told,
        ),
        trial(
            "a VMR of both families with tunnels of each kind is registered and found, and serves who has IPv6 alone",
            of_both_families,
        ),
    ]
}

const SOME: u64 = 150;

/// An admin without TLS, with leases that are renewed often: load is told with each renewal.
fn start_admin(bed: &mut Bed, small: &Small) -> Result<Role, Failed> {
    let host = small.admin(bed)?;
    start_admin_on(bed, &host)
}

fn start_admin_on(bed: &Bed, host: &Namespace) -> Result<Role, Failed> {
    let keys = format!(
        "listen = \"[::]:8440\"\nlease_seconds = 6\ninsecure = true\ndatabase = \"{}\"\n",
        bed.lab.dir().join("admin.db").display()
    );
    let mut admin = bed.launcher.start(host, "admin", &keys, "")?;
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

// proves A1: addresses of each family and tunnel kind, from the VMR over the admin to who is served by them
fn of_both_families(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    over_ipv6::number(&small)?;
    let host = small.admin(bed)?;
    small.vmr.sysctl(&[("ipv6/conf/all/forwarding", "1")])?;
    small.vmr.ip("addr add 2001:db8:9::1/64 dev adm0 nodad")?;
    host.ip("addr add 2001:db8:9::2/64 dev eth0 nodad\nroute add default via 2001:db8:9::1")?;
    let admin = start_admin_on(bed, &host)?;
    let [own4, own6] = [gateway_of(1).to_string(), over_ipv6::ends(1)[0].to_string()];
    let peer4 = client_address(2);
    let [end6, peer6] = over_ipv6::ends(2);
    let end4 = gateway_of(2);
    let mut tables = format!("{ADMIN_TABLE}[tunnel]\naddress = [\"{own4}\", \"{own6}\"]\n");
    for (name, kind, local, remote) in [
        ("a", "gre", end4.to_string(), peer4.to_string()),
        ("b", "gre", end6.to_string(), peer6.to_string()),
        ("c", "ipip", end4.to_string(), peer4.to_string()),
        ("d", "ipip", end6.to_string(), peer6.to_string()),
    ] {
        tables.push_str(&format!(
            "[[static_tunnel]]\nname = \"{name}\"\nkind = \"{kind}\"\nlocal = \"{local}\"\nremote = \"{remote}\"\n"
        ));
    }
    let _router = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let node = until_shown(bed, "the VMR is found at both addresses", &admin, |node| {
        let proofs = node["proofs"].as_array().map(Vec::as_slice).unwrap_or_default();
        proofs.len() == 2 && proofs.iter().all(|proof| proof["found"] == "proved")
    })?;
    ensure!(
        node["endpoints"] == json!([format!("{own4}:2268"), format!("[{own6}]:2268")]),
        "its endpoints are {}",
        node["endpoints"]
    );
    let end = |kind: &str, at: &str| json!({ "kind": kind, "endpoint": at });
    let [at4, at6] = [format!("{end4}:0"), format!("[{end6}]:0")];
    let ends = [end("gre", &at4), end("gre", &at6), end("ipip", &at4), end("ipip", &at6)];
    ensure!(node["tunnel_ends"] == json!(ends), "its static tunnels end at {}", node["tunnel_ends"]);

    // Who has no IPv4 asks the admin by IPv6, and is named the endpoint that it can reach.
    small.client(1).ip(&format!("addr del {}/24 dev eth0", client_address(1)))?;
    let tables = format!(
        "[admin]\nurls = [\"http://[2001:db8:9::2]:8440\"]\ninsecure = true\n[upstream]\nfrom = \"admin\"\n\
         [interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}"
    );
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let shown = agent.ask(&["tunnel", "list"]).unwrap_or_default();
    ensure!(shown["tunnels"][0]["remote"] == format!("[{own6}]:2268"), "the tunnel is {shown}");
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

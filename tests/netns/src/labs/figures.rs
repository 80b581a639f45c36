//! `[metrics]`: what a monitor is told of each role is what the operator's commands say.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{AGENT_INTERFACE, Role, wait_ready},
};

use super::{
    bed::{Bed, Outcome, ensure, trial},
    small::{ADMIN_TABLE, IGMP, Router, SOURCE, STREAM, Small, gateway_of},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![trial("a monitor is told the same figures as the operator, of every role", every_role)]
}

const SOME: u64 = 100;
/// The lists for operators.
const LABELS: &str = include_str!("../../../../vmcast-userspace/grafana/labels.md");
pub(super) const MONITORED: &str = "[metrics]\nlisten = \"127.0.0.1:9468\"\n";
/// Longer than an answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// Asks a role over HTTP, in its own namespace: the status, and the page.
pub(super) fn get(node: &Namespace, path: &str) -> Result<(u16, String), Failed> {
    let answer = node.enter(|| -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], 9468)), PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: monitor\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })??;
    let (head, page) = answer.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {answer}"))?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.ok_or_else(|| format!("no status: {head}"))?, page.to_owned()))
}

/// A figure by its name and labels; nothing if it is not on the page.
fn figure(page: &str, name: &str) -> Option<f64> {
    let line = |line: &str| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok();
    page.lines().find_map(line)
}

// proves that /metrics, /healthz and /readyz of every role say what the commands say
fn every_role(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let admin_node = small.admin(bed)?;
    let database = bed.lab.dir().join("admin.db");
    let keys = format!("listen = \"0.0.0.0:8440\"\ninsecure = true\ndatabase = \"{}\"\n", database.display());
    let mut admin = bed.launcher.start(&admin_node, "admin", &keys, MONITORED)?;
    wait_ready([&mut admin], bed.clock)?;
    let tables = format!("{ADMIN_TABLE}{MONITORED}");
    let router = small.router(bed, Router { tables: &tables, ..Router::default() })?;
    let tables =
        format!("{tables}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}");
    let mut agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    wait_ready([&mut agent], bed.clock)?;
    let bystander = small.forbid(bed, 2)?;

    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let nodes = [(&small.vmr, "router"), (small.client(1), "agent"), (&admin_node, "admin")];
    for (node, role) in nodes {
        for path in ["/healthz", "/readyz"] {
            let answer = get(node, path)?;
            ensure!(answer == (200, "ok\n".to_owned()), "{role} answers {path} with {answer:?}");
        }
        let (status, page) = get(node, "/metrics")?;
        let whole = status == 200 && page.ends_with("# EOF\n") && figure(&page, "vmcast_ready") == Some(1.0);
        ensure!(whole && page.contains(&format!("role=\"{role}\"")), "{role} says {status}: {page}");
        ensure!(get(node, "/other")?.0 == 404, "{role} has a page that it should not have");
    }
    // While the stream flows, a figure stands between those of two questions.
    let packets = || streamed(&router);
    bed.until("the operator is told of the stream", || Ok(packets()? > 0))?;
    let (before, page, after) = (packets()?, get(&small.vmr, "/metrics")?.1, packets()?);
    let name = format!("vmcast_stream_packets_total{{group=\"{}\",source=\"{SOURCE}\"}}", STREAM.group);
    let told = figure(&page, &name).ok_or_else(|| format!("{name} is not there: {page}"))?;
    ensure!((before as f64) <= told && told <= after as f64, "{told} is not between {before} and {after}");

    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    bed.until("the monitor and the operator are told the same at the end", || {
        Ok(figure(&get(&small.vmr, "/metrics")?.1, &name) == Some(packets()? as f64))
    })?;
    for (node, role) in [(&small.vmr, &router), (small.client(1), &agent)] {
        agree(&get(node, "/metrics")?.1, role)?;
    }
    labels(bed, &small, &nodes.map(|(node, _)| node))?;
    let page = get(&admin_node, "/metrics")?.1;
    for role in ["router", "agent"] {
        let name = format!("vmcast_registered_nodes{{role=\"{role}\"}}");
        ensure!(figure(&page, &name) == Some(1.0), "{name} is another: {page}");
    }
    listener.leave().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Fails unless what the roles count, also a router with an upstream and one that looks up relays, is what the list of
/// events says: no more and no less.
fn labels(bed: &Bed, small: &Small, nodes: &[&Namespace]) -> Outcome {
    let vmr = gateway_of(3);
    let tables = format!(
        "{MONITORED}[upstream]\nfrom = \"static\"\naddress = \"{vmr}\"\n[amtrelay]\nenabled = true\n\
         [dataplane]\nengine = \"software\"\n[[interface]]\nname = \"eth0\"\n"
    );
    let mut below = bed.launcher.start(small.client(3), "router", "rank = 1\n", &tables)?;
    wait_ready([&mut below], bed.clock)?;
    let mut served = BTreeSet::new();
    for node in nodes.iter().copied().chain([small.client(3)]) {
        for line in get(node, "/metrics")?.1.lines() {
            let Some(rest) = line.strip_prefix("vmcast_events_total{subsystem=\"") else { continue };
            let (subsystem, rest) = rest.split_once("\",event=\"").ok_or_else(|| line.to_owned())?;
            let (event, _) = rest.split_once('"').ok_or_else(|| line.to_owned())?;
            served.insert(format!("{subsystem} {event}"));
        }
    }
    let mut listed = BTreeSet::new();
    let (_, events) = LABELS.split_once("\n## Events\n").ok_or("there is no list of events")?;
    for row in events.lines().filter_map(|line| line.strip_prefix("| `")) {
        let mut cells = row.split('|');
        let subsystem = cells.next().unwrap_or_default().trim().trim_end_matches('`');
        let events = cells.next().unwrap_or_default();
        listed
            .extend(events.split(',').map(|event| format!("{subsystem} {}", event.trim().trim_matches('`'))));
    }
    let differ: Vec<_> = served.symmetric_difference(&listed).collect();
    ensure!(differ.is_empty(), "served or listed, but not both: {differ:?}; served are {served:?}");
    Ok(())
}

/// Packets of the source's stream, as the operator is told.
fn streamed(role: &Role) -> Result<u64, Failed> {
    let stats = role.ask(&["stats"]).ok_or("the router does not answer")?;
    let streams = stats["streams"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_source = streams.iter().find(|stream| stream["source"] == SOURCE.to_string());
    Ok(of_source.and_then(|stream| stream["packets"].as_u64()).unwrap_or(0))
}

/// Fails unless drops and state are on the page as the operator is told.
fn agree(page: &str, role: &Role) -> Outcome {
    let stats = role.ask(&["stats"]).ok_or("the role does not answer")?;
    let status = role.ask(&["status"]).ok_or("the role does not answer")?;
    for (reason, count) in stats["drops"].as_object().into_iter().flatten() {
        let name = format!("vmcast_drops_total{{reason=\"{reason}\"}}");
        let same = figure(page, &name) == count.as_f64();
        ensure!(same, "{name} is not {count}: {page}");
    }
    for (figure_name, key) in [("vmcast_groups", "groups"), ("vmcast_tunnels", "tunnels")] {
        let told = status.get(key).and_then(Value::as_f64);
        let shown = figure(page, figure_name);
        ensure!(shown.is_none() || shown == told, "{figure_name} is {shown:?}, and the operator's {told:?}");
    }
    Ok(())
}

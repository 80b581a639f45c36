//! Two admins over one etcd: either answers for both, and what is lost of them, or of etcd, no stream notices.

use std::{net::Ipv4Addr, process::Command};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use vmcast_lab::{
    Namespace, Process,
    roles::{AGENT_INTERFACE, Role, wait_ready},
    traffic::GroupPort,
};

use vmcast_signal::{
    tonic::transport::Endpoint,
    v1::{self, registry_client::RegistryClient},
};

use super::{
    bed::{Bed, Outcome, ensure, trial, trial_with},
    policy::{carries_out, change},
    small::{ADMIN, IGMP, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial_with(
            "an admin of two is killed, then their etcd, and a stream and what both knew go on",
            "etcd",
            "etcd-server etcd-client",
            both,
        ),
        trial(
            "a router that goes on to an admin with an older policy keeps the newer, and takes the next",
            lags_behind,
        ),
    ]
}

const SOME: u64 = 150;
/// Where nodes find the admins.
const ADMINS: &str =
    "[admin]\nurls = [\"http://10.9.0.2:8440\", \"http://10.9.1.2:8440\"]\ninsecure = true\n";

/// Starts an etcd on the host of the first admin, with what one before it has left there.
fn start_etcd(bed: &Bed, node: &Namespace) -> Result<Process, Failed> {
    let (clients, peers) = (format!("http://{ADMIN}:2379"), format!("http://{ADMIN}:2380"));
    let mut command = Command::new("etcd");
    command
        .args(["--name", "m", "--data-dir"])
        .arg(bed.lab.dir().join("etcd"))
        .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("m={peers}")]);
    let etcd = node.spawn("etcd", command)?;
    bed.until("etcd answers", || {
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3").args(["--endpoints", &clients, "endpoint", "health"]);
        Ok(node.run(command).is_ok())
    })?;
    Ok(etcd)
}

fn start_admin(bed: &Bed, node: &Namespace) -> Result<Role, Failed> {
    start_admin_by(bed, node, "", &format!("[etcd]\nurls = [\"http://{ADMIN}:2379\"]\n"))
}

/// One with a registry of its own, which no other admin knows of.
fn start_admin_alone(bed: &Bed, node: &Namespace) -> Result<Role, Failed> {
    let database = bed.lab.dir().join(format!("{}.db", node.node()));
    start_admin_by(bed, node, &format!("database = \"{}\"\n", database.display()), "")
}

fn start_admin_by(bed: &Bed, node: &Namespace, more: &str, tables: &str) -> Result<Role, Failed> {
    let identity = bed.lab.dir().join(format!("{}.identity", node.node()));
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 9\ninsecure = true\nidentity = \"{}\"\n{more}",
        identity.display()
    );
    let mut role = bed.launcher.start(node, "admin", &keys, tables)?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// The host of the second admin, on a network of its own behind the VMR.
fn second_host(bed: &mut Bed, small: &Small) -> Result<Namespace, Failed> {
    let host = bed.lab.namespace("admin2")?;
    bed.lab.veth((&host, "eth0"), (&small.vmr, "adm1"))?;
    host.ip("addr add 10.9.1.2/24 dev eth0\nroute add default via 10.9.1.1")?;
    small.vmr.ip("addr add 10.9.1.1/24 dev adm1")?;
    Ok(host)
}

fn ids(answer: &Value) -> Vec<&str> {
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter_map(|node| node["id"].as_str()).collect()
}

fn renewals(stats: &Value) -> Option<u64> {
    stats["control"]["registry"]["renewals"].as_u64()
}

fn registered_at(url: &'static str) -> impl Fn(&Value) -> bool {
    move |status| status["admin"]["state"] == "registered" && status["admin"]["url"] == url
}

/// The second admin's answer to a node that asks it for the nearest VMR.
fn nearest(node: &Namespace) -> Result<v1::NearestResponse, Failed> {
    let request = v1::NearestRequest { node_id: node.node().to_owned(), ..v1::NearestRequest::default() };
    let ask = || -> Result<v1::NearestResponse, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let channel = Endpoint::from_static("http://10.9.1.2:8440").connect().await;
            let mut client = RegistryClient::new(channel.map_err(|error| error.to_string())?);
            let answer = client.nearest(request).await;
            answer.map(|answer| answer.into_inner()).map_err(|status| status.to_string())
        })
    };
    Ok(node.enter(ask)??)
}

/// What a node must be told: the VMR, as one that is known now or from memory.
fn names_the_vmr(node: &Namespace, stale: bool) -> Outcome {
    let answer = nearest(node)?;
    let ids: Vec<_> = answer.vmrs.iter().map(|vmr| vmr.id.as_str()).collect();
    ensure!(ids == ["vmr"] && answer.stale == stale, "the admin answers {answer:?}");
    Ok(())
}

// proves D2: no single node's failure stops the overlay, an admin's included
fn both(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let (host, other_host) = (small.admin(bed)?, second_host(bed, &small)?);
    let mut etcd = start_etcd(bed, &host)?;
    let mut first = start_admin(bed, &host)?;
    let second = start_admin(bed, &other_host)?;
    let router = small.router(bed, Router { tables: ADMINS, ..Router::default() })?;
    let tables =
        format!("{ADMINS}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}");
    let agent = bed.launcher.start(small.client(1), "agent", "", &tables)?;
    let bystander = small.forbid(bed, 3)?;
    for role in [&router, &agent] {
        bed.until_answer(
            "it is registered at the first",
            role,
            &["status"],
            registered_at("http://10.9.0.2:8440"),
        )?;
    }
    for admin in [&first, &second] {
        bed.until_answer("either admin knows both", admin, &["node", "list"], |answer| {
            ids(answer) == ["client1", "vmr"]
        })?;
        bed.until_answer("either admin knows who is nearest", admin, &["cache", "list"], |answer| {
            answer["entries"].as_array().is_some_and(|entries| !entries.is_empty())
        })?;
    }
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    first.process.kill()?;
    for role in [&router, &agent] {
        bed.until_answer(
            "it has gone on to the second",
            role,
            &["status"],
            registered_at("http://10.9.1.2:8440"),
        )?;
    }
    // Of two that come now, the second admin knows what the first was told.
    let late = bed.launcher.start(small.client(2), "agent", "", &tables)?;
    bed.until_answer("a new agent is served", &late, &["status"], |status| {
        status["upstream"]["name"] == "vmr"
            && matches!(status["upstream"]["state"].as_str(), Some("idle" | "up"))
    })?;
    listener.more(bed, SOME)?;

    names_the_vmr(small.client(1), false)?;
    etcd.kill()?;
    bed.until_answer("the operator is told", &second, &["status"], |status| {
        status["registry_stale"] == true
    })?;
    let known = second.ask(&["node", "list"]).unwrap_or_default();
    ensure!(ids(&known) == ["client1", "client2", "vmr"], "without etcd the admin knows {known}");
    // Whoever asks is told that it is from memory: by its own address, or without a word in the cache.
    for client in [1, 2] {
        names_the_vmr(small.client(client), true)?;
    }
    listener.more(bed, SOME)?;
    let _etcd = start_etcd(bed, &host)?;
    bed.until_answer("etcd is found again", &second, &["status"], |status| {
        status["registry_stale"] == false
    })?;
    let before = renewals(&second.ask(&["stats"]).unwrap_or_default());
    bed.until_answer("leases are renewed again", &second, &["stats"], |stats| renewals(stats) > before)?;
    let known = second.ask(&["node", "list"]).unwrap_or_default();
    ensure!(ids(&known) == ["client1", "client2", "vmr"], "after the outage the admin knows {known}");

    names_the_vmr(small.client(1), false)?;

    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// A second group.
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5004 };

fn older_policies(router: &Role) -> u64 {
    let stats = router.ask(&["stats"]).unwrap_or_default();
    stats["control"]["policy"]["older_policies"].as_u64().unwrap_or_default()
}

// proves D4: what the newest policy forbids stays forbidden, and what it allows allowed, whichever admin is left
fn lags_behind(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let (host, other_host) = (small.admin(bed)?, second_host(bed, &small)?);
    let mut first = start_admin_alone(bed, &host)?;
    let second = start_admin_alone(bed, &other_host)?;
    let [of_1, of_2] = ["10.5.1.0/24", "10.5.2.0/24"];
    let stream = format!("{}/32", STREAM.group);
    // The second knows nothing of what the first is told then.
    let older = change(&second, &["add", "deny", "receive", "--from", of_1])?;
    change(&first, &["add", "deny", "receive", "--from", "10.5.99.0/24"])?;
    let newer = change(&first, &["add", "deny", "receive", "--from", of_2, "--groups", &stream])?;
    ensure!(older["version"].as_u64() < newer["version"].as_u64(), "{older} is no older than {newer}");

    let router = small.router(bed, Router { tables: ADMINS, ..Router::default() })?;
    let tables =
        format!("{ADMINS}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}");
    carries_out(bed, &router, &newer)?;
    let agents = [1, 2].map(|client| bed.launcher.start(small.client(client), "agent", "", &tables));
    let agents = agents.into_iter().collect::<Result<Vec<_>, _>>()?;
    for role in &agents {
        bed.until_answer("it is registered at the first", role, &["status"], |status| {
            registered_at("http://10.9.0.2:8440")(status) && status["upstream"]["name"] == "vmr"
        })?;
    }
    let bystander = small.forbid(bed, 3)?;
    let senders = [STREAM, OTHER].map(|group| Sender::start(&small.source, SOURCE, group));
    let [of_stream, of_other] = senders;
    let (of_stream, of_other) = (of_stream?, of_other?);
    let stays = Listener::join(small.client(1), STREAM, None)?;
    let refused = Listener::join(small.client(2), STREAM, None)?;
    stays.more(bed, SOME)?;
    let is_refused = |status: &Value| {
        let refused = status["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
        matches!(refused, [one] if one["who"] == "10.5.2.2" && one["group"] == STREAM.group.to_string())
    };
    bed.until_answer("one join is refused", &router, &["status"], is_refused)?;

    let told = older_policies(&router);
    first.process.kill()?;
    for role in [&router, &agents[0], &agents[1]] {
        bed.until_answer(
            "it has gone on to the second",
            role,
            &["status"],
            registered_at("http://10.9.1.2:8440"),
        )?;
    }
    bed.until("the second has told its policy", || Ok(older_policies(&router) > told))?;
    // Who joins now is judged by the newer one, too.
    let late = [1, 2].map(|client| Listener::join(small.client(client), OTHER, None));
    let late = late.into_iter().collect::<Result<Vec<_>, _>>()?;
    for listener in [&stays, &late[0], &late[1]] {
        listener.more(bed, SOME)?;
    }
    let again = Listener::join(small.client(2), STREAM, None)?;
    let status = bed.until_answer("it still is refused", &router, &["status"], is_refused)?;
    ensure!(status["policy_version"] == newer["version"], "the policy is {}", status["policy_version"]);
    stays.more(bed, SOME)?;
    for listener in [&refused, &again] {
        ensure!(listener.count() == 0, "what is refused came {} times", listener.count());
    }

    // A change at the second makes its rules the newest.
    let next =
        change(&second, &["add", "allow", "receive", "--from", of_1, "--groups", &stream, "--before", "1"])?;
    carries_out(bed, &router, &next)?;
    for listener in [&refused, &again] {
        listener.more(bed, SOME)?;
    }
    bed.until_answer("another join is refused", &router, &["status"], |status| {
        let refused = status["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
        matches!(refused, [one] if one["who"] == "10.5.1.2" && one["group"] == OTHER.group.to_string())
    })?;
    // What was on its way has come.
    of_other.more(bed, SOME)?;
    let count = late[0].count();
    late[1].more(bed, SOME)?;
    ensure!(late[0].count() == count, "what is refused came {} times", late[0].count() - count);

    let ends =
        [(of_stream.stop()? - 1, vec![&stays, &refused, &again]), (of_other.stop()? - 1, vec![&late[1]])];
    for (last, listeners) in ends {
        for listener in listeners {
            listener.until_last(bed, last)?;
            listener.heard().is_whole()?;
        }
    }
    late[0].heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

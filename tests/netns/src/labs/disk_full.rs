//! An admin whose disk is full, and then killed: what it has granted is there afterwards.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use libtest_mimic::{Failed, Trial};
use serde_json::Value;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use vmcast_lab::{
    Namespace,
    roles::{Role, wait_ready},
};
use vmcast_signal::tonic::transport::Endpoint;

use super::{
    bed::{Bed, Outcome, ensure, trial},
    figures::{MONITORED, get},
    small::{ADMIN_TABLE, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
    tokens::{agent, router, token},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "an admin whose disk is full refuses, and after its death nothing that it granted is missing",
            full,
        ),
        trial("the gRPC health of an admin says when its disk is full, and when no longer", health),
    ]
}

const SOME: u64 = 150;
const URL: &str = "https://10.9.0.2:8440";
/// A page of memory, of which such a file system has whole ones.
const PAGE: usize = 4096;
/// What a disk has left that is about to be full, in bytes.
const LEFT: u64 = 64 * PAGE as u64;
/// More changes than the disk has room for.
const MANY: usize = 5000;

/// A small file system in memory; it goes with this.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: PathBuf) -> Result<Self, Failed> {
        fs::create_dir(&at)?;
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "none"]).arg(&at).status()?;
        ensure!(status.success(), "mount ended with {status}");
        Ok(Self(at))
    }

    /// Leaves room for few changes, until the file is removed.
    fn fill(&self) -> Result<PathBuf, Failed> {
        let path = self.0.join("filler");
        let mut file = File::create(&path)?;
        while file.write_all(&[0; PAGE]).is_ok() {}
        let length = file.metadata()?.len();
        file.set_len(length.saturating_sub(LEFT))?;
        Ok(path)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // What holds it ends with the lab.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn start_admin(bed: &Bed, small: &Namespace, disk: &Path) -> Result<Role, Failed> {
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 9\nnames = [\"10.9.0.2\"]\ndatabase = \"{0}/admin.db\"\n\
         identity = \"{0}/identity\"\n",
        disk.display()
    );
    let mut role = bed.launcher.start(small, "admin", &keys, "")?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

fn names(answer: &Value, list: &str, key: &str) -> Vec<String> {
    let all = answer[list].as_array().into_iter().flatten();
    all.map(|item| item[key].to_string()).collect()
}

/// Adds a rule that concerns nobody; nothing if it is refused.
fn add_rule(admin: &Role, number: usize) -> Option<Value> {
    let group = format!("239.250.{}.{}/32", number / 256, number % 256);
    admin.ask(&["policy", "add", "deny", "receive", "--from", "198.51.100.0/24", "--groups", &group])
}

// proves D4 and A2: a disk that is full is told, streams do not notice, and nothing that was granted is lost
fn full(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let host = small.admin(bed)?;
    let disk = Disk::mount(bed.lab.dir().join("disk"))?;
    let mut admin = start_admin(bed, &host, &disk.0)?;
    let _router = router(bed, &small, &admin)?;
    let word = token(&admin, &["--role", "agent"])?;
    let mut member = agent(bed, small.client(1), URL, &["--token", &word])?;
    wait_ready([&mut member], bed.clock)?;
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    let word = token(&admin, &["--role", "agent"])?;

    // Rules are added and tokens made until neither is taken any more.
    let filler = disk.fill()?;
    let mut rules = 0;
    let mut policy = admin.ask(&["policy", "list"]).ok_or("no answer")?;
    while let Some(added) = add_rule(&admin, rules) {
        (rules, policy) = (rules + 1, added);
        ensure!(rules < MANY, "the disk has no end");
    }
    let mut made = 0;
    while admin.ask(&["node", "token", "create", "--role", "agent"]).is_some() {
        made += 1;
        ensure!(made < MANY, "the disk has no end");
    }
    ensure!(rules + made > 0, "nothing was granted");
    let tokens = admin.ask(&["node", "token", "list"]).ok_or("no answer")?;
    println!("{rules} rules and {made} tokens were taken by the disk that was full");

    // Nor is a node let in; it says why, and waits with its token, which is not used up.
    let mut late = agent(bed, small.client(2), URL, &["--token", &word])?;
    bed.until_answer("the node says why it waits", &late, &["status"], |status| {
        status["admin"]["error"].as_str().is_some_and(|error| error.contains("records do not work"))
    })?;
    bed.until_answer("what was refused is counted", &admin, &["stats"], |stats| {
        stats["control"]["registry"]["unkept"].as_u64() > Some(0)
    })?;
    // What it knows is answered, and what it has granted is in force.
    let listed = admin.ask(&["policy", "list"]).ok_or("no answer")?;
    ensure!(listed == policy, "the policy is {listed}, granted was {policy}");
    listener.more(bed, SOME)?;

    // There is room again. It dies right after it has granted one more.
    fs::remove_file(filler)?;
    let policy = add_rule(&admin, rules).ok_or("there is room, and nothing is taken")?;
    admin.process.kill()?;
    let admin = start_admin(bed, &host, &disk.0)?;
    let kept = admin.ask(&["policy", "list"]).ok_or("no answer")?;
    ensure!(kept == policy, "of the policy there is {kept}, granted was {policy}");
    let kept = admin.ask(&["node", "token", "list"]).ok_or("no answer")?;
    ensure!(names(&kept, "tokens", "id") == names(&tokens, "tokens", "id"), "of {tokens} there is {kept}");
    wait_ready([&mut late], bed.clock)?;
    bed.until_answer("the nodes are known", &admin, &["node", "list"], |answer| {
        names(answer, "nodes", "id") == ["\"client1\"", "\"client2\"", "\"vmr\""]
    })?;
    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// What an admin that does no TLS says of the health of a service.
fn health_of(host: &Namespace, service: &'static str) -> Result<ServingStatus, Failed> {
    let ask = || -> Result<ServingStatus, String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(async {
            let channel = Endpoint::from_static("http://10.9.0.2:8440").connect().await;
            let mut client = HealthClient::new(channel.map_err(|error| error.to_string())?);
            let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
            answer.map(|answer| answer.into_inner().status()).map_err(|status| status.to_string())
        })
    };
    Ok(host.enter(ask)??)
}

// proves D4: who watches by gRPC sees it, while what is known is answered
fn health(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 1)?;
    let host = small.admin(bed)?;
    let disk = Disk::mount(bed.lab.dir().join("disk"))?;
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 9\ninsecure = true\ndatabase = \"{}/admin.db\"\n",
        disk.0.display()
    );
    let mut admin = bed.launcher.start(&host, "admin", &keys, MONITORED)?;
    wait_ready([&mut admin], bed.clock)?;
    // Its lease is renewed all the time.
    let _router = small.router(bed, Router { tables: ADMIN_TABLE, ..Router::default() })?;
    let until = |what: &str, wanted: ServingStatus| {
        bed.until(what, || Ok(health_of(&host, "vmcast.v1.Registry")? == wanted))
    };
    until("it serves", ServingStatus::Serving)?;

    let filler = disk.fill()?;
    let mut rules = 0;
    while add_rule(&admin, rules).is_some() {
        rules += 1;
        ensure!(rules < MANY, "the disk has no end");
    }
    until("it says that changes are not kept", ServingStatus::NotServing)?;
    let (status, said) = get(&host, "/readyz")?;
    ensure!(status == 503 && said.contains("disk is full"), "/readyz says {status}: {said}");
    ensure!(get(&host, "/healthz")?.0 == 200, "it is not alive");
    let whole = health_of(&host, "")?;
    ensure!(whole == ServingStatus::Serving, "of the whole it says {whole:?}");
    let known = admin.ask(&["node", "list"]).ok_or("no answer")?;
    ensure!(names(&known, "nodes", "id") == ["\"vmr\""], "it knows {known}");

    fs::remove_file(filler)?;
    until("it serves again", ServingStatus::Serving)?;
    ensure!(get(&host, "/readyz")?.0 == 200, "it is not ready again");
    ensure!(add_rule(&admin, rules).is_some(), "there is room, and nothing is taken");
    Ok(())
}

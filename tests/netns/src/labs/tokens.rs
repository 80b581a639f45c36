//! Nodes that come in by a join token over TLS, and those that do not.

use std::{
    process::{Command, Output},
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
    small::{IGMP, Router, SOURCE, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial(
            "nodes come in by token over TLS and get the stream, and who is revoked is out at once",
            in_and_out,
        ),
        trial("who has no right to come in is told why and counted, and no stream is touched", strangers),
        trial(
            "a node begins with a certificate that was signed beforehand, and is as good as one of a token",
            signed,
        ),
        trial("a node that has yet to join waits for an admin, says so, and ends in order", waits),
    ]
}

const SOME: u64 = 150;
pub(super) const URL: &str = "https://10.9.0.2:8440";

/// Starts an admin that does TLS, with more keys.
pub(super) fn start_admin(bed: &Bed, node: &Namespace, keys: &str) -> Result<Role, Failed> {
    let database = bed.lab.dir().join(format!("{}.db", node.node()));
    let keys = format!(
        "listen = \"0.0.0.0:8440\"\nlease_seconds = 9\ndatabase = \"{}\"\n{keys}",
        database.display()
    );
    let mut role = bed.launcher.start(node, "admin", &keys, "")?;
    wait_ready([&mut role], bed.clock)?;
    Ok(role)
}

/// `[admin]` of a node, whose identity is in a directory of its own.
pub(super) fn admin_table(bed: &Bed, node: &Namespace, url: &str) -> String {
    format!("{}urls = [\"{url}\"]\n", admin_table_without_urls(bed, node))
}

/// The same of one that goes by what its token names.
fn admin_table_without_urls(bed: &Bed, node: &Namespace) -> String {
    let identity = bed.lab.dir().join(format!("{}.identity", node.node()));
    format!("[admin]\nidentity = \"{}\"\n", identity.display())
}

/// `vmcast node token create` with more arguments.
pub(super) fn token(admin: &Role, arguments: &[&str]) -> Result<String, Failed> {
    let question = [&["node", "token", "create"], arguments].concat();
    let answer = admin.ask(&question).ok_or_else(|| format!("no answer to {question:?}"))?;
    Ok(answer["token"].as_str().ok_or_else(|| format!("no token: {answer}"))?.to_owned())
}

/// An agent with a file, which finds its VMR by the admin.
pub(super) fn agent(bed: &Bed, node: &Namespace, url: &str, arguments: &[&str]) -> Result<Role, Failed> {
    agent_by(bed, node, &admin_table(bed, node, url), arguments)
}

/// The same with this `[admin]`.
fn agent_by(bed: &Bed, node: &Namespace, admin: &str, arguments: &[&str]) -> Result<Role, Failed> {
    let tables =
        format!("{admin}[upstream]\nfrom = \"admin\"\n[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}",);
    Ok(bed.launcher.start_with(node, "agent", arguments, "", &tables)?)
}

/// The VMR, which joins by a token.
pub(super) fn router(bed: &Bed, small: &Small, admin: &Role) -> Result<Role, Failed> {
    let word = token(admin, &["--role", "router", "--ttl", "1h", "--name", "vmr"])?;
    let table = admin_table(bed, &small.vmr, URL);
    let mut router = small
        .start_router(bed, Router { tables: &table, arguments: &["--token", &word], ..Router::default() })?;
    wait_ready([&mut router], bed.clock)?;
    Ok(router)
}

pub(super) fn ids(admin: &Role) -> Vec<String> {
    let answer = admin.ask(&["node", "list"]).unwrap_or_default();
    let nodes = answer["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    nodes.iter().filter_map(|node| node["id"].as_str().map(str::to_owned)).collect()
}

pub(super) fn counted(admin: &Role, reason: &str) -> u64 {
    let stats = admin.ask(&["stats"]).unwrap_or_default();
    stats["control"]["identity"][reason].as_u64().unwrap_or_default()
}

// proves D4: a token is one command on the new node, and revocation holds at once
fn in_and_out(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, "names = [\"10.9.0.2\"]\n")?;
    let router = router(bed, &small, &admin)?;

    // One command, on a host that has nothing else of vmcast.
    let word = token(&admin, &["--role", "agent", "--ttl", "1h"])?;
    let mut first = bed.launcher.start_bare(small.client(1), "agent", &["--token", &word])?;
    let word = token(&admin, &["--role", "agent", "--ttl", "1h", "--name", "client2"])?;
    // By a file that names no admin.
    let table = admin_table_without_urls(bed, small.client(2));
    let mut second = agent_by(bed, small.client(2), &table, &["--token", &word])?;
    wait_ready([&mut first, &mut second], bed.clock)?;
    ensure!(ids(&admin).len() == 3 && counted(&admin, "joined") == 3, "the admin knows {:?}", ids(&admin));
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listeners =
        [Listener::join(small.client(1), STREAM, None)?, Listener::join(small.client(2), STREAM, None)?];
    for listener in &listeners {
        listener.more(bed, SOME)?;
    }

    // Who has joined needs no token any more.
    drop(first);
    let mut first = bed.launcher.start_bare(small.client(1), "agent", &[])?;
    wait_ready([&mut first], bed.clock)?;
    let whole = Listener::join(small.client(1), STREAM, None)?;
    whole.more(bed, SOME)?;

    let revoked = admin.ask(&["node", "revoke", "client2"]).unwrap_or_default();
    ensure!(revoked["revoked"] == "client2", "the answer is {revoked}");
    ensure!(!ids(&admin).contains(&"client2".to_owned()), "its lease goes on: {:?}", ids(&admin));
    bed.until_answer("the revoked node knows why", &second, &["status"], |status| {
        status["admin"]["state"] == "refused"
            && status["admin"]["error"].as_str().is_some_and(|error| error.contains("revoked"))
    })?;
    ensure!(counted(&admin, "certificate_revoked") > 0, "nothing is counted");
    drop(second);
    let again = agent_by(bed, small.client(2), &table, &[])?;
    bed.until_answer("a restart does not help it", &again, &["status"], |status| {
        status["admin"]["error"].as_str().is_some_and(|error| error.contains("revoked"))
    })?;
    ensure!(!ids(&admin).contains(&"client2".to_owned()), "it is in again: {:?}", ids(&admin));
    whole.more(bed, SOME)?;
    let last = sender.stop()? - 1;
    whole.until_last(bed, last)?;
    whole.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    let status = router.ask(&["status"]).unwrap_or_default();
    ensure!(status["admin"]["state"] == "registered", "the router's link is {}", status["admin"]);
    Ok(())
}

/// What an agent says that must not come in.
fn fails(bed: &Bed, node: &Namespace, word: &str, says: &str) -> Outcome {
    let config = bed.lab.dir().join("stranger.toml");
    let socket = bed.lab.dir().join("stranger.sock");
    let name = node.node();
    let text = format!(
        "name = \"{name}\"\n[control]\nsocket = \"{}\"\n{}",
        socket.display(),
        admin_table(bed, node, URL)
    );
    std::fs::write(&config, text)?;
    let config = config.to_str().ok_or("a path that is no text")?;
    let Output { status, stderr, .. } = bed.run(node, &["agent", "--config", config, "--token", word])?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.code() == Some(1), "it ended with {status} and said\n{said}");
    ensure!(said.contains(says), "{says:?} is not in what it said:\n{said}");
    let identity = bed.lab.dir().join(format!("{name}.identity/identity.json"));
    ensure!(!identity.exists(), "a node that was refused has an identity");
    Ok(())
}

/// Waits until a node knows why the admin does not take it, and says so.
fn is_refused(bed: &Bed, role: &Role, word: &str) -> Result<Value, Failed> {
    bed.until_answer(&format!("a node hears of {word:?}"), role, &["status"], |status| {
        status["admin"]["state"] != "registered"
            && status["admin"]["error"].as_str().is_some_and(|error| error.contains(word))
    })
}

/// How long a certificate holds where it shall run out.
const CERTIFICATE: Duration = Duration::from_secs(20);

// proves D4: expired, foreign and revoked certificates and replayed tokens
fn strangers(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 4)?;
    let host = small.admin(bed)?;
    let keys = format!("names = [\"10.9.0.2\"]\ncertificate_seconds = {}\n", CERTIFICATE.as_secs());
    let admin = start_admin(bed, &host, &keys)?;
    let _router = router(bed, &small, &admin)?;
    let word = token(&admin, &["--role", "agent"])?;
    let mut member = agent(bed, small.client(1), URL, &["--token", &word])?;
    wait_ready([&mut member], bed.clock)?;
    let bystander = small.forbid(bed, 4)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;

    // One that comes in and is not there to renew its certificate, which runs out meanwhile.
    let word = token(&admin, &["--role", "agent", "--name", "client3"])?;
    let mut late = agent(bed, small.client(3), URL, &["--token", &word])?;
    wait_ready([&mut late], bed.clock)?;
    drop(late);
    let left_at = bed.clock.now();
    let [own, laid_aside] = ["client3.identity", "late.identity"].map(|name| bed.lab.dir().join(name));
    std::fs::rename(&own, &laid_aside)?;

    let stranger = small.client(2);
    fails(bed, stranger, &word, "the join token was used already")?;
    ensure!(counted(&admin, "token_used") == 1, "a replayed token is not counted");
    let short = token(&admin, &["--role", "agent", "--ttl", "1s"])?;
    std::thread::sleep(Duration::from_millis(1100));
    fails(bed, stranger, &short, "the join token has expired")?;
    ensure!(counted(&admin, "token_expired") == 1, "an expired token is not counted");
    let taken_back = token(&admin, &["--role", "agent"])?;
    let list = admin.ask(&["node", "token", "list"]).unwrap_or_default();
    let open = list["tokens"].as_array().into_iter().flatten().find(|token| token["state"] == "open");
    let open = open.and_then(|token| token["id"].as_str()).ok_or_else(|| format!("no open token: {list}"))?;
    admin.ask(&["node", "token", "revoke", open]).ok_or("the token cannot be revoked")?;
    fails(bed, stranger, &taken_back, "the join token was revoked")?;
    ensure!(counted(&admin, "token_revoked") == 1, "a revoked token is not counted");
    let for_routers = token(&admin, &["--role", "router"])?;
    // An agent that came in as a router would be one: its certificate says otherwise.
    let tables = format!("{}[upstream]\nfrom = \"admin\"\n", admin_table(bed, stranger, URL));
    let posing = bed.launcher.start_with(stranger, "agent", &["--token", &for_routers], "", &tables)?;
    let mut process = posing.into_process();
    let ended = process.wait_for(Duration::from_secs(20))?;
    ensure!(
        ended.is_some_and(|status| status.code() == Some(1)),
        "a router's token served an agent: {ended:?}"
    );
    ensure!(process.log_tail(25).contains("the certificate"), "it said {}", process.log_tail(25));

    // Of another admin's authority.
    let other = bed.lab.namespace("other")?;
    bed.lab.veth((&other, "eth0"), (&small.vmr, "adm1"))?;
    other.ip("addr add 10.9.1.2/24 dev eth0\nroute add default via 10.9.1.1")?;
    small.vmr.ip("addr add 10.9.1.1/24 dev adm1")?;
    let theirs = start_admin(bed, &other, "names = [\"10.9.1.2\"]\n")?;
    let word = token(&theirs, &["--role", "agent"])?;
    let mut foreign = agent(bed, small.client(3), "https://10.9.1.2:8440", &["--token", &word])?;
    bed.until("it is in at the other admin", || {
        foreign.check_alive()?;
        Ok(ids(&theirs) == ["client3"])
    })?;
    drop(foreign);
    let foreign = agent(bed, small.client(3), URL, &[])?;
    is_refused(bed, &foreign, "another authority")?;
    ensure!(counted(&admin, "handshake_foreign") > 0, "a foreign certificate is not counted");
    drop(foreign);

    // The one that has not renewed in time.
    listener.more(bed, SOME)?;
    std::fs::remove_dir_all(&own)?;
    std::fs::rename(&laid_aside, &own)?;
    let expired_at = left_at + CERTIFICATE + Duration::from_secs(1);
    std::thread::sleep(expired_at.saturating_sub(bed.clock.now()));
    let late = agent(bed, small.client(3), URL, &[])?;
    is_refused(bed, &late, "expired")?;
    ensure!(counted(&admin, "handshake_expired") > 0, "an expired certificate is not counted");
    // Meanwhile those that are in have renewed theirs.
    ensure!(counted(&admin, "renewed") >= 2, "nothing was renewed");
    ensure!(ids(&admin) == ["client1", "vmr"], "the admin knows {:?}", ids(&admin));

    let last = sender.stop()? - 1;
    listener.until_last(bed, last)?;
    listener.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

/// Has a key made by another tool, and its certificate signed by the operator's command.
fn signed_by_operator(bed: &Bed, admin: &Role, name: &str) -> Result<[String; 2], Failed> {
    let path = |end: &str| bed.lab.dir().join(format!("{name}.{end}")).display().to_string();
    let (key, request, certificate) = (path("key"), path("csr"), path("pem"));
    let arguments =
        ["req", "-new", "-newkey", "ed25519", "-nodes", "-subj", "/CN=x", "-keyout", &key, "-out", &request];
    let made = Command::new("openssl").args(arguments).output()?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let shown = bed.table(admin, &["node", "sign", "--csr", &request, "--role", "agent", "--name", name])?;
    std::fs::write(&certificate, shown)?;
    Ok([certificate, key])
}

// proves D4: certificates or join tokens
fn signed(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 3)?;
    let host = small.admin(bed)?;
    let admin = start_admin(bed, &host, "names = [\"10.9.0.2\"]\n")?;
    let _router = router(bed, &small, &admin)?;
    // By the command line, and by a file that names the two.
    let [certificate, key] = signed_by_operator(bed, &admin, "client1")?;
    let arguments = ["--certificate", &certificate, "--key", &key, "--admin", URL];
    let bare = admin_table_without_urls(bed, small.client(1));
    let mut first = agent_by(bed, small.client(1), &bare, &arguments)?;
    let [certificate, key] = signed_by_operator(bed, &admin, "client2")?;
    let table = admin_table(bed, small.client(2), URL);
    let table = format!("{table}certificate_file = \"{certificate}\"\nkey_file = \"{key}\"\n");
    let mut second = agent_by(bed, small.client(2), &table, &[])?;
    wait_ready([&mut first, &mut second], bed.clock)?;
    ensure!(ids(&admin) == ["client1", "client2", "vmr"], "the admin knows {:?}", ids(&admin));
    ensure!(counted(&admin, "signed") == 2 && counted(&admin, "joined") == 1, "it was counted otherwise");
    let bystander = small.forbid(bed, 3)?;
    let sender = Sender::start(&small.source, SOURCE, STREAM)?;
    let whole = Listener::join(small.client(2), STREAM, None)?;
    whole.more(bed, SOME)?;
    // The first needs no argument any more.
    drop(first);
    let mut first = agent_by(bed, small.client(1), &bare, &[])?;
    wait_ready([&mut first], bed.clock)?;
    let listener = Listener::join(small.client(1), STREAM, None)?;
    listener.more(bed, SOME)?;
    ensure!(ids(&admin) == ["client1", "client2", "vmr"], "the admin knows {:?}", ids(&admin));
    admin.ask(&["node", "revoke", "client1"]).ok_or("it cannot be revoked")?;
    is_refused(bed, &first, "revoked")?;
    let last = sender.stop()? - 1;
    whole.until_last(bed, last)?;
    whole.heard().is_whole()?;
    ensure!(bystander.stray().packets == 0, "the bystander was sent {:?}", bystander.stray());
    Ok(())
}

// proves D4: a daemon that cannot join yet is none that has failed
fn waits(bed: &mut Bed) -> Outcome {
    let small = Small::build(bed, 2)?;
    let host = small.admin(bed)?;
    let keys = "names = [\"10.9.0.2\"]\n";
    let mut admin = start_admin(bed, &host, keys)?;
    let words = [token(&admin, &["--role", "agent"])?, token(&admin, &["--role", "agent"])?];
    admin.process.kill()?;
    let waiting = |number: u8, word: &str| -> Result<Role, Failed> {
        let role = agent(bed, small.client(number), URL, &["--token", word])?;
        bed.until_answer("it says why it waits", &role, &["status"], |status| {
            let admin = &status["admin"];
            admin["state"] == "unreachable"
                && admin["error"].as_str().is_some_and(|error| error.contains("reached"))
        })?;
        Ok(role)
    };
    let mut first = waiting(1, &words[0])?;
    let second = waiting(2, &words[1])?;
    let ended = second.into_process().stop()?;
    ensure!(ended.success(), "it ended with {ended}");
    let admin = start_admin(bed, &host, keys)?;
    bed.until("it is in", || {
        first.check_alive()?;
        Ok(ids(&admin) == ["client1"])
    })
}

//! Nodes that know more admins than they were told of.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use libtest_mimic::{Failed, Trial};
use tokio::runtime::Runtime;
use vmcast::{
    identity::{JoinToken, join},
    link::{Attachment, Settings, attach},
};
use vmcast_api::AdminLinkState;
use vmcast_proto::{
    nearest,
    registry::{Registration, Role},
};

use crate::{
    Outcome,
    cluster::{Cluster, clock, until},
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial("a node that was told of one admin goes on to others that it was never told of", learnt)]
}

/// An admin as an operator runs it.
struct Process {
    url: String,
    socket: PathBuf,
    child: Child,
}

impl Process {
    fn start(cluster: &Cluster, directory: &std::path::Path, name: &str) -> Result<Self, Failed> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let of = |suffix: &str| directory.join(format!("{name}.{suffix}"));
        let (socket, config, secret) = (of("sock"), of("toml"), directory.join("secret"));
        std::fs::write(&secret, "what all of the admins know")?;
        let urls = cluster.settings().urls;
        let text = format!(
            "name = {name:?}\nlisten = \"127.0.0.1:{port}\"\nlease_seconds = 6\nidentity = {:?}\n\
             authority_secret_file = {secret:?}\n[etcd]\nurls = {urls:?}\nprefix = \"/test/\"\n\
             [control]\nsocket = {socket:?}\n",
            of("identity"),
        );
        std::fs::write(&config, text)?;
        let child = Command::new(env!("CARGO_BIN_EXE_vmcast"))
            .args(["admin", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(of("log"))?)
            .spawn()?;
        let process = Self { url: format!("https://127.0.0.1:{port}"), socket, child };
        until("the admin answers its operator", || process.said(&["status"]).is_ok())?;
        Ok(process)
    }

    /// What a command says, in JSON.
    fn said(&self, arguments: &[&str]) -> Result<serde_json::Value, Failed> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcast"));
        let output = command.args(arguments).arg("--socket").arg(&self.socket).arg("--json").output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Kills it with SIGKILL.
    fn kill(&mut self) -> Outcome {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may be dead already.
        let _ = self.kill();
    }
}

/// The URL of the admin that a node is at, if it is registered.
fn is_at(node: &Attachment) -> Option<String> {
    let link = node.admin_link();
    (link.state == AdminLinkState::Registered).then_some(link.url)
}

/// Waits until a node knows these admins and no others beside the one that it is at.
fn until_known(node: &Attachment, mut known: Vec<&String>) -> Outcome {
    known.sort();
    until("the node knows who is there and nobody else", || {
        let link = node.admin_link();
        let mut others = link.others;
        others.retain(|url| *url != link.url);
        others.sort();
        others.iter().eq(known.iter().copied().filter(|url| **url != link.url))
    })
}

// proves A2 and D2: whichever admin dies, and for good, a node goes on at one that is there
fn learnt(runtime: &Runtime) -> Outcome {
    let cluster = Cluster::start(1)?;
    let directory = tempfile::tempdir()?;
    let start = |name: &str| Process::start(&cluster, directory.path(), name);
    let (mut one, mut two, mut three) = (start("one")?, start("two")?, start("three")?);
    let made = one.said(&["node", "token", "create", "--role", "agent"])?;
    let token: JoinToken = made["token"].as_str().ok_or("no token")?.parse()?;
    if token.admins != [one.url.clone()] {
        return Err(format!("the token names {:?}", token.admins).into());
    }
    let _entered = runtime.enter();
    let name: vmcast_proto::registry::NodeId = "a".parse()?;
    let identity = runtime.block_on(join(&token, &name, &directory.path().join("a"), clock()))?;
    let registration = Registration {
        id: name,
        role: Role::Agent,
        endpoints: vec![],
        name: "a".parse()?,
        software: "x".parse()?,
        about: Default::default(),
    };
    let node = attach(Settings {
        admins: token.admins,
        registration,
        requery: Settings::REQUERY,
        local: None,
        probe: nearest::Config::default(),
        seed: 5,
        identity: Some(Arc::new(identity)),
    })?;
    until("it is at the one that it was told of", || is_at(&node).as_ref() == Some(&one.url))?;
    until_known(&node, vec![&two.url, &three.url])?;
    one.kill()?;
    until("it goes on to another", || is_at(&node).is_some_and(|url| url != one.url))?;
    // One that comes later is learnt, and those that are dead are known no longer, but the one that was stated.
    let four = start("four")?;
    until_known(&node, vec![&one.url, &two.url, &three.url, &four.url])?;
    two.kill()?;
    until_known(&node, vec![&one.url, &three.url, &four.url])?;
    three.kill()?;
    until("it is at the last", || is_at(&node).as_ref() == Some(&four.url))?;
    until_known(&node, vec![&one.url])?;
    until("the last knows it, too", || {
        four.said(&["node", "list"]).is_ok_and(|list| list["nodes"][0]["id"] == "a")
    })?;
    runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), node.close()).await })?;
    Ok(())
}

//! `vmcast migrate`, as an operator types it, and the admin that goes on with what it copied.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use libtest_mimic::{Failed, Trial};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tokio::runtime::Runtime;
use vmcast::{
    identity::{JoinToken, NodeIdentity, join},
    link::AdminClient,
};

use crate::{
    Outcome,
    cluster::{Cluster, clock, port, until},
    identity::{ensure, id, registration},
    tls::Ca,
    trial,
};

pub(crate) fn trials() -> Vec<Trial> {
    vec![trial(
        "`vmcast migrate` moves a registry, and the admin on it goes on with its nodes, tokens and policy",
        moved,
    )]
}

fn vmcast(arguments: &[&str]) -> Result<Output, Failed> {
    Ok(Command::new(env!("CARGO_BIN_EXE_vmcast")).args(arguments).stdin(Stdio::null()).output()?)
}

/// A command that fails with status 1, prints nothing and says this.
fn fails(arguments: &[&str], says: &str) -> Outcome {
    let output = vmcast(arguments)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure(
        output.status.code() == Some(1) && output.stdout.is_empty() && said.contains(says),
        &format!("{arguments:?} ended with {}, {says:?} is not in what it said: {said}", output.status),
    )
}

/// What an admin says that is to run; it ends with this.
struct Running {
    child: Child,
    socket: PathBuf,
}

impl Running {
    fn start(config: &Path, socket: &Path) -> Result<Self, Failed> {
        let log = fs::File::create(config.with_extension("log"))?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_vmcast"));
        command.args(["admin", "--config"]).arg(config);
        // What inherited this program's output would keep it open, were this program to abort.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let running = Self { child: command.spawn()?, socket: socket.to_owned() };
        until("the admin answers", || running.ask(&["status"]).is_ok())
            .map_err(|_| fs::read_to_string(config.with_extension("log")).unwrap_or_default())?;
        Ok(running)
    }

    fn ask(&self, question: &[&str]) -> Result<Value, Failed> {
        let socket = self.socket.to_str().ok_or("a path that is no text")?;
        let output = vmcast(&[question, &["--json", "--socket", socket]].concat())?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure(output.status.success(), &format!("{question:?} failed: {said}"))?;
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Ends it in order.
    fn stop(mut self) -> Outcome {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        let mut ended = None;
        until("the admin ends", || {
            ended = self.child.try_wait().ok().flatten();
            ended.is_some()
        })?;
        let is_success = ended.is_some_and(|status| status.success());
        ensure(is_success, &format!("the admin ended with {ended:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // One that was stopped is gone by now.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn come_in(directory: &Path, token: &JoinToken, name: &str) -> Result<Arc<NodeIdentity>, Failed> {
    Ok(Arc::new(join(token, &id(name), &directory.join(name), clock()).await?))
}

/// Registers, and says why not.
async fn register(url: &str, identity: &Arc<NodeIdentity>, name: &str) -> Result<(), String> {
    let client =
        AdminClient::new(&[url.to_owned()], None, Some(identity)).map_err(|error| error.to_string())?;
    client.register(&registration(name)).await.map(|_| ()).map_err(|error| error.to_string())
}

// proves A2 and D4: what one admin has granted, several go on to know
fn moved(runtime: &Runtime) -> Outcome {
    let (ca, directory) = (Ca::make("etcd")?, tempfile::tempdir()?);
    let cluster = Cluster::start_secure(&ca.pem(), &ca.sign("member")?)?;
    let at = directory.path();
    let (chain, key) = ca.sign("admin")?;
    for (name, text) in [("ca.pem", &ca.pem()), ("admin.pem", &chain), ("admin.key", &key)] {
        fs::write(at.join(name), text)?;
    }
    let (listen, socket) = (format!("127.0.0.1:{}", port()?), at.join("admin.sock"));
    let url = format!("https://{listen}");
    let alone = format!(
        "listen = \"{listen}\"\nnames = [\"127.0.0.1\"]\ndatabase = \"{0}/admin.db\"\nidentity = \"{0}/authority\"\n\
         [control]\nsocket = \"{0}/admin.sock\"\n",
        at.display()
    );
    let shared = format!(
        "{alone}[etcd]\nurls = [\"{1}\"]\nca_file = \"{0}/ca.pem\"\ncertificate_file = \"{0}/admin.pem\"\n\
         key_file = \"{0}/admin.key\"\n",
        at.display(),
        cluster.settings().urls[0]
    );
    let file = |name: &str, text: &str| -> Result<PathBuf, Failed> {
        fs::write(at.join(name), text)?;
        Ok(at.join(name))
    };
    let (alone, shared) = (file("alone.toml", &alone)?, file("shared.toml", &shared)?);
    let to = shared.to_str().ok_or("a path that is no text")?;

    // One admin, with a node, one that is shut out, a token that is good once more, and a rule.
    let admin = Running::start(&alone, &socket)?;
    let created = admin.ask(&["node", "token", "create", "--role", "agent", "--uses", "4"])?;
    let token: JoinToken = created["token"].as_str().ok_or("no token")?.parse()?;
    let [stays, out] = runtime.block_on(async {
        let [stays, out] = [come_in(at, &token, "stays").await?, come_in(at, &token, "out").await?];
        register(&url, &stays, "stays").await?;
        register(&url, &out, "out").await?;
        Ok::<_, Failed>([stays, out])
    })?;
    admin.ask(&["node", "revoke", "out"])?;
    let policy = admin.ask(&["policy", "add", "deny", "receive", "--groups", "239.1.0.0/16"])?;

    // What is wrong is said, and nothing is copied.
    fails(&["migrate", "--config", to], "in use")?;
    admin.stop()?;
    fails(&["migrate", "--config", alone.to_str().unwrap_or_default()], "names no etcd to copy to")?;
    let broken = file("broken.toml", "listen = 7\n")?;
    fails(&["migrate", "--config", broken.to_str().unwrap_or_default()], "broken.toml:1:")?;
    let text = fs::read_to_string(&shared)?.replace("admin.db", "none.db");
    let absent = file("absent.toml", &text)?;
    fails(&["migrate", "--config", absent.to_str().unwrap_or_default()], "cannot open the database")?;
    ensure(!at.join("none.db").exists(), "it has made a file that was to be read")?;
    let status = vmcast(&["migrate"])?.status;
    ensure(status.code() == Some(2), &format!("without a configuration it ended with {status}"))?;

    let output = vmcast(&["migrate", "--config", to])?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure(
        output.status.success() && said.starts_with("copied 1 nodes, 0 entries of the cache and "),
        &format!(
            "it ended with {} and said {said}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ),
    )?;
    fails(&["migrate", "--config", to, "--json"], "add --merge if that is meant")?;

    // What was done since is not undone by copying once more.
    let admin = Running::start(&shared, &socket)?;
    let policy = {
        ensure(admin.ask(&["policy", "list"])? == policy, "the policy has changed")?;
        admin.ask(&["policy", "add", "deny", "receive", "--groups", "239.2.0.0/16"])?
    };
    let early = runtime.block_on(come_in(at, &token, "early"))?;
    admin.ask(&["node", "revoke", "early"])?;
    admin.stop()?;
    let output = vmcast(&["migrate", "--config", to, "--merge", "--json"])?;
    let copied: Value = serde_json::from_slice(&output.stdout)?;
    ensure(
        copied["v"] == 1 && copied["nodes"] == 0 && copied["cache_entries"] == 0 && copied["records"] == 0,
        &format!("of the second time it says {copied}"),
    )?;

    // Without the file, the admin goes on with all of it.
    fs::rename(at.join("admin.db"), at.join("old.db"))?;
    let admin = Running::start(&shared, &socket)?;
    let known = admin.ask(&["policy", "list"])?;
    ensure(known == policy, &format!("the policy is {known} and was {policy}"))?;
    let nodes = admin.ask(&["node", "list"])?;
    ensure(nodes["nodes"][0]["id"] == "stays" && nodes["nodes"][1].is_null(), &format!("it knows {nodes}"))?;
    runtime.block_on(async {
        register(&url, &stays, "stays").await?;
        let refused = register(&url, &out, "out").await.err().unwrap_or_default();
        ensure(refused.contains("revoked"), &format!("of the revoked node it says {refused:?}"))?;
        let refused = register(&url, &early, "early").await.err().unwrap_or_default();
        ensure(refused.contains("revoked"), &format!("of the node revoked since it says {refused:?}"))?;
        let late = come_in(at, &token, "late").await?;
        register(&url, &late, "late").await?;
        let used_up = come_in(at, &token, "more").await.err();
        let used_up = used_up.and_then(|failed| failed.message().map(str::to_owned)).unwrap_or_default();
        ensure(used_up.contains("used already"), &format!("of the token that is used up it says {used_up:?}"))
    })?;
    ensure(!at.join("admin.db").exists(), "it has made a file beside its etcd")?;
    admin.stop()
}

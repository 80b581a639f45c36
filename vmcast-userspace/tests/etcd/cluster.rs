//! Members of an etcd.

use std::{
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use libtest_mimic::Failed;
use tokio::runtime::Runtime;
use vmcast::admin::{Clock, EtcdSettings, EtcdStore};
use vmcast_proto::registry::UnixMillis;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Lines of the log of a member that ended by itself which a failed test shows.
const LOG_LINES: usize = 5;
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(50);

/// Why there is no etcd here.
pub(crate) fn missing() -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|directory| directory.join("etcd").is_file());
    (!found).then(|| "etcd is not installed (apt-get install etcd-server)".to_owned())
}

/// A member's process; it ends with this.
pub(crate) struct Member(Child);

impl Member {
    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) -> std::io::Result<()> {
        self.0.kill()?;
        self.0.wait().map(drop)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // One that was killed is gone by now.
        let _ = self.kill();
    }
}

/// A cluster in a directory of its own; it ends with this.
pub(crate) struct Cluster {
    directory: tempfile::TempDir,
    /// Ports of clients and of peers.
    ports: Vec<[u16; 2]>,
    pub(crate) members: Vec<Option<Member>>,
    /// Whether clients and members show each other certificates, which are in the directory.
    is_secure: bool,
}

impl Cluster {
    /// Starts so many members.
    pub(crate) fn start(size: usize) -> Result<Self, Failed> {
        Self::start_in(tempfile::tempdir()?, size, false)
    }

    /// Starts one that shows this certificate, whose key is beside it, and wants such of its clients, all of one
    /// authority.
    pub(crate) fn start_secure(authority: &str, (chain, key): &(String, String)) -> Result<Self, Failed> {
        let directory = tempfile::tempdir()?;
        for (name, text) in [("ca.pem", authority), ("member.pem", chain), ("member.key", key)] {
            std::fs::write(directory.path().join(name), text)?;
        }
        Self::start_in(directory, 1, true)
    }

    fn start_in(directory: tempfile::TempDir, size: usize, is_secure: bool) -> Result<Self, Failed> {
        let mut cluster = Self {
            directory,
            is_secure,
            ports: (0..size).map(|_| Ok([port()?, port()?])).collect::<std::io::Result<_>>()?,
            members: (0..size).map(|_| None).collect(),
        };
        for number in 0..size {
            cluster.revive(number)?;
        }
        cluster.wait_ready()?;
        Ok(cluster)
    }

    /// Starts a member, again with what it has on disk.
    pub(crate) fn revive(&mut self, number: usize) -> Result<(), Failed> {
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let all: Vec<String> =
            (0..).zip(&self.ports).map(|(n, [_, peer])| format!("m{n}={}", url(*peer))).collect();
        let peer = url(self.ports[number][1]);
        let client = self.url(number);
        let log = std::fs::File::create(self.log(number))?;
        let child = Command::new("etcd")
            .args(["--name", &format!("m{number}"), "--data-dir"])
            .arg(self.data(number))
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &all.join(","), "--initial-cluster-state", "new"])
            .args(["--auto-compaction-retention", "0"])
            .args(self.security(["--cert-file", "--key-file", "--trusted-ca-file"]))
            .args(self.is_secure.then_some("--client-cert-auth"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()?;
        self.members[number] = Some(Member(child));
        Ok(())
    }

    fn data(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("m{number}"))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.directory.path().join(format!("m{number}.log"))
    }

    /// Kills a member with SIGKILL.
    pub(crate) fn kill(&mut self, number: usize) -> Result<(), Failed> {
        Ok(self.members[number].take().map_or(Ok(()), |mut member| member.kill())?)
    }

    /// Kills all.
    pub(crate) fn kill_all(&mut self) -> Result<(), Failed> {
        (0..self.members.len()).try_for_each(|number| self.kill(number))
    }

    /// Starts those that were killed.
    pub(crate) fn revive_all(&mut self) -> Result<(), Failed> {
        for number in 0..self.members.len() {
            if self.members[number].is_none() {
                self.revive(number)?;
            }
        }
        self.wait_ready()
    }

    /// The member that leads.
    pub(crate) fn leader(&self) -> Result<usize, Failed> {
        let living = (0..).zip(&self.members).filter(|(_, member)| member.is_some());
        for (number, _) in living {
            let status = self.ctl(&["--endpoints", &self.url(number), "endpoint", "status", "-w", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&status)?;
            let status = &status[0]["Status"];
            if status["leader"] == status["header"]["member_id"] {
                return Ok(number);
            }
        }
        Err("nobody leads".into())
    }

    /// Forgets the history up to the present.
    pub(crate) fn compact(&self) -> Result<(), Failed> {
        let status = self.ctl(&["--endpoints", &self.url(0), "endpoint", "status", "-w", "json"])?;
        let status: serde_json::Value = serde_json::from_str(&status)?;
        let revision = status[0]["Status"]["header"]["revision"].to_string();
        self.ctl(&["--endpoints", &self.url(0), "compact", &revision])?;
        Ok(())
    }

    fn ctl(&self, arguments: &[&str]) -> Result<String, Failed> {
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(self.security(["--cert", "--key", "--cacert"]))
            .args(arguments)
            .output()?;
        if !output.status.success() {
            return Err(format!("etcdctl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The files of certificate, key and authority as arguments of these names, where there are any.
    fn security(&self, names: [&str; 3]) -> Vec<String> {
        let file = |name: &str| self.directory.path().join(name).display().to_string();
        let files = ["member.pem", "member.key", "ca.pem"].map(file);
        let arguments = names.into_iter().zip(files).map(|(name, file)| format!("{name}={file}"));
        arguments.filter(|_| self.is_secure).collect()
    }

    fn url(&self, number: usize) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{}", self.ports[number][0])
    }

    /// The same as of [`settings`](Self::settings) in the clear.
    pub(crate) fn plain_settings(&self) -> EtcdSettings {
        let settings = self.settings();
        let urls = settings.urls.iter().map(|url| url.replace("https://", "http://")).collect();
        EtcdSettings { urls, ..settings }
    }

    /// Waits until every member is healthy, or one has ended.
    fn wait_ready(&mut self) -> Result<(), Failed> {
        let mut ended = None;
        until("every member is healthy", || {
            ended = (0..self.members.len()).find(|number| self.has_ended(*number));
            ended.is_some() || (0..self.ports.len()).all(|number| self.is_healthy(number))
        })?;
        match ended {
            Some(number) => Err(format!("member {number} has ended: {}", self.last_words(number)).into()),
            None => Ok(()),
        }
    }

    fn has_ended(&mut self, number: usize) -> bool {
        let member = self.members[number].as_mut();
        member.is_some_and(|member| !matches!(member.0.try_wait(), Ok(None)))
    }

    fn is_healthy(&self, number: usize) -> bool {
        // One that does not listen yet is soon asked again.
        let arguments = ["--command-timeout=2s", "--endpoints", &self.url(number), "endpoint", "health"];
        self.ctl(&arguments).is_ok()
    }

    /// The end of a member's log.
    fn last_words(&self, number: usize) -> String {
        let log = std::fs::read_to_string(self.log(number)).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// What opens a store on all members.
    pub(crate) fn settings(&self) -> EtcdSettings {
        EtcdSettings {
            urls: (0..self.ports.len()).map(|number| self.url(number)).collect(),
            prefix: "/test/".into(),
            user: None,
            tls: None,
            lease: Duration::from_secs(60),
        }
    }

    pub(crate) fn open(&self, runtime: &Runtime) -> Result<EtcdStore, Failed> {
        self.open_with(runtime, self.settings())
    }

    pub(crate) fn open_with(&self, runtime: &Runtime, settings: EtcdSettings) -> Result<EtcdStore, Failed> {
        self.open_by(runtime, settings, clock())
    }

    /// The same by another clock.
    pub(crate) fn open_by(
        &self,
        runtime: &Runtime,
        settings: EtcdSettings,
        clock: Clock,
    ) -> Result<EtcdStore, Failed> {
        Ok(runtime.block_on(EtcdStore::open(settings, clock))?)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is left of them goes with the directory.
        let _ = self.kill_all();
    }
}

/// The host's clock.
pub(crate) fn clock() -> Clock {
    Clock::system()
}

/// The host's time.
pub(crate) fn now() -> UnixMillis {
    clock().now()
}

pub(crate) fn port() -> std::io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Waits until something is so.
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) -> Result<(), Failed> {
    let limit = now().after(PATIENCE);
    while !is_so() {
        if now() > limit {
            return Err(format!("not in time: {what}").into());
        }
        std::thread::sleep(PAUSE);
    }
    Ok(())
}

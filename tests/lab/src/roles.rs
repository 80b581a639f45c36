//! The roles of vmcast in a lab: their configuration, their start, their state.

use std::{
    fmt::Write as _,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Lab, LabError, Namespace, Process,
    clock::Clock,
    netns::{Instead, see_instead},
    signals,
};

/// The port that the lab's admin listens on.
pub const ADMIN_PORT: u16 = 8440;

/// Which engine replicates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// The best that the kernel takes.
    #[default]
    Auto,
    /// XDP, or the router refuses to start.
    Xdp,
    /// TC, or the router refuses to start.
    Tc,
    /// The router's own process.
    Software,
}

impl Engine {
    /// Its word in the configuration.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Xdp => "xdp",
            Self::Tc => "tc",
            Self::Software => "software",
        }
    }
}

/// An interface of a VMR.
#[derive(Clone, Copy, Debug)]
pub struct RouterInterface<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether packets of sources are taken from its network.
    pub accepts_sources: bool,
}

/// What sets one VMR apart from another.
#[derive(Clone, Copy, Debug)]
pub struct RouterConfig<'a> {
    /// 0 at the source.
    pub rank: u32,
    /// Where its tunnels end.
    pub tunnel: Ipv4Addr,
    /// The admin's address.
    pub admin: Ipv4Addr,
    /// What replicates.
    pub engine: Engine,
    /// Its interfaces.
    pub interfaces: &'a [RouterInterface<'a>],
}

/// IGMP for labs: a leave is complete after 2 × 0.2 s (RFC 9776 §8.8), not 2 s.
const IGMP: &str = "[igmp]\nlast_member_query_interval_seconds = 0.2\n";

/// How long a role may take until it is ready.
const READY: Duration = Duration::from_secs(60);

/// Starts roles of vmcast in a lab.
#[derive(Clone, Debug)]
pub struct Launcher {
    program: PathBuf,
    dir: PathBuf,
    pins: PathBuf,
    instead: Instead,
}

impl Launcher {
    /// Uses this build of the program; configuration, sockets and logs go to the lab's directory.
    ///
    /// # Errors
    /// If the directory for pins cannot be made.
    pub fn new(lab: &Lab, program: &Path) -> Result<Self, LabError> {
        Ok(Self {
            program: program.to_owned(),
            dir: lab.dir().to_owned(),
            pins: lab.bpffs()?,
            instead: Instead::new(),
        })
    }

    /// The same, but its roles see another file in a place of the host, such as `/etc/hosts`. What is
    /// written into that file later, they see as well.
    #[must_use]
    pub fn with_file(&self, place: impl Into<PathBuf>, file: impl Into<PathBuf>) -> Self {
        let mut launcher = self.clone();
        launcher.instead.push((place.into(), file.into()));
        launcher
    }

    /// Starts the admin.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn admin(&self, node: &Namespace, address: Ipv4Addr) -> Result<Role, LabError> {
        let database = self.dir.join(format!("{}.db", node.node()));
        let own = format!(
            "listen = \"{address}:{ADMIN_PORT}\"\ninsecure = true\ndatabase = \"{}\"\n",
            database.display()
        );
        self.start(node, "admin", &own, "")
    }

    /// Starts a VMR.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn router(&self, node: &Namespace, config: RouterConfig<'_>) -> Result<Role, LabError> {
        self.router_with(node, config, "")
    }

    /// The same with more keys of `[tunnel]`.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn router_with(
        &self,
        node: &Namespace,
        config: RouterConfig<'_>,
        tunnel_keys: &str,
    ) -> Result<Role, LabError> {
        let RouterConfig { rank, tunnel, admin, engine, interfaces } = config;
        let upstream = if rank == 0 { "none" } else { "admin" };
        let mut tables = format!(
            "{}[tunnel]\naddress = \"{tunnel}\"\n{tunnel_keys}[upstream]\nfrom = \"{upstream}\"\n\
             [dataplane]\nengine = \"{}\"\non_exit = \"remove\"\npin_path = \"{}\"\n{IGMP}",
            admin_table(admin),
            engine.label(),
            self.pins.join(node.node()).display(),
        );
        for RouterInterface { name, accepts_sources } in interfaces {
            writeln!(tables, "[[interface]]\nname = \"{name}\"\naccepts_sources = {accepts_sources}")
                .expect("writing to a string");
        }
        self.start(node, "router", &format!("rank = {rank}\n"), &tables)
    }

    /// Starts an agent that finds its VMR through the admin.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn agent(&self, node: &Namespace, admin: Ipv4Addr) -> Result<Role, LabError> {
        let tables = format!("{}[interface]\nname = \"{AGENT_INTERFACE}\"\n{IGMP}", admin_table(admin));
        self.start(node, "agent", "", &tables)
    }

    /// Starts a role with a configuration of its own: `keys` stand at its top, `tables` at its end; name
    /// and control socket are added.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start(&self, node: &Namespace, role: &str, keys: &str, tables: &str) -> Result<Role, LabError> {
        self.start_with(node, role, &[], keys, tables)
    }

    /// The same with more arguments.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start_with(
        &self,
        node: &Namespace,
        role: &str,
        arguments: &[&str],
        keys: &str,
        tables: &str,
    ) -> Result<Role, LabError> {
        let name = node.node();
        let socket = self.dir.join(format!("{name}.sock"));
        let config = self.dir.join(format!("{name}.toml"));
        let text = format!("name = \"{name}\"\n{keys}[control]\nsocket = \"{}\"\n{tables}", socket.display());
        fs::write(&config, text).map_err(LabError::io(format!("writing {}", config.display())))?;
        let mut command = Command::new(&self.program);
        command.arg(role).arg("--config").arg(&config).args(arguments);
        see_instead(&mut command, &self.instead).map_err(LabError::io(format!("starting {name}")))?;
        let process = node.spawn(name, command)?;
        Ok(Role { process, socket, program: self.program.clone() })
    }

    /// Starts a role by these arguments alone, as on a host of its own: what the roles keep below `/run` and
    /// `/var/lib` is below the node's own directory in the lab.
    ///
    /// # Errors
    /// If the program cannot be started.
    pub fn start_bare(&self, node: &Namespace, role: &str, arguments: &[&str]) -> Result<Role, LabError> {
        let name = node.node();
        let mut instead = self.instead.clone();
        let place = |place: &str| self.dir.join(format!("{name}.host")).join(place);
        // The lab itself is below /run, which hides it.
        for (seen, own) in [("/var/lib", place("lib")), ("/run", place("run"))] {
            fs::create_dir_all(&own).map_err(LabError::io(format!("making {}", own.display())))?;
            instead.push((seen.into(), own));
        }
        let mut command = Command::new(&self.program);
        command.arg(role).args(arguments);
        see_instead(&mut command, &instead).map_err(LabError::io(format!("starting {name}")))?;
        let process = node.spawn(name, command)?;
        let socket = place("run").join(format!("vmcast/{role}.sock"));
        Ok(Role { process, socket, program: self.program.clone() })
    }
}

/// The interface that agents make in labs.
pub const AGENT_INTERFACE: &str = "vmcast0";

fn admin_table(address: Ipv4Addr) -> String {
    format!("[admin]\nurls = [\"http://{address}:{ADMIN_PORT}\"]\ninsecure = true\n")
}

/// A running role.
#[derive(Debug)]
pub struct Role {
    /// Its process.
    pub process: Process,
    /// Where it answers the operator's commands.
    pub socket: PathBuf,
    program: PathBuf,
}

impl Role {
    /// Asks it as an operator would, for example `["stats"]`; nothing if it does not answer.
    #[must_use]
    pub fn ask(&self, question: &[&str]) -> Option<Value> {
        let output = Command::new(&self.program)
            .args(question)
            .arg("--json")
            .arg("--socket")
            .arg(&self.socket)
            .stdin(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| serde_json::from_slice(&output.stdout).ok()).flatten()
    }

    /// Gives up the role for its process, to end many together.
    #[must_use]
    pub fn into_process(self) -> Process {
        self.process
    }

    /// What replicates, and why, if it is a VMR that answers.
    #[must_use]
    pub fn engine(&self) -> Option<(String, String)> {
        let status = self.ask(&["status"])?;
        let text = |key: &str| status["engine"][key].as_str().map(str::to_owned);
        Some((text("label")?, text("reason").unwrap_or_default()))
    }

    /// Fails with the end of its log if it has ended.
    ///
    /// # Errors
    /// [`LabError::Role`].
    pub fn check_alive(&mut self) -> Result<(), LabError> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => Err(self.failure(format!("ended by itself ({status})"))),
        }
    }

    fn failure(&self, why: String) -> LabError {
        LabError::Role { role: self.process.name().to_owned(), why, log: self.process.log_tail(25) }
    }
}

/// Waits until each role answers, is registered at its admin, was looked for by it and knows its upstream.
///
/// # Errors
/// If one ends, is not ready in time, or a signal asks to stop.
pub fn wait_ready<'a>(roles: impl IntoIterator<Item = &'a mut Role>, clock: Clock) -> Result<(), LabError> {
    let limit = clock.now() + READY;
    for role in roles {
        loop {
            signals::check()?;
            role.check_alive()?;
            let status = if role.socket.exists() { role.ask(&["status"]) } else { None };
            if status.as_ref().is_some_and(is_ready) {
                break;
            }
            if clock.now() > limit {
                let state =
                    status.map_or("no answer to `vmcast status`".to_owned(), |status| status.to_string());
                return Err(role.failure(format!("not ready after {} s: {state}", READY.as_secs())));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Whether a role's status says that streams can begin.
fn is_ready(status: &Value) -> bool {
    let registered =
        status.get("admin").is_none_or(|admin| admin.is_null() || admin["state"] == "registered");
    let attached =
        status.get("upstream").is_none_or(|upstream| upstream.is_null() || upstream["remote"].is_string());
    registered && attached && is_found(status)
}

/// Whether the admin has looked for a VMR at all its endpoints, or says that it does not: nobody is given it before.
fn is_found(status: &Value) -> bool {
    let Some(admin) = status.get("admin").filter(|admin| !admin.is_null()) else { return true };
    if status["role"] != "router" {
        return true;
    }
    let Some(endpoints) = admin["endpoints"].as_array() else { return false };
    endpoints.iter().all(|endpoint| endpoint["found"] != "awaited")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::is_ready;

    #[test]
    fn a_role_is_ready_once_it_is_registered_and_found_and_knows_its_upstream() {
        for (status, ready) in [
            (json!({"role": "admin"}), true),
            (json!({"admin": {"state": "connecting"}}), false),
            (json!({"admin": {"state": "registered"}}), true),
            (json!({"admin": {"state": "registered"}, "upstream": {"state": "finding"}}), false),
            (json!({"admin": {"state": "registered"}, "upstream": {"remote": "10.4.0.2:2268"}}), true),
            (json!({"role": "router", "admin": {"state": "registered"}}), false),
            (json!({"role": "router", "admin": {"state": "registered", "endpoints": []}}), true),
            (
                json!({"role": "router", "admin": {"state": "registered",
                       "endpoints": [{"found": "proved"}, {"found": "awaited"}]}}),
                false,
            ),
            (
                json!({"role": "router", "admin": {"state": "registered",
                       "endpoints": [{"found": "proved"}, {"found": "silent"}]}}),
                true,
            ),
            (json!({"role": "router", "admin": null}), true),
        ] {
            assert_eq!(is_ready(&status), ready, "{status}");
        }
    }
}

//! A lab: its directory, its lock, its namespaces.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use nix::{
    fcntl::Flock,
    mount::{MsFlags, mount},
};

use super::{
    Namespace, Offload, active, ip, offload,
    process::kill_inhabitants,
    sweep::{self, LABS_DIR, lock_file, sweep},
};
use crate::LabError;

/// Numbers the labs of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A lab under construction or in use. All it made goes with it.
#[derive(Debug)]
pub struct Lab {
    instance: Arc<Instance>,
    namespaces: Vec<Namespace>,
}

/// One end of a cable: a node and the name of the interface there.
pub type Plug<'a> = (&'a Namespace, &'a str);

/// What every namespace of a lab keeps alive: the directory, and the lock that says the lab lives.
#[derive(Debug)]
pub(super) struct Instance {
    id: String,
    dir: PathBuf,
    _lock: Flock<fs::File>,
}

impl Instance {
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn netns_name(&self, node: &str) -> String {
        format!("{}{}-{node}", sweep::NETNS_PREFIX, self.id)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // What cannot be removed now, the next sweep removes.
        let _ = sweep::remove_dir(&self.dir);
    }
}

impl Lab {
    /// Opens a lab, after sweeping away what killed labs left behind.
    ///
    /// # Errors
    /// Without root, or if the directory for labs cannot be used.
    pub fn new(name: &str) -> Result<Self, LabError> {
        sweep()?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let id = format!("{}.{number}", std::process::id());
        let dir = Path::new(LABS_DIR).join(&id);
        let what = || format!("making {}", dir.display());
        let _order = sweep::hold()?;
        fs::create_dir_all(&dir).map_err(LabError::io(what()))?;
        let lock =
            lock_file(&dir)?.ok_or_else(|| LabError::io(what())(std::io::ErrorKind::AlreadyExists.into()))?;
        fs::write(dir.join("name"), name).map_err(LabError::io(what()))?;
        Ok(Self { instance: Arc::new(Instance { id, dir, _lock: lock }), namespaces: Vec::new() })
    }

    /// The lab's own directory, for logs, sockets and configuration; removed with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.instance.dir()
    }

    /// A directory for the pins of kernel programs, in a file system of the lab's own: the host's is not
    /// touched. Without BPF in the kernel it is an ordinary directory, where nothing can be pinned.
    ///
    /// # Errors
    /// If the directory cannot be made.
    pub fn bpffs(&self) -> Result<PathBuf, LabError> {
        let dir = self.dir().join(sweep::BPFFS);
        if !dir.exists() {
            fs::create_dir(&dir).map_err(LabError::io(format!("making {}", dir.display())))?;
            // A kernel without it is one of the cases to show.
            let _ = mount(Some("bpf"), &dir, Some("bpf"), MsFlags::empty(), None::<&str>);
        }
        Ok(dir)
    }

    /// Makes a namespace for one node.
    ///
    /// # Errors
    /// If the system refuses, or the lab already has a node of this name.
    pub fn namespace(&mut self, node: &str) -> Result<Namespace, LabError> {
        let [namespace] = self.namespaces([node])?;
        Ok(namespace)
    }

    /// Makes the namespaces of several nodes at once, which is quicker.
    ///
    /// Each has `lo` up, reverse-path filters off, and IPv6 without router solicitations and duplicate
    /// address detection, so that the wires carry the lab's traffic alone.
    ///
    /// # Errors
    /// If the system refuses, or the lab already has a node of one of these names.
    pub fn namespaces<const N: usize>(&mut self, nodes: [&str; N]) -> Result<[Namespace; N], LabError> {
        let mut lines = String::new();
        for node in nodes {
            writeln!(lines, "netns add {}", self.instance.netns_name(node)).expect("writing to a string");
        }
        ip::batch(None, &lines)?;
        let mut made = Vec::with_capacity(N);
        for node in nodes {
            let namespace = Namespace::open(Arc::clone(&self.instance), node)?;
            namespace.sysctl(&[
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
            ])?;
            namespace.ip("link set lo up")?;
            self.namespaces.push(namespace.clone());
            made.push(namespace);
        }
        Ok(made.try_into().expect("one for each name"))
    }

    /// Lays a cable between two nodes and plugs it in, with offloads that let XDP and plain sockets share it. Once it
    /// is laid, what is sent by either end arrives at the other.
    ///
    /// # Errors
    /// If an interface of that name exists or the system refuses.
    pub fn veth(&self, a: Plug<'_>, b: Plug<'_>) -> Result<(), LabError> {
        self.veths(&[(a, b)])
    }

    /// Lays several cables at once, which is quicker.
    ///
    /// # Errors
    /// If an interface of that name exists or the system refuses.
    pub fn veths(&self, cables: &[(Plug<'_>, Plug<'_>)]) -> Result<(), LabError> {
        self.lay(cables, "")
    }

    /// The same with so many queues each way, of which each may be served by another core.
    ///
    /// # Errors
    /// As above.
    pub fn veths_of_queues(&self, cables: &[(Plug<'_>, Plug<'_>)], queues: usize) -> Result<(), LabError> {
        self.lay(cables, &format!("numtxqueues {queues} numrxqueues {queues} "))
    }

    fn lay(&self, cables: &[(Plug<'_>, Plug<'_>)], options: &str) -> Result<(), LabError> {
        let mut lines = String::new();
        for ((a, a_if), (b, b_if)) in cables {
            // Born inside the namespaces: the host never sees either end.
            writeln!(
                lines,
                "link add name {a_if} {options}netns {} type veth peer name {b_if} {options}netns {}",
                a.name(),
                b.name()
            )
            .expect("writing to a string");
        }
        ip::batch(None, &lines)?;
        let ends = || cables.iter().flat_map(|(a, b)| [a, b]);
        for (namespace, interface) in ends() {
            namespace.enter(|| {
                offload::set(interface, Offload::TxChecksum, false)?;
                offload::set(interface, Offload::Tso, false)?;
                offload::set(interface, Offload::Gro, true)
            })??;
        }
        // A veth learns that its peer takes redirected frames when it comes up, so both ends must
        // have been told by then.
        for (namespace, interface) in ends() {
            namespace.ip(&format!("link set {interface} up"))?;
        }
        let mut laid: BTreeMap<&str, (&Namespace, BTreeSet<&str>)> = BTreeMap::new();
        for (namespace, interface) in ends() {
            let (_, interfaces) = laid.entry(namespace.name()).or_insert((namespace, BTreeSet::new()));
            interfaces.insert(interface);
        }
        laid.values().try_for_each(|(namespace, interfaces)| active::wait(namespace, interfaces))
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let ids: Vec<_> = self.namespaces.iter().filter_map(|namespace| namespace.id().ok()).collect();
        kill_inhabitants(&ids);
    }
}

//! Network namespaces for tests: made with a test and gone with it.

use std::{
    fs::File,
    os::fd::{AsFd, AsRawFd},
    process::Command,
};

use nix::sched::{CloneFlags, setns, unshare};

/// Says loudly that a test is skipped, and whether it is, because it needs root.
pub(crate) fn skip_without_root(test: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: {test} needs root for network namespaces");
    }
    !root
}

/// A network namespace that nobody else uses, its loopback device up.
pub(crate) struct NetNs {
    file: File,
}

impl NetNs {
    pub(crate) fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
            File::open("/proc/thread-self/ns/net").expect("its file")
        });
        let namespace = Self { file: file.join().expect("the thread that makes it") };
        namespace.ip("link set lo up");
        namespace
    }

    /// Runs `work` on a thread inside; sockets that it opens belong to the present runtime, if any.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let runtime = tokio::runtime::Handle::try_current().ok();
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let _entered = runtime.as_ref().map(tokio::runtime::Handle::enter);
                setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET).expect("entering it");
                work()
            });
            match inside.join() {
                Ok(value) => value,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Runs a future on a runtime inside.
    pub(crate) fn block_on<T: Send>(&self, work: impl AsyncFnOnce() -> T + Send) -> T {
        self.run(|| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime")
                .block_on(work())
        })
    }

    /// Runs `ip` with these arguments inside.
    pub(crate) fn ip(&self, arguments: &str) {
        let status = self.run(|| Command::new("ip").args(arguments.split_whitespace()).status());
        assert!(status.expect("ip is installed").success(), "ip {arguments}");
    }

    /// Connects two namespaces by a veth pair, both ends up, each with its address and prefix.
    pub(crate) fn connect(
        &self,
        name: &str,
        address: &str,
        peer: &Self,
        peer_name: &str,
        peer_address: &str,
    ) {
        let at = format!("/proc/{}/fd/{}", std::process::id(), peer.file.as_raw_fd());
        self.ip(&format!("link add {name} type veth peer name {peer_name} netns {at}"));
        for (namespace, name, address) in [(self, name, address), (peer, peer_name, peer_address)] {
            namespace.ip(&format!("address add {address} dev {name}"));
            namespace.ip(&format!("link set {name} up"));
        }
    }
}

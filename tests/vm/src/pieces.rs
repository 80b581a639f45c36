//! What a virtual machine is made of: the emulator, kernels and their modules, put into the user's cache by
//! `cargo xtask test`.
//!
//! ```text
//! tools/            packages, unpacked: the emulator with its libraries, busybox, kmod
//! 6.1/  6.12/       vmlinuz, lib/modules/RELEASE/ with amt.ko among the modules
//! ```

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The kernels that tests run on.
pub(crate) const SERIES: [&str; 2] = ["6.1", "6.12"];

/// The directory of the pieces.
#[derive(Clone, Debug)]
pub(crate) struct Pieces {
    dir: PathBuf,
}

/// A kernel that a machine can boot.
#[derive(Clone, Debug)]
pub(crate) struct Kernel {
    pub(crate) pieces: Pieces,
    dir: PathBuf,
    release: String,
}

impl Pieces {
    /// Finds them where `VMCAST_VM_DIR` says, or in the user's cache.
    pub(crate) fn find() -> Result<Self, String> {
        if !nix::unistd::geteuid().is_root() {
            return Err("network namespaces need root".into());
        }
        let absolute = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let cache =
            || absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
        let dir = absolute("VMCAST_VM_DIR")
            .or_else(|| cache().map(|cache| cache.join("vmcast/vm")))
            .ok_or("neither VMCAST_VM_DIR nor HOME says where the machine's pieces are")?;
        let pieces = Self { dir };
        let emulator = pieces.emulator();
        if emulator.is_file() {
            return Ok(pieces);
        }
        Err(format!("{} is missing; `cargo xtask test` fetches it", emulator.display()))
    }

    /// A kernel of a series.
    pub(crate) fn kernel(&self, series: &str) -> Result<Kernel, String> {
        let dir = self.dir.join(series);
        let modules = dir.join("lib/modules");
        let release = fs::read_dir(&modules)
            .and_then(|mut entries| entries.next().ok_or(io::ErrorKind::NotFound)?)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .map_err(|_| format!("{} is missing; `cargo xtask test` fetches it", modules.display()))?;
        Ok(Kernel { pieces: self.clone(), dir, release })
    }

    /// The emulator's program.
    pub(crate) fn emulator(&self) -> PathBuf {
        self.tools().join("usr/bin/qemu-system-x86_64")
    }

    /// The unpacked packages.
    pub(crate) fn tools(&self) -> PathBuf {
        self.dir.join("tools")
    }

    /// The program that sets WireGuard devices up.
    pub(crate) fn wg(&self) -> PathBuf {
        self.tools().join("usr/bin/wg")
    }

    /// Where the unpacked programs find their libraries, as `LD_LIBRARY_PATH` has it.
    pub(crate) fn libraries(&self) -> String {
        let tools = self.tools();
        ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"]
            .map(|dir| tools.join(dir).display().to_string())
            .join(":")
    }
}

impl Kernel {
    /// What is booted.
    pub(crate) fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }

    /// The directory that has `lib/modules`.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The directory of its modules.
    pub(crate) fn modules(&self) -> PathBuf {
        self.dir.join("lib/modules").join(&self.release)
    }

    /// Whether programs at TC are links there, which go with their process: from Linux 6.6 on.
    pub(crate) fn has_links_at_tc(&self) -> bool {
        let mut numbers = self.release.split('.').map_while(|number| number.parse::<u32>().ok());
        (numbers.next(), numbers.next()) >= (Some(6), Some(6))
    }

    /// Whether it has the AMT driver, which Debian leaves out of its kernels.
    pub(crate) fn amt(&self) -> Result<(), String> {
        self.module("extra/amt.ko")
    }

    /// Whether it has PPP with all that this needs.
    pub(crate) fn ppp(&self) -> Result<(), String> {
        self.module("kernel/drivers/net/slip/slhc.ko")
    }

    /// Whether it has WireGuard, and there is the program that sets that up.
    pub(crate) fn wireguard(&self) -> Result<(), String> {
        let program = self.pieces.wg();
        if !program.is_file() {
            return Err(format!("{} is missing", program.display()));
        }
        self.module("kernel/drivers/net/wireguard/wireguard.ko")
    }

    fn module(&self, file: &str) -> Result<(), String> {
        let module = self.modules().join(file);
        if module.is_file() { Ok(()) } else { Err(format!("{} is missing", module.display())) }
    }
}

//! The toolchain for the kernel programs: a compiler with `core` for BPF, and a linker for BPF.
//!
//! Two ways lead there. Rustup's nightly compiles `core` from its sources. Debian has a compiler with `core`
//! for BPF already built; it is marked as one for browsers, but compiles everything. The linker has to
//! understand the compiler's LLVM, so it is built against the same LLVM, and kept in the user's cache where
//! other checkouts find it.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::packages;
use crate::{
    project::{cargo, find_program},
    step,
};

const LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_LLVM: u32 = 22;
const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "llvm-22-dev"];

/// A compiler that has `core` for BPF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compiler {
    /// Rustup's nightly, which builds `core`.
    Nightly,
    /// Debian's, which has it built.
    Debian,
}

/// A complete toolchain for the kernel programs.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    compiler: Compiler,
    linker: PathBuf,
}

impl Toolchain {
    pub(crate) fn description(&self) -> &'static str {
        match self.compiler {
            Compiler::Nightly => "by rustup's nightly, which compiles `core` from its sources",
            Compiler::Debian => "by Debian's rustc-web, which brings `core` for BPF",
        }
    }

    /// `cargo build` for BPF, without flags that are meant for the host.
    pub(crate) fn cargo_build(&self) -> Command {
        let mut command = match self.compiler {
            Compiler::Nightly => nightly("cargo"),
            Compiler::Debian => {
                let mut command = cargo();
                command.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                command
            }
        };
        let linker = format!("-Clinker={}", self.linker.display());
        let flags = [&linker, "-Clinker-plugin-lto", "-Cdebuginfo=2", "-Clink-arg=--btf"].join("\x1f");
        command.current_dir(crate::project::root());
        command.env("CARGO_ENCODED_RUSTFLAGS", flags).env_remove("RUSTFLAGS").env_remove("RUSTC_WRAPPER");
        command.args(["build", "--release", "--target", "bpfel-unknown-none"]);
        if self.compiler == Compiler::Nightly {
            command.args(["-Z", "build-std=core"]);
        }
        command
    }
}

/// Finds or makes a toolchain; the error says of each way why it is closed.
pub(super) fn set_up() -> Result<Toolchain> {
    let mut closed = Vec::new();
    for (compiler, way) in ways() {
        match way().and_then(|()| linker(compiler)) {
            Ok(linker) => return Ok(Toolchain { compiler, linker }),
            Err(error) => closed.push(format!("  {compiler:?}: {error:#}")),
        }
    }
    Err(anyhow!("{}", closed.join("\n")))
}

type Way = fn() -> Result<()>;

/// The ways in the order in which they are tried: what is there comes before what has to be fetched.
fn ways() -> [(Compiler, Way); 2] {
    let nightly: (_, Way) = (Compiler::Nightly, install_nightly);
    let debian: (_, Way) = (Compiler::Debian, install_debian);
    if nightly_has_sources() { [nightly, debian] } else { [debian, nightly] }
}

fn install_debian() -> Result<()> {
    let has_core = || holds("/usr/lib/rustlib/bpfel-unknown-none/lib", "libcore-");
    let has_llvm = || Path::new("/usr/lib/llvm-22/bin/llvm-config").exists();
    if Path::new(DEBIAN_RUSTC).exists() && has_core() && has_llvm() {
        return Ok(());
    }
    packages::can_install().map_err(|why| anyhow!(why))?;
    if !packages::are_known(&DEBIAN_PACKAGES) {
        bail!("this release of Debian has no packages {}", DEBIAN_PACKAGES.join(", "));
    }
    eprintln!("Missing: a compiler that has `core` for BPF, to build the kernel programs.");
    eprintln!("Rustup's nightly has no rust-src here, so Debian's compiler is taken.");
    packages::install(&DEBIAN_PACKAGES)?;
    if has_core() { Ok(()) } else { bail!("the packages brought no `core` for BPF") }
}

fn install_nightly() -> Result<()> {
    if nightly_has_sources() {
        return Ok(());
    }
    if find_program("rustup").is_none() {
        bail!("rustup is not installed, so there is no nightly with rust-src");
    }
    eprintln!("Missing: rustup's nightly with rust-src, to build the kernel programs.");
    let mut command = Command::new("rustup");
    command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
    step::quiet("installing rustup's nightly with rust-src", "rustup-nightly", command)
}

fn nightly(program: &str) -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", program]);
    for name in ["CARGO", "RUSTC", "RUSTDOC", "RUSTUP_TOOLCHAIN"] {
        command.env_remove(name);
    }
    command
}

fn nightly_has_sources() -> bool {
    if find_program("rustup").is_none() {
        return false;
    }
    let output = nightly("rustc").args(["--print", "sysroot"]).stderr(Stdio::null()).output();
    output.is_ok_and(|output| {
        let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success() && Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").is_dir()
    })
}

/// Whether a directory has a file whose name begins so.
fn holds(dir: &str, prefix: &str) -> bool {
    fs::read_dir(dir).is_ok_and(|entries| {
        entries.flatten().any(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
    })
}

/// The linker for a compiler, built if it is not there.
fn linker(compiler: Compiler) -> Result<PathBuf> {
    let llvm = match compiler {
        Compiler::Debian => DEBIAN_LLVM,
        Compiler::Nightly => nightly_llvm()?,
    };
    let root = cache_dir()?.join("tools").join(format!("bpf-linker-{LINKER_VERSION}-llvm-{llvm}"));
    let linker = root.join("bin/bpf-linker");
    if works(&linker) {
        return Ok(linker);
    }
    // One that the user installed is taken with the nightly it was installed for.
    if compiler == Compiler::Nightly
        && let Some(linker) = find_program("bpf-linker")
    {
        return Ok(linker);
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() {
        let package = format!("llvm-{llvm}-dev");
        packages::install(&[&package]).with_context(|| {
            format!("the linker needs LLVM {llvm} ({package}), or a `bpf-linker` of your own in PATH")
        })?;
    }
    eprintln!(
        "Missing: bpf-linker, to link the kernel programs. It is built once and kept in {}.",
        root.display()
    );
    let mut command = cargo();
    command
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", prefix)
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        // Not in the workspace, whose own settings are not meant for it.
        .current_dir("/");
    step::quiet(&format!("building bpf-linker {LINKER_VERSION} against LLVM {llvm}"), "bpf-linker", command)?;
    if works(&linker) { Ok(linker) } else { bail!("{} does not run", linker.display()) }
}

fn works(linker: &Path) -> bool {
    let run = |path: &Path| {
        Command::new(path).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status()
    };
    linker.is_file() && run(linker).is_ok_and(|status| status.success())
}

/// The LLVM that rustup's nightly has inside.
fn nightly_llvm() -> Result<u32> {
    let output = nightly("rustc").arg("-vV").output().context("asking rustup's nightly for its version")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: ")).unwrap_or_default();
    let major = version.split('.').next().unwrap_or_default();
    major.parse().with_context(|| format!("rustup's nightly does not say which LLVM it has: {text}"))
}

/// Where the user's programs keep what can be made again.
pub(super) fn cache_dir() -> Result<PathBuf> {
    let of = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = of("XDG_CACHE_HOME").or_else(|| Some(of("HOME")?.join(".cache")));
    Ok(cache.context("neither XDG_CACHE_HOME nor HOME says where to keep tools")?.join("vmcast"))
}

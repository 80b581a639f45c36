//! Programs from the distribution's packages.

use std::{fs, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{
    project::{find_program, is_root},
    step,
};

/// A program that is needed, the Debian package that brings it, and why.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
    /// Whether nothing goes without it; else only tests that need it are skipped.
    essential: bool,
}

impl Need {
    const fn all(program: &'static str, package: &'static str, why: &'static str) -> Self {
        Self { program, package, why, essential: true }
    }

    const fn some(program: &'static str, package: &'static str, why: &'static str) -> Self {
        Self { program, package, why, essential: false }
    }
}

const NEEDS: [Need; 11] = [
    Need::all("cc", "gcc libc6-dev", "to link programs, and to compile SQLite into the admin"),
    Need::all("ip", "iproute2", "to build the networks of labs"),
    Need::all("ffmpeg", "ffmpeg", "as the source of a real stream in labs"),
    Need::all("nft", "nftables", "to see in tests what the host gets behind TC"),
    Need::some("tshark", "tshark", "to decode in tests what is sent"),
    Need::some("igmpproxy", "igmpproxy", "to compare with it in tests"),
    Need::some("nsd", "nsd", "as the name server of tests"),
    Need::some("etcd", "etcd-server etcd-client", "to test admins that share a registry"),
    // A library, and no program in it.
    Need::some(
        "/usr/lib/python3/dist-packages/grpc/__init__.py",
        "python3-grpcio",
        "to ask the admin in tests by gRPC's own library",
    ),
    Need::some("cvlc", "vlc-bin vlc-plugin-base", "to join in tests as viewers do"),
    Need::some(
        "gst-launch-1.0",
        "gstreamer1.0-tools gstreamer1.0-plugins-good",
        "to join in tests as applications do",
    ),
];

/// Installs what is missing where that is possible; returns the programs that are still missing and that nothing goes
/// without.
pub(super) fn install_missing() -> Result<Vec<&'static str>> {
    let missing: Vec<_> = NEEDS.iter().filter(|need| find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for Need { program, package, why, .. } in &missing {
        eprintln!("Missing: `{program}` (package {package}), {why}.");
    }
    let packages = |essential: bool| -> Vec<&str> {
        let asked_for = missing.iter().filter(|need| need.essential == essential);
        asked_for.flat_map(|need| need.package.split(' ')).collect()
    };
    match can_install() {
        Ok(()) => {
            let (first, others) = (packages(true), packages(false));
            if !first.is_empty() {
                install(&first)?;
            }
            if !others.is_empty()
                && let Err(error) = install(&others)
            {
                eprintln!("Tests that need them are skipped: {error:#}");
            }
        }
        Err(why) => eprintln!("It cannot be installed here: {why}"),
    }
    let left = missing.into_iter().filter(|need| need.essential && find_program(need.program).is_none());
    Ok(left.map(|need| need.program).collect())
}

/// Whether packages can be installed, or why not and what to do.
pub(super) fn can_install() -> Result<(), String> {
    Installer::look().check()
}

/// What decides whether packages can be installed.
#[derive(Clone, Debug)]
struct Installer {
    apt_get: bool,
    root: bool,
    /// As in `/etc/os-release` (os-release(5)).
    os_release: String,
}

impl Installer {
    fn look() -> Self {
        let os_release = ["/etc/os-release", "/usr/lib/os-release"].into_iter();
        Self {
            apt_get: find_program("apt-get").is_some(),
            root: is_root(),
            os_release: os_release.flat_map(fs::read_to_string).next().unwrap_or_default(),
        }
    }

    /// The value of a variable of the description, without quotes.
    fn value(&self, key: &str) -> Option<&str> {
        let mut lines = self.os_release.lines();
        lines.find_map(|line| {
            Some(line.strip_prefix(key)?.strip_prefix('=')?.trim().trim_matches(['"', '\'']))
        })
    }

    /// Whether packages have Debian's names.
    fn is_debian(&self) -> bool {
        let names = ["ID", "ID_LIKE"].into_iter().filter_map(|key| self.value(key));
        names.flat_map(str::split_whitespace).any(|name| name == "debian" || name == "ubuntu")
    }

    fn check(&self) -> Result<(), String> {
        let programs: Vec<_> = NEEDS.iter().map(|need| need.program).collect();
        let programs = programs.join(", ");
        if !self.is_debian() {
            let name = self.value("PRETTY_NAME").or_else(|| self.value("ID"));
            return Err(format!(
                "{} is neither Debian nor made from it, so its packages are not known. \
                 Install the programs {programs} by its own means and try again.",
                name.unwrap_or("this system")
            ));
        }
        if !self.apt_get {
            return Err(format!(
                "this distribution has no apt-get. \
                 Install the programs {programs} by its own means and try again."
            ));
        }
        if !self.root {
            return Err("installing packages needs root. Run the same command as root once.".to_owned());
        }
        Ok(())
    }
}

/// Whether the package lists know all of these packages.
pub(super) fn are_known(packages: &[&str]) -> bool {
    let known = || {
        packages.iter().all(|package| {
            let output = Command::new("apt-cache").args(["policy", package]).output();
            output.is_ok_and(|output| {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines()
                    .any(|line| line.trim_start().starts_with("Candidate:") && !line.contains("(none)"))
            })
        })
    };
    if known() {
        return true;
    }
    update().is_ok() && known()
}

/// Installs packages, with newer package lists if those at hand do not do.
pub(super) fn install(packages: &[&str]) -> Result<()> {
    if let Err(why) = can_install() {
        bail!("{why}");
    }
    if !has_lists() {
        update()?;
    }
    let install = || {
        let mut command = apt_get();
        // The archives are of no use afterwards.
        command.args(["-o", "APT::Keep-Downloaded-Packages=false"]);
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        step::quiet(&format!("installing the packages {}", packages.join(" ")), "apt-install", command)
    };
    install().or_else(|_| {
        update()?;
        install()
    })
}

/// The packages that would be installed along with these, for programs that the host lacks.
pub(super) fn would_install(packages: &[&str]) -> Result<Vec<String>> {
    let mut command = apt_get();
    command.args(["install", "--simulate", "--no-install-recommends"]).args(packages);
    let text = said(command)?;
    let installed = |line: &str| Some(line.strip_prefix("Inst ")?.split(' ').next()?.to_owned());
    Ok(text.lines().filter_map(installed).collect())
}

/// The names of known packages that begin so.
pub(super) fn names(prefix: &str) -> Result<Vec<String>> {
    let names = || {
        let mut command = Command::new("apt-cache");
        command.args(["pkgnames", prefix]);
        said(command)
    };
    let mut text = names()?;
    if text.is_empty() {
        update()?;
        text = names()?;
    }
    Ok(text.lines().map(str::to_owned).collect())
}

/// The packages that a package cannot do without.
pub(super) fn dependencies(package: &str) -> Result<Vec<String>> {
    let mut command = Command::new("apt-cache");
    command.args(["depends", "--important", package]);
    let text = said(command)?;
    Ok(text.lines().filter_map(|line| line.trim().strip_prefix("Depends: ")).map(str::to_owned).collect())
}

/// Downloads packages into a directory without installing them; says what and how much.
pub(super) fn download(what: &str, packages: &[String], dir: &Path) -> Result<()> {
    let command = || {
        let mut command = apt_get();
        // The directory is the user's own.
        command.current_dir(dir).args(["-o", "APT::Sandbox::User=root", "download"]);
        command
    };
    let run = || {
        let mut uris = command();
        uris.arg("--print-uris").args(packages);
        let bytes: u64 = said(uris)?.lines().filter_map(size_of_uri).sum();
        let title = format!("downloading {} MB of {}", bytes.div_ceil(1_000_000), packages.join(" "));
        let mut download = command();
        download.args(packages);
        step::quiet(&title, "apt-download", download)
    };
    eprintln!("Missing: {what}.");
    run().or_else(|_| {
        update()?;
        run()
    })
}

/// The size in a line like `'http://host/path' name size hash`.
fn size_of_uri(line: &str) -> Option<u64> {
    line.strip_prefix('\'')?.split(' ').nth(2)?.parse().ok()
}

/// What a command says, if it succeeds.
fn said(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn has_lists() -> bool {
    let mut lists = fs::read_dir("/var/lib/apt/lists").into_iter().flatten().flatten();
    lists.any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn update() -> Result<()> {
    let mut command = apt_get();
    command.arg("update");
    step::quiet("updating the package lists", "apt-update", command)
}

fn apt_get() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn debian() -> Installer {
        let os_release = "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        Installer { apt_get: true, root: true, os_release: os_release.to_owned() }
    }

    fn on(os_release: &str) -> Installer {
        Installer { os_release: os_release.to_owned(), ..debian() }
    }

    #[test]
    fn the_size_of_a_download_is_read_from_its_line() {
        let line = "'http://host/pool/k/kmod/kmod_30_amd64.deb' kmod_30_amd64.deb 95084 SHA256:00ff";
        assert_eq!(size_of_uri(line), Some(95_084));
        assert_eq!(size_of_uri("Reading package lists..."), None);
    }

    #[test]
    fn debian_and_what_is_made_from_it_can_install() {
        assert_eq!(debian().check(), Ok(()));
        assert_eq!(on("ID=ubuntu\nID_LIKE=debian\n").check(), Ok(()));
        assert_eq!(on("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n").check(), Ok(()));
    }

    #[test]
    fn another_distribution_is_named_and_told_what_to_install() {
        let why = on("NAME=Fedora\nID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\n").check().unwrap_err();
        assert!(why.starts_with("Fedora Linux 42 is neither Debian"), "{why}");
        assert!(why.contains("Install the programs cc, ip, ffmpeg"), "{why}");
        let why = on("").check().unwrap_err();
        assert!(why.starts_with("this system is neither Debian"), "{why}");
    }

    #[test]
    fn without_apt_get_or_root_the_reason_says_what_to_do() {
        let why = Installer { apt_get: false, ..debian() }.check().unwrap_err();
        assert!(why.contains("no apt-get") && why.contains("cc, ip, ffmpeg"), "{why}");
        let why = Installer { root: false, ..debian() }.check().unwrap_err();
        assert!(why.contains("as root"), "{why}");
    }
}

//! One kernel: its image and the modules that networks need, decompressed and indexed.

use std::{
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, anyhow, bail};

use super::{amt, file_name, unpack};
use crate::{setup::packages, step};

/// The modules that are kept; those of devices that no machine has are most of a package.
pub(super) const KEPT: [&str; 15] = [
    "arch",
    "crypto",
    "lib",
    "net",
    "drivers/virtio",
    "drivers/net/bonding",
    "drivers/net/ppp",
    "drivers/net/slip",
    "drivers/net/team",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "fs/9p",
    "fs/fscache",
    "fs/netfs",
    "fs/overlayfs",
];

/// Makes the directory of the newest kernel of a series.
pub(super) fn fetch(series: &str, tools: &Path, dir: &Path) -> Result<()> {
    packages::can_install().map_err(|why| anyhow!(why))?;
    let release = newest(series)?;
    let unpacked = dir.join("unpacked");
    fs::create_dir(&unpacked).with_context(|| format!("making {}", unpacked.display()))?;
    unpack(&format!("Linux {release} for virtual machines"), &[format!("linux-image-{release}")], &unpacked)?;
    fs::rename(unpacked.join(format!("boot/vmlinuz-{release}")), dir.join("vmlinuz"))
        .context("the package has no kernel")?;
    let modules = dir.join("lib/modules").join(&release);
    keep_modules(&unpacked.join("lib/modules").join(&release), &modules)?;
    fs::remove_dir_all(&unpacked).with_context(|| format!("removing {}", unpacked.display()))?;
    // What the kernel offers without it is worth testing, too.
    if let Err(error) = amt::build(series, &release, dir, &modules.join("extra")) {
        eprintln!("No AMT driver for Linux {release}: {error:#}");
    }
    decompress(&modules)?;
    index(tools, dir, &release)
}

/// The newest release of a series of which the kernel and its headers can be had; flavours for clouds and
/// for real time lack modules.
fn newest(series: &str) -> Result<String> {
    let image = format!("linux-image-{series}.");
    let mut releases: Vec<String> = packages::names(&image)?
        .into_iter()
        .filter_map(|name| name.strip_prefix("linux-image-").map(str::to_owned))
        .filter(|release| is_plain(release))
        .collect();
    releases.sort_by_key(|release| numbers(release));
    let known = |release: &String| {
        packages::are_known(&[&format!("linux-image-{release}"), &format!("linux-headers-{release}")])
    };
    let newest = releases.into_iter().rev().find(known);
    newest.with_context(|| format!("no package {image}*-amd64 with its headers can be had"))
}

fn is_plain(release: &str) -> bool {
    release.ends_with("-amd64") && !["-cloud-", "-rt-"].iter().any(|flavour| release.contains(flavour))
}

/// The numbers in a release, to compare: 6.12.9 is older than 6.12.10.
fn numbers(release: &str) -> Vec<u32> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

fn keep_modules(from: &Path, to: &Path) -> Result<()> {
    let from = from.join("kernel");
    for kept in KEPT.iter().filter(|kept| from.join(kept).is_dir()) {
        relocate(&from.join(kept), &to.join("kernel").join(kept))?;
    }
    // The drivers of devices without hardware.
    for module in modules_in(&from.join("drivers/net"), false)? {
        relocate(&module, &to.join("kernel/drivers/net").join(file_name(&module)))?;
    }
    for list in ["modules.builtin", "modules.builtin.modinfo", "modules.order"] {
        relocate(&from.with_file_name(list), &to.join(list))?;
    }
    Ok(())
}

fn relocate(from: &Path, to: &Path) -> Result<()> {
    let what = || format!("moving {} to {}", from.display(), to.display());
    fs::create_dir_all(to.parent().with_context(what)?).with_context(what)?;
    fs::rename(from, to).with_context(what)
}

/// The modules in a directory, and in those within it if they are wanted, too.
fn modules_in(dir: &Path, deep: bool) -> Result<Vec<PathBuf>> {
    let mut modules = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("reading {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            if deep {
                modules.extend(modules_in(&path, deep)?);
            }
        } else if file_name(&path).contains(".ko") {
            modules.push(path);
        }
    }
    Ok(modules)
}

/// The machine's first modules are loaded by a program that cannot decompress.
fn decompress(modules: &Path) -> Result<()> {
    let mut compressed = modules_in(modules, true)?;
    compressed.retain(|path| path.extension().is_some_and(|extension| extension == "xz"));
    if compressed.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("xz");
    command.arg("--decompress").arg("--").args(compressed);
    step::quiet("decompressing modules", "vm-modules", command)
}

fn index(tools: &Path, dir: &Path, release: &str) -> Result<()> {
    let kmod = tools.join("bin/kmod");
    if !kmod.is_file() {
        bail!("{} is missing", kmod.display());
    }
    let libraries = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|dir| tools.join(dir));
    let mut command = Command::new(kmod);
    command
        // It is the program that it is called by.
        .arg0("depmod")
        .env("LD_LIBRARY_PATH", std::env::join_paths(libraries)?)
        .arg("-b")
        .arg(dir)
        .arg(release);
    step::quiet(&format!("indexing the modules of Linux {release}"), "vm-depmod", command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_ordered_by_their_numbers() {
        let mut releases =
            ["6.12.9+deb12-amd64", "6.12.107+deb12-amd64", "6.12.57+deb12-amd64", "6.12.107+deb13-amd64"];
        releases.sort_by_key(|release| numbers(release));
        let sorted =
            ["6.12.9+deb12-amd64", "6.12.57+deb12-amd64", "6.12.107+deb12-amd64", "6.12.107+deb13-amd64"];
        assert_eq!(releases, sorted);
    }

    #[test]
    fn only_the_plain_flavour_is_taken() {
        assert!(is_plain("6.1.0-56-amd64"));
        for other in ["6.1.0-56-cloud-amd64", "6.1.0-56-rt-amd64", "6.1.0-56-amd64-unsigned"] {
            assert!(!is_plain(other), "{other}");
        }
    }
}

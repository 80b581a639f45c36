//! Programs from the distribution's packages.

use std::{fs, process::Command};

use anyhow::{Result, bail};

use crate::{
    project::{find_program, is_root},
    step,
};

/// A program that is needed, the Debian package that brings it, and why.
struct Need {
    program: &'static str,
    package: &'static str,
    why: &'static str,
}

const NEEDS: [Need; 3] = [
    Need {
        program: "cc",
        package: "gcc libc6-dev",
        why: "to link programs, and to compile SQLite into the admin",
    },
    Need { program: "ip", package: "iproute2", why: "to build the networks of labs" },
    Need { program: "ffmpeg", package: "ffmpeg", why: "as the source of a real stream in labs" },
];

/// Installs what is missing where that is possible; returns the programs that are still missing.
pub(super) fn install_missing() -> Result<Vec<&'static str>> {
    let missing: Vec<_> = NEEDS.iter().filter(|need| find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    for Need { program, package, why } in &missing {
        eprintln!("Missing: `{program}` (package {package}), {why}.");
    }
    let packages: Vec<_> = missing.iter().flat_map(|need| need.package.split(' ')).collect();
    match can_install() {
        Ok(()) => install(&packages)?,
        Err(why) => eprintln!("It cannot be installed here: {why}"),
    }
    let names = missing.into_iter().map(|need| need.program);
    Ok(names.filter(|program| find_program(program).is_none()).collect())
}

/// Whether packages can be installed, or why not and what to do.
pub(super) fn can_install() -> Result<(), String> {
    if find_program("apt-get").is_none() {
        let programs: Vec<_> = NEEDS.iter().map(|need| need.program).collect();
        return Err(format!(
            "this distribution has no apt-get. Install the programs {} by its own means and try again.",
            programs.join(", ")
        ));
    }
    if !is_root() {
        return Err("installing packages needs root. Run the same command as root once.".to_owned());
    }
    Ok(())
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
        command.args(["install", "-y", "--no-install-recommends"]).args(packages);
        step::quiet(&format!("installing the packages {}", packages.join(" ")), "apt-install", command)
    };
    install().or_else(|_| {
        update()?;
        install()
    })
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

//! The kernel's AMT driver, which Debian leaves out of its kernels: compiled from Debian's sources.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

use super::{archives_in, unpack};
use crate::{project::find_program, setup::packages, step};

/// Where the driver is in the sources.
const DRIVER: &str = "drivers/net/amt.c";

/// Compiles the driver for a release and puts it into the directory of modules.
pub(super) fn build(series: &str, release: &str, dir: &Path, modules: &Path) -> Result<()> {
    let work = dir.join("amt");
    fs::create_dir(&work).with_context(|| format!("making {}", work.display()))?;
    let built = compile(series, release, &work, modules);
    fs::remove_dir_all(&work).with_context(|| format!("removing {}", work.display()))?;
    built
}

fn compile(series: &str, release: &str, work: &Path, modules: &Path) -> Result<()> {
    let headers = format!("linux-headers-{release}");
    let needs = packages::dependencies(&headers)?;
    let of_kernel = |name: &&String| name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-");
    let mut names = vec![headers.clone()];
    names.extend(needs.iter().filter(of_kernel).cloned());
    unpack(&format!("the headers of Linux {release}"), &names, work)?;
    let headers = work.join("usr/src").join(headers);
    make_relocatable(&headers, work)?;
    install_compiler(&headers)?;

    let driver = work.join("driver");
    fs::create_dir(&driver)?;
    fetch_source(series, &driver)?;
    fs::write(driver.join("Makefile"), "obj-m := amt.o\n")?;
    let mut command = Command::new("make");
    command
        .arg("-C")
        .arg(&headers)
        .arg(format!("M={}", driver.display()))
        // Types for BPF would need pahole, and nobody asks for them.
        .args(["CONFIG_DEBUG_INFO_BTF_MODULES=", "modules"])
        .env_remove("MAKEFLAGS");
    step::quiet(&format!("compiling the AMT driver for Linux {release}"), "vm-amt", command)?;
    fs::create_dir_all(modules)?;
    fs::rename(driver.join("amt.ko"), modules.join("amt.ko")).context("the compiler left no driver")
}

/// The headers name their common part by the place where packages are installed.
fn make_relocatable(headers: &Path, root: &Path) -> Result<()> {
    let makefile = headers.join("Makefile");
    let text = fs::read_to_string(&makefile).with_context(|| format!("reading {}", makefile.display()))?;
    let text = text.replace("include /usr/src/", &format!("include {}/usr/src/", root.display()));
    fs::write(&makefile, text).with_context(|| format!("writing {}", makefile.display()))
}

/// Installs the compiler that the kernel was built with, if it is not there.
fn install_compiler(headers: &Path) -> Result<()> {
    let variables = fs::read_to_string(headers.join(".kernelvariables")).unwrap_or_default();
    let compiler = variables.lines().find_map(compiler_of).unwrap_or("gcc").to_owned();
    let missing: Vec<&str> =
        ["make", &compiler].into_iter().filter(|program| find_program(program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Missing: {}, to compile the kernel's AMT driver.", missing.join(", "));
    packages::install(&missing)
}

/// The compiler in a line like `CC = $(…) $(CROSS_COMPILE)gcc-12`; its package has the same name.
fn compiler_of(line: &str) -> Option<&str> {
    let value = line.strip_prefix("CC")?.trim_start().strip_prefix('=')?;
    value.rsplit([' ', ')']).next().filter(|name| name.starts_with("gcc"))
}

/// The driver's source out of the package of all sources.
fn fetch_source(series: &str, to: &Path) -> Result<()> {
    let package = format!("linux-source-{series}");
    let archives = to.join("archives");
    fs::create_dir(&archives)?;
    packages::download(
        &format!("{DRIVER} of Linux {series}, within all of its sources"),
        std::slice::from_ref(&package),
        &archives,
    )?;
    let archive: PathBuf = archives_in(&archives)?.pop().context("no package of sources came")?;
    let mut package_files = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(archive)
        .stdout(Stdio::piped())
        // It complains of the broken pipe in which it ends.
        .stderr(Stdio::null())
        .spawn()?;
    let mut tree = Command::new("tar")
        .args(["--extract", "--to-stdout"])
        .arg(format!("./usr/src/{package}.tar.xz"))
        .stdin(package_files.stdout.take().context("piped above")?)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    // Ends at the first file of this name, before the rest of the sources.
    let driver = Command::new("tar")
        .args(["--extract", "--xz", "--to-stdout", "--occurrence=1"])
        .arg(format!("{package}/{DRIVER}"))
        .stdin(tree.stdout.take().context("piped above")?)
        .output()?;
    tree.wait()?;
    package_files.wait()?;
    if !driver.status.success() || driver.stdout.is_empty() {
        bail!("{package} has no {DRIVER}: {}", String::from_utf8_lossy(&driver.stderr).trim());
    }
    fs::write(to.join("amt.c"), driver.stdout)?;
    fs::remove_dir_all(&archives).with_context(|| format!("removing {}", archives.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_read_from_the_variables_of_the_headers() {
        let line = "CC = $(if $(DEBIAN_KERNEL_USE_CCACHE),$(CCACHE)) $(CROSS_COMPILE)gcc-12";
        assert_eq!(compiler_of(line), Some("gcc-12"));
        assert_eq!(compiler_of("CCACHE = ccache"), None);
        assert_eq!(compiler_of("override ARCH = x86"), None);
    }
}

//! What this host allows: labs, BPF.

use std::{fs, path::Path};

use crate::project::is_root;

/// Says what follows if the kernel or the container has no BPF.
pub(super) fn warn_about_bpf() {
    if let Some(why) = no_bpf_reason() {
        eprintln!(
            "No kernel programs can run here: {why}. vmcast forwards in software instead, and says so."
        );
    }
}

fn no_bpf_reason() -> Option<&'static str> {
    // The file exists exactly if the kernel has the system call.
    if !Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists() {
        return Some("the kernel is built without the bpf system call");
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    (!filesystems.lines().any(|line| line.trim_end().ends_with("\tbpf")))
        .then_some("the kernel has no bpf file system")
}

/// Why labs cannot run here, if they cannot.
pub(super) fn no_lab_reason(missing: &[&str]) -> Option<String> {
    if !is_root() {
        return Some("not root: network namespaces need it".to_owned());
    }
    if !Path::new("/proc/self/ns/net").exists() {
        return Some("this kernel has no network namespaces".to_owned());
    }
    (!missing.is_empty()).then(|| format!("without {}", missing.join(", ")))
}

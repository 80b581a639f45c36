//! What this host allows: labs, BPF.

use std::{fs, path::Path};

use crate::project::is_root;

/// What is known of this host.
#[derive(Clone, Debug)]
struct Host {
    root: bool,
    namespaces: bool,
    /// Whether the kernel has the system call.
    bpf: bool,
    /// As in `/proc/filesystems`.
    filesystems: String,
}

impl Host {
    fn look() -> Self {
        Self {
            root: is_root(),
            namespaces: Path::new("/proc/self/ns/net").exists(),
            // The file exists exactly if the kernel has the system call.
            bpf: Path::new("/proc/sys/kernel/unprivileged_bpf_disabled").exists(),
            filesystems: fs::read_to_string("/proc/filesystems").unwrap_or_default(),
        }
    }

    fn no_bpf_reason(&self) -> Option<&'static str> {
        if !self.bpf {
            return Some("the kernel is built without the bpf system call");
        }
        (!self.filesystems.lines().any(|line| line.trim_end().ends_with("\tbpf")))
            .then_some("the kernel has no bpf file system")
    }

    fn bpf_warning(&self) -> Option<String> {
        let why = self.no_bpf_reason()?;
        Some(format!(
            "No kernel programs can run here: {why}. vmcast forwards in software instead, and says so."
        ))
    }

    fn no_lab_reason(&self, missing: &[&str]) -> Option<String> {
        if !self.root {
            return Some("not root: network namespaces need it".to_owned());
        }
        if !self.namespaces {
            return Some("this kernel has no network namespaces".to_owned());
        }
        (!missing.is_empty()).then(|| format!("without {}", missing.join(", ")))
    }
}

/// Says what follows if the kernel or the container has no BPF.
pub(super) fn warn_about_bpf() {
    if let Some(warning) = Host::look().bpf_warning() {
        eprintln!("{warning}");
    }
}

/// Why labs cannot run here, if they cannot.
pub(super) fn no_lab_reason(missing: &[&str]) -> Option<String> {
    Host::look().no_lab_reason(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complete() -> Host {
        let filesystems = "nodev\tsysfs\nnodev\tbpf\n\text4\n".to_owned();
        Host { root: true, namespaces: true, bpf: true, filesystems }
    }

    #[test]
    fn a_complete_host_has_no_reason_against_anything() {
        assert_eq!((complete().bpf_warning(), complete().no_lab_reason(&[])), (None, None));
    }

    #[test]
    fn without_bpf_the_warning_says_why_and_what_happens_instead() {
        let no_call = Host { bpf: false, ..complete() }.bpf_warning().unwrap();
        assert!(no_call.contains("without the bpf system call"), "{no_call}");
        let no_filesystem = Host { filesystems: "nodev\tsysfs\n".to_owned(), ..complete() };
        let no_filesystem = no_filesystem.bpf_warning().unwrap();
        assert!(no_filesystem.contains("no bpf file system"), "{no_filesystem}");
        for warning in [no_call, no_filesystem] {
            assert!(warning.contains("in software instead"), "{warning}");
        }
    }

    #[test]
    fn without_root_namespaces_or_programs_labs_say_what_they_lack() {
        for (host, missing, reason) in [
            (Host { root: false, ..complete() }, &[][..], "not root: network namespaces need it"),
            (Host { namespaces: false, ..complete() }, &[], "this kernel has no network namespaces"),
            (complete(), &["ip", "ffmpeg"], "without ip, ffmpeg"),
        ] {
            assert_eq!(host.no_lab_reason(missing).as_deref(), Some(reason));
        }
    }
}

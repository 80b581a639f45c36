//! Files that one process sees in place of the host's.

use std::{
    ffi::CString,
    io,
    os::unix::{ffi::OsStrExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
};

/// Places of the host, each with the file that is seen there instead.
pub(crate) type Instead = Vec<(PathBuf, PathBuf)>;

/// Lets a command see other files than its host has, in mounts of its own. What is written into such a file
/// later, it sees as well.
///
/// # Errors
/// If a path contains a zero byte.
pub(crate) fn see_instead(command: &mut Command, instead: &Instead) -> io::Result<()> {
    if instead.is_empty() {
        return Ok(());
    }
    let text = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let mounts = instead.iter().map(|(place, file)| Ok((text(place)?, text(file)?)));
    let mounts = mounts.collect::<io::Result<Vec<_>>>()?;
    // SAFETY: between fork and exec only system calls are made, which are async-signal-safe; the texts are
    // owned by the closure.
    unsafe {
        command.pre_exec(move || {
            unshare(CloneFlags::CLONE_NEWNS)?;
            // What the lab unmounts goes here too; nothing goes back.
            let nothing = None::<&CString>.map(CString::as_c_str);
            mount(nothing, c"/", nothing, MsFlags::MS_REC | MsFlags::MS_SLAVE, nothing)?;
            for (place, file) in &mounts {
                mount(Some(file.as_c_str()), place.as_c_str(), nothing, MsFlags::MS_BIND, nothing)?;
            }
            Ok(())
        });
    }
    Ok(())
}

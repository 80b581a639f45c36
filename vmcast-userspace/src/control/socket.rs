//! The socket file: made so that only its owner may use it, and removed at the end.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::{
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt},
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process,
};

use tracing::{info, warn};

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another daemon answers there.
    #[error(
        "another daemon answers at {path}: end it first, or give this one a socket of its own ([control] socket)"
    )]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is there and is no socket; it is left alone")]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The kernel refused.
    #[error("cannot {what} {path}: {source}")]
    Kernel {
        /// The file or directory.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A socket file of ours; dropping it removes it.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device_and_inode: (u64, u64),
}

impl SocketFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A daemon that came after us may have put its own socket there.
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == self.device_and_inode);
        if ours && let Err(error) = fs::remove_file(&self.path) {
            warn!(path = %self.path.display(), %error, "control socket: cannot remove it");
        }
    }
}

/// Makes the socket file, with its directory if that is absent.
pub(super) fn bind(path: &Path) -> Result<(SocketFile, UnixListener), BindError> {
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| BindError::Kernel { path, what, source }
    };
    if let Some(dir) = path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(dir)
            .map_err(failed("make the directory", dir))?;
    }
    make_way(path)?;

    // Made under another name, closed to others, and only then put in its place: nobody connects
    // while the permissions are those of the umask, and a stale file is replaced at once.
    let new = temporary(path);
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("remove", &new)(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&new).map_err(failed("listen at", &new))?;
    let settled = || {
        fs::set_permissions(&new, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        fs::rename(&new, path)?;
        fs::symlink_metadata(path)
    };
    let metadata = settled().map_err(|error| {
        // The first error is the one to tell of.
        let _ = fs::remove_file(&new);
        failed("listen at", path)(error)
    })?;
    let file = SocketFile { path: path.to_owned(), device_and_inode: (metadata.dev(), metadata.ino()) };
    Ok((file, listener))
}

/// Refuses if somebody answers at `path` or it is no socket.
fn make_way(path: &Path) -> Result<(), BindError> {
    let unknown = |source| BindError::Kernel { path: path.to_owned(), what: "look at", source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(unknown(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(BindError::InUse { path: path.to_owned() }),
        // Its queue of connections is full: somebody listens.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(BindError::InUse { path: path.to_owned() })
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            info!(path = %path.display(), "control socket: replacing the one of a daemon that was killed");
            Ok(())
        }
        Err(error) => Err(unknown(error)),
    }
}

fn temporary(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}", process::id()))
}

//! The seed of the Response MACs, kept beside the control socket: a router that starts again accepts
//! what its gateways learnt from the one before it, and they need not shake hands anew.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Reads the seed, or makes one. Where it cannot be kept, this run has one of its own.
///
/// # Errors
/// If the kernel has no randomness.
pub(super) fn load(socket: &Path) -> anyhow::Result<[u8; 16]> {
    let path = path(socket);
    match read(&path) {
        Ok(Some(seed)) => return Ok(seed),
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "the seed is not read; gateways shake hands anew")
        }
    }
    let mut seed = [0; 16];
    getrandom::fill(&mut seed).map_err(|error| anyhow::anyhow!("no randomness from the kernel: {error}"))?;
    if let Err(error) = write(&path, &seed) {
        tracing::warn!(path = %path.display(), %error, "the seed is not kept; after a restart gateways shake hands anew");
    }
    Ok(seed)
}

fn path(socket: &Path) -> PathBuf {
    socket.with_extension("seed")
}

/// The seed of a file that is ours and nobody else can read.
fn read(path: &Path) -> io::Result<Option<[u8; 16]>> {
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let private = metadata.is_file()
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.mode() & 0o077 == 0;
    if !private {
        return Err(io::Error::other("others may have read or written it"));
    }
    Ok(fs::read(path)?.try_into().ok())
}

fn write(path: &Path, seed: &[u8; 16]) -> io::Result<()> {
    let new = path.with_extension("seed.new");
    match fs::remove_file(&new) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    file.write_all(seed)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_seed_is_kept_for_the_next_start_and_for_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("router.sock");
        let seed = load(&socket).unwrap();
        assert_eq!(load(&socket).unwrap(), seed);
        assert_eq!(fs::metadata(path(&socket)).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_seed_that_others_can_read_or_that_is_cut_short_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("router.sock");
        let seed = load(&socket).unwrap();
        fs::set_permissions(path(&socket), fs::Permissions::from_mode(0o644)).unwrap();
        let second = load(&socket).unwrap();
        assert_ne!(second, seed);
        fs::write(path(&socket), b"short").unwrap();
        assert_ne!(load(&socket).unwrap(), second);
    }
}

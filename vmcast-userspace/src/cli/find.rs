//! Finds the control socket of the daemon that is meant.

use std::{
    fs,
    os::unix::{fs::FileTypeExt, net::UnixStream},
    path::{Path, PathBuf},
};

use vmcast_api::Role;

use super::{Exit, Failure};
use crate::config::socket_dirs;

/// The socket of the only daemon on this host that can answer; `roles` are those that can.
pub(super) fn socket(roles: &[Role]) -> Result<PathBuf, Failure> {
    choose(&socket_dirs(), roles)
}

fn choose(dirs: &[PathBuf], roles: &[Role]) -> Result<PathBuf, Failure> {
    let mut sockets: Vec<PathBuf> = dirs.iter().flat_map(|dir| sockets_in(dir)).collect();
    let could = |path: &PathBuf| {
        // A socket that is named after no role may be that of any.
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        roles.iter().any(|role| role.label() == stem) || Role::ALL.iter().all(|role| role.label() != stem)
    };
    if sockets.iter().any(could) {
        sockets.retain(could);
    }
    if sockets.len() > 1 {
        let answering: Vec<PathBuf> =
            sockets.iter().filter(|path| UnixStream::connect(path).is_ok()).cloned().collect();
        if !answering.is_empty() {
            sockets = answering;
        }
    }
    match sockets.as_slice() {
        [only] => Ok(only.clone()),
        [] => {
            let looked = dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(" and ");
            Err(Failure::new(
                Exit::Unreachable,
                format!("no daemon runs here: there is no socket in {looked}"),
            )
            .hint("start one, as `vmcast router --config FILE`, or name its socket by --socket PATH"))
        }
        several => {
            let list =
                several.iter().map(|path| format!("\n    --socket {}", path.display())).collect::<String>();
            Err(Failure::new(Exit::Error, "several daemons run here").hint(format!("choose one:{list}")))
        }
    }
}

/// The sockets in a directory, ordered; none if it cannot be read.
fn sockets_in(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()))
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "sock"))
        .filter(|path| path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with('.')))
        .collect();
    found.sort();
    found
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    const DATA: [Role; 2] = [Role::Router, Role::Agent];

    #[test]
    fn the_only_socket_is_taken_and_none_is_unreachable() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned(), dir.path().join("absent")];
        let none = choose(&dirs, &DATA).unwrap_err();
        assert_eq!(none.exit, Exit::Unreachable);
        assert!(none.to_string().contains("absent"), "{none}");
        let path = dir.path().join("router.sock");
        let _router = UnixListener::bind(&path).unwrap();
        fs::write(dir.path().join("agent.sock"), "a file is no socket").unwrap();
        assert_eq!(choose(&dirs, &DATA).unwrap(), path);
        // The only daemon is asked even if it will refuse: it says why.
        assert_eq!(choose(&dirs, &[Role::Admin]).unwrap(), path);
    }

    #[test]
    fn a_question_goes_to_the_role_that_can_answer_it() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = [dir.path().to_owned()];
        let _sockets = ["router", "admin"]
            .map(|role| UnixListener::bind(dir.path().join(format!("{role}.sock"))).unwrap());
        assert_eq!(choose(&dirs, &DATA).unwrap(), dir.path().join("router.sock"));
        assert_eq!(choose(&dirs, &[Role::Admin]).unwrap(), dir.path().join("admin.sock"));
        let several = choose(&dirs, &Role::ALL).unwrap_err();
        assert_eq!(several.exit, Exit::Error);
        for role in ["router", "admin"] {
            assert!(several.to_string().contains(&format!("/{role}.sock")), "{several}");
        }
    }

    #[test]
    fn a_socket_that_a_killed_daemon_left_is_no_choice() {
        let dir = tempfile::tempdir().unwrap();
        drop(UnixListener::bind(dir.path().join("agent.sock")).unwrap());
        let _router = UnixListener::bind(dir.path().join("router.sock")).unwrap();
        assert_eq!(choose(&[dir.path().to_owned()], &DATA).unwrap(), dir.path().join("router.sock"));
    }
}

//! The last policy that an admin told, in a file: a router that starts while no admin answers goes by it.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use vmcast_proto::policy::Policy;
use vmcast_signal::{prost::Message as _, v1};

use crate::{
    admin::{policy_message, read_policy},
    config::AdminLinkConfig,
    identity::{Role, replace_private},
};

/// The name of the file within the directory of the router's identity.
const FILE: &str = "policy";

/// Where the policy is kept; nowhere without an admin, or without TLS: then there is no directory.
#[derive(Clone, Debug)]
pub(super) struct KeptPolicy(Option<PathBuf>);

impl KeptPolicy {
    pub(super) fn new(config: &AdminLinkConfig) -> Self {
        let is_kept = !config.urls.is_empty() && !config.insecure;
        Self(is_kept.then(|| config.identity_directory(Role::Router).join(FILE)))
    }

    /// The file: who removes it and restarts the router lets it take any version.
    pub(super) fn path(&self) -> Option<&Path> {
        self.0.as_deref()
    }

    /// The policy, `None` if an admin has never told one.
    ///
    /// # Errors
    /// If there is one that cannot be read: what it forbids is not known.
    pub(super) fn load(&self) -> anyhow::Result<Option<Policy>> {
        let Some(path) = &self.0 else { return Ok(None) };
        let bytes = match fs::read(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(anyhow::Error::from),
        };
        let read = |bytes: Vec<u8>| Ok(read_policy(v1::Policy::decode(&bytes[..])?)?);
        let policy = bytes.and_then(read).with_context(|| {
            format!(
                "cannot read the admin's last policy in {}; remove it to begin without one",
                path.display()
            )
        })?;
        Ok(Some(policy))
    }

    /// Keeps it in place of the one before.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn keep(&self, policy: &Policy) -> io::Result<()> {
        match &self.0 {
            Some(path) => replace_private(path, &policy_message(policy).encode_to_vec()),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use vmcast_proto::policy::Effect;

    use super::*;

    #[test]
    fn the_last_policy_is_kept_and_one_that_cannot_be_read_is_an_error() {
        let directory = tempfile::tempdir().expect("a directory");
        let kept = KeptPolicy(Some(directory.path().join("router.identity").join(FILE)));
        assert_eq!(kept.load().expect("no file"), None);
        for version in [1, 2] {
            let policy = Policy { version, default: Effect::Deny, ..Policy::default() };
            kept.keep(&policy).expect("a file");
            assert_eq!(kept.load().expect("a policy"), Some(policy));
        }
        fs::write(directory.path().join("router.identity").join(FILE), [0xff]).expect("a file");
        let failure = kept.load().expect_err("no policy");
        assert!(failure.to_string().contains("router.identity/policy; remove it"), "{failure:#}");
    }

    #[test]
    fn without_an_admin_or_without_tls_nothing_is_kept() {
        let none = AdminLinkConfig::default();
        let insecure = AdminLinkConfig { insecure: true, ..AdminLinkConfig::default() };
        for config in [none, insecure] {
            assert!(KeptPolicy::new(&config).0.is_none());
        }
    }
}

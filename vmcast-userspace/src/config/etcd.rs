//! `[etcd]` of the administration server.

use std::path::PathBuf;

use serde::Deserialize;

use super::{
    Problem,
    sections::{duplicates, relative_path},
    value::AdminUrl,
};

/// `[etcd]`: where several administration servers keep one registry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EtcdConfig {
    /// URLs of the cluster's members; empty: the registry is in the database file.
    pub urls: Vec<AdminUrl>,
    /// What the keys begin with.
    pub prefix: String,
    /// The user, where the cluster has any.
    pub user: Option<String>,
    /// The file with the user's password.
    pub password_file: Option<PathBuf>,
    /// The file with the authorities that members' certificates are of.
    pub ca_file: Option<PathBuf>,
    /// The file with the admin's certificate for etcd.
    pub certificate_file: Option<PathBuf>,
    /// The file with its key.
    pub key_file: Option<PathBuf>,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            prefix: "/vmcast/".into(),
            user: None,
            password_file: None,
            ca_file: None,
            certificate_file: None,
            key_file: None,
        }
    }
}

impl EtcdConfig {
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems: Vec<Problem> = duplicates(&self.urls)
            .map(|index| {
                let (key, url) = (format!("etcd.urls[{index}]"), &self.urls[index]);
                Problem::error(key, format!("{url} is listed twice"))
            })
            .collect();
        for (index, url) in self.urls.iter().enumerate() {
            match (url.is_secure(), &self.ca_file) {
                (true, None) => problems.push(
                    Problem::error(format!("etcd.urls[{index}]"), "https:// needs an authority to trust")
                        .hint("write ca_file, with the certificate of the authority of the members"),
                ),
                (false, Some(_)) => problems.push(
                    Problem::error(
                        format!("etcd.urls[{index}]"),
                        "http:// is not encrypted, and ca_file is set",
                    )
                    .hint("write https://, or leave ca_file out"),
                ),
                (true, Some(_)) | (false, None) => {}
            }
        }
        if !(self.prefix.starts_with('/') && self.prefix.ends_with('/')) {
            problems.push(
                Problem::error("etcd.prefix", format!("\"{}\" has to begin and end with /", self.prefix))
                    .hint("as \"/vmcast/\""),
            );
        }
        if self.user.is_some() != self.password_file.is_some() {
            problems.push(
                Problem::error("etcd.user", "user and password_file go together")
                    .hint("write both, or none where the cluster has no users"),
            );
        }
        if self.certificate_file.is_some() != self.key_file.is_some()
            || (self.certificate_file.is_some() && self.ca_file.is_none())
        {
            problems.push(
                Problem::error("etcd.certificate_file", "ca_file, certificate_file and key_file go together")
                    .hint("write all of them, or only ca_file where the cluster wants no certificate"),
            );
        }
        for (key, path) in [
            ("etcd.password_file", &self.password_file),
            ("etcd.ca_file", &self.ca_file),
            ("etcd.certificate_file", &self.certificate_file),
            ("etcd.key_file", &self.key_file),
        ] {
            problems.extend(path.as_ref().and_then(|path| relative_path(key, path)));
        }
        problems
    }
}

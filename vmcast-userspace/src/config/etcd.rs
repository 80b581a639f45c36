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
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self { urls: Vec::new(), prefix: "/vmcast/".into(), user: None, password_file: None }
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
            if url.as_str().starts_with("https://") {
                let hint = "write http:// and let etcd listen where only its admins reach it";
                problems.push(
                    Problem::error(format!("etcd.urls[{index}]"), "TLS to etcd is not supported").hint(hint),
                );
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
        if let Some(path) = &self.password_file {
            problems.extend(relative_path("etcd.password_file", path));
        }
        problems
    }
}

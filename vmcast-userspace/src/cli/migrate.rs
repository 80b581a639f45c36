//! `vmcast migrate`.

use serde_json::json;

use super::{Exit, Failure, args::MigrateArgs};
use crate::{
    admin::{self, MigrateError, Migrated},
    config::{self, AdminConfig},
    daemon,
};

/// Copies a registry; the text is what to print.
pub(super) fn run(args: &MigrateArgs) -> Result<String, Failure> {
    let (config, _) = config::load::<AdminConfig>(&args.config)?;
    let failed = |error: anyhow::Error| Failure::new(Exit::Error, format!("{error:#}"));
    let settings = daemon::admin_settings(&config).map_err(failed)?;
    let Some(etcd) = settings.etcd else {
        let message = format!("{} names no etcd to copy to", args.config.display());
        return Err(Failure::new(Exit::Error, message).hint("add [etcd] with urls = [\"http://HOST:2379\"]"));
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| failed(error.into()))?;
    let database = settings.database;
    let outcome = runtime.block_on(admin::migrate(&database, etcd, args.merge));
    let Migrated { nodes, entries, records } = outcome.map_err(|error| {
        let failure = Failure::new(Exit::Error, &error);
        match error {
            MigrateError::NotEmpty { .. } => {
                failure.hint("add --merge if that is meant, or choose another prefix in [etcd]")
            }
            MigrateError::Open { .. } => failure.hint("stop the admin first; `database` names its file"),
            MigrateError::Etcd(_) => failure,
        }
    })?;
    Ok(if args.json {
        format!("{}\n", json!({ "v": 1, "nodes": nodes, "cache_entries": entries, "records": records }))
    } else {
        let from = database.display();
        format!(
            "copied {nodes} nodes, {entries} entries of the cache and {records} records of tokens, certificates and \
             policy from {from} to etcd\n"
        )
    })
}

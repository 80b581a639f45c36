//! A node that has no certificate yet waits for an admin, and answers its operator meanwhile.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};
use tracing::info;
use vmcast_api::{AdminLink, AdminLinkState, ErrorReply, Request, Response, Status};

use super::Process;
use crate::{
    clock,
    config::AdminLinkConfig,
    control::Call,
    identity::{NodeIdentity, Role},
    link,
    signals::Termination,
};

/// How it came out.
pub(crate) enum Joined {
    /// The identity of the node; `None` where it needs none.
    In(Option<Arc<NodeIdentity>>),
    /// A signal came first.
    Ended,
}

/// Opens the identity of a node, which takes until an admin answers if the node has yet to join.
///
/// # Errors
/// If an admin refuses the node, or there is nothing to join by.
pub(crate) async fn identity(
    config: &AdminLinkConfig,
    (role, name): (Role, &str),
    process: &Process,
    calls: &mut mpsc::Receiver<Call>,
    end: &mut Termination,
) -> anyhow::Result<Joined> {
    let (failing, failure) = watch::channel(None);
    let mut opening = std::pin::pin!(link::open_identity(config, role, name, &failing));
    let since = clock::now();
    loop {
        tokio::select! {
            biased;
            opened = &mut opening => return Ok(Joined::In(opened?)),
            signal = end.received() => {
                info!(signal, "ending before this node has joined");
                return Ok(Joined::Ended);
            }
            Some((request, answer)) = calls.recv() => {
                let response = if matches!(request, Request::Status) {
                    Response::Status(status(config, process, failure.borrow().clone(), since))
                } else {
                    Response::Error(ErrorReply {
                        error: "this node has no certificate yet, and waits for an admin to join".to_owned(),
                        hint: Some("`vmcast status` says what the admin answers".to_owned()),
                    })
                };
                // A client that has gone away wants no answer.
                let _ = answer.send(response);
            }
        }
    }
}

fn status(config: &AdminLinkConfig, process: &Process, error: Option<String>, since: Instant) -> Status {
    let mut admins = match &config.token {
        Some(token) => token.admins.clone(),
        None => config.urls.iter().map(|url| url.as_str().to_owned()).collect(),
    };
    let waited = clock::now().saturating_duration_since(since);
    let others = admins.split_off(admins.len().min(1));
    let admin = admins.pop().map(|url| AdminLink {
        url,
        state: if error.is_some() { AdminLinkState::Unreachable } else { AdminLinkState::Connecting },
        age_ms: u64::try_from(waited.as_millis()).unwrap_or(u64::MAX),
        others,
        error,
        endpoints: None,
    });
    Status { admin, ..process.status() }
}

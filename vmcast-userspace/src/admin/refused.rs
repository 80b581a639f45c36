//! The joins that VMRs refuse: a record of each VMR, so that every admin tells them to those who made them.

use std::{net::SocketAddr, time::Duration};

use tokio::sync::watch;
use tracing::debug;
use vmcast_proto::registry::{Error, NodeId, RecordKind, RecordWrite, Registry, Rows as _};
use vmcast_signal::{prost::Message as _, v1};

use super::{
    Handle, Kept,
    convert::{Malformed, malformed, parse},
};

/// Joins of one VMR, at most.
const MOST: usize = 512;
/// Bytes of a reason, at most.
const REASON: usize = 256;
/// Between two writes of what one VMR says.
const PAUSE: Duration = Duration::from_secs(1);

/// What a VMR's line says is refused; the line has the sender.
pub(super) type Refusals = watch::Sender<Option<v1::RefusedJoins>>;

impl<S: Kept> Handle<S> {
    /// Keeps what a VMR says that it refuses, until its line ends.
    pub(super) fn keep_refused(&self, vmr: NodeId) -> Refusals {
        let (sender, mut said) = watch::channel(None);
        let handle = self.clone();
        tokio::spawn(async move {
            while said.changed().await.is_ok() {
                let Some(joins) = said.borrow_and_update().clone() else { continue };
                let is_kept = match checked(joins) {
                    Ok(joins) => handle.set_refused(&vmr, joins).await,
                    Err(error) => {
                        handle.count_malformed();
                        debug!(%vmr, %error, "what a VMR refuses cannot be read");
                        true
                    }
                };
                tokio::time::sleep(PAUSE).await;
                // Not tried again after the line has ended: the next one tells what is so then.
                if !is_kept && said.has_changed().is_ok() {
                    said.mark_changed();
                }
            }
        });
        sender
    }

    /// False if the store failed.
    async fn set_refused(&self, vmr: &NodeId, joins: v1::RefusedJoins) -> bool {
        let value = (!joins.joins.is_empty()).then(|| joins.encode_to_vec());
        if self.rows(|rows| rows.record(RecordKind::Refused, vmr.as_str())) == value {
            return true;
        }
        let writes = [RecordWrite { kind: RecordKind::Refused, key: vmr.as_str().to_owned(), value }];
        let commit = move |registry: &mut Registry<S>, _| {
            registry.store_mut().commit_records(&[], &writes).map_err(Error::Store)
        };
        let committed = self.write(commit).await;
        if let Err(error) = &committed {
            debug!(%vmr, %error, "what a VMR refuses is not kept");
        }
        matches!(committed, Ok(true))
    }

    /// A VMR is gone: it refuses nothing any more.
    pub(super) async fn forget_refused(&self, vmr: &NodeId) {
        self.set_refused(vmr, v1::RefusedJoins::default()).await;
    }

    /// The joins that a VMR refuses which came by a tunnel.
    pub(crate) fn refused_joins(&self, vmr: &NodeId, tunnel: SocketAddr) -> Vec<v1::RefusedJoin> {
        let kept = self.rows(|rows| rows.record(RecordKind::Refused, vmr.as_str()));
        let kept = kept.and_then(|value| v1::RefusedJoins::decode(&value[..]).ok()).unwrap_or_default();
        let tunnel = tunnel.to_string();
        kept.joins.into_iter().filter(|join| join.tunnel == tunnel).collect()
    }
}

/// Checks the fields, and writes the addresses as everybody does.
///
/// # Errors
/// If a field cannot be read, or there is too much.
pub fn checked(joins: v1::RefusedJoins) -> Result<v1::RefusedJoins, Malformed> {
    let check = |join: v1::RefusedJoin| {
        let tunnel: SocketAddr = parse("refused.tunnel", &join.tunnel)?;
        let group: std::net::IpAddr = parse("refused.group", &join.group)?;
        if join.reason.len() > REASON || join.reason.chars().any(char::is_control) {
            return Err(malformed("refused.reason")(&"it is too long, or has control characters"));
        }
        Ok(v1::RefusedJoin { tunnel: tunnel.to_string(), group: group.to_string(), reason: join.reason })
    };
    if joins.joins.len() > MOST {
        return Err(malformed("refused.joins")(&format!("{} are too many", joins.joins.len())));
    }
    Ok(v1::RefusedJoins { joins: joins.joins.into_iter().map(check).collect::<Result<_, _>>()? })
}

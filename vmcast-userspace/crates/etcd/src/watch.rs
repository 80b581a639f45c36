//! Following changes.

use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};
use tonic::{
    Status, Streaming,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use crate::{
    client::stamped,
    error::Error,
    rpc::{
        Event, KeyValue, WatchCreateRequest, WatchRequest, WatchResponse, event::EventType,
        watch_client::WatchClient, watch_request::RequestUnion,
    },
};

/// A change that was made.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A key was set.
    Put(KeyValue),
    /// A key was removed, or its lease ended.
    Removed {
        /// The key.
        key: Vec<u8>,
        /// The revision that removed it.
        revision: i64,
    },
}

/// What came: all changes up to a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    /// The changes in their order.
    pub changes: Vec<Change>,
    /// Everything up to this revision has been heard; 0 where etcd does not say.
    pub revision: i64,
}

/// A watch that stands. Dropped, it ends.
#[derive(Debug)]
pub struct Watch {
    answers: Streaming<WatchResponse>,
    /// The stream of requests ends with it, and etcd ends the watch.
    _requests: mpsc::Sender<WatchRequest>,
}

pub(crate) async fn start(
    mut client: WatchClient<Channel>,
    key: Vec<u8>,
    range_end: Vec<u8>,
    start_revision: i64,
    token: Option<MetadataValue<Ascii>>,
) -> Result<Watch, Status> {
    let (requests, stream) = mpsc::channel(1);
    let create = WatchCreateRequest { key, range_end, start_revision, progress_notify: true };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    // The receiver is held beneath, with room for one.
    let _ = requests.try_send(request);
    let answers = client.watch(stamped(ReceiverStream::new(stream), token)).await?.into_inner();
    Ok(Watch { answers, _requests: requests })
}

impl Watch {
    /// Waits for the next changes; without any, for etcd's word that there are none.
    ///
    /// # Errors
    /// If the watch has ended: the member is gone or without a leader, or the history is compacted.
    pub async fn next(&mut self) -> Result<Heard, Error> {
        let gone = |reason: String| Error::Unavailable { urls: "the watch".into(), reason };
        let response = match self.answers.next().await {
            Some(Ok(response)) => response,
            Some(Err(status)) => return Err(gone(status.message().to_owned())),
            None => return Err(gone("it ended".into())),
        };
        if response.compact_revision > 0 {
            return Err(Error::Compacted(response.compact_revision));
        }
        if response.canceled {
            return Err(gone(response.cancel_reason));
        }
        // The first answer names the present revision, and what is before it is still to come.
        let revision = response.header.filter(|_| !response.created).map_or(0, |header| header.revision);
        Ok(Heard { changes: response.events.into_iter().filter_map(change).collect(), revision })
    }
}

fn change(event: Event) -> Option<Change> {
    let is_removal = event.r#type() == EventType::Delete;
    let kv = event.kv?;
    Some(if is_removal {
        Change::Removed { key: kv.key, revision: kv.mod_revision }
    } else {
        Change::Put(kv)
    })
}

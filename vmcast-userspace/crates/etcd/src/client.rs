//! The calls, over whichever endpoint answers.

use std::{
    fmt::{self, Display},
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio_stream::StreamExt as _;
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Channel, Endpoint},
};

use crate::{
    error::Error,
    rpc::{
        AuthenticateRequest, Compare, DeleteRangeRequest, KeyValue, LeaseGrantRequest, LeaseKeepAliveRequest,
        LeaseRevokeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, auth_client::AuthClient,
        compare, kv_client::KvClient, lease_client::LeaseClient, request_op::Request as Op,
        watch_client::WatchClient,
    },
    watch::{Watch, start},
};

/// A connection that carries nothing is checked so often, and given up after as long.
const KEEPALIVE: Duration = Duration::from_secs(2);
/// Keys of one page of a range.
const PAGE: i64 = 1000;
/// Bytes of an answer at most: a page of the largest values.
const MAX_ANSWER: usize = 64 * 1024 * 1024;

/// Which cluster, and as whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URLs of its members, `http://host:2379`, in the order to try them.
    pub urls: Vec<String>,
    /// User and password, where the cluster wants them.
    pub user: Option<(String, String)>,
    /// One member has so long to answer a call.
    pub patience: Duration,
    /// How connections are made.
    pub dial: Dial,
}

/// How connections are made: in the clear, unless somebody else does it, as by TLS.
#[derive(Clone, Default)]
pub struct Dial(Option<Arc<dyn Fn(Endpoint) -> Channel + Send + Sync>>);

impl Dial {
    /// Connections are made by `dial`, when they are needed.
    pub fn by(dial: impl Fn(Endpoint) -> Channel + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(dial)))
    }

    fn channel(&self, endpoint: Endpoint) -> Channel {
        match &self.0 {
            Some(dial) => dial(endpoint),
            None => endpoint.connect_lazy(),
        }
    }
}

impl fmt::Debug for Dial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Dial").field(&self.0.is_some()).finish()
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The key.
    pub key: Vec<u8>,
    /// The revision that changed it last; 0 if it is not there.
    pub mod_revision: i64,
}

/// A write of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a key; with a lease other than 0 it goes when the lease ends.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Vec<u8>,
        /// The lease.
        lease: i64,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Vec<u8>,
    },
    /// Removes every key that begins so.
    DeletePrefix {
        /// The beginning.
        prefix: Vec<u8>,
    },
}

/// The outcome of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Whether every condition held and the writes were made.
    pub succeeded: bool,
    /// The revision of the store after it.
    pub revision: i64,
}

/// Keys as they stood at one revision.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The keys and their values.
    pub keys: Vec<KeyValue>,
    /// The revision.
    pub revision: i64,
}

/// A client of one cluster. It stays with the member that answered last and goes on to the next when that one
/// fails.
#[derive(Debug)]
pub struct Client {
    members: Vec<(String, Channel)>,
    current: AtomicUsize,
    user: Option<(String, String)>,
    token: Mutex<Option<MetadataValue<Ascii>>>,
    patience: Duration,
}

impl Client {
    /// A client; connections are made when they are needed. Needs a running tokio runtime.
    ///
    /// # Errors
    /// If there is no URL or one cannot be read.
    pub fn new(settings: &Settings) -> Result<Self, Error> {
        let member = |url: &String| {
            let bad = |reason: &dyn Display| Error::Url { url: url.clone(), reason: reason.to_string() };
            let endpoint = Endpoint::from_shared(url.clone()).map_err(|error| bad(&error))?;
            if endpoint.uri().scheme_str().is_none() || endpoint.uri().host().is_none() {
                return Err(bad(&"expected http://host:port"));
            }
            let endpoint = endpoint
                .connect_timeout(settings.patience)
                .http2_keep_alive_interval(KEEPALIVE)
                .keep_alive_timeout(KEEPALIVE)
                .keep_alive_while_idle(true);
            Ok((url.clone(), settings.dial.channel(endpoint)))
        };
        let members = settings.urls.iter().map(member).collect::<Result<Vec<_>, _>>()?;
        if members.is_empty() {
            return Err(Error::NoEndpoint);
        }
        Ok(Self {
            members,
            current: AtomicUsize::new(0),
            user: settings.user.clone(),
            token: Mutex::new(None),
            patience: settings.patience,
        })
    }

    /// Everything whose key begins with `prefix`, as it stood at one revision.
    ///
    /// # Errors
    /// If no member answers, or the cluster refuses.
    pub async fn read(&self, prefix: &[u8]) -> Result<Snapshot, Error> {
        let mut snapshot = Snapshot::default();
        let (mut key, range_end) = (prefix.to_vec(), range_end(prefix));
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: range_end.clone(),
                limit: PAGE,
                revision: snapshot.revision,
            };
            let page = self
                .call(|channel, token| {
                    let request = stamped(request.clone(), token);
                    async move {
                        KvClient::new(channel).max_decoding_message_size(MAX_ANSWER).range(request).await
                    }
                })
                .await?
                .into_inner();
            if snapshot.revision == 0 {
                snapshot.revision = page.header.map_or(0, |header| header.revision);
            }
            if let Some(last) = page.kvs.last() {
                // The first key behind it.
                key.clone_from(&last.key);
                key.push(0);
            }
            let is_last = !page.more || page.kvs.is_empty();
            snapshot.keys.extend(page.kvs);
            if is_last {
                return Ok(snapshot);
            }
        }
    }

    /// Makes all writes if all conditions hold, and none otherwise. When it returns, they last.
    ///
    /// # Errors
    /// If no member answers, and then nobody knows whether they were made; or the cluster refuses.
    pub async fn transact(
        &self,
        conditions: &[Condition],
        operations: &[Operation],
    ) -> Result<Committed, Error> {
        let request = TxnRequest {
            compare: conditions.iter().map(condition).collect(),
            success: operations.iter().map(operation).collect(),
        };
        let answer = self
            .call(|channel, token| {
                let request = stamped(request.clone(), token);
                async move { KvClient::new(channel).txn(request).await }
            })
            .await?
            .into_inner();
        let revision = answer.header.map_or(0, |header| header.revision);
        Ok(Committed { succeeded: answer.succeeded, revision })
    }

    /// Follows every change of keys that begin with `prefix`, from a revision on.
    ///
    /// # Errors
    /// If no member answers, or the cluster refuses.
    pub async fn watch(&self, prefix: &[u8], from_revision: i64) -> Result<Watch, Error> {
        self.call(|channel, token| {
            let client = WatchClient::new(channel).max_decoding_message_size(MAX_ANSWER);
            let (prefix, end) = (prefix.to_vec(), range_end(prefix));
            start(client, prefix, end, from_revision, token)
        })
        .await
    }

    /// A lease that lasts `seconds` unless it is kept alive; its id.
    ///
    /// # Errors
    /// If no member answers, or the cluster refuses.
    pub async fn grant_lease(&self, seconds: u32) -> Result<i64, Error> {
        let answer = self
            .call(|channel, token| {
                let request = stamped(LeaseGrantRequest { ttl: seconds.into(), id: 0 }, token);
                async move { LeaseClient::new(channel).lease_grant(request).await }
            })
            .await?;
        Ok(answer.into_inner().id)
    }

    /// Keeps a lease alive for its whole time from now; false if it has ended.
    ///
    /// # Errors
    /// If no member answers, or the cluster refuses.
    pub async fn keep_alive(&self, lease: i64) -> Result<bool, Error> {
        let answer = self
            .call(|channel, token| async move {
                let requests = tokio_stream::iter([LeaseKeepAliveRequest { id: lease }]);
                let answers =
                    LeaseClient::new(channel).lease_keep_alive(stamped(requests, token)).await?.into_inner();
                tokio::pin!(answers);
                answers.next().await.unwrap_or_else(|| Err(Status::unavailable("the answer was cut off")))
            })
            .await?;
        Ok(answer.ttl > 0)
    }

    /// Ends a lease, and with it the keys that hang on it.
    ///
    /// # Errors
    /// If no member answers, or the cluster refuses.
    pub async fn revoke_lease(&self, lease: i64) -> Result<(), Error> {
        self.call(|channel, token| {
            let request = stamped(LeaseRevokeRequest { id: lease }, token);
            async move { LeaseClient::new(channel).lease_revoke(request).await }
        })
        .await?;
        Ok(())
    }

    /// Calls one member after the other, the one that answered last first, until one answers.
    async fn call<T, F>(
        &self,
        mut call: impl FnMut(Channel, Option<MetadataValue<Ascii>>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut reason = String::new();
        // One more than there are: a token that has run out costs the first try.
        for attempt in 0..=self.members.len() {
            let at = (first + attempt) % self.members.len();
            let channel = self.members[at].1.clone();
            let attempted = async {
                let token = self.token(&channel).await?;
                call(channel, token).await
            };
            let outcome = tokio::time::timeout(self.patience, attempted).await;
            let outcome = outcome.unwrap_or_else(|_| Err(Status::unavailable("it does not answer in time")));
            match outcome {
                Ok(answer) => {
                    self.current.store(at, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(status) if status.code() == Code::Unauthenticated && self.user.is_some() => {
                    self.forget_token();
                    status.message().clone_into(&mut reason);
                }
                Err(status) if is_outage(&status) => status.message().clone_into(&mut reason),
                Err(status) => return Err(Error::Refused(status.message().to_owned())),
            }
        }
        let urls: Vec<&str> = self.members.iter().map(|(url, _)| url.as_str()).collect();
        Err(Error::Unavailable { urls: urls.join(", "), reason })
    }

    async fn token(&self, channel: &Channel) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((name, password)) = &self.user else {
            return Ok(None);
        };
        if let Some(token) = &*self.token.lock().unwrap_or_else(PoisonError::into_inner) {
            return Ok(Some(token.clone()));
        }
        let request = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer = AuthClient::new(channel.clone()).authenticate(request).await?.into_inner();
        let token: MetadataValue<Ascii> =
            answer.token.parse().map_err(|_| Status::internal("its token is no text"))?;
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = Some(token.clone());
        Ok(Some(token))
    }

    fn forget_token(&self) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// A request that a member without a leader refuses at once instead of waiting for one.
pub(crate) fn stamped<T>(message: T, token: Option<MetadataValue<Ascii>>) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token);
    }
    request
}

pub(crate) fn is_outage(status: &Status) -> bool {
    // `Unknown` and `Internal` are what a connection that breaks leaves of a call.
    matches!(
        status.code(),
        Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled | Code::Unknown | Code::Internal
    )
}

/// The first key behind all that begin with `prefix`, as etcd wants it: empty for no end but the prefix itself,
/// a zero byte for everything.
#[must_use]
pub fn range_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

fn condition(condition: &Condition) -> Compare {
    Compare {
        result: compare::CompareResult::Equal.into(),
        target: compare::CompareTarget::Mod.into(),
        key: condition.key.clone(),
        target_union: Some(compare::TargetUnion::ModRevision(condition.mod_revision)),
    }
}

fn operation(operation: &Operation) -> RequestOp {
    let request = match operation {
        Operation::Put { key, value, lease } => {
            Op::RequestPut(PutRequest { key: key.clone(), value: value.clone(), lease: *lease })
        }
        Operation::Delete { key } => {
            Op::RequestDeleteRange(DeleteRangeRequest { key: key.clone(), range_end: Vec::new() })
        }
        Operation::DeletePrefix { prefix } => {
            Op::RequestDeleteRange(DeleteRangeRequest { key: prefix.clone(), range_end: range_end(prefix) })
        }
    };
    RequestOp { request: Some(request) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_first_key_behind_it() {
        assert_eq!(range_end(b"a/"), b"a0");
        assert_eq!(range_end(&[1, 255]), [2]);
        assert_eq!(range_end(&[255, 255]), [0], "nothing is behind these: to the very end");
    }

    #[tokio::test]
    async fn urls_that_are_none_are_named() {
        let settings = |urls: &[&str]| Settings {
            urls: urls.iter().map(|&url| url.to_owned()).collect(),
            user: None,
            patience: Duration::from_secs(1),
            dial: Dial::default(),
        };
        assert!(matches!(Client::new(&settings(&[])), Err(Error::NoEndpoint)));
        let error = Client::new(&settings(&["http://127.0.0.1:1", "127.0.0.1"])).expect_err("no scheme");
        assert!(error.to_string().starts_with("\"127.0.0.1\" is no URL of an etcd"), "{error}");
    }

    #[tokio::test]
    async fn where_nobody_answers_all_that_were_tried_are_named() {
        let urls = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned).to_vec();
        let settings = Settings { urls, user: None, patience: Duration::from_secs(1), dial: Dial::default() };
        let client = Client::new(&settings).expect("a client");
        let error = client.read(b"a").await.expect_err("nobody listens");
        assert!(error.is_outage(), "{error}");
        assert!(
            error.to_string().contains("no etcd answers at http://127.0.0.1:1, http://127.0.0.1:2"),
            "{error}"
        );
    }
}

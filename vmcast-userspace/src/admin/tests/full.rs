//! A disk that is full.

use std::sync::{Arc, Mutex};

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use vmcast_proto::registry::{Change, Config, Expected, RecordWrite, Rows as _, Store, UnixMillis};
use vmcast_signal::{
    tonic::{Code, transport::Channel},
    v1,
};

use super::bed::Bed;
use crate::{
    admin::{Kept, Mirror, store::SqliteStore},
    identity::{Kind, Records as _, Write},
};

async fn health(channel: &Channel, service: &str) -> ServingStatus {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel.clone()).check(request).await.expect("an answer").into_inner().status()
}

// proves A2
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_told_and_loses_nothing_that_was_granted() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("registry.db");
    let store = SqliteStore::open(&path).expect("open");
    let bed = Bed::start(Config::default(), store, ([127, 0, 0, 1], 0).into()).await;
    let limit = async |pages: u32| {
        let handle = bed.handle.clone();
        let set = tokio::task::spawn_blocking(move || handle.store(move |store| store.limit_pages(pages)));
        set.await.expect("no panic").expect("a limit");
    };
    let register = async |number: u32| {
        let node = v1::Node {
            id: format!("agent-{number}"),
            role: v1::Role::Agent.into(),
            name: "n".repeat(60),
            ..Default::default()
        };
        let request = v1::RegisterRequest { node: Some(node), ..Default::default() };
        bed.client([127, 0, 0, 1]).await.register(request).await
    };
    register(0).await.expect("room");
    limit(1).await;
    let mut granted = 1;
    let failure = loop {
        match register(granted).await {
            Ok(_) => granted += 1,
            Err(failure) => break failure,
        }
        assert!(granted < 10_000, "the disk has no end");
    };
    assert_eq!(failure.code(), Code::Unavailable);
    assert!(failure.message().contains("database does not work"), "{failure}");
    let channel = Channel::from_shared(bed.url()).expect("a URL").connect().await.expect("connect");
    is(&channel, ServingStatus::NotServing).await;
    assert_eq!(health(&channel, "").await, ServingStatus::Serving, "questions are still answered");
    assert_eq!(bed.handle.status().unkept, 1);
    assert_eq!(bed.handle.census().agents, granted as usize, "what is there is known");

    limit(u32::MAX).await;
    register(granted).await.expect("room");
    is(&channel, ServingStatus::Serving).await;
    bed.stop().await;
    let kept = SqliteStore::open(&path).expect("open");
    assert_eq!(kept.rows().node_count(), granted as usize + 1);
}

async fn is(channel: &Channel, wanted: ServingStatus) {
    while health(channel, "vmcast.v1.Registry").await != wanted {
        tokio::task::yield_now().await;
    }
}

// proves A2: also where nobody registers, as with tokens, certificates and revocations
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_find_no_room_are_counted_and_told_until_there_is_room_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = SqliteStore::open(&directory.path().join("registry.db")).expect("open");
    let bed = Bed::start(Config::default(), store, ([127, 0, 0, 1], 0).into()).await;
    let work = async |work: Box<dyn FnOnce(&mut SqliteStore) -> bool + Send>| {
        let handle = bed.handle.clone();
        let done = tokio::task::spawn_blocking(move || handle.store(move |store| Ok(work(store))));
        done.await.expect("no panic").expect("the work itself does not fail")
    };
    let limit = |pages: u32| -> Box<dyn FnOnce(&mut SqliteStore) -> bool + Send> {
        Box::new(move |store| store.limit_pages(pages).is_ok())
    };
    let put = async |number: u32| {
        let (mut records, value) = (bed.handle.clone(), Some(vec![7; 1000]));
        let write = Write { kind: Kind::Token, key: number.to_string(), value };
        tokio::task::spawn_blocking(move || records.commit(&[], &[write])).await.expect("no panic")
    };
    let channel = Channel::from_shared(bed.url()).expect("a URL").connect().await.expect("connect");
    put(0).await.expect("room");
    is(&channel, ServingStatus::Serving).await;
    assert!(work(limit(1)).await);
    let mut kept = 1;
    while put(kept).await.is_ok() {
        kept += 1;
        assert!(kept < 10_000, "the disk has no end");
    }
    assert_eq!(bed.handle.status().unkept, 1);
    is(&channel, ServingStatus::NotServing).await;
    assert!(work(limit(u32::MAX)).await);
    put(kept).await.expect("room");
    is(&channel, ServingStatus::Serving).await;
    bed.stop().await;
}

/// A store that keeps nothing while there is a reason.
#[derive(Debug)]
struct Refusing(Mirror, Reason);

type Reason = Arc<Mutex<Option<Failure>>>;

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Failure {
    #[error("another admin was faster")]
    Faster,
    #[error("the store is gone")]
    Gone,
}

impl Store for Refusing {
    type Error = Failure;
    type Rows = Mirror;

    fn rows(&self) -> &Mirror {
        &self.0
    }

    fn commit(&mut self, _: &[Change]) -> Result<(), Failure> {
        self.1.lock().expect("nobody panics").map_or(Ok(()), Err)
    }

    fn commit_records(&mut self, _: &[Expected], _: &[RecordWrite]) -> Result<bool, Failure> {
        self.commit(&[]).map(|()| true)
    }
}

impl Kept for Refusing {
    fn is_conflict(failure: &Failure) -> bool {
        matches!(failure, Failure::Faster)
    }
}

/// An admin whose store has refused a change for this reason.
async fn refused(failure: Failure) -> (Bed<Refusing>, Reason) {
    let reason = Arc::new(Mutex::new(Some(failure)));
    let store = Refusing(Mirror::default(), Arc::clone(&reason));
    let bed = Bed::start(Config::default(), store, ([127, 0, 0, 1], 0).into()).await;
    let changed = bed.handle.write(|registry, _| {
        let change = Change::RemoveEntriesNaming("v".parse().expect("an id"));
        registry.store_mut().commit(&[change]).map_err(vmcast_proto::registry::Error::Store)
    });
    changed.await.expect_err("nothing is kept");
    (bed, reason)
}

// proves A2: two admins that end leases at the same moment are both well
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_that_another_one_is_faster_than_keeps_changes_all_the_same() {
    let (bed, _) = refused(Failure::Faster).await;
    assert!(bed.handle.keeps_changes());
    assert_eq!(bed.handle.status().unkept, 0);
    bed.stop().await;
}

// proves A2: an admin to which nobody comes is well again, too
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_whose_store_is_back_keeps_changes_without_a_registration() {
    let (bed, reason) = refused(Failure::Gone).await;
    assert!(!bed.handle.keeps_changes());
    let set_stale = |stale| bed.handle.rows(|rows| rows.set_floor(UnixMillis(0), stale));
    assert!(bed.handle.status().unkept > 0);
    *reason.lock().expect("nobody panics") = None;
    // It looks once in a second. A host that stands still may miss that once.
    while !bed.handle.keeps_changes() {
        for stale in [true, false] {
            set_stale(stale);
            tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        }
    }
    bed.stop().await;
}

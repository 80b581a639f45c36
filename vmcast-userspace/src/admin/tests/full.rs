//! A disk that is full.

use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use vmcast_proto::registry::{Config, Rows as _, Store as _};
use vmcast_signal::{
    tonic::{Code, transport::Channel},
    v1,
};

use super::bed::Bed;
use crate::admin::store::SqliteStore;

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
    let until = async |wanted| {
        while health(&channel, "vmcast.v1.Registry").await != wanted {
            tokio::task::yield_now().await;
        }
    };
    until(ServingStatus::NotServing).await;
    assert_eq!(health(&channel, "").await, ServingStatus::Serving, "questions are still answered");
    assert_eq!(bed.handle.status().unkept, 1);
    assert_eq!(bed.handle.census().agents, granted as usize, "what is there is known");

    limit(u32::MAX).await;
    register(granted).await.expect("room");
    until(ServingStatus::Serving).await;
    bed.stop().await;
    let kept = SqliteStore::open(&path).expect("open");
    assert_eq!(kept.rows().node_count(), granted as usize + 1);
}

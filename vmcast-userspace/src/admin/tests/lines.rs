//! The lines of a VMR that stand beside its own at another admin.

use std::time::Duration;

use futures_util::stream::unfold;
use tokio::sync::mpsc;
use vmcast_proto::registry::Role;
use vmcast_signal::{
    tonic::Streaming,
    v1::{self, command::What},
};

use super::{bed::Bed, identity::registration};
use crate::link::{AdminClient, AdminError};

/// A test that waits longer than this hangs.
const HANG: Duration = Duration::from_secs(60);

/// A line, and by what the VMR answers on it.
struct Line {
    commands: Streaming<v1::Command>,
    _answers: mpsc::Sender<v1::AttendRequest>,
}

async fn open(client: &AdminClient, beside: bool) -> Result<Line, AdminError> {
    let (answers, queue) = mpsc::channel(8);
    let node_id = "v".to_owned();
    let first = v1::AttendRequest { node_id, beside, ..v1::AttendRequest::default() };
    answers.send(first).await.expect("room");
    let outgoing = unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
    Ok(Line { commands: client.attend(outgoing).await?, _answers: answers })
}

impl Line {
    async fn is_told_something(&mut self) -> bool {
        let told = tokio::time::timeout(HANG, self.commands.message()).await.expect("a command or the end");
        told.is_ok_and(|command| command.is_some())
    }

    async fn ends(&mut self) {
        while self.is_told_something().await {}
    }
}

// proves D2: an admin that has several URLs is not fought for by the lines to each of them
#[tokio::test]
async fn a_line_beside_takes_no_other_s_place_and_gives_way_to_the_vmrs_own() {
    let bed = Bed::new().await;
    let client = AdminClient::new(&[bed.url()], None, None).expect("a client");
    let mut vmr = registration("v", Role::Vmr { rank: 0 });
    vmr.endpoints = vec!["127.1.0.1:9".parse().expect("an endpoint")];
    client.register(&vmr).await.expect("registered");

    let mut first = open(&client, true).await.expect("a line");
    assert!(first.is_told_something().await);
    let Err(failure) = open(&client, true).await else { panic!("there is one") };
    assert!(matches!(failure, AdminError::Duplicate(_)), "{failure}");
    assert_eq!(bed.handle.status().lines.lines, 1);

    let mut own = open(&client, false).await.expect("a line");
    first.ends().await;
    assert!(own.is_told_something().await);
    let Err(failure) = open(&client, true).await else { panic!("there is one") };
    assert!(matches!(failure, AdminError::Duplicate(_)), "{failure}");
    assert!(bed.handle.lines().tell(&vmr.id, What::Ping(v1::Ping {})), "it stands");
    assert!(own.is_told_something().await);
    assert_eq!(bed.handle.status().lines.lines, 1);
    bed.stop().await;
}

//! The lines of VMRs: those that stand beside their own at another admin, and what they are told of the policy.

use std::time::Duration;

use futures_util::stream::unfold;
use tokio::sync::mpsc;
use vmcast_proto::registry::{Role, UnixMillis};
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
    /// What is told up to what `ends` it, with that.
    async fn told(&mut self, ends: impl Fn(&What) -> bool) -> Vec<What> {
        let mut told = Vec::new();
        while !told.last().is_some_and(&ends) {
            let command = tokio::time::timeout(HANG, self.commands.message()).await.expect("a command");
            told.extend(command.expect("the line stands").expect("a command").what);
        }
        told
    }

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

const fn is_policy(what: &What) -> bool {
    matches!(what, What::Policy(_))
}

// proves A2: what an admin knew before it lost its store may be older than what another has told
#[tokio::test]
async fn an_admin_that_has_lost_its_store_tells_no_policy() {
    let bed = Bed::new().await;
    let client = AdminClient::new(&[bed.url()], None, None).expect("a client");
    let mut vmr = registration("v", Role::Vmr { rank: 0 });
    vmr.endpoints = vec!["127.1.0.1:9".parse().expect("an endpoint")];
    client.register(&vmr).await.expect("registered");
    let policy = bed.handle.change_policy(|_| Ok(())).await.expect("changed");
    open(&client, false).await.expect("a line").told(is_policy).await;

    bed.handle.rows(|rows| rows.set_floor(UnixMillis(u64::MAX), true));
    for beside in [false, true] {
        let mut line = open(&client, beside).await.expect("a line");
        bed.handle.push_policy();
        assert!(bed.handle.lines().tell(&vmr.id, What::Draining(false)), "it stands");
        let told = line.told(|what| matches!(what, What::Draining(_))).await;
        assert!(!told.iter().any(is_policy), "{told:?}");
        if !beside {
            drop(line);
            let gone = async {
                while bed.handle.status().lines.lines > 0 {
                    tokio::task::yield_now().await
                }
            };
            tokio::time::timeout(HANG, gone).await.expect("the line ends");
            continue;
        }
        // It is told when the store is there again, also if it is the same.
        bed.handle.rows(|rows| rows.set_floor(UnixMillis(0), false));
        bed.handle.push_policy();
        let told = line.told(is_policy).await;
        assert!(
            matches!(told.last(), Some(What::Policy(told)) if told.version == policy.version),
            "{told:?}"
        );
    }
    bed.stop().await;
}

//! Asks the role.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use vmcast_api::{Request, Response};

use super::Call;

/// How long a role may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Puts questions to the role of this process, which answers from its one loop.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<Call>);

impl Asker {
    /// Questions go into `calls`.
    pub(crate) const fn new(calls: mpsc::Sender<Call>) -> Self {
        Self(calls)
    }

    /// Asks, and waits for the answer; says so if there is none.
    pub async fn ask(&self, request: Request) -> Response {
        let (sender, receiver) = oneshot::channel();
        let asked = async {
            self.0.send((request, sender)).await.ok()?;
            receiver.await.ok()
        };
        match timeout(ANSWER_TIMEOUT, asked).await {
            Ok(Some(response)) => response,
            Ok(None) => Response::error("the daemon is ending"),
            Err(_) => {
                Response::error(format!("the daemon did not answer within {} s", ANSWER_TIMEOUT.as_secs()))
            }
        }
    }
}

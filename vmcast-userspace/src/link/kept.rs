//! The VMRs that an admin has ranked, in a file beside the node's identity: a node that starts while no admin answers
//! goes on with them.

use std::{net::SocketAddr, sync::Arc};

use serde::{Deserialize, Serialize};
use tracing::{debug, warn};
use vmcast_proto::registry::AnswerKind;

use super::{RankedVmr, RankedVmrs};
use crate::identity::NodeIdentity;

/// VMRs that are kept at most: more than a node tries before an admin is back.
const MOST: usize = 32;

/// A VMR in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    id: String,
    name: String,
    endpoint: SocketAddr,
    rank: u32,
}

impl Entry {
    fn of(vmr: &RankedVmr) -> Self {
        let RankedVmr { id, name, endpoint, rank, distance: _ } = vmr;
        Self { id: id.to_string(), name: name.clone(), endpoint: *endpoint, rank: *rank }
    }

    fn read(self) -> Option<RankedVmr> {
        let Self { id, name, endpoint, rank } = self;
        match id.parse() {
            Ok(id) => Some(RankedVmr { id, name, endpoint, rank, distance: None }),
            Err(error) => {
                debug!(id, %error, "a VMR was kept by what is no id");
                None
            }
        }
    }
}

/// What is kept of the list, and where; nowhere without an identity, which has the directory.
#[derive(Debug)]
pub(super) struct KeptVmrs {
    identity: Option<Arc<NodeIdentity>>,
    entries: Vec<Entry>,
}

impl KeptVmrs {
    /// What an earlier process has kept.
    pub(super) fn load(identity: Option<&Arc<NodeIdentity>>) -> Self {
        let mut entries: Vec<Entry> = identity.map(|identity| identity.ranked_vmrs()).unwrap_or_default();
        entries.truncate(MOST);
        Self { identity: identity.cloned(), entries }
    }

    /// The list; `None` if nothing is kept.
    pub(super) fn list(&self) -> Option<RankedVmrs> {
        let vmrs: Vec<_> = self.entries.iter().cloned().filter_map(Entry::read).collect();
        (!vmrs.is_empty()).then_some(RankedVmrs { kind: AnswerKind::All, vmrs, kept: true })
    }

    /// Keeps nothing any more.
    pub(super) fn forget(&mut self) {
        let known = std::mem::take(&mut self.entries);
        if known.is_empty() {
            return;
        }
        if let Some(Err(error)) =
            self.identity.as_ref().map(|identity| identity.keep_ranked_vmrs::<Entry>(&[]))
        {
            warn!(%error, "the VMRs that an admin named before cannot be forgotten");
        }
    }

    /// Keeps a list of an admin in place of the one before. An empty one says nothing of where to go.
    pub(super) fn keep(&mut self, list: &RankedVmrs) {
        let entries: Vec<_> = list.vmrs.iter().take(MOST).map(Entry::of).collect();
        if entries.is_empty() || entries == self.entries {
            return;
        }
        let Some(identity) = &self.identity else { return };
        match identity.keep_ranked_vmrs(&entries) {
            Ok(()) => self.entries = entries,
            Err(error) => warn!(%error, "the VMRs that the admin names cannot be kept for the next start"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{admin::tests::bed::Bed, link::identity_tests::joined, telemetry::lines};

    // proves D4: who is shut out has no list any more, also where the disk does not let go of it
    #[tokio::test]
    async fn a_list_that_cannot_be_kept_or_forgotten_is_told_to_the_operator_and_tried_again() {
        let (bed, directory) = (Bed::secure().await, tempfile::tempdir().expect("a directory"));
        let identity = joined(&bed, directory.path()).await;
        let vmr = RankedVmr {
            id: "core".parse().expect("an id"),
            name: "core".to_owned(),
            endpoint: ([127, 1, 0, 9], 2268).into(),
            rank: 0,
            distance: None,
        };
        let list = RankedVmrs { kind: AnswerKind::All, vmrs: vec![vmr], kept: false };
        let mut kept = KeptVmrs::load(Some(&identity));
        // Something else is in the place of the file.
        let path = directory.path().join("vmrs.json");
        fs::create_dir(&path).expect("a directory");
        for _ in 0..2 {
            let told = lines(|| kept.keep(&list));
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(
                told[0].contains("WARN") && told[0].contains("cannot be kept for the next start"),
                "{told:?}"
            );
        }
        fs::remove_dir(&path).expect("it is empty");
        assert_eq!(lines(|| kept.keep(&list)), [""; 0]);
        assert_eq!(KeptVmrs::load(Some(&identity)).list().map(|list| list.vmrs.len()), Some(1));

        fs::remove_file(&path).expect("the file");
        fs::create_dir(&path).expect("a directory");
        let told = lines(|| kept.forget());
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].contains("WARN") && told[0].contains("cannot be forgotten"), "{told:?}");
        assert!(kept.list().is_none());
        bed.stop().await;
    }
}

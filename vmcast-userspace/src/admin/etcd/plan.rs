//! From changes of the registry to transactions of etcd.

use std::collections::{BTreeMap, BTreeSet};

use vmcast_etcd::{Condition, Operation};
use vmcast_proto::registry::{
    CacheEntry, CacheKey, Change, Expected, NodeId, NodeRecord, RecordWrite, Rows as _, UnixMillis,
};

use super::{
    key::{entry_value, node_value},
    state::State,
};

/// Writes of one transaction at most: etcd's own limit is 128 (`--max-txn-ops`).
const MAX_WRITES: usize = 100;

/// A transaction: its writes are made if its conditions hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) conditions: Vec<Condition>,
    pub(super) operations: Vec<Operation>,
}

/// What is left of changes after each other: the last word on every row.
#[derive(Debug, Default)]
struct Net {
    nodes: BTreeMap<NodeId, Option<NodeRecord>>,
    entries: BTreeMap<CacheKey, Option<CacheEntry>>,
    /// Whether all other entries go.
    all_entries: bool,
}

/// The transactions that make changes, in their order, written at a time.
///
/// One would be best, but its size is limited. Entries of the cache go first and nodes last: if the rest fails,
/// the cache has lost what it would have learned again, and no node is half there.
pub(super) fn plan(state: &State, changes: &[Change], now: UnixMillis) -> Vec<Step> {
    let net = net(state, changes);
    let mut steps = Vec::new();
    if net.all_entries {
        let prefix = state.layout.cache();
        steps.push(Step { conditions: vec![], operations: vec![Operation::DeletePrefix { prefix }] });
    }
    let removals = net.entries.iter().filter(|(_, entry)| entry.is_none() && !net.all_entries);
    let removals: Vec<_> =
        removals.map(|(key, _)| Operation::Delete { key: state.layout.entry(key) }).collect();
    let puts = net.entries.iter().filter_map(|(key, entry)| Some((key, entry.as_ref()?)));
    let puts: Vec<_> =
        puts.map(|(key, entry)| put(state.layout.entry(key), entry_value(entry, now))).collect();
    let (whole, rest) = puts.split_at(puts.len() / MAX_WRITES * MAX_WRITES);
    for operations in removals.chunks(MAX_WRITES).chain(whole.chunks(MAX_WRITES)) {
        steps.push(Step { conditions: vec![], operations: operations.to_vec() });
    }
    let mut last = Step { conditions: vec![], operations: rest.to_vec() };
    // Those that go first: their endpoints may be another's in the same change.
    let (gone, come): (Vec<_>, Vec<_>) = net.nodes.iter().partition(|(_, record)| record.is_none());
    let taken: BTreeSet<Vec<u8>> =
        come.iter().flat_map(|(_, record)| claims(state, record.as_ref())).collect();
    for (id, record) in gone.into_iter().chain(come) {
        let step = node(state, id, record.as_ref(), &taken, now);
        if last.operations.len() + step.operations.len() > MAX_WRITES {
            steps.push(std::mem::take(&mut last));
        }
        last.conditions.extend(step.conditions);
        last.operations.extend(step.operations);
    }
    steps.push(last);
    steps.retain(|step| !step.operations.is_empty());
    steps
}

/// The transaction that changes records; `None` if something else than `expected` is known to be there.
pub(super) fn plan_records(state: &State, expected: &[Expected], writes: &[RecordWrite]) -> Option<Step> {
    let mut step = Step::default();
    for Expected { kind, key, value } in expected {
        let known = state.rows.record(*kind, key);
        if known != *value {
            return None;
        }
        let key = state.layout.record(*kind, key);
        step.conditions.push(Condition { mod_revision: state.revision(&key), key });
    }
    step.operations = writes
        .iter()
        .map(|RecordWrite { kind, key, value }| {
            let key = state.layout.record(*kind, key);
            match value {
                Some(value) => put(key, value.clone()),
                None => Operation::Delete { key },
            }
        })
        .collect();
    Some(step)
}

fn net(state: &State, changes: &[Change]) -> Net {
    let mut net = Net::default();
    let rows = state.rows.rows();
    let remove = |net: &mut Net, keys: &mut dyn Iterator<Item = CacheKey>| {
        if !net.all_entries {
            for key in keys {
                net.entries.entry(key).or_insert(None);
            }
        }
    };
    for change in changes {
        match change {
            Change::PutNode(record) => {
                net.nodes.insert(record.id().clone(), Some(record.clone()));
            }
            Change::RemoveNode(id) => {
                net.nodes.insert(id.clone(), None);
            }
            Change::PutEntry(entry) => {
                net.entries.insert(entry.key, Some(entry.clone()));
            }
            Change::RemoveEntry(key) => {
                net.entries.insert(*key, None);
            }
            Change::RemoveEntriesNaming(id) => {
                retract(&mut net, |entry| entry.nearest.vmr == *id);
                remove(&mut net, &mut rows.entries_naming(id));
            }
            Change::RemoveAllEntries => {
                net.entries.clear();
                net.all_entries = true;
            }
            Change::RemoveEntriesExpired(now) => {
                retract(&mut net, |entry| entry.expires <= *now);
                if *now >= state.floor() {
                    remove(&mut net, &mut rows.entries_expired(*now));
                }
            }
        }
    }
    // What is not there need not be removed.
    let is_there = |id: &NodeId| rows.node(id).is_some();
    net.nodes.retain(|id, record| record.is_some() || is_there(id));
    net
}

/// Takes back entries that these changes put.
fn retract(net: &mut Net, goes: impl Fn(&CacheEntry) -> bool) {
    for entry in net.entries.values_mut() {
        if entry.as_ref().is_some_and(&goes) {
            *entry = None;
        }
    }
}

/// The endpoints of a VMR, which no other VMR may have; an agent's may be a private address that others have too.
fn claims(state: &State, record: Option<&NodeRecord>) -> Vec<Vec<u8>> {
    let vmr = record.filter(|record| record.rank().is_some());
    vmr.into_iter()
        .flat_map(|vmr| &vmr.registration.endpoints)
        .map(|&endpoint| state.layout.claim(endpoint))
        .collect()
}

/// The writes of one node, and the condition that nobody else has changed it or taken its endpoints.
fn node(
    state: &State,
    id: &NodeId,
    record: Option<&NodeRecord>,
    taken: &BTreeSet<Vec<u8>>,
    now: UnixMillis,
) -> Step {
    let mut step = Step::default();
    let mut condition = |key: &Vec<u8>| {
        let mod_revision = state.revision(key);
        step.conditions.push(Condition { key: key.clone(), mod_revision });
    };
    let key = state.layout.node(id);
    condition(&key);
    let before = state.rows.node(id);
    let (had, has) = (claims(state, before.as_ref()), claims(state, record));
    // A claim that stays is not written: it is this node's as long as the node is what it was.
    for claim in has.iter().filter(|claim| !had.contains(claim)) {
        condition(claim);
        step.operations.push(put(claim.clone(), id.as_str().into()));
    }
    for claim in had.iter().filter(|claim| !has.contains(claim) && !taken.contains(*claim)) {
        step.operations.push(Operation::Delete { key: claim.clone() });
    }
    step.operations.push(match record {
        Some(record) => put(key, node_value(record, now)),
        None => Operation::Delete { key },
    });
    step
}

fn put(key: Vec<u8>, value: Vec<u8>) -> Operation {
    Operation::Put { key, value, lease: 0 }
}

#[cfg(test)]
mod tests {
    use vmcast_proto::registry::{Role, Scope, conformance};

    use super::{
        super::{key::Layout, times::Heard},
        *,
    };

    /// Transactions of changes that are made now.
    fn plan(state: &State, changes: &[Change]) -> Vec<Step> {
        super::plan(state, changes, UnixMillis(3))
    }

    fn known(changes: &[Change]) -> State {
        let mut state = State::new(Layout::new("/"), 60_000);
        for (revision, step) in (1..).zip(plan(&state, changes)) {
            apply(&mut state, &step, revision);
        }
        state
    }

    fn apply(state: &mut State, step: &Step, revision: i64) {
        for operation in &step.operations {
            match operation {
                Operation::Put { key, value, .. } => state.put(key.clone(), value, revision, Heard::Own),
                Operation::Delete { key } => state.remove(key.clone(), revision),
                Operation::DeletePrefix { .. } => {}
            }
        }
    }

    fn shown(steps: &[Step]) -> Vec<Vec<String>> {
        let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let operation = |operation: &Operation| match operation {
            Operation::Put { key, .. } => format!("put {}", text(key)),
            Operation::Delete { key } => format!("delete {}", text(key)),
            Operation::DeletePrefix { prefix } => format!("delete {}*", text(prefix)),
        };
        let condition =
            |condition: &Condition| format!("{}@{}", text(&condition.key), condition.mod_revision);
        let step = |step: &Step| {
            step.conditions.iter().map(condition).chain(step.operations.iter().map(operation)).collect()
        };
        steps.iter().map(step).collect()
    }

    fn vmr(id: &str, endpoints: &[&str]) -> Change {
        Change::PutNode(conformance::node(id, Role::Vmr { rank: 1 }, endpoints, 9))
    }

    #[test]
    fn a_vmr_claims_its_endpoints_and_gives_them_back() {
        let state = known(&[]);
        let first = plan(&state, &[Change::RemoveAllEntries, vmr("v", &["1.1.1.1:1", "1.1.1.2:1"])]);
        let node = ["/1/node/v@0", "/1/claim/1.1.1.1:1@0", "/1/claim/1.1.1.2:1@0"];
        let writes = ["put /1/claim/1.1.1.1:1", "put /1/claim/1.1.1.2:1", "put /1/node/v"];
        assert_eq!(shown(&first)[0], ["delete /1/cache/*"]);
        assert_eq!(shown(&first)[1], [node, writes].concat());

        let state = known(&[vmr("v", &["1.1.1.1:1", "1.1.1.2:1"])]);
        let moved = plan(&state, &[vmr("v", &["1.1.1.2:1", "1.1.1.3:1"])]);
        let expected = [
            "/1/node/v@1",
            "/1/claim/1.1.1.3:1@0",
            "put /1/claim/1.1.1.3:1",
            "delete /1/claim/1.1.1.1:1",
            "put /1/node/v",
        ];
        assert_eq!(shown(&moved), [expected]);
        let taken_over = plan(&state, &[Change::RemoveNode(id("v")), vmr("w", &["1.1.1.1:1"])]);
        let expected = [
            "/1/node/v@1",
            "/1/node/w@0",
            "/1/claim/1.1.1.1:1@1",
            "delete /1/claim/1.1.1.2:1",
            "delete /1/node/v",
            "put /1/claim/1.1.1.1:1",
            "put /1/node/w",
        ];
        assert_eq!(shown(&taken_over), [expected]);
    }

    #[test]
    fn no_row_is_written_twice_and_nothing_is_removed_that_is_not_there() {
        let entry = |prefix: &str, vmr: &str| conformance::entry(Scope::Agents, prefix, vmr, 5);
        let state =
            known(&[Change::PutEntry(entry("10.0.0.0/8", "v")), Change::PutEntry(entry("11.0.0.0/8", "w"))]);
        let steps = plan(
            &state,
            &[
                Change::PutEntry(entry("12.0.0.0/8", "v")),
                Change::RemoveEntriesNaming(id("v")),
                Change::RemoveNode(id("absent")),
                Change::PutEntry(entry("11.0.0.0/8", "x")),
            ],
        );
        let expected = [
            vec!["delete /1/cache/0@10.0.0.0/8", "delete /1/cache/0@12.0.0.0/8"],
            vec!["put /1/cache/0@11.0.0.0/8"],
        ];
        assert_eq!(shown(&steps), expected);
        assert_eq!(plan(&state, &[Change::RemoveEntriesExpired(UnixMillis(4))]), []);
        assert_eq!(shown(&plan(&state, &[Change::RemoveEntriesExpired(UnixMillis(5))]))[0].len(), 2);
    }

    #[test]
    fn many_changes_are_many_transactions() {
        let all: Vec<Change> = (0..250)
            .map(|n| Change::PutNode(conformance::node(&format!("n{n:03}"), Role::Agent, &[], 9)))
            .collect();
        let sizes = |steps: &[Step]| steps.iter().map(|step| step.operations.len()).collect::<Vec<_>>();
        assert_eq!(sizes(&plan(&known(&[]), &all)), [100, 100, 50]);
    }

    fn id(text: &str) -> NodeId {
        text.parse().expect("an id")
    }
}

use std::{
    convert::Infallible,
    fmt::Display,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use prost::Message;
use vmcast::{
    admin::convert::{self, Malformed},
    link::Nearest,
};
use vmcast_proto::registry::{
    CacheKey, Config, Error, Found, MemoryStore, NodeId, Prefix, Registry, UnixMillis,
};
use vmcast_signal::v1;

use crate::script::Script;

const MAX_NODES: usize = 3;
const MAX_ENTRIES: usize = 3;

/// The admin's calls under a script: each step is a protobuf message from some address, or time.
/// What can be read is granted or refused, and what is answered a node can read.
pub fn registry(data: &[u8]) {
    let config = Config {
        max_nodes: MAX_NODES,
        max_endpoints: 3,
        max_entries: MAX_ENTRIES,
        max_measurements: 3,
        return_probe: data.first().is_some_and(|first| first & 0x80 != 0),
        ..Config::default()
    };
    let mut admin = Admin { registry: Registry::new(config, MemoryStore::default()), now: UnixMillis(1) };
    let mut script = Script::new(data);
    while let Some((step, argument)) = script.step() {
        let seen = seen(argument);
        match step % 9 {
            0 => admin.now = admin.now.after(Duration::from_secs(argument.into())),
            1 => admin.register(seen, script.sized()),
            2 => admin.deregister(script.sized()),
            3 => admin.nearest(seen, script.sized()),
            4 => admin.report(seen, script.sized()),
            5 => admin.list_nodes(script.sized()),
            6 => admin.list_cache(script.sized()),
            7 => node_reads(script.sized()),
            _ => admin.note_found(argument, script.sized()),
        }
        admin.settle();
    }
}

struct Admin {
    registry: Registry<MemoryStore>,
    now: UnixMillis,
}

impl Admin {
    fn register(&mut self, seen: IpAddr, bytes: &[u8]) {
        let Some(request) = decode::<v1::RegisterRequest>(bytes) else { return };
        let Some(registration) = read(convert::registration(request.node)) else { return };
        let said = granted(self.registry.register(self.now, seen, registration.clone()));
        if said.is_some() {
            let nodes = self.registry.nodes(self.now, None, usize::MAX);
            let kept = nodes.iter().find(|node| *node.id() == registration.id).expect("a lease that runs");
            assert_eq!(kept.registration.role, registration.role);
        }
    }

    fn deregister(&mut self, bytes: &[u8]) {
        let Some(request) = decode::<v1::DeregisterRequest>(bytes) else { return };
        if let Some(id) = read(convert::parse::<NodeId>("node_id", &request.node_id)) {
            infallible(self.registry.deregister(self.now, &id));
            assert!(!infallible(self.registry.deregister(self.now, &id)));
        }
    }

    fn nearest(&mut self, seen: IpAddr, bytes: &[u8]) {
        let Some(request) = decode::<v1::NearestRequest>(bytes) else { return };
        let Some(query) = read(convert::query(seen, request)) else { return };
        let Some(answer) = granted(self.registry.nearest(self.now, &query)) else { return };
        let response = v1::NearestResponse {
            kind: convert::answer_kind(answer.kind).into(),
            vmrs: answer.vmrs.iter().map(convert::vmr).collect(),
            next: answer.next.map(|place| place.to_string()).unwrap_or_default(),
            probing: None,
            others: answer.others.iter().map(convert::vmr).collect(),
            stale: false,
        };
        let told = Nearest::try_from(response).expect("a node can read what it is told");
        assert_eq!(told.kind, answer.kind);
        assert_eq!(told.vmrs.len(), answer.vmrs.len());
        for (told, kept) in told.vmrs.iter().zip(&answer.vmrs) {
            assert_eq!((&told.id, Some(told.rank)), (kept.id(), kept.rank()));
            assert_eq!(told.endpoints, kept.registration.endpoints);
            assert!(told.id != query.node && !query.excluded.contains(&told.id));
            let kept = self.registry.live_vmr(self.now, &told.id).expect("its lease runs");
            let is_found = |endpoint: &SocketAddr| kept.found(endpoint) == Some(Found::Proved);
            assert!(!self.registry.config().return_probe || told.endpoints.iter().all(is_found));
        }
    }

    fn report(&mut self, seen: IpAddr, bytes: &[u8]) {
        let Some(request) = decode::<v1::ReportNearestRequest>(bytes) else { return };
        let Some(report) = read(convert::report(seen, request)) else { return };
        if let Some(reported) = granted(self.registry.report(self.now, &report)) {
            let prefix = reported.prefix.unwrap_or(reported.address);
            assert_eq!(prefix.to_string().parse::<Prefix>(), Ok(prefix));
        }
    }

    /// What return probes find at the endpoints of one of the VMRs.
    fn note_found(&mut self, argument: u8, bytes: &[u8]) {
        let vmrs: Vec<_> = self.registry.nodes(self.now, None, usize::MAX);
        let vmrs: Vec<_> = vmrs.into_iter().filter(|node| node.rank().is_some()).collect();
        let Some(vmr) = vmrs.get(usize::from(argument) % vmrs.len().max(1)) else { return };
        let kinds = [Found::Awaited, Found::Proved, Found::Silent, Found::Foreign, Found::Mute];
        let endpoints = vmr.registration.endpoints.iter().zip(bytes);
        let found: Vec<_> =
            endpoints.map(|(endpoint, byte)| (*endpoint, kinds[usize::from(*byte) % kinds.len()])).collect();
        granted(self.registry.note_found(self.now, vmr.id(), &found)).expect("its lease runs");
        let after = self.registry.live_vmr(self.now, vmr.id()).expect("its lease runs");
        for (endpoint, found) in found {
            let before = vmr.found(&endpoint);
            let expected = match found {
                Found::Awaited => before,
                Found::Proved | Found::Foreign => Some(found),
                Found::Silent | Found::Mute if before == Some(Found::Proved) => before,
                Found::Silent | Found::Mute => Some(found),
            };
            assert_eq!(after.found(&endpoint), expected);
        }
    }

    fn list_nodes(&self, bytes: &[u8]) {
        let Some(request) = decode::<v1::ListNodesRequest>(bytes) else { return };
        let after = read(convert::parse::<NodeId>("after", &request.after));
        let limit = request.limit as usize;
        let nodes = self.registry.nodes(self.now, after.as_ref(), limit);
        assert!(nodes.len() <= limit.min(MAX_NODES));
        assert!(nodes.iter().all(|node| after.as_ref().is_none_or(|after| after < node.id())));
    }

    fn list_cache(&self, bytes: &[u8]) {
        let Some(request) = decode::<v1::ListCacheRequest>(bytes) else { return };
        let after = read(convert::parse::<CacheKey>("after", &request.after));
        let limit = request.limit as usize;
        let entries = self.registry.cache(self.now, after.as_ref(), limit);
        assert!(entries.len() <= limit.min(MAX_ENTRIES));
        assert!(entries.iter().all(|entry| after.as_ref().is_none_or(|after| *after < entry.key)));
    }

    /// Nothing exceeds its limit, and what is shown reads the same.
    fn settle(&self) {
        let nodes = self.registry.nodes(self.now, None, usize::MAX);
        assert!(nodes.len() <= MAX_NODES);
        for node in &nodes {
            let shown = convert::node_entry(node);
            assert_eq!(read(convert::registration(shown.node)).as_ref(), Some(&*node.registration));
        }
        let entries = self.registry.cache(self.now, None, usize::MAX);
        assert!(entries.len() <= MAX_ENTRIES);
        for entry in &entries {
            assert_eq!(entry.key.to_string().parse(), Ok(entry.key));
            let shown = convert::cache_entry(entry);
            assert_eq!(shown.prefix.parse(), Ok(entry.key.prefix));
        }
    }
}

/// The admin's answer as a node reads it.
fn node_reads(bytes: &[u8]) {
    let Some(response) = decode::<v1::NearestResponse>(bytes) else { return };
    match Nearest::try_from(response) {
        Ok(nearest) => assert!(nearest.vmrs.iter().all(|vmr| !vmr.endpoints.is_empty())),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// Reads a message; what can be read can be written and reads the same.
pub(crate) fn decode<M: Message + Default + PartialEq + std::fmt::Debug>(bytes: &[u8]) -> Option<M> {
    let message = M::decode(bytes).ok()?;
    let again = M::decode(message.encode_to_vec().as_slice());
    assert_eq!(again.as_ref(), Ok(&message));
    Some(message)
}

fn read<T>(result: Result<T, Malformed>) -> Option<T> {
    explained(result)
}

fn granted<T>(result: Result<T, Error<Infallible>>) -> Option<T> {
    explained(result)
}

/// The value; an error says what is wrong.
pub(crate) fn explained<T, E: Display>(result: Result<T, E>) -> Option<T> {
    result.inspect_err(|error| assert!(!error.to_string().is_empty())).ok()
}

fn infallible<T>(result: Result<T, Infallible>) -> T {
    let Ok(value) = result;
    value
}

fn seen(argument: u8) -> IpAddr {
    match argument >> 6 {
        0 => Ipv4Addr::LOCALHOST.into(),
        1 => IpAddr::from([0x2001, 0xdb8, 0, u16::from(argument & 1), 0, 0, 0, u16::from(argument)]),
        2 => Ipv4Addr::new(198, 51, 100, argument).to_ipv6_mapped().into(),
        _ => Ipv4Addr::new(203, 0, 113, argument & 3).into(),
    }
}

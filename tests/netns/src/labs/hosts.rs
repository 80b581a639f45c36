//! Hosts that know nothing of vmcast, on links of their own: the VMR is their querier, for IGMP and for MLD, and sends
//! them what they join as native multicast. A lab of them looks at three things: what a host is sent, what the router
//! says of its members, and that nobody else is sent anything.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use libtest_mimic::Failed;
use serde_json::Value;
use vmcast_lab::{
    Namespace,
    roles::{Engine, Role},
    traffic::{GroupPort, Witness},
};

use super::{
    bed::{Bed, Outcome, ensure},
    small::{Router, SOURCE, SOURCE2, STREAM, Small, client_address},
    stream::{Listener, Sender},
};

/// Streams of one version of IP.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams {
    /// Joined whatever its source.
    pub(super) any: SocketAddr,
    /// Of which one source is joined (RFC 4607).
    pub(super) channel: SocketAddr,
    /// Two addresses of the source.
    pub(super) sources: [IpAddr; 2],
    /// What they are joined by, as the router's counters have it.
    pub(super) protocol: &'static str,
}

pub(super) const V4: Streams = Streams {
    any: v4(STREAM.group, STREAM.port),
    channel: v4(Ipv4Addr::new(232, 7, 0, 1), 5006),
    sources: [IpAddr::V4(SOURCE), IpAddr::V4(SOURCE2)],
    protocol: "igmp",
};

pub(super) const V6: Streams = Streams {
    // Of global scope.
    any: v6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 7, 1), 5004),
    channel: v6(Ipv6Addr::new(0xff3e, 0, 0, 0, 0, 0, 0x8000, 1), 5006),
    sources: [
        IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 2)),
        IpAddr::V6(Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 3)),
    ],
    protocol: "mld",
};

impl Streams {
    /// A stream beside [`Self::any`], by the last number of its group, which is 1 there.
    pub(super) fn another(&self, last: u8) -> SocketAddr {
        let mut stream = self.any;
        stream.set_ip(match stream.ip() {
            IpAddr::V4(group) => {
                let [a, b, c, _] = group.octets();
                Ipv4Addr::new(a, b, c, last).into()
            }
            IpAddr::V6(group) => {
                let [a, b, c, d, e, f, g, _] = group.segments();
                Ipv6Addr::new(a, b, c, d, e, f, g, last.into()).into()
            }
        });
        stream
    }
}

const fn v4(group: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(group), port)
}

const fn v6(group: Ipv6Addr, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(group), port)
}

/// The small network with IPv6 beside IPv4, and its router as querier of every link.
pub(super) struct Hosts {
    pub(super) small: Small,
    pub(super) router: Role,
}

/// More keys for the router.
#[derive(Clone, Copy, Default)]
pub(super) struct Keys<'a> {
    /// Of `[igmp]` and `[mld]`.
    pub(super) timers: &'a str,
    /// Of each host's interface.
    pub(super) interface: &'a str,
}

impl Hosts {
    /// So many hosts, and the router.
    pub(super) fn start(bed: &mut Bed, count: u8, engine: Engine) -> Result<Self, Failed> {
        Self::start_after(bed, count, engine, |_| Ok(()))
    }

    /// The same; the hosts are made ready before there is a router.
    pub(super) fn start_after(
        bed: &mut Bed,
        count: u8,
        engine: Engine,
        prepare: impl FnOnce(&Small) -> Outcome,
    ) -> Result<Self, Failed> {
        Self::start_all(bed, count, engine, Keys::default(), prepare)
    }

    /// The same with more keys of the router's tables.
    pub(super) fn start_with(bed: &mut Bed, count: u8, keys: Keys<'_>) -> Result<Self, Failed> {
        Self::start_all(bed, count, Engine::Auto, keys, |_| Ok(()))
    }

    /// The same with all of that.
    pub(super) fn start_all(
        bed: &mut Bed,
        count: u8,
        engine: Engine,
        Keys { timers, interface }: Keys<'_>,
        prepare: impl FnOnce(&Small) -> Outcome,
    ) -> Result<Self, Failed> {
        let small = Small::build(bed, count)?;
        for source in V6.sources {
            small.source.ip(&format!("addr add {source}/64 dev eth0 nodad"))?;
        }
        small.vmr.ip("addr add fd01::1/64 dev src0 nodad")?;
        prepare(&small)?;
        let tables = format!("[mld]\nlast_listener_query_interval_seconds = 0.2\n{timers}");
        let router = Router { engine, querier: true, tables: &tables, ..Router::default() };
        let router = small.router_with_timers(bed, router, timers, interface)?;
        Ok(Self { small, router })
    }

    /// A host, counted from 1.
    pub(super) fn host(&self, number: u8) -> &Namespace {
        self.small.client(number)
    }

    /// Begins to send a stream from an address of the source.
    pub(super) fn send(&self, from: IpAddr, to: SocketAddr) -> Result<Sender, Failed> {
        match (from, to) {
            (IpAddr::V4(from), SocketAddr::V4(to)) => {
                Sender::start(&self.small.source, from, GroupPort { group: *to.ip(), port: to.port() })
            }
            (IpAddr::V6(from), SocketAddr::V6(to)) => Sender::start_v6(&self.small.source, from, to, "eth0"),
            (IpAddr::V4(_), SocketAddr::V6(_)) | (IpAddr::V6(_), SocketAddr::V4(_)) => {
                Err("a source and its group are of one family".into())
            }
        }
    }

    /// Joins a stream, or one source of it, on a host.
    pub(super) fn join(
        &self,
        host: u8,
        stream: SocketAddr,
        source: Option<IpAddr>,
    ) -> Result<Listener, Failed> {
        let node = self.host(host);
        match (stream, source) {
            (SocketAddr::V4(to), None) => {
                Listener::join(node, GroupPort { group: *to.ip(), port: to.port() }, None)
            }
            (SocketAddr::V4(to), Some(IpAddr::V4(source))) => {
                Listener::join(node, GroupPort { group: *to.ip(), port: to.port() }, Some(source))
            }
            (SocketAddr::V6(to), None) => Listener::join_v6(node, to, "eth0"),
            (SocketAddr::V6(to), Some(IpAddr::V6(source))) => {
                Listener::join_source_v6(node, to, source, "eth0")
            }
            (SocketAddr::V4(_), Some(IpAddr::V6(_))) | (SocketAddr::V6(_), Some(IpAddr::V4(_))) => {
                Err("a source and its group are of one family".into())
            }
        }
    }

    /// Watches the link of a host for a stream.
    pub(super) fn watch(&self, bed: &Bed, host: u8, stream: SocketAddr) -> Result<Witness, Failed> {
        Ok(Witness::start(self.host(host), "eth0", stream, bed.clock)?)
    }

    /// The same; nothing of the stream may come in there from now on.
    pub(super) fn forbid(&self, bed: &Bed, host: u8, stream: SocketAddr) -> Result<Witness, Failed> {
        let witness = self.watch(bed, host, stream)?;
        witness.forbid(true);
        Ok(witness)
    }

    /// Waits until the only member is this host's link, with the filter that was asked for: every source, or this one.
    pub(super) fn until_only_member(
        &self,
        bed: &Bed,
        host: u8,
        stream: SocketAddr,
        source: Option<IpAddr>,
    ) -> Outcome {
        self.until_only(bed, stream, source, |output| output["name"] == format!("acc{host}"))
    }

    /// The same of the tunnel of an agent on this host.
    pub(super) fn until_only_tunnel(
        &self,
        bed: &Bed,
        host: u8,
        stream: SocketAddr,
        source: Option<IpAddr>,
    ) -> Outcome {
        let address = format!("{}:", client_address(host));
        self.until_only(bed, stream, source, |output| {
            output["remote"].as_str().is_some_and(|remote| remote.starts_with(&address))
        })
    }

    fn until_only(
        &self,
        bed: &Bed,
        stream: SocketAddr,
        source: Option<IpAddr>,
        is_it: impl Fn(&Value) -> bool,
    ) -> Outcome {
        let (mode, sources) = match source {
            None => ("exclude", Vec::new()),
            Some(source) => ("include", vec![Value::from(source.to_string())]),
        };
        bed.until_answer("the host is the only member", &self.router, &["member", "list"], |answer| {
            let members = answer["members"].as_array().map(Vec::as_slice).unwrap_or_default();
            members.len() == 1
                && is_it(&members[0]["output"])
                && members[0]["group"] == stream.ip().to_string()
                && members[0]["filter"]["mode"] == mode
                && members[0]["filter"]["sources"] == Value::Array(sources.clone())
        })?;
        Ok(())
    }

    /// Waits until there is no member.
    pub(super) fn until_nobody(&self, bed: &Bed) -> Outcome {
        bed.until_answer("there is no member", &self.router, &["member", "list"], |answer| {
            answer["members"].as_array().is_some_and(Vec::is_empty)
        })?;
        Ok(())
    }

    /// Fails unless a host that has left is sent nothing more of what these go on with.
    pub(super) fn gets_nothing(
        &self,
        bed: &Bed,
        host: u8,
        stream: SocketAddr,
        senders: &[&Sender],
        packets: u64,
    ) -> Outcome {
        let gone = self.forbid(bed, host, stream)?;
        senders.iter().try_for_each(|sender| sender.more(bed, packets))?;
        ensure!(gone.stray().packets == 0, "the stream went on after the leave: {:?}", gone.stray());
        Ok(())
    }

    /// What the querier has counted of a protocol.
    pub(super) fn counted(&self, protocol: &str) -> Value {
        self.router.ask(&["stats"]).unwrap_or_default()["control"][protocol].clone()
    }
}

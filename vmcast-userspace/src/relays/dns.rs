//! Questions to the name servers of the configuration, or of the host.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolverConfig},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name as DnsName, RData, RecordType},
    },
    system_conf::read_system_conf,
};
use vmcast_proto::amt::discovery::Question;
use vmcast_wire::amtrelay::{self, Name};

use crate::clock;

/// How long one name server may take, and how often it is asked.
const PATIENCE: (Duration, usize) = (Duration::from_secs(2), 2);
/// Answers that are kept.
const CACHE: u64 = 4096;
/// Where the host says which name servers it has.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resolved {
    /// The data of each AMTRELAY record.
    Records { data: Vec<Vec<u8>>, ttl: Duration },
    /// Addresses.
    Addresses { addresses: Vec<IpAddr>, ttl: Duration },
    /// There is no such record.
    Nothing { ttl: Option<Duration> },
    /// No server answered, or only by an error.
    Failed(String),
}

/// A resolver; that of the host is made anew when the host has other name servers.
pub(crate) struct Dns {
    /// Empty: those of the host.
    servers: Vec<SocketAddr>,
    present: Mutex<Option<(Option<SystemTime>, TokioResolver)>>,
}

impl Dns {
    /// Will ask these, or the host's name servers.
    pub(crate) const fn new(servers: Vec<SocketAddr>) -> Self {
        Self { servers, present: Mutex::new(None) }
    }

    /// Asks.
    pub(crate) async fn ask(&self, question: &Question) -> Resolved {
        match self.lookup(question).await {
            Ok(resolved) => resolved,
            Err(error) => match nothing(error) {
                Ok(ttl) => Resolved::Nothing { ttl },
                Err(error) => Resolved::Failed(error.to_string()),
            },
        }
    }

    /// The domains that the host's resolver searches.
    pub(super) fn search_list() -> Result<Vec<DnsName>, NetError> {
        let (config, _) = read_system_conf()?;
        let mut domains: Vec<_> = config.domain().into_iter().chain(config.search()).cloned().collect();
        domains.retain(|domain| !domain.is_root());
        domains.dedup();
        Ok(domains)
    }

    async fn lookup(&self, question: &Question) -> Result<Resolved, NetError> {
        let relays = RecordType::from(amtrelay::TYPE);
        let (name, kind) = match question {
            Question::Relays(source) => (dns_name(&Name::reverse(*source))?, relays),
            Question::V4(name) => (dns_name(name)?, RecordType::A),
            Question::V6(name) => (dns_name(name)?, RecordType::AAAA),
        };
        // CNAME and DNAME are followed there (RFC 8777 §3.4).
        let found = self.resolver()?.lookup(name, kind).await?;
        let ttl = found.valid_until().saturating_duration_since(clock::now());
        let of_kind =
            found.answers().iter().map(|record| &record.data).filter(|data| data.record_type() == kind);
        if kind == relays {
            let data = of_kind.map(|data| match data {
                RData::Unknown { rdata, .. } => rdata.anything.clone(),
                _ => Vec::new(),
            });
            return Ok(Resolved::Records { data: data.collect(), ttl });
        }
        let addresses = of_kind.filter_map(RData::ip_addr).collect();
        Ok(Resolved::Addresses { addresses, ttl })
    }

    pub(super) fn resolver(&self) -> Result<TokioResolver, NetError> {
        let changed = || fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok();
        let stamp = self.servers.is_empty().then(changed).flatten();
        let mut present = self.present.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((of, resolver)) = &*present
            && *of == stamp
        {
            return Ok(resolver.clone());
        }
        let mut builder = if self.servers.is_empty() {
            TokioResolver::builder_tokio()?
        } else {
            let servers = self.servers.iter().map(|server| {
                let connection = |mut connection: ConnectionConfig| {
                    connection.port = server.port();
                    connection
                };
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(connection);
                NameServerConfig::new(server.ip(), true, connections.into())
            });
            let config = ResolverConfig::from_parts(None, Vec::new(), servers.collect());
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        (options.timeout, options.attempts) = PATIENCE;
        options.cache_size = CACHE;
        let resolver = builder.build()?;
        *present = Some((stamp, resolver.clone()));
        Ok(resolver)
    }
}

/// How long it is known that there is no such record, if that is what an error says.
pub(super) fn nothing(error: NetError) -> Result<Option<Duration>, NetError> {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none))
            if matches!(none.response_code, ResponseCode::NoError | ResponseCode::NXDomain) =>
        {
            Ok(none.negative_ttl.map(|ttl| Duration::from_secs(ttl.into())))
        }
        error => Err(error),
    }
}

fn dns_name(name: &Name) -> Result<DnsName, NetError> {
    let mut name = DnsName::from_labels(name.labels())?;
    name.set_fqdn(true);
    Ok(name)
}

//! The AMT relays of a network, as its DNS lists them (DNS-SD, RFC 6763; RFC 8777 §3.1.1, condition 4).

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use hickory_resolver::{
    net::NetError,
    proto::rr::{Name, RData, RecordType, rdata::SRV},
};
use tracing::warn;

use super::dns::{self, Dns};
use crate::config::{Domain, NameServer};

/// The service (RFC 8777 §3.1.1).
pub(crate) const SERVICE: &str = "_amt._udp";
/// Most instances of the service, records of one instance, and addresses in all.
const MOST: usize = 16;

/// The relays of a domain.
#[derive(Clone)]
pub(crate) struct Service {
    dns: Arc<Dns>,
    /// Unset: the domains that the host's resolver searches.
    domain: Option<String>,
    /// Decides among relays of equal priority: each node keeps to its choice.
    node: String,
}

impl Service {
    /// As the configuration of a node says.
    pub(crate) fn new(domain: Option<Domain>, servers: &[NameServer], node: &str) -> Self {
        let servers = servers.iter().map(|server| server.0).collect();
        Self {
            dns: Arc::new(Dns::new(servers)),
            domain: domain.map(|domain| domain.0),
            node: node.to_owned(),
        }
    }

    /// Where it is looked for, for the operator.
    pub(crate) fn place(&self) -> String {
        match &self.domain {
            Some(domain) => format!("{SERVICE}.{domain}"),
            None => SERVICE.to_owned(),
        }
    }

    /// The relays of the first domain that lists any, the best first.
    ///
    /// # Errors
    /// If there are none, or no name server answers.
    pub(crate) async fn look(&self) -> io::Result<Vec<SocketAddr>> {
        let domains = match &self.domain {
            Some(domain) => vec![Name::from_ascii(domain).map_err(io::Error::other)?],
            None => Dns::search_list().map_err(io::Error::other)?,
        };
        if domains.is_empty() {
            let why = "the host searches no domain, and the configuration names none";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        for domain in domains {
            let found = self.of_domain(domain).await.map_err(io::Error::other)?;
            if !found.is_empty() {
                return Ok(found);
            }
        }
        Err(io::Error::new(io::ErrorKind::NotFound, "no domain lists AMT relays"))
    }

    async fn of_domain(&self, mut domain: Name) -> Result<Vec<SocketAddr>, NetError> {
        domain.set_fqdn(true);
        let service = Name::from_ascii(SERVICE)?.append_domain(&domain)?;
        let instances: Vec<_> = self.records(&service, RecordType::PTR).await?;
        let mut instances: Vec<_> = instances
            .into_iter()
            .filter_map(|data| if let RData::PTR(instance) = data { Some(instance.0) } else { None })
            .take(MOST)
            .collect();
        if instances.is_empty() {
            // Without instances the records may stand at the service itself (RFC 2782).
            instances.push(service);
        }
        let mut servers = Vec::new();
        for instance in instances {
            let records = self.records(&instance, RecordType::SRV).await?.into_iter();
            let server = |data| if let RData::SRV(server) = data { Some(server) } else { None };
            // The root means that the service is decidedly not there (RFC 2782).
            servers.extend(records.filter_map(server).filter(|server| !server.target.is_root()).take(MOST));
        }
        self.order(&mut servers);
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        for server in servers {
            for address in self.addresses(&server.target).await {
                let endpoint = SocketAddr::new(address, server.port);
                if found.len() < MOST && server.port != 0 && known.insert(endpoint) {
                    found.push(endpoint);
                }
            }
        }
        Ok(found)
    }

    /// By priority; among equals by chance, as their weights say (RFC 2782), but always the same for this node.
    fn order(&self, servers: &mut [SRV]) {
        let late = |server: &SRV| {
            let mut hasher = DefaultHasher::new();
            (&self.node, server.target.to_string(), server.port).hash(&mut hasher);
            // Exponentially distributed, so that the least is a server's with the probability of its weight.
            let uniform = (hasher.finish() as f64 + 1.0) / (u64::MAX as f64 + 2.0);
            -uniform.ln() / f64::from(server.weight).max(0.01)
        };
        servers.sort_by(|one, other| {
            one.priority.cmp(&other.priority).then_with(|| late(one).total_cmp(&late(other)))
        });
    }

    /// The addresses of a relay: IPv4 first, whose tunnels leave more room for packets. None is no reason against
    /// the other relays.
    async fn addresses(&self, target: &Name) -> Vec<IpAddr> {
        let mut addresses = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            match self.records(target, kind).await {
                Ok(records) => addresses.extend(records.iter().filter_map(RData::ip_addr)),
                Err(error) => {
                    warn!(relay = %target, %error, "the addresses of an AMT relay cannot be resolved")
                }
            }
        }
        addresses.sort_unstable();
        addresses
    }

    /// The records of a kind; none if there are none.
    async fn records(&self, name: &Name, kind: RecordType) -> Result<Vec<RData>, NetError> {
        match self.dns.resolver()?.lookup(name.clone(), kind).await {
            Ok(found) => {
                let data = found.answers().iter().map(|record| &record.data);
                Ok(data.filter(|data| data.record_type() == kind).cloned().collect())
            }
            Err(error) => dns::nothing(error).map(|_| Vec::new()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(node: usize) -> Service {
        Service::new(Some(Domain("example.net".into())), &[], &format!("node{node}"))
    }

    fn server(priority: u16, weight: u16, name: &str) -> SRV {
        SRV::new(priority, weight, 2268, Name::from_ascii(name).expect("a name"))
    }

    #[test]
    fn it_is_looked_for_under_the_domain() {
        assert_eq!(service(0).place(), "_amt._udp.example.net");
        assert_eq!(Service::new(None, &[], "node").place(), "_amt._udp");
    }

    #[test]
    fn the_lowest_priority_comes_first_and_weights_share_the_nodes() {
        let mut first = [0; 3];
        for node in 0..1000 {
            let mut servers =
                [server(9, 100, "c"), server(1, 30, "a"), server(1, 10, "b"), server(1, 0, "z")];
            let service = service(node);
            service.order(&mut servers);
            assert_eq!(servers[3].priority, 9, "whatever its weight");
            let names = ["a.", "b.", "z."];
            let name = servers[0].target.to_string();
            first
                [names.iter().position(|known| known.trim_end_matches('.') == name).expect("one of them")] +=
                1;
            let mut again = servers.clone();
            again.reverse();
            service.order(&mut again);
            assert_eq!(again, servers, "a node keeps to its choice, whatever the order of the answer");
        }
        let [a, b, z] = first;
        assert!((650..850).contains(&a) && (150..350).contains(&b) && z < 20, "{first:?}");
    }
}

//! The interfaces of the configuration, as the kernel has them at present.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::bail;
use futures_util::FutureExt as _;
use tokio::{sync::mpsc, task::AbortHandle};
use vmcast_common::fib::{IfIndex, Interface, Link as FibLink};
use vmcast_proto::igmp;

use crate::{
    config::{Igmp, RouterConfig, RouterInterface},
    netlink::{Link, LinkWatch, Links},
    sockets::{HostMembership, IgmpSocket, RECEIVE_LEN},
};

use super::{pursuit::Pauses, run::Event};

/// Least time between two readings of the interfaces, however many changes there are.
const READ_INTERVAL: Duration = Duration::from_millis(200);
/// First and longest pause after the kernel did not tell its interfaces.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// An interface in use, with its sockets.
pub(super) struct Attached {
    pub(super) name: String,
    pub(super) link: Link,
    pub(super) igmp: Option<Arc<IgmpSocket>>,
    pub(super) host: Option<HostMembership>,
    reader: Option<AbortHandle>,
}

impl Drop for Attached {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// An interface as the configuration and the kernel describe it together.
pub(super) struct Wanted {
    pub(super) link: Link,
    pub(super) interface: Interface,
    pub(super) addresses: Vec<(Ipv4Addr, u8)>,
    pub(super) querier: Option<igmp::Config>,
}

/// The configured interfaces that exist.
///
/// # Errors
/// If the kernel does not list its interfaces.
pub(super) async fn present(config: &RouterConfig, links: &Links) -> anyhow::Result<Vec<Wanted>> {
    let by_name: BTreeMap<String, Link> =
        links.list().await?.into_iter().map(|link| (link.name.clone(), link)).collect();
    let wanted = config.interfaces.iter().filter_map(|configured| {
        let link = by_name.get(configured.name.as_str())?;
        Some(wanted(config, configured, link))
    });
    Ok(wanted.collect())
}

/// The same, but each must exist.
///
/// # Errors
/// If one is missing, with those that are there.
pub(super) async fn all(config: &RouterConfig, links: &Links) -> anyhow::Result<Vec<Wanted>> {
    let present = present(config, links).await?;
    let missing = config
        .interfaces
        .iter()
        .find(|configured| !present.iter().any(|wanted| wanted.link.name == configured.name.as_str()));
    if let Some(missing) = missing {
        let names: Vec<String> = links.list().await?.into_iter().map(|link| link.name).collect();
        bail!("there is no interface named {}; this host has {}", missing.name.as_str(), names.join(", "));
    }
    Ok(present)
}

/// Tells the router what the interfaces are whenever they, or their addresses, have changed. Ends with
/// the router.
pub(super) async fn follow(
    config: RouterConfig,
    mut links: Links,
    mut watch: LinkWatch,
    events: mpsc::Sender<Event>,
) {
    let mut pauses = Pauses::new(RETRY.0, RETRY.1);
    let mut missed = false;
    loop {
        let pause = match changed(&config, &links, &mut watch, missed).await {
            Ok(wanted) => {
                missed = false;
                if events.send(Event::Interfaces(wanted)).await.is_err() {
                    return;
                }
                pauses.reset();
                READ_INTERVAL
            }
            Err(error) => {
                tracing::error!("changes of interfaces are not seen: {error:#}");
                missed = true;
                if let Ok(fresh) = Links::open().and_then(|links| Ok((links.watch()?, links))) {
                    (watch, links) = fresh;
                }
                pauses.after_failure()
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Waits for a change, unless one was missed, and reads what is there now.
async fn changed(
    config: &RouterConfig,
    links: &Links,
    watch: &mut LinkWatch,
    missed: bool,
) -> anyhow::Result<Vec<Wanted>> {
    if !missed {
        watch.next().await?;
    }
    // One reading covers all changes that wait; an error that stays is seen again.
    while let Some(Ok(_)) = watch.next().now_or_never() {}
    present(config, links).await
}

fn wanted(config: &RouterConfig, configured: &RouterInterface, link: &Link) -> Wanted {
    let interface = Interface {
        ifindex: link.ifindex,
        device: link.ifindex,
        link: FibLink::PLAIN,
        peer: None,
        mac: link.mac.unwrap_or_default(),
        mtu: u16::try_from(link.mtu).unwrap_or(u16::MAX),
        accepts_sources: configured.accepts_sources,
        shared: false,
        at_tc: false,
    };
    let querier = configured
        .querier
        .then(|| querier_config(&config.igmp_on(configured), link.address(), interface.mtu));
    Wanted { link: link.clone(), interface, addresses: link.addresses.clone(), querier }
}

fn querier_config(igmp: &Igmp, address: Option<Ipv4Addr>, mtu: u16) -> igmp::Config {
    igmp::Config {
        address: address.unwrap_or(Ipv4Addr::UNSPECIFIED),
        version: if igmp.version == 2 { igmp::Version::V2 } else { igmp::Version::V3 },
        robustness_variable: igmp.robustness_variable,
        query_interval: igmp.query_interval,
        query_response_interval: igmp.query_response_interval,
        last_member_query_interval: igmp.last_member_query_interval,
        mtu: mtu.max(576),
        ..igmp::Config::default()
    }
}

/// Opens what an interface needs: IGMP off the wire for a querier, memberships where sources are.
///
/// # Errors
/// If the kernel refuses a socket.
pub(super) fn attach(wanted: &Wanted, events: &mpsc::Sender<Event>) -> anyhow::Result<Attached> {
    let ifindex = wanted.link.ifindex;
    let igmp = wanted.querier.is_some().then(|| IgmpSocket::open(ifindex)).transpose()?.map(Arc::new);
    let reader = igmp
        .as_ref()
        .map(|socket| tokio::spawn(read_igmp(Arc::clone(socket), ifindex, events.clone())).abort_handle());
    Ok(Attached {
        name: wanted.link.name.clone(),
        link: wanted.link.clone(),
        igmp,
        host: wanted.interface.accepts_sources.then(|| HostMembership::new(ifindex)),
        reader,
    })
}

async fn read_igmp(socket: Arc<IgmpSocket>, ifindex: IfIndex, events: mpsc::Sender<Event>) {
    let mut buffer = vec![0; RECEIVE_LEN];
    loop {
        match socket.recv(&mut buffer).await {
            Ok(datagram) => {
                let event = Event::Igmp { ifindex, datagram: datagram.to_vec() };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::debug!(?ifindex, %error, "reading IGMP");
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
    }
}

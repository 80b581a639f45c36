//! Which interfaces XDP does not do for where nothing else is to be used.
//!
//! The kernel leaves a device that sends no redirected frames out of a broadcast, and nobody hears of it:
//! bridges, macvlans, TUN devices, and a veth whose peer is not prepared. With `engine = "auto"` the plane
//! serves them at TC.

use vmcast_common::fib::{EngineWish, FibOp, IfIndex, Interface};
use vmcast_dataplane::{
    device,
    features::{Features, XdpFeatures},
};

use crate::config::{Converted, EngineChoice, RouterConfig, Target};

/// An interface that cannot be served at XDP as it is configured.
#[derive(Debug, thiserror::Error)]
#[error(
    "{asked} is \"xdp\", but {name} takes no frames redirected at XDP; {instead}, or, if {name} is a veth, let its \
     peer do GRO (`ethtool -K PEER gro on`)",
    asked = asked.what,
    instead = asked.instead
)]
pub(super) struct Unfit {
    asked: Asked,
    name: String,
}

/// What asks for XDP and nothing else, and what to write in its place.
#[derive(Debug)]
struct Asked {
    what: String,
    instead: &'static str,
}

/// Checks that every interface that copies leave by, and that nothing but XDP is to serve, takes them. One that only takes
/// packets of sources in may do without.
///
/// # Errors
/// The first that does not.
pub(super) fn for_xdp(config: &RouterConfig, first: &[FibOp]) -> Result<(), Unfit> {
    let asked: Vec<_> =
        interfaces(first).filter_map(|interface| Some((interface, asked(config, interface)?))).collect();
    if asked.is_empty() {
        return Ok(());
    }
    let Some(features) = features() else {
        return Ok(());
    };
    for (interface, asked) in asked {
        let interface_name = name(interface.ifindex);
        let configured = config.interface_of(&interface_name);
        let is_stated = config.forwards.iter().flat_map(|forward| &forward.to).any(|target| match target {
            Target::Named(name) => *name == interface_name,
            Target::Host { interface, .. } => interface.as_str() == interface_name,
            Target::Converted(Converted { interface: Some(interface), .. }) => {
                interface.as_str() == interface_name
            }
            // It may be anywhere.
            Target::Neighbour(_) | Target::Converted(Converted { interface: None, .. }) => true,
        });
        let only_in = !is_stated
            && configured.is_some_and(|known| known.accepts_sources && !known.querier && !known.upstream);
        let found = ask(&features, interface.device);
        if !only_in && found.is_some_and(|found| !found.takes_redirected()) {
            return Err(Unfit { asked, name: name(interface.device) });
        }
    }
    Ok(())
}

/// What asks for that on an interface; `None` if nothing does.
fn asked(config: &RouterConfig, interface: &Interface) -> Option<Asked> {
    match (config.dataplane.engine, interface.wish()) {
        (EngineChoice::Tc | EngineChoice::Software, _)
        | (EngineChoice::Auto | EngineChoice::Xdp, EngineWish::Tc)
        | (EngineChoice::Auto, EngineWish::Any) => None,
        (EngineChoice::Auto | EngineChoice::Xdp, EngineWish::Xdp) => {
            let what = format!("engine in the table of {}", name(interface.ifindex));
            Some(Asked { what, instead: "set it to \"tc\" or leave it out" })
        }
        (EngineChoice::Xdp, EngineWish::Any) => {
            Some(Asked { what: "dataplane.engine".to_owned(), instead: "set it to \"auto\" or \"tc\"" })
        }
    }
}

fn interfaces(first: &[FibOp]) -> impl Iterator<Item = &Interface> {
    first.iter().filter_map(|op| if let FibOp::SetInterface(interface) = op { Some(interface) } else { None })
}

/// A kernel that does not tell is taken at its deeds.
fn features() -> Option<Features> {
    let features = Features::open();
    if let Err(error) = &features {
        tracing::info!(%error, "the kernel does not tell what its drivers do at XDP");
    }
    features.ok()
}

fn ask(features: &Features, device: IfIndex) -> Option<XdpFeatures> {
    let found = features.of(device);
    if let Err(error) = &found {
        tracing::warn!(%error, ifindex = device.0, "the kernel does not tell what this driver does at XDP");
    }
    found.ok()
}

fn name(ifindex: IfIndex) -> String {
    device::name_of(ifindex.0)
        .map_or_else(|| format!("interface {}", ifindex.0), |name| name.to_string_lossy().into_owned())
}

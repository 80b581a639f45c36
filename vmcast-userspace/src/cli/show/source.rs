//! Sources and their relays.

use vmcast_api::{Source, SourcePlace, SourceRelay, SourceRelayState, Sources};

use super::{
    table::Rows,
    unit::{NONE, duration, endpoint},
};

/// `vmcast source list`.
pub(crate) fn sources(sources: &Sources) -> String {
    if sources.sources.is_empty() {
        return "No sources are looked up: nobody has joined one by its address, or [amtrelay] is not enabled.\n\
                `vmcast source discover ADDRESS` asks the DNS by hand.\n"
            .to_owned();
    }
    let mut rows = Rows::new(&["SOURCE", "JOINED AT", "WHY", ">PRECEDENCE", "RELAY", "NAME", "STATE"]);
    for source in &sources.sources {
        let (place, why) = match source.place {
            SourcePlace::Nowhere => ("nowhere yet".to_owned(), "asking"),
            SourcePlace::Upstream => ("upstream".to_owned(), source.reason.as_deref().unwrap_or("?")),
            SourcePlace::Relay => (
                source.tunnel.map_or_else(|| "relay".to_owned(), |tunnel| format!("tunnel {tunnel}")),
                "record",
            ),
            SourcePlace::Unknown => ("?".to_owned(), "?"),
        };
        let mut head = [source.source.to_string(), place, why.to_owned()];
        if source.relays.is_empty() {
            rows.row(head.into_iter().chain([NONE; 4].map(str::to_owned)));
            continue;
        }
        for relay in &source.relays {
            rows.row(std::mem::take(&mut head).into_iter().chain(cells(relay)));
        }
    }
    rows.text(0)
}

/// `vmcast source discover`.
pub(crate) fn discovered(source: &Source, name: &str) -> String {
    if source.relays.is_empty() {
        return match source.reason.as_deref() {
            Some("no-relay") => format!("The record at {name} says that no relay is to be used (type 0).\n"),
            _ => format!("No relay: there is no usable AMTRELAY record at {name}\n"),
        };
    }
    let mut rows = Rows::new(&[">PRECEDENCE", "RELAY", "NAME", "STATE", "FIRST"]);
    for relay in &source.relays {
        let first = if relay.discovery_optional { "request" } else { "relay discovery" };
        let [precedence, address, of, _] = cells(relay);
        let state = if relay.state == SourceRelayState::Unreachable { "no route" } else { "reachable" };
        rows.row([precedence, address, of, state.to_owned(), first.to_owned()]);
    }
    format!("{name}\n{}", rows.text(2))
}

fn cells(relay: &SourceRelay) -> [String; 4] {
    let held = relay.held_ms.map_or_else(String::new, |left| format!(" for {}", duration(left)));
    let state = match relay.state {
        SourceRelayState::InUse => "in use",
        SourceRelayState::Trying => "trying",
        SourceRelayState::Ready => "ready",
        SourceRelayState::HeldDown => "held down",
        SourceRelayState::Unreachable => "no route",
        SourceRelayState::Own => "this node",
        SourceRelayState::Unknown => "?",
    };
    [
        relay.precedence.to_string(),
        endpoint(relay.remote),
        relay.name.clone().unwrap_or_else(|| NONE.to_owned()),
        format!("{state}{held}"),
    ]
}

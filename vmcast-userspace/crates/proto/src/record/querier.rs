//! The words of a querier.

use super::{Recording, filter, hex, seconds};
use crate::membership::{Event, ImmediateLeave, Input, Output, Querier};

impl Recording for Querier {
    type Memory = ();

    const KIND: &'static str = "querier";

    fn config_words(&self) -> Vec<(&'static str, String)> {
        let config = self.config();
        let family = config.family();
        let mut words = vec![
            ("address", config.address.to_string()),
            ("version", config.version.number(family).to_string()),
            ("robustness_variable", config.robustness_variable.to_string()),
            ("query_interval", seconds(config.query_interval)),
            ("query_response_interval", seconds(config.query_response_interval)),
            ("startup_query_interval", seconds(config.startup_query_interval())),
            ("startup_query_count", config.startup_query_count().to_string()),
            ("last_member_query_interval", seconds(config.last_member_query_interval)),
        ];
        if let Some(count) = config.last_member_query_count {
            words.push(("last_member_query_count", count.to_string()));
        }
        let leave = match config.immediate_leave {
            ImmediateLeave::Never => "never",
            ImmediateLeave::Tracked => "tracked",
            ImmediateLeave::SingleHost => "single_host",
        };
        words.extend([
            ("immediate_leave", leave.to_owned()),
            ("require_router_alert", config.require_router_alert.to_string()),
            ("mtu", config.mtu.to_string()),
        ]);
        for (key, time) in [
            ("steady_time", config.steady_time.serving),
            ("starting_steady_time", config.steady_time.starting),
        ] {
            words.extend(time.map(|time| (key, seconds(time))));
        }
        for (key, ranges) in
            [("allowed_queriers", &config.allowed_queriers), ("allowed_groups", &config.allowed_groups)]
        {
            if let Some(ranges) = ranges {
                let ranges: Vec<_> =
                    ranges.iter().map(|range| format!("{}/{}", range.address, range.prefix)).collect();
                words.push((key, ranges.join(",")));
            }
        }
        words.extend([
            ("max_groups", config.max_groups.to_string()),
            ("max_sources_per_group", config.max_sources_per_group.to_string()),
            ("max_sources", config.max_sources.to_string()),
            ("max_tracked", config.max_tracked.to_string()),
        ]);
        if let Some(most) = config.max_groups_per_host {
            words.push(("max_groups_per_host", most.to_string()));
        }
        words
    }

    fn input_words((): &mut (), input: &Input<'_>) -> String {
        match input {
            Input::Datagram {
                source,
                link_source,
                link_unicast,
                stranger,
                destination,
                ttl,
                router_alert,
                payload,
            } => {
                let alert = if *router_alert { "alert" } else { "plain" };
                let by = link_source.map_or_else(String::new, |link| format!(" by {}", hex(&link)));
                let to_us = if *link_unicast { " to us" } else { "" };
                let is = if *stranger { " stranger" } else { "" };
                format!("datagram {source}{by}{to_us}{is} > {destination} ttl {ttl} {alert} {}", hex(payload))
            }
            Input::SetAddress(address) => format!("address {address}"),
            Input::Inherit { group, filter: wanted } => format!("inherit {group} {}", filter(wanted)),
        }
    }

    fn output_words((): &mut (), output: &Output) -> String {
        match output {
            Output::Transmit { source, destination, payload } => {
                format!("send {source} > {destination} {}", hex(payload))
            }
            Output::Event(Event::Membership { group, filter: wanted }) => {
                format!("membership {group} {}", filter(wanted))
            }
            Output::Event(Event::QuerierChanged { querier: Some(querier) }) => format!("querier {querier}"),
            Output::Event(Event::QuerierChanged { querier: None }) => "querier us".to_owned(),
            Output::Event(Event::Serving { serving }) => {
                if *serving { "serving" } else { "not_serving" }.to_owned()
            }
            Output::Event(Event::QuerierNotAllowed { router }) => format!("querier_not_allowed {router}"),
            Output::Event(Event::OtherVersion { router, version }) => {
                let number = version.number(crate::membership::Family::of(*router));
                format!("other_version {router} {number}")
            }
        }
    }
}

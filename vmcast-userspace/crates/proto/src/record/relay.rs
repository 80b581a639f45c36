//! The words of a relay.

use std::collections::BTreeMap;

use vmcast_wire::amt::{Message, ResponseMac};

use super::{Recording, filter, hex, seconds};
use crate::{
    Filter,
    amt::relay::{Event, Input, Output, Relay, Unreachable},
};

/// The Response MACs that were made, in their order.
#[derive(Debug, Default)]
pub struct Macs(BTreeMap<ResponseMac, usize>);

impl Macs {
    /// The beginning of a datagram that was not delivered: of data alone is anything made, and only that is written.
    fn quoted(bytes: &[u8]) -> String {
        match bytes {
            [6, ..] => hex(bytes),
            [] => "-".to_owned(),
            [first, ..] => hex(&[*first]),
        }
    }

    /// A message in words, without its Response MAC. One that the relay makes is given a number, one that it has not
    /// made is no secret either, and stands as `mac 0`.
    fn words(&mut self, made: bool, bytes: &[u8]) -> String {
        let mac = match Message::parse(bytes) {
            Ok(
                Message::MembershipQuery { response_mac, .. }
                | Message::MembershipUpdate { response_mac, .. }
                | Message::Teardown { response_mac, .. },
            ) => response_mac,
            Ok(
                Message::RelayDiscovery { .. }
                | Message::RelayAdvertisement { .. }
                | Message::Request { .. }
                | Message::MulticastData { .. },
            )
            | Err(_) => return hex(bytes),
        };
        let next = self.0.len() + 1;
        let number =
            if made { *self.0.entry(mac).or_insert(next) } else { self.0.get(&mac).copied().unwrap_or(0) };
        let mut bytes = bytes.to_vec();
        bytes[2..8].fill(0);
        format!("mac {number} {}", hex(&bytes))
    }
}

impl Recording for Relay {
    type Memory = Macs;

    const KIND: &'static str = "relay";

    fn config_words(&self) -> Vec<(&'static str, String)> {
        let config = self.config();
        let mut words = vec![
            ("secret_age", seconds(config.secret_age)),
            ("secret_lifetime", seconds(config.secret_lifetime)),
            ("query_source", config.query_source.to_string()),
            ("query_interval", seconds(config.query_interval)),
            ("query_response_interval", seconds(config.query_response_interval)),
            ("robustness", config.robustness.to_string()),
        ];
        if let Some(mld) = config.mld {
            words.extend([
                ("mld_query_interval", seconds(mld.query_interval)),
                ("mld_query_response_interval", seconds(mld.query_response_interval)),
                ("mld_robustness", mld.robustness.to_string()),
            ]);
        }
        words.extend([
            ("max_tunnels", config.max_tunnels.to_string()),
            ("max_tunnels_per_source", config.max_tunnels_per_source.to_string()),
            ("max_tunnels_per_prefix", config.max_tunnels_per_prefix.to_string()),
            ("max_groups", config.limits.groups.to_string()),
            ("max_sources", config.limits.sources.to_string()),
            ("answers_per_second", config.answers_per_second.to_string()),
            ("answers_per_prefix_per_second", config.answers_per_prefix_per_second.to_string()),
            ("unreachable_ignored", config.unreachable_ignored.to_string()),
            ("idle_linger", seconds(config.idle_linger)),
        ]);
        words.extend(config.discovery.iter().map(|address| ("discovery", address.to_string())));
        words
    }

    fn input_words(macs: &mut Macs, input: &Input<'_>) -> String {
        match input {
            Input::Datagram { local, remote, bytes } => {
                format!("datagram {remote} > {local} {}", macs.words(false, bytes))
            }
            Input::Unreachable(Unreachable { local, remote, quoted }) => {
                format!("unreachable {local} > {remote} {}", Macs::quoted(quoted))
            }
        }
    }

    fn output_words(macs: &mut Macs, output: &Output) -> String {
        let flag = |ecn: bool| if ecn { "ecn" } else { "plain" };
        match output {
            Output::Transmit { local, remote, bytes } => {
                format!("send {local} > {remote} {}", macs.words(true, bytes))
            }
            Output::Event(Event::TunnelUp { id, local, remote, ecn }) => {
                format!("up {id} {local} > {remote} {}", flag(*ecn))
            }
            Output::Event(Event::Ecn { id, ecn }) => format!("change {id} {}", flag(*ecn)),
            Output::Event(Event::Membership { id, group, filter: wanted }) => {
                format!("membership {id} {group} {}", filter(wanted))
            }
            Output::Event(Event::TunnelDown { id, remote, reason }) => {
                format!("down {id} {remote} {}", reason.label())
            }
        }
    }
}

impl super::Recorded<Relay> {
    /// Notes that a tunnel of an earlier relay is taken over, see [`Relay::adopt`].
    pub fn note_adoption(
        &mut self,
        now: std::time::Instant,
        ends: [std::net::SocketAddr; 2],
        ecn: bool,
        groups: &[(std::net::IpAddr, Filter)],
    ) {
        self.note_words(now, || {
            let [local, remote] = ends;
            let flag = if ecn { "ecn" } else { "plain" };
            let groups: Vec<_> =
                groups.iter().map(|(group, wanted)| format!(" {group} {}", filter(wanted))).collect();
            format!("adopt {local} > {remote} {flag}{}", groups.concat())
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Machine as _,
        amt::relay::Config,
        record::{Budget, Recorded},
    };

    #[test]
    fn neither_seed_nor_macs_are_written_down() {
        let now = vmcast_sim::epoch();
        let seed = [0xab; 16];
        let mut relay = Recorded::new(now, Relay::new(now, Config::new(seed)), Some(&Budget::new(10_000)));
        let local = "192.0.2.1:2268".parse().unwrap();
        let remote = "198.51.100.7:40000".parse().unwrap();
        let request = Message::Request { ipv6: false, ecn: false, nonce: 7 }.to_vec();
        relay.handle_input(now, Input::Datagram { local, remote, bytes: &request });
        let Some(Output::Transmit { bytes: answer, .. }) = relay.poll_output() else { panic!("an answer") };
        let Ok(Message::MembershipQuery { response_mac, .. }) = Message::parse(&answer) else { panic!() };
        for mac in [response_mac, [1; 6]] {
            let update = Message::MembershipUpdate { response_mac: mac, nonce: 7, update: &[] }.to_vec();
            relay.handle_input(now, Input::Datagram { local, remote, bytes: &update });
        }
        let text = relay.take_recording();
        let line = "0 datagram 198.51.100.7:40000 > 192.0.2.1:2268";
        let expected = ["1", "0"].map(|mac| format!("{line} mac {mac} 050000000000000000000007\n"));
        assert!(text.ends_with(&expected.concat()), "{text}");
        for secret in [&seed[..], &response_mac, &[1; 6]] {
            assert!(!text.contains(&hex(secret)), "{text}");
        }
    }
}

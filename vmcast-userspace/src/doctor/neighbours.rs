//! Whether the kernel's tables of neighbours have room for those that copies go to.
//!
//! A table and its limit, `gc_thresh3`, are one for all network namespaces of a host. What is beyond is not resolved,
//! so a member there is not served, and an entry of somebody else may go instead.

use std::{fs, net::IpAddr};

use super::finding::Finding;

/// One version of IP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const ALL: [Self; 2] = [Self::V4, Self::V6];

    const fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }

    const fn sysctl(self) -> &'static str {
        match self {
            Self::V4 => "net.ipv4.neigh.default.gc_thresh3",
            Self::V6 => "net.ipv6.neigh.default.gc_thresh3",
        }
    }

    /// The kernel's statistics of the table.
    const fn statistics(self) -> &'static str {
        match self {
            Self::V4 => "/proc/net/stat/arp_cache",
            Self::V6 => "/proc/net/stat/ndisc_cache",
        }
    }
}

/// A table of neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NeighbourFacts {
    pub(super) family: Family,
    /// How many there are now, in all namespaces.
    pub(super) entries: Option<u64>,
    /// The most that there may be; `None` in a namespace where the kernel does not show it.
    pub(super) limit: Option<u64>,
    /// How many hosts the networks of the interfaces that are asked about have room for.
    pub(super) hosts: u64,
}

/// What the kernel has, for interfaces with these addresses and lengths of prefixes.
pub(super) fn gather(addresses: &[(IpAddr, u8)]) -> Vec<NeighbourFacts> {
    let read = |family: Family| {
        let limit = format!("/proc/sys/{}", family.sysctl().replace('.', "/"));
        let limit = fs::read_to_string(limit).ok().and_then(|text| text.trim().parse().ok());
        let entries = fs::read_to_string(family.statistics()).ok().and_then(|text| entries(&text));
        NeighbourFacts { family, entries, limit, hosts: hosts(family, addresses) }
    };
    Family::ALL.map(read).into()
}

/// Entries by the kernel's statistics: a heading, and a row for each CPU, all with the same first figure.
fn entries(text: &str) -> Option<u64> {
    u64::from_str_radix(text.lines().nth(1)?.split_ascii_whitespace().next()?, 16).ok()
}

/// Hosts that networks have room for, but for our own address in each; of IPv6 link-local networks none.
fn hosts(family: Family, addresses: &[(IpAddr, u8)]) -> u64 {
    let room = |(address, length): &(IpAddr, u8)| -> u64 {
        let bits = match (family, address) {
            (Family::V4, IpAddr::V4(_)) => 32,
            (Family::V6, IpAddr::V6(address)) if !address.is_unicast_link_local() => 128,
            (Family::V4 | Family::V6, _) => return 0,
        };
        let free = u32::from(bits - (*length).min(bits));
        // The network itself and, in IPv4, all of its hosts are no neighbours; nor is this host.
        let not = if family == Family::V4 && free > 1 { 3 } else { 1 };
        1_u64.checked_shl(free).map_or(u64::MAX, |all| all.saturating_sub(not))
    };
    addresses.iter().map(room).fold(0, u64::saturating_add)
}

/// Judges what there is for `most` neighbours that copies may go to, by the configuration.
pub(super) fn judge(facts: &NeighbourFacts, most: u32) -> Option<Finding> {
    let NeighbourFacts { family, entries, limit, hosts } = *facts;
    let (name, sysctl) = (family.name(), family.sysctl());
    let needed = hosts.min(most.into());
    if needed == 0 {
        return None;
    }
    let Some(limit) = limit else {
        return Some(Finding::ok(format!(
            "how many {name} neighbours the host resolves cannot be seen in this network namespace: {sysctl} of the \
             first one counts for all"
        )));
    };
    let there = entries.map_or_else(|| "some".to_owned(), |entries| entries.to_string());
    let found = format!("{there} of {limit} {name} neighbours, in all network namespaces of this host");
    if limit >= needed {
        return Some(Finding::ok(found));
    }
    // What others have there stays.
    let wanted = needed.saturating_add(entries.unwrap_or(0)).next_power_of_two();
    Some(
        Finding::warning(
            found,
            format!(
                "copies may go to {needed} on the networks of these interfaces (dataplane.max_next_hops and their \
                 prefixes): members beyond the limit are not resolved, and so not served"
            ),
        )
        .mend(format!("sysctl -w {sysctl}={wanted}, or a smaller dataplane.max_next_hops")),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    const FACTS: NeighbourFacts =
        NeighbourFacts { family: Family::V4, entries: Some(900), limit: Some(1024), hosts: 253 };

    #[test]
    fn a_limit_below_what_may_be_served_is_a_warning_with_the_sysctl_and_a_value_that_does() {
        let finding = judge(&NeighbourFacts { hosts: 4_093, ..FACTS }, 65_535).expect("a finding");
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.found.contains("900 of 1024 IPv4 neighbours"), "{finding:?}");
        assert!(finding.means.is_some_and(|means| means.contains("4093")));
        let mend = finding.mend.expect("what to do");
        assert!(mend.contains("sysctl -w net.ipv4.neigh.default.gc_thresh3=8192"), "{mend}");
        let v6 = NeighbourFacts { family: Family::V6, hosts: u64::MAX, entries: None, ..FACTS };
        let finding = judge(&v6, 65_535).expect("a finding");
        assert!(finding.mend.is_some_and(|mend| mend.contains("net.ipv6.neigh.default.gc_thresh3=65536")));
    }

    #[test]
    fn a_limit_that_is_enough_for_the_networks_or_for_the_configuration_is_well() {
        for (hosts, most) in [(253, 65_535), (u64::MAX, 1_024)] {
            let finding = judge(&NeighbourFacts { hosts, ..FACTS }, most).expect("a finding");
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
        }
        assert_eq!(judge(&NeighbourFacts { hosts: 0, ..FACTS }, 65_535), None);
    }

    #[test]
    fn where_the_limit_is_not_shown_the_finding_says_whose_it_is() {
        let finding = judge(&NeighbourFacts { limit: None, ..FACTS }, 65_535).expect("a finding");
        assert_eq!(finding.level, Level::Ok);
        assert!(finding.found.contains("network namespace"), "{finding:?}");
    }

    #[test]
    fn networks_have_room_for_the_hosts_of_their_prefixes() {
        let v4 = |text: &str, length| (text.parse::<IpAddr>().expect("an address"), length);
        let all = [v4("10.1.0.1", 24), v4("10.2.0.1", 31), v4("10.3.0.1", 32), v4("fe80::1", 64)];
        assert_eq!(hosts(Family::V4, &all), 253 + 1);
        assert_eq!(hosts(Family::V6, &all), 0);
        assert_eq!(hosts(Family::V6, &[v4("2001:db8::1", 64)]), u64::MAX);
        assert_eq!(hosts(Family::V6, &[v4("2001:db8::1", 120)]), 255);
    }

    #[test]
    fn the_kernels_statistics_are_hexadecimal() {
        let text = "entries  allocs\n0000001f 0000989c\n0000001f 000059d4\n";
        assert_eq!(entries(text), Some(31));
        assert_eq!(entries("entries\n"), None);
    }
}

//! Who else on this host listens to groups: what XDP takes from an interface never comes to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Who listens on each interface.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Listeners {
    /// How many memberships of sockets there are of each group, our own among them; groups of the link alone, which
    /// are never forwarded, not among them.
    memberships: BTreeMap<String, BTreeMap<IpAddr, usize>>,
    /// Interfaces on which the kernel forwards multicast for a routing daemon, which needs no membership for that.
    routed: BTreeSet<String>,
}

impl Listeners {
    /// Reads the kernel's lists, of the calling thread's network namespace.
    ///
    /// # Errors
    /// If they cannot be read; a kernel without IPv6 has one.
    pub(crate) fn read() -> io::Result<Self> {
        let mut listeners = Self::default();
        listeners.add_v4(&fs::read_to_string("/proc/thread-self/net/igmp")?);
        match fs::read_to_string("/proc/thread-self/net/igmp6") {
            Ok(text) => listeners.add_v6(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        for interfaces in ["/proc/thread-self/net/ip_mr_vif", "/proc/thread-self/net/ip6_mr_vif"] {
            // A kernel that does not forward multicast has none.
            if let Ok(text) = fs::read_to_string(interfaces) {
                listeners.add_routed(&text);
            }
        }
        Ok(listeners)
    }

    /// The groups to which somebody beside us listens on an interface, where `ours` is how many memberships we hold of a
    /// group there.
    pub(crate) fn beside(&self, interface: &str, ours: impl Fn(IpAddr) -> usize) -> BTreeSet<IpAddr> {
        let groups = self.memberships.get(interface).into_iter().flatten();
        groups.filter(|(group, users)| **users > ours(**group)).map(|(group, _)| *group).collect()
    }

    /// Whether the kernel forwards multicast that comes in on an interface.
    pub(crate) fn routes(&self, interface: &str) -> bool {
        self.routed.contains(interface)
    }

    fn note(&mut self, interface: &str, group: IpAddr, users: usize) {
        let of_the_link = match group {
            IpAddr::V4(group) => group.octets()[..3] == [224, 0, 0],
            // Scopes of the interface and of the link (RFC 4291 §2.7).
            IpAddr::V6(group) => group.octets()[1] & 0xf <= 2,
        };
        if !of_the_link {
            self.memberships.entry(interface.to_owned()).or_default().insert(group, users);
        }
    }

    /// `/proc/net/igmp`: a line for each interface, and below it one for each group, whose address stands in
    /// the machine's order.
    fn add_v4(&mut self, text: &str) {
        let mut interface = "";
        for line in text.lines().skip(1) {
            let mut words = line.split_whitespace();
            if line.starts_with('\t') {
                let group = words.next().and_then(|word| u32::from_str_radix(word, 16).ok());
                let users = words.next().and_then(|word| word.parse().ok());
                if let (Some(group), Some(users)) = (group, users) {
                    self.note(interface, Ipv4Addr::from(group.to_ne_bytes()).into(), users);
                }
            } else {
                // The colon stands by itself behind a name of fewer than ten characters only.
                interface = words.nth(1).unwrap_or_default().trim_end_matches(':');
            }
        }
    }

    /// `/proc/net/ip_mr_vif`: below a heading a line for each interface, whose name comes second.
    fn add_routed(&mut self, text: &str) {
        let names = text.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
        self.routed.extend(names.map(str::to_owned));
    }

    /// `/proc/net/igmp6`: a line for each interface and group.
    fn add_v6(&mut self, text: &str) {
        for line in text.lines() {
            let mut words = line.split_whitespace().skip(1);
            let (interface, group, users) = (words.next(), words.next(), words.next());
            let group = group.and_then(|word| u128::from_str_radix(word, 16).ok());
            let users = users.and_then(|word| word.parse().ok());
            if let (Some(interface), Some(group), Some(users)) = (interface, group, users) {
                self.note(interface, Ipv6Addr::from_bits(group).into(), users);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memberships_are_read_but_for_those_of_the_link() {
        let mut listeners = Listeners::default();
        listeners.add_v4(&format!(
            "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n\
             1\tlo        :     1      V3\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n\
             2\tenp130s0f0np0:     1      V3\n\t\t\t\t{:08X}     1 0:00000000\t\t1\n\
             3\teth0      :     2      V3\n\t\t\t\t{:08X}     2 0:00000000\t\t1\n\t\t\t\t{:08X}     1 0:00000000\t\t0\n",
            u32::from_ne_bytes([224, 0, 0, 1]),
            u32::from_ne_bytes([239, 1, 2, 3]),
            u32::from_ne_bytes([239, 1, 2, 3]),
            u32::from_ne_bytes([224, 0, 0, 251]),
        ));
        listeners.add_v6(
            "3    eth0            ff020000000000000000000000000001     1 0000000C 0\n\
             4    eth1            ff0e0000000000000000000000000101     1 00000004 0\n",
        );
        let group = IpAddr::from([239, 1, 2, 3]);
        let beside = |interface, ours| listeners.beside(interface, |_| ours).into_iter().collect::<Vec<_>>();
        assert_eq!((beside("eth0", 1), beside("enp130s0f0np0", 0)), (vec![group], vec![group]));
        assert_eq!(beside("eth0", 2), Vec::<IpAddr>::new());
        assert_eq!(beside("eth1", 0), ["ff0e::101".parse::<IpAddr>().unwrap()]);
        assert_eq!((beside("lo", 0), beside("eth2", 0)), (vec![], vec![]));
    }

    #[test]
    fn a_routing_daemon_listens_wherever_it_forwards() {
        let mut listeners = Listeners::default();
        listeners.add_routed(
            "Interface      BytesIn  PktsIn  BytesOut PktsOut Flags Local    Remote\n \
             0 eth0              0       0         0       0 00000 0100010A 00000000\n \
             1 pimreg            0       0         0       0 00004 0100010A 00000000\n",
        );
        assert!(listeners.routes("eth0") && !listeners.routes("eth1"));
        assert!(listeners.beside("eth0", |_| 0).is_empty());
    }

    #[test]
    fn lines_of_another_form_are_passed_over() {
        let mut listeners = Listeners::default();
        listeners.add_v4("\n\t\nx\n\tzz 1\n\t00\n");
        listeners.add_v6("\n1\n1 eth0 xyz 1\n");
        listeners.add_routed("\n\n1\n");
        assert_eq!(listeners, Listeners::default());
    }
}

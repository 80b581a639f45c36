//! The generator's configuration as text (Documentation/networking/pktgen.rst).

use std::net::Ipv4Addr;

/// Where the kernel shows it.
pub(super) const DIR: &str = "/proc/net/pktgen";
/// Ethernet, IPv4 and UDP; pktgen does not count the frame check sequence.
const HEADERS: u16 = 14 + 20 + 8;
/// UDP port of the streams.
const PORT: u16 = 9_999;
/// Frames handed to the interface at once, where all of them are alike.
const BURST: u32 = 16;

/// Fails where an interface takes no packet that the generator goes on holding (`IFF_TX_SKB_SHARING`): a veth, for one,
/// which would bring the kernel down.
pub(super) const SHARING: &str = "clone_skb 1";
/// Lets the generator give each packet away (Linux 6.7).
pub(super) const UNSHARED: &str = "flag !SHARED";
/// What the generator says where it knows the flag; it takes any other word without an error.
pub(super) const FLAG_TAKEN: &str = "OK: flags";

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Config<'a> {
    pub(super) interface: &'a str,
    pub(super) source: Ipv4Addr,
    pub(super) group: Ipv4Addr,
    pub(super) groups: u32,
    pub(super) payload: u16,
    /// Packets per second.
    pub(super) rate: Option<u64>,
}

impl Config<'_> {
    /// The generator's name of the interface: its first queue.
    pub(super) fn device(&self) -> String {
        format!("{}@0", self.interface)
    }

    /// Files below [`DIR`], each with a line that is written to it, in this order. [`Config::sharing`] or [`UNSHARED`]
    /// follow.
    pub(super) fn lines(&self) -> Vec<(String, String)> {
        let device = self.device();
        let thread = "kpktgend_0".to_owned();
        let mut lines =
            vec![(thread.clone(), "rem_device_all".to_owned()), (thread, format!("add_device {device}"))];
        let last = Ipv4Addr::from(u32::from(self.group) + (self.groups - 1));
        let mut set = |line: String| lines.push((device.clone(), line));
        set("count 0".to_owned());
        set(format!("pkt_size {}", HEADERS + self.payload));
        set(format!("src_min {}", self.source));
        set(format!("src_max {}", self.source));
        set(format!("dst_min {}", self.group));
        set(format!("dst_max {last}"));
        set(format!("dst_mac {}", mac(self.group)));
        // Counts up together with the address.
        set(format!("dst_mac_count {}", if self.groups == 1 { 0 } else { self.groups }));
        for end in ["udp_src_min", "udp_src_max", "udp_dst_min", "udp_dst_max"] {
            set(format!("{end} {PORT}"));
        }
        match self.rate {
            // A burst would count as one packet.
            Some(rate) => set(format!("ratep {rate}")),
            None => set("delay 0".to_owned()),
        }
        lines
    }

    /// What is written to the file of the device beyond that if the interface takes packets that the generator goes on
    /// holding, see [`SHARING`].
    pub(super) fn sharing(&self) -> Vec<String> {
        // A burst is of one packet.
        let burst = (self.groups == 1 && self.rate.is_none()).then(|| format!("burst {BURST}"));
        ["clone_skb 0".to_owned()].into_iter().chain(burst).collect()
    }

    /// The same as a shell script that runs for so many seconds.
    pub(super) fn script(&self, seconds: u64) -> String {
        let mut text = format!(
            "#!/bin/sh\n# Sends {} group(s) from {} on, on {}, for {seconds} s. Needs root and `modprobe pktgen`.\nset -e\n",
            self.groups, self.group, self.interface
        );
        for (file, line) in self.lines() {
            text += &format!("echo '{line}' > {DIR}/{file}\n");
        }
        let file = format!("{DIR}/{}", self.device());
        text += &format!("if echo '{SHARING}' > {file} 2>/dev/null; then\n");
        for line in self.sharing() {
            text += &format!("  echo '{line}' > {file}\n");
        }
        text += &format!(
            "else\n  # The interface takes no packet that the generator goes on holding.\n  echo '{UNSHARED}' > {file}\n  \
             grep -q '{FLAG_TAKEN}' {file} || {{ echo 'pktgen of this kernel (before 6.7) cannot send by {}' >&2; exit 1; }}\nfi\n",
            self.interface
        );
        text += &format!(
            "echo start > {DIR}/pgctrl &\nsleep {seconds}\necho stop > {DIR}/pgctrl\nwait\ncat {DIR}/{}\n",
            self.device()
        );
        text
    }
}

/// The link-layer address of a group (RFC 1112 §6.4).
fn mac(group: Ipv4Addr) -> String {
    let [_, b, c, d] = group.octets();
    format!("01:00:5e:{:02x}:{c:02x}:{d:02x}", b & 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: Config<'_> = Config {
        interface: "eth1",
        source: Ipv4Addr::new(10, 99, 0, 1),
        group: Ipv4Addr::new(232, 129, 0, 0),
        groups: 1,
        payload: 1316,
        rate: None,
    };

    fn lines(config: &Config<'_>) -> Vec<String> {
        config.lines().into_iter().map(|(file, line)| format!("{file}: {line}")).collect()
    }

    #[test]
    fn one_group_is_sent_in_bursts_as_fast_as_the_interface_takes_them() {
        let lines = lines(&CONFIG);
        assert_eq!(lines[..2], ["kpktgend_0: rem_device_all", "kpktgend_0: add_device eth1@0"]);
        for line in ["pkt_size 1358", "dst_mac 01:00:5e:01:00:00", "dst_max 232.129.0.0", "delay 0"] {
            assert!(lines.contains(&format!("eth1@0: {line}")), "{line} in {lines:?}");
        }
        assert_eq!(CONFIG.sharing(), ["clone_skb 0", "burst 16"]);
    }

    #[test]
    fn many_groups_have_a_link_layer_address_each() {
        let many = Config { groups: 4_096, rate: Some(100_000), payload: 64, ..CONFIG };
        let lines = lines(&many);
        for line in ["pkt_size 106", "dst_max 232.129.15.255", "dst_mac_count 4096", "ratep 100000"] {
            assert!(lines.contains(&format!("eth1@0: {line}")), "{line} in {lines:?}");
        }
        assert_eq!(many.sharing(), ["clone_skb 0"], "a burst is of one group");
        let slow = Config { rate: Some(1_000), ..CONFIG };
        assert_eq!(slow.sharing(), ["clone_skb 0"], "a rate is of packets");
        assert!(lines.iter().all(|line| !line.contains("burst")), "{lines:?}");
    }

    #[test]
    fn the_script_shares_packets_only_with_an_interface_that_takes_them_so() {
        let script = CONFIG.script(5);
        let (_, rest) =
            script.split_once("if echo 'clone_skb 1' > /proc/net/pktgen/eth1@0 2>/dev/null; then\n").unwrap();
        let (sharing, rest) = rest.split_once("else\n").unwrap();
        assert!(sharing.contains("echo 'burst 16' >"));
        let (not, _) = rest.split_once("fi\n").unwrap();
        assert!(not.contains("echo 'flag !SHARED' > /proc/net/pktgen/eth1@0\n") && !not.contains("burst"));
    }

    #[test]
    fn the_script_stops_the_generator_again() {
        let script = CONFIG.script(5);
        assert!(script.starts_with("#!/bin/sh\n"));
        assert!(script.contains("echo 'count 0' > /proc/net/pktgen/eth1@0\n"));
        assert!(script.ends_with(
            "echo start > /proc/net/pktgen/pgctrl &\nsleep 5\necho stop > /proc/net/pktgen/pgctrl\nwait\n\
             cat /proc/net/pktgen/eth1@0\n"
        ));
    }
}

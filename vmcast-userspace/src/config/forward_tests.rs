use std::path::Path;

use super::*;
use crate::config::{RouterConfig, parse};

const BASE: &str =
    "rank = 0\n[[interface]]\nname = \"eth0\"\naccepts_sources = true\n[[interface]]\nname = \"eth1\"\n";
const TUNNEL: &str =
    "[[static_tunnel]]\nname = \"west\"\nkind = \"gre\"\nlocal = \"192.0.2.1\"\nremote = \"192.0.2.9\"\n";

fn read(text: &str) -> Result<RouterConfig, String> {
    parse(Path::new("t.toml"), &format!("{BASE}{text}"))
        .map(|(config, _)| config)
        .map_err(|report| report.to_string())
}

fn refused(text: &str, wanted: &[&str]) {
    let said = read(text).expect_err(text);
    for part in wanted {
        assert!(said.contains(part), "{part:?} is not in:\n{said}");
    }
}

fn forward(lines: &str) -> String {
    format!("{TUNNEL}[[forward]]\ngroup = \"239.1.2.3\"\n{lines}\n")
}

#[test]
fn every_kind_of_output_is_read() {
    let text = forward(
        "source = \"198.51.100.7\"\nfrom = \"eth0\"\nto = [\"eth1\", \"west\", { neighbour = \"2001:db8::11\" }, \
         { mac = \"02:00:5e:00:53:01\", interface = \"eth1\" }]",
    );
    let config = read(&text).unwrap();
    let forward = &config.forwards[0];
    assert_eq!(forward.stream().to_string(), "(198.51.100.7,239.1.2.3)");
    assert_eq!(forward.from, Origin::Named("eth0".to_owned()));
    let shown: Vec<String> = forward.to.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["eth1", "west", "neighbour 2001:db8::11", "02:00:5e:00:53:01 on eth1"]);
    assert_eq!(config.static_tunnels[0].kind(), TunnelKind::Gre(None));
    assert_eq!(read(&self::forward("to = [\"eth1\"]")).unwrap().forwards[0].from, Origin::Any);
}

#[test]
fn a_tunnel_has_ports_and_keys_where_its_encapsulation_has_them() {
    let amt = TUNNEL.replace("gre", "amt").replace("192.0.2.9", "192.0.2.9:4000");
    let tunnel = read(&amt).unwrap().static_tunnels.remove(0);
    assert_eq!(tunnel.end(tunnel.local).to_string(), "192.0.2.1:2268");
    assert_eq!(tunnel.end(tunnel.remote).to_string(), "192.0.2.9:4000");
    let keyed = read(&format!("{TUNNEL}key = 7\n")).unwrap().static_tunnels.remove(0);
    assert_eq!((keyed.kind(), keyed.end(keyed.local).port()), (TunnelKind::Gre(Some(7)), 0));
    refused(&amt.replace("amt", "gre"), &["t.toml:11:10", "only AMT has ports"]);
    refused(&format!("{}key = 7\n", TUNNEL.replace("gre", "ipip")), &["t.toml:12:7", "only GRE has a key"]);
    refused(&TUNNEL.replace("192.0.2.9", "2001:db8::9"), &["t.toml:11:10", "one address family"]);
    refused(
        &TUNNEL.replace("192.0.2.9", "239.1.1.1"),
        &["is no end of a tunnel", "hint: write the address of a host"],
    );
    refused(&TUNNEL.replace("gre", "vxlan"), &["\"vxlan\" is not one of", "gre, ipip, amt"]);
    refused(&TUNNEL.replace("west", "eth1"), &["t.toml:8:8", "another tunnel or an interface is named eth1"]);
    refused(&format!("{TUNNEL}{}", TUNNEL.replace("west", "east")), &["west has the same two ends"]);
    assert!(read(&format!("{TUNNEL}{}key = 1\n", TUNNEL.replace("west", "east"))).is_ok());
}

#[test]
fn a_stream_that_cannot_be_forwarded_as_it_is_stated_is_explained() {
    refused(
        &forward("to = [\"eth2\"]"),
        &["t.toml:14:", "no interface and no static tunnel here is named `eth2`", "did you mean `eth"],
    );
    refused(&forward("to = []"), &["nobody is named"]);
    refused(&forward("to = [\"eth1\", \"eth1\"]"), &["eth1 is listed twice"]);
    refused(
        &forward("from = \"eth1\"\nto = [\"west\"]"),
        &["eth1 does not accept sources", "accepts_sources = true"],
    );
    refused(&forward("from = \"eth0\"\nto = [\"eth0\"]"), &["packets never return to eth0"]);
    refused(
        &forward("to = [{ neighbor = \"10.0.0.1\" }]"),
        &["unknown key `neighbor`", "did you mean `neighbour`?"],
    );
    refused(
        &forward("to = [{ mac = \"02:00:5e:00:53:01\" }]"),
        &["these keys together name nobody", "hint: the name of"],
    );
    refused(
        &forward("to = [{ mac = \"01:00:5e:00:53:01\", interface = \"eth1\" }]"),
        &["link-layer address of no host"],
    );
    refused(
        &forward("to = [{ mac = \"02:00:5e:00:53:01\", interface = \"west\" }]"),
        &["no [[interface]] is named `west`"],
    );
    refused(
        &forward("source = \"2001:db8::1\"\nto = [\"eth1\"]"),
        &["source and group are of one address family"],
    );
    refused(&forward("to = 7"), &["hint: expected a list"]);
    let twice =
        format!("{}[[forward]]\ngroup = \"239.1.2.3\"\nto = [\"west\"]\n", forward("to = [\"eth1\"]"));
    refused(&twice, &["(*,239.1.2.3) has a table already"]);
    let both = format!(
        "{}[[forward]]\ngroup = \"239.1.2.3\"\nsource = \"10.0.0.1\"\nto = [\"eth1\"]\n",
        forward("to = [\"eth1\"]")
    );
    refused(&both, &["eth1 gets every source of 239.1.2.3 by one table and one source by another"]);
    for group in ["224.0.0.5", "ff02::1", "10.0.0.1", "all"] {
        refused(
            &forward("to = [\"eth1\"]").replace("239.1.2.3", group),
            &["cannot be forwarded", "t.toml:13:9"],
        );
    }
    assert!(read(&forward("to = [\"eth1\"]").replace("239.1.2.3", "ff3e::8000:1")).is_ok());
}

#[test]
fn a_link_that_cannot_be_is_explained() {
    let interface = |lines: &str| format!("[[interface]]\nname = \"west\"\n{lines}\n");
    let on_eth0 = |lines: &str| interface(&format!("device = \"eth0\"\n{lines}"));
    assert!(
        read(&on_eth0("vlan = [\"802.1ad:200\", 5]\npppoe_session = 7\npeer_mac = \"02:00:5e:00:53:01\""))
            .is_ok()
    );
    refused(&interface("vlan = [5]"), &["t.toml:9:8", "none is named", "add device"]);
    refused(&on_eth0(""), &["t.toml:9:10", "nothing tells this interface from its device"]);
    refused(&on_eth0("vlan = [4095]"), &["4095 is no VLAN tag", "0 to 4094"]);
    refused(&on_eth0("vlan = [\"802.1x:5\"]"), &["\"802.1x:5\" is no VLAN tag"]);
    refused(&on_eth0("vlan = [1, 2, 3]"), &["at most two tags"]);
    refused(&on_eth0("pppoe_session = 0"), &["session 0"]);
    refused(&on_eth0("vlan = [5]\npeer_mac = \"02:00:5e:00:53:01\""), &["only a PPPoE session has a peer"]);
    let twice = format!("{}{}", on_eth0("vlan = [5]"), on_eth0("vlan = [5]").replace("west", "east"));
    refused(&twice, &["another interface is this link of the device"]);
}

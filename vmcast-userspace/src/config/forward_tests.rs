use std::path::Path;

use super::*;
use crate::config::{Converted, RoleConfig as _, RouterConfig, UnicastInput, parse};

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

#[test]
fn unicast_ends_of_a_stream_are_read() {
    let config = read(&forward(
        "from = { unicast = \"10.1.0.1:6000\", group_port = 5004 }\nto = [{ convert_to = \"10.5.0.11:5004\" }, \
         { convert_to = \"239.9.9.9:5006\", interface = \"eth1\", source = \"10.5.0.1:5000\" }]",
    ));
    let stated = config.unwrap().forwards.remove(0);
    let input = UnicastInput { endpoint: "10.1.0.1:6000".parse().unwrap(), group_port: 5004 };
    assert_eq!(stated.from, Origin::Unicast(input));
    let shown: Vec<String> = stated.to.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["10.5.0.11:5004", "239.9.9.9:5006 on eth1"]);
    let Target::Converted(Converted { source, .. }) = &stated.to[1] else { panic!("{stated:?}") };
    assert_eq!(source.unwrap().to_string(), "10.5.0.1:5000");

    let v6 = forward(
        "from = { unicast = \"[2001:db8::1]:6000\" }\nto = [{ convert_to = \"[2001:db8:5::b]:5004\" }]",
    );
    let stated = read(&v6.replace("239.1.2.3", "ff3e::8000:1")).unwrap().forwards.remove(0);
    assert_eq!(stated.from.unicast().unwrap().group_port, 6000, "the port stays if none is named");
}

#[test]
fn a_conversion_that_cannot_be_is_explained() {
    let to = |target: &str| forward(&format!("to = [\"west\", {{ {target} }}]"));
    refused(
        &to("convert_to = \"239.9.9.9:5004\""),
        &["t.toml:14:30", "by which interface it leaves is not said", "add interface ="],
    );
    refused(
        &to("convert_to = \"10.5.0.11:5004\", interface = \"eth1\""),
        &["routes lead to 10.5.0.11, which is a host", "leave interface out"],
    );
    refused(
        &to("convert_to = \"[2001:db8::1]:5004\""),
        &["two address families", "stays in its family", "t.toml:14:30"],
    );
    refused(&to("convert_to = \"10.5.0.11:0\""), &["its port is 0", "write 192.0.2.1:5004"]);
    refused(&to("convert_to = \"10.5.0.11\""), &["\"10.5.0.11\" has no port"]);
    refused(&to("convert_to = \"127.0.0.1:5004\""), &["no address of a host"]);
    refused(&to("convert_to = \"[fe80::1]:5004\""), &["no address of a host"]);
    refused(&to("convert_to = \"host:5004\""), &["no address with a port"]);
    for group in ["224.0.0.5:5004", "[ff02::1]:5004", "239.255.255.250:5004"] {
        refused(
            &to(&format!("convert_to = \"{group}\", interface = \"eth1\"")),
            &["cannot be forwarded: its group is one of the local link"],
        );
    }
    refused(
        &to("convert_to = \"239.9.9.9:5004\", interface = \"eht1\""),
        &["no [[interface]] is named `eht1`", "did you mean `eth1`?"],
    );
    refused(
        &to("convert_to = \"10.5.0.11:5004\", source = \"239.1.1.1:5\""),
        &["239.1.1.1 is a group, and no packet comes from one"],
    );
    refused(
        &to("convert_to = \"10.5.0.11:5004\", source = \"[2001:db8::1]:5\""),
        &["source and destination are of one address family"],
    );
    refused(
        &forward("from = \"eth0\"\nto = [{ convert_to = \"239.9.9.9:5004\", interface = \"eth0\" }]"),
        &["packets never return to eth0"],
    );
    refused(
        &to("convert_to = \"239.9.9.9:5004\", interface = \"west\""),
        &[
            "west is a tunnel, and a copy is converted or encapsulated, not both",
            "come in again by a veth pair",
        ],
    );
    refused(&to("source = \"10.5.0.11:5004\""), &["these keys together name nobody"]);
    let twice =
        "{ convert_to = \"10.5.0.11:5004\" }, { convert_to = \"10.5.0.11:5004\", source = \"10.5.0.1:1\" }";
    refused(&forward(&format!("to = [{twice}]")), &["10.5.0.11:5004 is listed twice"]);
}

#[test]
fn a_unicast_input_that_cannot_be_is_explained() {
    let from = |input: &str| forward(&format!("from = {{ {input} }}\nto = [\"eth1\"]"));
    refused(&from("unicast = \"239.9.9.9:5004\""), &["t.toml:14:20", "239.9.9.9 is a group", "without"]);
    refused(&from("unicast = \"[2001:db8::1]:5004\""), &["two address families"]);
    refused(&from("unicast = \"10.1.0.1:0\""), &["its port is 0"]);
    refused(
        &from("unicast = \"10.1.0.1:5004\", group_port = 0"),
        &["t.toml:14:50", "port 0 cannot be reached", "members of the group listen"],
    );
    refused(&from("unicast = \"10.1.0.1:2268\""), &["tunnels of AMT are taken at port 2268"]);
    refused(&from("unicats = \"10.1.0.1:5004\""), &["did you mean `unicast`?"]);
    refused(&forward("from = 7\nto = [\"eth1\"]"), &["{ unicast ="]);
    let own = from("unicast = \"10.1.0.1:5004\"");
    let other =
        "[[forward]]\ngroup = \"239.1.2.4\"\nfrom = { unicast = \"10.1.0.1:5004\" }\nto = [\"eth1\"]\n";
    refused(&format!("{own}{other}"), &["goes on to 239.1.2.3:5004 already", "a port of its own"]);
    let of_one = "[[forward]]\ngroup = \"239.1.2.3\"\nsource = \"10.1.0.7\"\nfrom = { unicast = \"10.1.0.1:5004\" }\nto = [\"west\"]\n";
    assert!(read(&format!("{own}{of_one}")).is_ok(), "one source of it may go elsewhere");
    refused(
        &forward("from = { unicast = \"10.1.0.1:5004\" }\nto = [{ convert_to = \"10.1.0.1:5004\" }]"),
        &["where this router takes a stream in itself"],
    );
    let said = parse::<RouterConfig>(Path::new("t.toml"), &format!("{BASE}{own}").replace("true", "false"));
    assert!(said.unwrap_err().to_string().contains("no interface accepts sources"));
}

#[test]
fn an_address_that_is_not_this_hosts_is_a_warning_since_it_may_come() {
    let config = read(&forward("from = { unicast = \"10.1.0.1:5004\" }\nto = [\"eth1\"]")).unwrap();
    let mut present =
        Present { interfaces: vec!["eth0".to_owned(), "eth1".to_owned()], addresses: Default::default() };
    let problems = config.host_problems(&present);
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].key, "forward[0].from.unicast");
    assert_eq!(problems[0].severity, crate::config::Severity::Warning);
    assert!(problems[0].message.contains("no address of this host at present"), "{problems:?}");
    present.addresses.insert("10.1.0.1".parse().unwrap());
    assert_eq!(config.host_problems(&present), []);
}

#[test]
fn an_interface_may_be_named_that_only_a_pattern_covers() {
    let pattern = "[[interface]]\nname = \"ppp*\"\naccepts_sources = true\n";
    let of = |lines: &str| format!("{pattern}{}", forward(lines));
    read(&of("from = \"ppp7\"\nto = [\"ppp8\", { mac = \"02:00:5e:00:53:01\", interface = \"ppp9\" }]"))
        .unwrap();
    refused(&of("from = \"eth1\"\nto = [\"ppp8\"]"), &["eth1 does not accept sources"]);
    refused(&of("to = [\"pp8\"]"), &["no interface and no static tunnel here is named `pp8`"]);
    // Of many there is none to be told of.
    let many = "`ppp*` stands for many interfaces";
    refused(&of("to = [\"ppp*\"]"), &[many, "hint: name one of them"]);
    refused(&of("from = \"ppp*\"\nto = [\"eth1\"]"), &[many]);
    refused(
        &of("to = [{ mac = \"02:00:5e:00:53:01\", interface = \"ppp*\" }]"),
        &["no [[interface]] is named `ppp*`"],
    );
    // The table of its own name counts before a pattern.
    let own = "[[interface]]\nname = \"ppp7\"\n";
    refused(&format!("{own}{}", of("from = \"ppp7\"\nto = [\"eth1\"]")), &["ppp7 does not accept sources"]);
}

#[test]
fn a_source_specific_group_from_above_without_a_source_is_warned_of() {
    let warned = |group: &str, lines: &str| {
        let text = format!("{BASE}[[forward]]\ngroup = \"{group}\"\nto = [\"eth1\"]\n{lines}");
        let (_, report) = parse::<RouterConfig>(Path::new("t.toml"), &text).expect("a configuration");
        report.to_string()
    };
    for (group, source) in [("232.1.2.3", "198.51.100.7"), ("ff3e::8000:1", "2001:db8::7")] {
        let said = warned(group, "");
        assert!(said.contains("nobody have") && said.contains("RFC 4607"), "{said}");
        for stated in [format!("source = \"{source}\"\n"), "from = \"eth0\"\n".to_owned()] {
            let said = warned(group, &stated);
            assert!(!said.contains("RFC 4607"), "{said}");
        }
    }
    assert!(!warned("239.1.2.3", "").contains("RFC 4607"));
}

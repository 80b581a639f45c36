//! What a file may get wrong, and what the operator reads then.

use std::path::Path;

use vmcast_api::StandIn;
use vmcast_common::rate::Rate;
use vmcast_dataplane::oversize::Limits;
use vmcast_proto::{
    membership::{self, Family},
    registry::UnixMillis,
};

use crate::identity::{Authority, JoinToken};

use super::{
    Access, AdminConfig, AgentConfig, Present, Problem, Report, RoleConfig, RouterConfig, Severity,
    group_prefix::GroupPrefix,
    sections::Upstream,
    timers::Igmp,
    value::{AdminUrl, Domain, InterfaceAddress, InterfaceName, NameServer, NodeName, Remote},
};

const MINIMAL: &str = "rank = 0\n[[interface]]\nname = \"eth0\"\n";

fn parse<C: RoleConfig>(text: &str) -> Result<(C, Report), Report> {
    super::parse(Path::new("t.toml"), text)
}

fn refusal<C: RoleConfig>(text: &str) -> String {
    match parse::<C>(text) {
        Ok(_) => panic!("accepted: {text}"),
        Err(report) => report.to_string(),
    }
}

/// What a router file without these lines is refused with.
fn router_refusal(lines: &str) -> String {
    refusal::<RouterConfig>(&format!("{MINIMAL}{lines}"))
}

#[test]
fn what_dataplane_rules_out_for_an_interface_is_said() {
    let refused = router_refusal("engine = \"xdp\"\n[dataplane]\nengine = \"tc\"\n");
    assert!(refused.contains("dataplane.engine lets XDP serve no interface"), "{refused}");
    for without in ["engine = \"tc\"\n", "engine = \"xdp\"\n", "[dataplane]\nengine = \"software\"\n"] {
        let (_, report) = parse::<RouterConfig>(&format!("{MINIMAL}xdp_members = 100\n{without}")).unwrap();
        assert!(report.to_string().contains("one engine serves all members here"), "{without}: {report}");
    }
    let (config, report) = parse::<RouterConfig>(&format!("{MINIMAL}xdp_members = 100\n")).unwrap();
    assert_eq!(report, Report::default(), "{report}");
    assert_eq!(config.interfaces[0].xdp_members.map(u32::from), Some(100));
    let refused = router_refusal("xdp_members = 0\n");
    assert!(refused.contains("nonzero"), "{refused}");
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_key_that_was_meant() {
    assert_eq!(
        router_refusal("quirier = true\n"),
        [
            "error: unknown key `quirier`",
            "  --> t.toml:4:1",
            "  |",
            "4 | quirier = true",
            "  | ^^^^^^^",
            "  hint: did you mean `querier`?",
            "",
        ]
        .join("\n")
    );
}

#[test]
fn an_unknown_key_that_resembles_none_is_answered_with_the_keys_of_its_table() {
    let said = router_refusal("[log]\ncolour = true\n");
    assert!(said.contains("unknown key `colour`") && said.contains("t.toml:5:1"), "{said}");
    assert!(said.contains("hint: the keys here are level, format"), "{said}");
}

#[test]
fn unknown_keys_are_refused_in_every_table() {
    for table in ["tunnel", "dataplane", "igmp", "control", "record", "admin", "upstream", "interface.igmp"] {
        let said = router_refusal(&format!("[{table}]\nbogus_key = 1\n"));
        assert!(said.contains("unknown key `bogus_key`") && said.contains("t.toml:5:1"), "{table}: {said}");
    }
    let said = refusal::<RouterConfig>("rnak = 0\n");
    assert!(said.contains("t.toml:1:1") && said.contains("did you mean `rank`?"), "{said}");
    let said = refusal::<AgentConfig>("[interface]\nnmae = \"x\"\n");
    assert!(said.contains("t.toml:2:1") && said.contains("did you mean `name`?"), "{said}");
    let said = refusal::<AdminConfig>("listen = \"0.0.0.0:1\"\nlease = 3\n");
    assert!(said.contains("t.toml:2:1") && said.contains("lease_seconds"), "{said}");
}

#[test]
fn a_wrong_type_says_what_may_stand_there() {
    let said = router_refusal("[tunnel]\nport = \"2268\"\n");
    assert!(said.contains("string \"2268\" cannot stand here") && said.contains("t.toml:5:8"), "{said}");
    assert!(said.contains("hint: expected a whole number from 0 to 65535"), "{said}");
    let said = router_refusal("[tunnel]\nport = 70000\n");
    assert!(said.contains("70000") && said.contains("expected a whole number from 0 to 65535"), "{said}");
    let said = router_refusal("querier = \"yes\"\n");
    assert!(said.contains("hint: expected true or false"), "{said}");
    let said = refusal::<RouterConfig>("rank = 0\ninterface = \"eth0\"\n");
    assert!(said.contains("t.toml:2:13") && said.contains("expected a list"), "{said}");
    let said = router_refusal("[admin]\nurls = \"http://192.0.2.1:1\"\n");
    assert!(said.contains("expected a list"), "{said}");
    let said = router_refusal("[tunnel]\naddress = \"here\"\n");
    assert!(said.contains("t.toml:5:11") && said.contains("expected an IP address in quotes"), "{said}");
}

#[test]
fn a_bad_value_says_what_is_possible() {
    let said = router_refusal("[dataplane]\nengine = \"xpd\"\n");
    assert!(
        said.contains("\"xpd\" is not one of the possible values") && said.contains("t.toml:5:10"),
        "{said}"
    );
    assert!(said.contains("did you mean `xdp`?"), "{said}");
    let said = router_refusal("[dataplane]\non_exit = \"explode\"\n");
    assert!(said.contains("possible are remove, keep"), "{said}");
    let said = router_refusal("[[interface]]\nname = \"a name with spaces\"\n");
    assert!(said.contains("t.toml:5:8") && said.contains("no interface name"), "{said}");
    let said = router_refusal("[admin]\nurls = [\"http://192.0.2.1:1\", \"192.0.2.2\"]\n");
    assert!(said.contains("t.toml:5:31") && said.contains("write http://HOST:PORT"), "{said}");
    let said = router_refusal("[upstream]\nfrom = \"static\"\naddress = \"192.0.2.300\"\n");
    assert!(said.contains("t.toml:6:11") && said.contains("neither an address nor a DNS name"), "{said}");
    let said = router_refusal("[igmp]\nquery_interval_seconds = -1\n");
    assert!(said.contains("t.toml:5:26") && said.contains("-1 is no time"), "{said}");
}

#[test]
fn a_missing_key_and_broken_syntax_are_named() {
    let said = refusal::<RouterConfig>("[[interface]]\nname = \"eth0\"\n");
    assert!(said.contains("the key `rank` is missing"), "{said}");
    let said = refusal::<AdminConfig>("");
    assert!(said.contains("the key `listen` is missing"), "{said}");
    let said = router_refusal("[tunnel\n");
    assert!(said.contains("t.toml:4:"), "{said}");
    let said = refusal::<RouterConfig>("rank = 0\nrank = 1\n");
    assert!(said.contains("duplicate key") && said.contains("t.toml:2:"), "{said}");
    let said = router_refusal("[upstream]\naddress = \"192.0.2.1\"\n");
    assert!(said.contains("the key `from` is missing") && said.contains("t.toml:4:1"), "{said}");
}

#[test]
fn values_out_of_range_are_all_reported_at_once_each_with_its_line() {
    let said = refusal::<RouterConfig>(
        "rank = 999\n[tunnel]\nport = 0\nmax_tunnels = 0\naddress = [\"192.0.2.1\", \"239.1.1.1\", \"192.0.2.1\"]\n\
         [igmp]\nversion = 4\nrobustness_variable = 8\nquery_interval_seconds = 5\n[control]\nsocket = \"x.sock\"\n\
         [dataplane]\npin_path = \"bpf\"\n[[interface]]\nname = \"a\"\n[[interface]]\nname = \"a\"\n",
    );
    for place in ["1:8", "3:8", "4:15", "5:25", "5:38", "7:11", "8:23", "11:10", "13:12", "17:8"] {
        assert!(said.contains(&format!("--> t.toml:{place}\n")), "{place}: {said}");
    }
    assert!(said.contains("response interval is not below the query interval"), "{said}");
    assert_eq!(said.matches("error: ").count(), 11, "{said}");
}

// proves RFC 7450 §5.3.6
#[test]
fn a_secret_of_tunnels_lasts_as_long_as_gateways_use_what_it_made() {
    for (igmp, least) in [
        ("", 260.0),
        ("[igmp]\nquery_interval_seconds = 20\n[mld]\nquery_interval_seconds = 30\n", 70.0),
        (
            "[igmp]\nquery_interval_seconds = 20\n[mld]\nquery_interval_seconds = 100\nrobustness_variable = 1\n",
            200.0,
        ),
    ] {
        for wrong in [least - 0.5, 86_401.0] {
            let said = router_refusal(&format!("{igmp}[tunnel]\nsecret_lifetime_seconds = {wrong}\n"));
            assert!(said.contains(&format!("{wrong} s is not from {least} to 86400 seconds")), "{said}");
        }
        let text = format!(
            "rank = 0\n{igmp}[tunnel]\nsecret_lifetime_seconds = {least}\n[[interface]]\nname = \"a\"\n"
        );
        parse::<RouterConfig>(&text).unwrap();
    }
}

#[test]
fn recordings_have_an_absolute_place_and_a_limit() {
    let said = router_refusal("[record]\ndirectory = \"x\"\nmegabytes = 1001\n");
    assert!(said.contains("the path x has to begin with /"), "{said}");
    assert!(said.contains("1001 is not from 1 to 1000"), "{said}");
}

#[test]
fn limits_beyond_what_the_tables_hold_are_refused() {
    for (key, value) in [
        ("max_tunnels", 131_073),
        ("max_tunnels_per_address", 131_073),
        ("max_groups_per_tunnel", 16_385),
        ("answers_per_second", 10_000_001),
        ("answers_per_prefix_per_second", 10_000_001),
        ("unreachable_ignored", 1_000_001),
    ] {
        let said = router_refusal(&format!("[tunnel]\n{key} = {value}\n"));
        assert!(said.contains(&format!("{value} is not from 1 to {}", value - 1)), "{said}");
    }
    for (key, least, most) in [
        ("max_streams", 1, 16_383),
        ("max_members", 1, 262_143),
        ("max_tunnels", 1, 131_072),
        ("max_next_hops", 1, 65_535),
        ("max_interfaces", 1, 4_096),
        ("max_endpoints", 1, 8_192),
        ("max_tables", 1_024, 32_767),
        ("max_table_devices", 1, 262_144),
        ("max_losing_members", 1, 65_536),
    ] {
        for value in [least - 1, most + 1] {
            let said = router_refusal(&format!("[dataplane]\n{key} = {value}\n"));
            assert!(said.contains(&format!("{value} is not from {least} to {most}")), "{said}");
        }
    }
}

#[test]
fn the_rates_of_oversize_packets_have_a_range_and_nothing_is_a_rate() {
    for (key, most) in [("fragmented_copies_per_second", 1_000_000), ("packet_too_big_per_second", 10_000)] {
        let said = router_refusal(&format!("[dataplane]\n{key} = {}\n", most + 1));
        assert!(said.contains(&format!("{} is not from 0 to {most}", most + 1)), "{said}");
        assert!(said.contains("t.toml:5:"), "{said}");
    }
    let rates = |text: &str| {
        let parsed = parse::<RouterConfig>(&format!("{MINIMAL}[dataplane]\n{text}"));
        parsed.expect("a configuration").0.dataplane.oversize()
    };
    assert_eq!(rates(""), Limits::default());
    let rate = |per_second, burst| Rate { per_second, burst };
    let text = "fragmented_copies_per_second = 500\npacket_too_big_per_second = 3\n";
    assert_eq!(rates(text), Limits { copies: rate(500, 100), too_big: rate(3, 3) });
    let none = rates("fragmented_copies_per_second = 0\npacket_too_big_per_second = 0\n");
    assert_eq!([none.copies.admit(0, 1), none.too_big.admit(0, 1)], [None, None]);
    let one = rates("fragmented_copies_per_second = 1\n").copies;
    assert_eq!(one.admit(0, 1), Some(1_000_000_001));
}

#[test]
fn the_upstream_has_to_fit_what_else_is_configured() {
    let said = router_refusal("[upstream]\nfrom = \"static\"\n");
    assert!(said.contains("needs an address") && said.contains("t.toml:4:1"), "{said}");
    let said = router_refusal("[upstream]\nfrom = \"none\"\naddress = \"192.0.2.1\"\n");
    assert!(said.contains("would not be used") && said.contains("t.toml:6:11"), "{said}");
    let said = refusal::<AgentConfig>("");
    assert!(said.contains("needs an admin"), "{said}");
    let said = refusal::<AgentConfig>("[upstream]\nfrom = \"none\"\n");
    assert!(said.contains("receives nothing"), "{said}");

    let fixed = "[upstream]\nfrom = \"static\"\naddress = \"vmr.example.net\"\n";
    let (agent, _) = parse::<AgentConfig>(fixed).unwrap();
    assert_eq!(agent.upstream.upstream(), Upstream::Static(Remote::Name("vmr.example.net".to_owned(), 2268)));
    let (router, _) = parse::<RouterConfig>(MINIMAL).unwrap();
    assert_eq!(router.upstream.upstream(), Upstream::None);
}

#[test]
fn a_file_that_names_no_admins_has_those_of_the_token() {
    let token = JoinToken {
        admins: vec!["https://192.0.2.1:8443".into(), "https://admin.example.net:8443".into()],
        fingerprint: Authority::make(UnixMillis(1_790_000_000_000)).unwrap().fingerprint(),
        id: "0123456789abcdef".into(),
        secret: "00".into(),
    };
    let directory = tempfile::tempdir().unwrap();
    let own = |rest: &str| format!("[admin]\nidentity = {:?}\n{rest}", directory.path());
    let load =
        |text: &str, access: &Access| super::load_text::<AgentConfig>(Path::new("t.toml"), text, access);
    let access = |token| Access { token, ..Access::default() };
    let urls = |config: &AgentConfig| config.admin.urls.iter().map(ToString::to_string).collect::<Vec<_>>();

    let (config, _) = load(&own(""), &access(Some(token.clone()))).unwrap();
    assert_eq!(urls(&config), token.admins);
    let (config, _) = load(&own("urls = [\"https://192.0.2.9:1\"]\n"), &access(Some(token))).unwrap();
    assert_eq!(urls(&config), ["https://192.0.2.9:1"], "the file comes first");
    let refused = load(&own(""), &access(None)).unwrap_err().to_string();
    assert!(refused.contains("needs an admin") && refused.contains("--token"), "{refused}");
}

#[test]
fn a_rank_that_does_not_fit_its_upstream_is_only_warned_about() {
    let admin = "[admin]\nurls = [\"https://192.0.2.1:8443\"]\n[upstream]\nfrom = \"admin\"\n";
    let (_, report) = parse::<RouterConfig>(&format!("{MINIMAL}{admin}")).unwrap();
    assert_eq!((report.count(Severity::Warning), report.count(Severity::Error)), (1, 0), "{report}");
    let (_, report) = parse::<RouterConfig>(&MINIMAL.replace("rank = 0", "rank = 2")).unwrap();
    assert!(report.to_string().contains("warning: a VMR below rank 0 without [upstream]"), "{report}");
}

#[test]
fn limits_of_a_querier_are_for_queriers_and_let_somebody_in() {
    let (router, report) = parse::<RouterConfig>(
        "rank = 0\n[[interface]]\nname = \"a\"\nquerier = true\nimmediate_leave = true\n\
         require_router_alert = true\ngroups = [\"239.0.1.0/24\", \"ff0e::/16\"]\nmax_groups = 7\nmax_groups_per_host = 2\n",
    )
    .unwrap();
    assert_eq!(report, Default::default());
    let ranges = router.interfaces[0].allowed_groups().unwrap();
    assert!(ranges.iter().any(|range| range.contains("ff0e::5".parse().unwrap())));
    assert!(!ranges.iter().any(|range| range.contains("239.0.2.1".parse().unwrap())));
    assert!(router.interfaces[0].require_router_alert);
    let said = router_refusal("querier = true\nmax_groups = 0\n");
    assert!(said.contains("no host could join anything"), "{said}");
    for key in ["max_groups = 7", "require_router_alert = true"] {
        let text = format!("rank = 0\n[[interface]]\nname = \"a\"\n{key}\n");
        let (_, report) = parse::<RouterConfig>(&text).unwrap();
        assert!(report.to_string().contains("nobody is asked on this interface"), "{key}: {report}");
    }
}

#[test]
fn igmp_of_an_interface_goes_before_that_of_the_router() {
    let (router, _) = parse::<RouterConfig>(
        "rank = 0\n[igmp]\nquery_interval_seconds = 20\nversion = 2\n[[interface]]\nname = \"a\"\n\
         [interface.igmp]\nversion = 3\nquery_response_interval_seconds = 0.5\n[[interface]]\nname = \"b\"\n",
    )
    .unwrap();
    let [a, b] = [0, 1].map(|index| router.timers_on(&router.interfaces[index], Family::V4));
    assert_eq!((a.version, a.query_interval.as_secs(), a.query_response_interval.as_millis()), (3, 20, 500));
    assert_eq!(
        (b.version, b.query_interval.as_secs(), b.query_response_interval.as_millis()),
        (2, 20, 10_000)
    );
    assert_eq!(Igmp { version: 3, ..b }, Igmp { query_interval: b.query_interval, ..Igmp::default() });

    let (router, _) = parse::<RouterConfig>(
        "rank = 0\n[mld]\nquery_interval_seconds = 30\n[[interface]]\nname = \"a\"\n[interface.mld]\nversion = 1\n",
    )
    .unwrap();
    let mld = router.timers_on(&router.interfaces[0], Family::V6);
    assert_eq!((mld.version, mld.query_interval.as_secs()), (1, 30));
    assert_eq!(router.timers_on(&router.interfaces[0], Family::V4), Igmp::default());
    let said = router_refusal("[interface.mld]\nversion = 3\n");
    assert!(said.contains("MLD version 3 is not spoken"), "{said}");

    let said = router_refusal("[interface.igmp]\nversion = 2\nquery_response_interval_seconds = 26\n");
    assert!(said.contains("t.toml:6:") && said.contains("from 0.1 to 25.5 seconds"), "{said}");
}

// proves A7: every timer and variable of RFC 9776, section 8, and RFC 9777, section 9, that is not made of others, by its name
#[test]
fn every_variable_of_a_querier_has_a_key() {
    let keys = |last: &str| {
        format!(
            "robustness_variable = 3\nquery_interval_seconds = 20\nquery_response_interval_seconds = 4\n\
             startup_query_interval_seconds = 2\nstartup_query_count = 5\n\
             last_{last}_query_interval_seconds = 0.5\nlast_{last}_query_count = 6\nversion = 2\n"
        )
    };
    let (igmp, mld) = (keys("member"), keys("listener"));
    let seconds = std::time::Duration::from_secs;
    for (all, own) in [
        (format!("[igmp]\n{igmp}[mld]\n{mld}"), String::new()),
        (String::new(), format!("[interface.igmp]\n{igmp}[interface.mld]\n{mld}")),
    ] {
        let text = format!("rank = 0\n{all}[[interface]]\nname = \"a\"\n{own}");
        let (router, _) = parse::<RouterConfig>(&text).unwrap_or_else(|error| panic!("{error}"));
        for family in Family::ALL {
            let config = router.timers_on(&router.interfaces[0], family).apply(family);
            let base = membership::Config::new(family);
            let expected = membership::Config {
                version: membership::Version::numbered(family, 2).unwrap(),
                robustness_variable: 3,
                query_interval: seconds(20),
                query_response_interval: seconds(4),
                startup_query_interval: Some(seconds(2)),
                startup_query_count: Some(5),
                last_member_query_interval: seconds(1) / 2,
                last_member_query_count: Some(6),
                ..base.clone()
            };
            assert_eq!(config, expected);
            assert_eq!(Igmp::of(family).apply(family), base, "by default they follow from the others");
        }
    }
}

#[test]
fn a_variable_of_a_querier_has_its_range_and_the_name_of_its_protocol() {
    for (table, line, expected) in [
        ("igmp", "startup_query_count = 0", "from 1 to 255"),
        ("igmp", "last_member_query_count = 0", "from 1 to 255"),
        ("mld", "last_listener_query_count = 0", "from 1 to 255"),
        ("mld", "startup_query_count = 256", "256"),
        ("igmp", "startup_query_interval_seconds = 0.05", "from 0.1 to 31744 seconds"),
        ("mld", "startup_query_interval_seconds = 31745", "from 0.1 to 31744 seconds"),
        ("mld", "last_listener_query_interval_seconds = 0.05", "in MLD version 2 it is from 0.1 to"),
        (
            "mld",
            "last_member_query_interval_seconds = 1",
            "did you mean `last_listener_query_interval_seconds`?",
        ),
        ("mld", "last_member_query_count = 2", "did you mean `last_listener_query_count`?"),
        ("igmp", "last_listener_query_count = 2", "did you mean `last_member_query_count`?"),
    ] {
        let said = router_refusal(&format!("[interface.{table}]\n{line}\n"));
        assert!(said.contains(expected) && said.contains("t.toml:5:"), "{line}: {said}");
    }
    // Nor is anything else made of times that are out of any range.
    for key in ["query_interval_seconds", "query_response_interval_seconds"] {
        for protocol in ["igmp", "mld"] {
            let said = router_refusal(&format!("[{protocol}]\n{key} = 1e19\n"));
            assert!(said.contains(&format!("5 | {key} = 1e19")), "{said}");
        }
    }
}

#[test]
fn a_missing_interface_is_reported_with_those_that_are_there() {
    let (router, _) = parse::<RouterConfig>("rank = 0\n[[interface]]\nname = \"eth01\"\n").unwrap();
    let has = |names: &[&str]| Present {
        interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Present::default()
    };
    let present = has(&["eth0", "lo"]);
    let [problem] = <[Problem; 1]>::try_from(router.host_problems(&present)).unwrap();
    assert_eq!(problem.key, "interface[0].name");
    assert_eq!(problem.hint.as_deref(), Some("did you mean `eth0`?"));
    let present = has(&["wlan7", "lo"]);
    assert_eq!(router.host_problems(&present)[0].hint.as_deref(), Some("present are wlan7, lo"));
    assert_eq!(router.host_problems(&has(&["eth01"])), []);
}

#[test]
fn a_pattern_is_the_table_of_all_that_have_none_of_their_own() {
    let text = "rank = 0\n[[interface]]\nname = \"ppp*\"\nquerier = true\n[[interface]]\nname = \"ppp7\"\n\
                [[interface]]\nname = \"eth*\"\n";
    let (router, _) = parse::<RouterConfig>(text).unwrap();
    assert_eq!(router.host_problems(&Present::default()).len(), 1, "only ppp7 has to be there");
    let table = |name| router.interface_of(name).map(|table| table.name.as_str());
    assert_eq!(["ppp0", "ppp7", "eth0.5", "pp"].map(table), [Some("ppp*"), Some("ppp7"), Some("eth*"), None]);
    let said = router_refusal("[[interface]]\nname = \"ppp*\"\ndevice = \"eth1\"\npppoe_session = 3\n");
    assert!(said.contains("stands for many interfaces"), "{said}");
}

#[test]
fn a_file_is_loaded_against_the_interfaces_of_this_host() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "rank = 0\n[[interface]]\nname = \"lo\"\n").unwrap();
    super::load::<RouterConfig>(file.path()).unwrap();
    std::fs::write(file.path(), "rank = 0\n[[interface]]\nname = \"nonesuch9\"\n").unwrap();
    let said = super::load::<RouterConfig>(file.path()).unwrap_err().to_string();
    assert!(
        said.contains(":3:8") && said.contains("no interface `nonesuch9`") && said.contains("lo"),
        "{said}"
    );
    let said = super::load::<RouterConfig>(Path::new("/nonexistent/r.toml")).unwrap_err().to_string();
    assert!(said.contains("cannot read it") && said.contains("/nonexistent/r.toml"), "{said}");
}

#[test]
fn groups_that_stay_on_their_link_are_never_captured() {
    for bad in
        ["224.0.0.0/4", "224.0.0.251", "224.0.0.0/24", "239.255.255.250", "239.0.0.0/8", "224.0.0.0/23"]
    {
        let said = bad.parse::<GroupPrefix>().unwrap_err();
        assert!(said.contains("never forwarded"), "{bad}: {said}");
    }
    for bad in [
        "10.0.0.0/8",
        "232.0.0.0/33",
        "232.0.0.1/8",
        "240.0.0.0/4",
        "0.0.0.0/0",
        "ff3e::1/32",
        "ff00::/8",
        "2001:db8::/32",
        "ff3e::/129",
        "232.0.0.0/x",
        "",
    ] {
        assert!(bad.parse::<GroupPrefix>().unwrap_err().contains("no range of groups"), "{bad}");
    }
    for bad in ["ff02::/16", "ff02::fb", "ff01::1", "ff0f::/16", "ff32::/32"] {
        let said = bad.parse::<GroupPrefix>().unwrap_err();
        assert!(said.contains("never forwarded"), "{bad}: {said}");
    }
    for good in [
        "ff3e::/32",
        "ff05::/16",
        "ff0e::1:2",
        "232.0.0.0/8",
        "239.192.0.0/14",
        "239.255.255.251",
        "224.0.1.0/24",
        "239.255.0.0/17",
    ] {
        assert!(good.parse::<GroupPrefix>().is_ok(), "{good}");
    }
    let said = refusal::<AgentConfig>(
        "[upstream]\nfrom = \"static\"\naddress = \"192.0.2.1\"\n[interface]\ngroups = [\"232.0.0.0/8\", \"232.1.1.1\"]\n",
    );
    assert!(said.contains("t.toml:5:26") && said.contains("groups in common"), "{said}");
}

#[test]
fn names_addresses_and_urls_are_parsed_strictly() {
    for good in [
        "192.0.2.1",
        "192.0.2.1:99",
        "vmr.example.net",
        "vmr:2268",
        "[2001:db8::1]:2268",
        "2001:db8::1",
        "a.b.",
    ] {
        assert!(good.parse::<Remote>().is_ok(), "{good}");
    }
    for bad in
        ["", ":1", "vmr:", "vmr:0", "192.0.2.1:0", "192.0.2", "1.2.3.4.5", "a b", "-a", "a..b", "vmr:70000"]
    {
        assert!(bad.parse::<Remote>().is_err(), "{bad}");
    }
    for good in ["http://192.0.2.1:8443", "https://admin.example.net:443/", "http://[2001:db8::1]:1"] {
        assert!(good.parse::<AdminUrl>().is_ok(), "{good}");
    }
    for bad in
        ["", "admin:1", "ftp://a:1", "http://a", "http://a:0", "http://a:1/x", "http://a:b", "http://:1"]
    {
        assert!(bad.parse::<AdminUrl>().is_err(), "{bad}");
    }
    assert_eq!("https://a.example:443/".parse::<AdminUrl>().unwrap().as_str(), "https://a.example:443");
    for bad in ["", "a/b", "a b", "..", "sixteen-letters-", "a:1", "é"] {
        assert!(bad.parse::<InterfaceName>().is_err(), "{bad}");
    }
    for bad in ["", "a b", "é", &"a".repeat(64)] {
        assert!(bad.parse::<NodeName>().is_err(), "{bad}");
    }
    for bad in ["224.0.0.1/32", "0.0.0.0/32", "255.255.255.255", "192.0.2.1/0", "192.0.2.1/33", "x"] {
        assert!(bad.parse::<InterfaceAddress>().is_err(), "{bad}");
    }
    assert!(!NodeName::of_host().as_str().is_empty());
}

#[test]
fn the_admin_refuses_values_out_of_range() {
    let said = refusal::<AdminConfig>(
        "listen = \"0.0.0.0:0\"\ndatabase = \"x.db\"\nlease_seconds = 0\ncache_lifetime_seconds = 1e12\n\
         cache_prefix_v4 = 33\ncache_prefix_v6 = 8\n",
    );
    for place in ["1:10", "2:12", "3:17", "4:26", "5:19", "6:19"] {
        assert!(said.contains(&format!("--> t.toml:{place}\n")), "{place}: {said}");
    }
    let said = refusal::<AdminConfig>("listen = \"8443\"\n");
    assert!(said.contains("t.toml:1:10"), "{said}");
}

#[test]
fn a_name_server_is_an_address_with_or_without_a_port() {
    for (text, server) in [
        ("192.0.2.53", "192.0.2.53:53"),
        ("192.0.2.53:5353", "192.0.2.53:5353"),
        ("2001:db8::53", "[2001:db8::53]:53"),
        ("[2001:db8::53]:54", "[2001:db8::53]:54"),
    ] {
        assert_eq!(text.parse::<NameServer>().unwrap().to_string(), server);
    }
    for text in ["", "dns.example.net", "0.0.0.0", "192.0.2.53:0", "224.0.0.251"] {
        assert!(text.parse::<NameServer>().is_err(), "{text}");
    }
}

#[test]
fn a_domain_is_a_name() {
    for text in ["example.net", "example.net.", "lan"] {
        assert_eq!(text.parse::<Domain>().unwrap().to_string(), text);
    }
    for text in ["", "192.0.2.1", "exa mple.net", "-a.net", "a..net"] {
        assert!(text.parse::<Domain>().is_err(), "{text}");
    }
}

#[test]
fn what_goes_with_another_upstream_is_not_taken_silently() {
    for (upstream, key) in [
        ("from = \"static\"\naddress = \"192.0.2.1\"\ndomain = \"example.net\"", "upstream.domain"),
        ("from = \"admin\"\ndns = [\"192.0.2.53\"]", "upstream.dns"),
        ("from = \"admin\"\ndiscover = true", "upstream.discover"),
        ("from = \"dns-sd\"\naddress = \"192.0.2.1\"", "upstream.address"),
        ("from = \"dns-sd\"\nfallback = \"192.0.2.1\"", "upstream.fallback"),
        (
            "from = \"static\"\naddress = \"192.0.2.1\"\nfallback_domain = \"example.net\"",
            "upstream.fallback_domain",
        ),
        ("from = \"dns-sd\"\ndns = [\"192.0.2.53\", \"192.0.2.53:53\"]", "upstream.dns[1]"),
    ] {
        let text =
            format!("name = \"a\"\n[admin]\nurls = [\"https://192.0.2.9:8440\"]\n[upstream]\n{upstream}\n");
        let config: AgentConfig = toml::from_str(&text).unwrap();
        let keys: Vec<_> = config.problems().into_iter().map(|problem| problem.key).collect();
        assert_eq!(keys, [key], "{upstream}");
    }
}

#[test]
fn an_admin_may_have_a_fallback_by_address_by_domain_or_both() {
    for (keys, address, domain) in [
        ("", None, None),
        ("fallback = \"2001:db8::1\"", Some("[2001:db8::1]:2268"), None),
        ("fallback_domain = \"example.net\"\ndns = [\"192.0.2.53\"]", None, Some("example.net")),
        (
            "fallback = \"vmr.example.net:99\"\nfallback_domain = \"example.net\"\ndiscover = true",
            Some("vmr.example.net:99"),
            Some("example.net"),
        ),
    ] {
        let text = format!(
            "name = \"a\"\n[admin]\nurls = [\"https://192.0.2.9:8440\"]\n[upstream]\nfrom = \"admin\"\n{keys}\n"
        );
        let config: AgentConfig = toml::from_str(&text).unwrap();
        assert_eq!(config.problems(), [], "{keys}");
        let Upstream::Admin(fallback) = config.upstream.upstream() else { panic!("{keys}") };
        assert_eq!(fallback.address.map(|address| address.to_string()).as_deref(), address);
        let discovers =
            [Some(StandIn::Fallback), Some(StandIn::Kept), None].map(|by| config.upstream.discovers(by));
        assert_eq!(discovers, [keys.contains("discover"), false, false]);
        let asked = fallback.domain.map(|(domain, servers)| (domain.0, servers.len()));
        assert_eq!(asked, domain.map(|domain| (domain.to_owned(), usize::from(keys.contains("dns =")))));
    }
}

// proves RFC 4605 §3: a proxy is a host on its one network above
#[test]
fn a_proxy_has_one_network_above_and_is_a_host_there() {
    let two = "upstream = true\n[[interface]]\nname = \"eth1\"\nupstream = true\n";
    let said = router_refusal(two);
    assert!(said.contains("another interface leads to the network above already"), "{said}");
    let said = router_refusal("upstream = true\nquerier = true\n");
    assert!(said.contains("a proxy is a host on the network above"), "{said}");
    let said = router_refusal("upstream = true\n[upstream]\nfrom = \"static\"\naddress = \"192.0.2.1\"\n");
    assert!(said.contains("streams come from the VMR of [upstream] already"), "{said}");
    let pattern = "[[interface]]\nname = \"ppp*\"\nupstream = true\n";
    let said = router_refusal(pattern);
    assert!(said.contains("a pattern stands for many"), "{said}");
    let groups = "upstream = true\ngroups = [\"239.1.0.0/16\"]\n";
    let (config, report) = parse::<RouterConfig>(&format!("{MINIMAL}{groups}")).unwrap();
    assert_eq!(report.to_string(), "");
    let above = config.above().unwrap();
    assert!(above.takes_sources() && !above.accepts_sources && !above.querier);
}

use super::{
    facts::{HostFacts, InterfaceFacts, LinkFacts},
    finding::{Finding, Level},
    *,
};
use crate::{config::EngineChoice, sockets::Offloads};

const AUTO: Engine = Engine::Chosen(EngineChoice::Auto);
const XDP: Engine = Engine::Chosen(EngineChoice::Xdp);
const TC: Engine = Engine::Chosen(EngineChoice::Tc);

fn good_host() -> HostFacts {
    HostFacts {
        kernel: "6.12.0".to_owned(),
        is_root: true,
        btf: true,
        xdp: Ok(()),
        tc: Ok(()),
        shares: Ok(()),
        batches: true,
        tcx: Some(true),
        tells_features: true,
    }
}

fn good_link() -> LinkFacts {
    LinkFacts {
        up: true,
        running: true,
        mtu: 1500,
        kind: None,
        bare: false,
        master: None,
        programs: vec![(7, Some("vmcast_ingress".to_owned()))],
        features: None,
        offloads: Some(Offloads::default()),
        rp_filter: Some(0),
        device: None,
        hook: Some("xdp".to_owned()),
    }
}

fn asked() -> Asked {
    Asked {
        name: "eth0".to_owned(),
        accepts_sources: true,
        copies: true,
        tagged: false,
        queues: None,
        configured: true,
        refused: None,
    }
}

#[test]
fn a_clock_that_was_set_is_told_with_what_follows() {
    let finding = host::clock("set forward by 1h00m, 5s ago");
    assert_eq!(finding.level, Level::Warning);
    assert_eq!(finding.found, "the clock of this host was set forward by 1h00m, 5s ago, while its admin ran");
    assert!(finding.means.is_some_and(|means| means.contains("certificates and tokens")));
    assert!(finding.mend.is_some_and(|mend| mend.contains("NTP")));
}

/// What is not as it should be.
fn judged(link: LinkFacts, asked: Asked, engine: Engine) -> Vec<Finding> {
    let findings = interface::judge(&InterfaceFacts { asked, link: Some(link) }, &engine);
    assert!(findings.iter().all(|finding| finding.interface.as_deref() == Some("eth0")));
    findings.into_iter().filter(|finding| finding.level != Level::Ok).collect()
}

/// The only finding, and how bad it is.
fn only(findings: &[Finding], level: Level, found: &str, mend: &str) {
    let [finding] = findings else { panic!("{findings:?}") };
    assert_eq!(finding.level, level, "{finding:?}");
    assert!(finding.found.contains(found) && finding.means.is_some(), "{finding:?}");
    assert!(finding.mend.as_deref().unwrap_or_default().contains(mend), "{finding:?}");
}

#[test]
fn a_kernel_without_shares_before_sockets_is_told_of() {
    let facts = HostFacts { shares: Err("no socket filters".to_owned()), ..good_host() };
    let findings = host::judge(&facts, &AUTO, None);
    let told = findings.iter().find(|finding| finding.found.contains("no socket filters"));
    assert_eq!(told.map(|finding| finding.level), Some(Level::Warning));
    let findings = host::judge(&good_host(), &AUTO, None);
    assert!(findings.iter().any(|finding| finding.found.contains("shares before the sockets")));
}

#[test]
fn a_host_that_has_all_is_found_well_and_so_is_a_plain_interface() {
    let findings = host::judge(&good_host(), &AUTO, None);
    assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    assert_eq!(judged(good_link(), asked(), AUTO), []);
}

#[test]
fn an_interface_that_the_router_does_not_take_is_an_error_that_names_the_key() {
    let reason = "interfaces is full at 4 entries, as dataplane.max_interfaces says";
    let refused = Asked { refused: Some(reason.to_owned()), ..asked() };
    only(&judged(good_link(), refused, AUTO), Level::Error, reason, "raise the key");
}

#[test]
fn an_engine_that_is_missing_is_an_error_only_where_nothing_else_will_do() {
    let facts = HostFacts { xdp: Err("no devmap programs".to_owned()), ..good_host() };
    let worst = |engine| {
        let findings = host::judge(&facts, &engine, None);
        findings.iter().map(|finding| finding.level).max()
    };
    assert_eq!([AUTO, TC, XDP].map(worst), [Level::Warning, Level::Warning, Level::Error].map(Some));
    let report = Report::new(host::judge(&facts, &XDP, None));
    assert_eq!((report.errors, report.warnings), (1, 0));
    let nobody = HostFacts { is_root: false, ..good_host() };
    assert!(
        host::judge(&nobody, &AUTO, None)
            .iter()
            .any(|finding| finding.mend.as_deref() == Some("sudo vmcast doctor"))
    );
}

#[test]
fn what_hides_or_merges_packets_is_an_error_with_the_command_that_mends_it() {
    let lro = LinkFacts { offloads: Some(Offloads { lro: true, ..Offloads::default() }), ..good_link() };
    only(&judged(lro, asked(), AUTO), Level::Error, "LRO", "ethtool -K eth0 lro off");
    let stripping =
        LinkFacts { offloads: Some(Offloads { rx_vlan: true, ..Offloads::default() }), ..good_link() };
    let mend = "ethtool -K eth0 rx-vlan-offload off";
    only(&judged(stripping.clone(), asked(), AUTO), Level::Warning, "rx-vlan-offload", mend);
    let tagged = Asked { tagged: true, ..asked() };
    only(&judged(stripping.clone(), tagged, AUTO), Level::Error, "rx-vlan-offload", mend);
    assert_eq!(judged(stripping.clone(), asked(), TC), []);
    // Of a VLAN interface it is the device below that strips.
    let vlan = LinkFacts { device: Some("eth9".to_owned()), ..stripping };
    only(
        &judged(vlan, asked(), AUTO),
        Level::Error,
        "eth9 takes VLAN tags",
        "ethtool -K eth9 rx-vlan-offload off",
    );
    let partial = Offloads { tx_checksum: true, ..Offloads::default() };
    let veth = LinkFacts { kind: Some("veth".to_owned()), offloads: Some(partial), ..good_link() };
    only(&judged(veth.clone(), asked(), AUTO), Level::Warning, "checksums", "ethtool -K PEER tx off");
    assert_eq!(judged(veth, Asked { accepts_sources: false, ..asked() }, AUTO), []);
}

// proves E6
#[test]
fn a_priority_whose_queue_xdp_passes_by_is_told() {
    let queued = |queues| Asked { queues, ..asked() };
    for engine in [AUTO, XDP] {
        only(
            &judged(good_link(), queued(Some(false)), engine),
            Level::Warning,
            "none of its queues",
            "engine = \"tc\"",
        );
    }
    for (asked, engine) in [
        (queued(Some(true)), AUTO),
        (queued(Some(false)), TC),
        (queued(None), AUTO),
        (Asked { copies: false, ..queued(Some(false)) }, AUTO),
    ] {
        assert_eq!(judged(good_link(), asked, engine), []);
    }
}

#[test]
fn another_program_at_xdp_is_named() {
    let foreign = LinkFacts { programs: vec![(99, Some("xdp_dispatcher".to_owned()))], ..good_link() };
    for engine in [AUTO, XDP] {
        only(
            &judged(foreign.clone(), asked(), engine),
            Level::Warning,
            "xdp_dispatcher (id 99)",
            "ip link set eth0 xdp off",
        );
    }
    only(&judged(foreign, asked(), TC), Level::Warning, "xdp_dispatcher", "");
}

#[test]
fn a_state_that_loses_streams_is_told() {
    only(
        &judged(LinkFacts { up: false, ..good_link() }, asked(), AUTO),
        Level::Error,
        "down",
        "ip link set eth0 up",
    );
    only(
        &judged(LinkFacts { running: false, ..good_link() }, asked(), AUTO),
        Level::Warning,
        "no carrier",
        "",
    );
    only(&judged(LinkFacts { mtu: 1280, ..good_link() }, asked(), AUTO), Level::Warning, "1280", "mtu 1500");
    only(
        &judged(LinkFacts { rp_filter: Some(1), ..good_link() }, asked(), AUTO),
        Level::Warning,
        "strict",
        "rp_filter=2",
    );
    let port = LinkFacts { master: Some(("br0".to_owned(), Some("bridge".to_owned()))), ..good_link() };
    only(&judged(port, asked(), AUTO), Level::Warning, "port of the bridge br0", "name = \"br0\"");
    let missing = interface::judge(&InterfaceFacts { asked: asked(), link: None }, &AUTO);
    only(&missing, Level::Error, "no interface of this name", "ip -brief link");
}

#[test]
fn sources_that_are_looked_up_are_told_and_those_without_an_answer_or_a_relay_warned_of() {
    assert!(host::looked_up(LookedUp::default()).is_empty(), "nobody asks for any");
    let well = LookedUp { all: 3, at_relays: 3, ..LookedUp::default() };
    let levels =
        |findings: Vec<Finding>| findings.into_iter().map(|finding| finding.level).collect::<Vec<_>>();
    assert_eq!(levels(host::looked_up(well)), [Level::Ok]);
    let ill = LookedUp { all: 3, at_relays: 0, unserved: 1, unanswered: 2 };
    assert_eq!(levels(host::looked_up(ill)), [Level::Ok, Level::Warning, Level::Warning]);
}

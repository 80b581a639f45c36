use super::*;

#[derive(Deserialize)]
struct File {
    priority: Vec<PriorityRule>,
}

fn rules(text: &str) -> Vec<PriorityRule> {
    toml::from_str::<File>(text).expect("sound tables").priority
}

fn said(text: &str) -> Vec<String> {
    problems(&rules(text)).iter().map(|problem| format!("{}: {}", problem.key, problem.message)).collect()
}

fn stream(source: &str, group: &str) -> Stream {
    let source = if source == "*" { None } else { Some(source.parse().unwrap()) };
    Stream { source, group: group.parse().unwrap() }
}

// proves E6
#[test]
fn the_longest_prefix_of_the_group_counts_and_then_that_of_the_source() {
    let rules = rules(
        r#"
        [[priority]]
        groups = ["224.0.0.0/4", "ff00::/8"]
        dscp = "cs1"
        [[priority]]
        groups = ["239.192.0.0/16", "ff3e::/32"]
        dscp = "af41"
        pcp = 4
        [[priority]]
        groups = ["239.192.0.0/16"]
        sources = ["198.51.100.0/24"]
        dscp = "EF"
        skb_priority = "1:10"
        [[priority]]
        groups = ["239.192.0.0/16"]
        sources = ["198.51.100.7"]
        dscp = 44
        queue = 3
        [[priority]]
        sources = ["203.0.113.9"]
        dscp = "le"
        "#,
    );
    assert_eq!(problems(&rules), []);
    let of = |source, group| priority_of(&rules, &stream(source, group));
    for (source, group, dscp) in [
        ("*", "232.1.1.1", Some(8)),
        ("*", "ff0e::1", Some(8)),
        ("*", "239.192.7.7", Some(34)),
        ("2001:db8::7", "ff3e::8000:1", Some(34)),
        ("198.51.100.8", "239.192.7.7", Some(46)),
        ("198.51.100.7", "239.192.7.7", Some(44)),
        ("198.51.101.7", "239.192.7.7", Some(34)),
        // A group goes before a source.
        ("203.0.113.9", "232.1.1.1", Some(8)),
    ] {
        assert_eq!(of(source, group).dscp, dscp, "({source},{group})");
    }
    assert_eq!(of("198.51.100.8", "239.192.7.7").skb_priority, Some(0x1_0010));
    assert_eq!(of("198.51.100.7", "239.192.7.7").queue, Some(3));
    assert_eq!(of("*", "239.192.7.7").pcp, 4);
    assert_eq!(priority_of(&rules[4..], &stream("*", "232.1.1.1")), Priority::default());
    assert_eq!(priority_of(&rules[4..], &stream("203.0.113.9", "232.1.1.1")).dscp, Some(1));
}

#[test]
fn what_cannot_be_meant_is_named() {
    for (text, expected) in [
        ("dscp = 1", "priority[0].groups: neither groups nor sources are named"),
        ("groups = [\"239.0.0.0/8\"]", "priority[0].groups: no mark is named"),
        (
            "groups = [\"10.0.0.0/8\"]\ndscp = 1",
            "priority[0].groups[0]: 10.0.0.0/8 holds addresses that are no groups",
        ),
        (
            "groups = [\"192.0.0.0/2\"]\ndscp = 1",
            "priority[0].groups[0]: 192.0.0.0/2 holds addresses that are no groups",
        ),
        ("sources = [\"239.1.2.3\"]\npcp = 1", "priority[0].sources[0]: 239.1.2.3/32 is no range of sources"),
        (
            "groups = [\"ff3e::/32\"]\nsources = [\"10.0.0.0/8\"]\npcp = 1",
            "priority[0].sources: groups and sources are of two address families",
        ),
        (
            "groups = [\"239.1.2.3\"]\nsources = [\"10.1.0.0/16\"]\nengine = \"tc\"",
            "priority[0].engine: sources of one group have the same members, and one engine",
        ),
        ("groups = [\"239.1.2.3\"]\npcp = 8", "priority[0].pcp: priority code points are 0 to 7"),
        ("groups = [\"239.1.2.3\"]\nqueue = 65535", "priority[0].queue: transmit queues are 0 to 65534"),
        (
            "groups = [\"239.1.2.3\", \"239.1.2.4\"]\npcp = 1\n[[priority]]\ngroups = [\"239.1.2.4\"]\npcp = 2",
            "priority[1].groups: the first [[priority]] table speaks of the same streams",
        ),
    ] {
        assert_eq!(said(&format!("[[priority]]\n{text}")), [expected], "{text}");
    }
    assert_eq!(said("[[priority]]\nsources = [\"0.0.0.0/0\"]\npcp = 0"), Vec::<String>::new());
}

#[test]
fn values_that_are_none_are_refused_in_words() {
    for (text, expected) in [
        ("dscp = 64", "64 is no DSCP"),
        ("dscp = -1", "-1 is no DSCP"),
        ("dscp = \"af44\"", "\"af44\" is no name of a DSCP"),
        ("skb_priority = -1", "-1 is no priority"),
        ("skb_priority = \"1\"", "\"1\" is no class"),
        ("groups = [\"239.1.2.3/33\"]", "the length after / is at most 32"),
        ("groups = [\"239.1.2.3/8\"]", "bits are set after the length"),
        ("groups = [\"ff3e::/129\"]", "the length after / is at most 128"),
        ("engine = \"xdp\"", "unknown variant `xdp`"),
        ("groups = [\"x\"]", "no IP address stands at its beginning"),
        ("groups = [\"239.0.0.0/x\"]", "the length after / is no number"),
    ] {
        let error = toml::from_str::<File>(&format!("[[priority]]\n{text}")).err().expect("refused");
        assert!(error.message().contains(expected), "{text}: {error}");
    }
}

#[test]
fn a_name_of_a_class_is_its_bits() {
    for (name, number) in DSCP_NAMES {
        let class = |prefix: &str| name.strip_prefix(prefix).and_then(|rest| rest.parse::<u8>().ok());
        if let Some(class) = class("cs") {
            assert_eq!(number, class << 3, "RFC 2474 §4.2.2.2");
        }
        if let Some(class) = class("af") {
            assert_eq!(number, (class / 10) << 3 | (class % 10) << 1, "RFC 2597 §6");
        }
    }
}

//! The sample files are the reference of the configuration: they have every key, and tell the truth.

use std::path::Path;

use vmcast_proto::membership::Family;

use super::{AdminConfig, AgentConfig, Report, RoleConfig, RouterConfig, guess_role, parse, timers::Igmp};

const ROUTER: &str = include_str!("../../config/router.toml");
const ADMIN: &str = include_str!("../../config/admin.toml");
const AGENT: &str = include_str!("../../config/agent.toml");

fn read<C: RoleConfig>(text: &str) -> (C, Report) {
    parse(Path::new("sample.toml"), text).unwrap_or_else(|report| panic!("{report}"))
}

/// The sample with the lines of default values in force, those of examples too if wished.
fn in_force(sample: &str, examples: bool) -> String {
    let line = |line: &str| {
        let example = line.strip_prefix("# e.g. ").filter(|_| examples);
        let default =
            line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
        format!("{}\n", example.or(default).unwrap_or(line))
    };
    sample.lines().map(line).collect()
}

/// Every table of a file, as a path of keys and indices.
fn tables(value: &toml::Value, path: &[String], found: &mut Vec<Vec<String>>) {
    let step = |key: String| [path, &[key]].concat();
    match value {
        toml::Value::Table(table) => {
            found.push(path.to_vec());
            for (key, inner) in table {
                tables(inner, &step(key.clone()), found);
            }
        }
        toml::Value::Array(items) => {
            for (index, inner) in items.iter().enumerate() {
                tables(inner, &step(index.to_string()), found);
            }
        }
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_) => {}
    }
}

fn table_at<'a>(value: &'a mut toml::Value, path: &[String]) -> &'a mut toml::Table {
    path.iter()
        .fold(value, |value, step| match step.parse::<usize>() {
            Ok(index) => &mut value[index],
            Err(_) => &mut value[step.as_str()],
        })
        .as_table_mut()
        .expect("a table")
}

/// The keys that the schema knows in each table of the sample have to stand in that table, in one of
/// its elements if it is a list. The schema is asked by a key it does not know.
fn has_every_key<C: RoleConfig>(sample: &str) {
    let whole: toml::Value = toml::from_str(&in_force(sample, true)).unwrap();
    let mut paths = Vec::new();
    tables(&whole, &[], &mut paths);
    assert!(paths.len() >= 3, "{paths:?}");
    for path in &paths {
        let mut asked = whole.clone();
        table_at(&mut asked, path).insert("no_such_key".to_owned(), true.into());
        let text = toml::to_string(&asked).unwrap();
        let error = toml::from_str::<C>(&text).err().unwrap_or_else(|| panic!("{path:?} takes any key"));
        let known: Vec<String> =
            error.message().split('`').skip(1).step_by(2).skip(1).map(str::to_owned).collect();
        assert!(error.message().contains("no_such_key") && !known.is_empty(), "{path:?}: {error}");

        let without_indices = |path: &[String]| -> Vec<String> {
            path.iter().filter(|step| step.parse::<usize>().is_err()).cloned().collect()
        };
        for key in known {
            let stands = paths
                .iter()
                .filter(|other| without_indices(other) == without_indices(path))
                .any(|other| table_at(&mut whole.clone(), other).contains_key(&key));
            assert!(stands, "`{key}` of {path:?} is not in the sample");
        }
    }
}

#[test]
fn the_samples_are_configurations_without_a_warning() {
    for report in [read::<RouterConfig>(ROUTER).1, read::<AdminConfig>(ADMIN).1, read::<AgentConfig>(AGENT).1]
    {
        assert_eq!(report, Report::default(), "{report}");
    }
}

#[test]
fn a_value_shown_as_default_is_the_default() {
    assert_eq!(read::<RouterConfig>(ROUTER).0, with_plain_timers(read(&in_force(ROUTER, false)).0));
    assert_eq!(read::<AdminConfig>(ADMIN).0, read(&in_force(ADMIN, false)).0);
    let agent: AgentConfig = read(&in_force(AGENT, false)).0;
    for family in Family::ALL {
        assert_eq!(agent.timers(family), Igmp::of(family));
    }
    let plain = AgentConfig { igmp: Default::default(), mld: Default::default(), ..agent };
    assert_eq!(read::<AgentConfig>(AGENT).0, plain);
}

/// Values of `[igmp]` and `[mld]` that equal the defaults count as absent.
fn with_plain_timers(config: RouterConfig) -> RouterConfig {
    for (family, timers) in [(Family::V4, &config.igmp), (Family::V6, &config.mld)] {
        assert_eq!(timers.over(Igmp::of(family)), Igmp::of(family));
    }
    RouterConfig { igmp: Default::default(), mld: Default::default(), ..config }
}

#[test]
fn every_key_of_the_schema_stands_in_its_sample() {
    has_every_key::<RouterConfig>(ROUTER);
    has_every_key::<AdminConfig>(ADMIN);
    has_every_key::<AgentConfig>(AGENT);
}

/// With its examples, as far as they go with an upstream that is named so.
fn with_upstream(sample: &str, from: &str, without: &[&str]) -> String {
    let mut whole: toml::Value = toml::from_str(&in_force(sample, true)).unwrap();
    let upstream = table_at(&mut whole, &["upstream".to_owned()]);
    upstream.insert("from".to_owned(), from.into());
    for key in without {
        assert!(upstream.remove(*key).is_some(), "{key}");
    }
    toml::to_string(&whole).unwrap()
}

#[test]
fn the_examples_are_valid_too() {
    let others = [
        ("static", &["domain", "dns", "fallback", "fallback_domain"][..]),
        ("dns-sd", &["address", "fallback", "fallback_domain"]),
        ("admin", &["address", "domain"]),
    ];
    for (from, without) in others {
        let (router, report) = read::<RouterConfig>(&with_upstream(ROUTER, from, without));
        assert_eq!(report, Report::default(), "{report}");
        assert_eq!(router.node_id().as_str(), "edge-1.example.net");
        let (_, report) = read::<AgentConfig>(&with_upstream(AGENT, from, without));
        assert_eq!(report, Report::default(), "{report}");
    }
    assert_eq!(read::<AdminConfig>(&in_force(ADMIN, true)).1, Report::default());
}

#[test]
fn a_sample_is_recognized_as_that_of_its_role() {
    for (sample, role) in
        [(ROUTER, RouterConfig::ROLE), (ADMIN, AdminConfig::ROLE), (AGENT, AgentConfig::ROLE)]
    {
        assert_eq!(guess_role(sample), Some(role));
        assert_eq!(guess_role(&in_force(sample, true)), Some(role));
    }
    assert_eq!(guess_role("name = \"a\"\n"), None);
    assert_eq!(guess_role("= ="), None);
}

use std::path::Path;

use vmcast::config::{
    AdminConfig, AgentConfig, Present, Report, RoleConfig, RouterConfig, Severity, guess_role, parse,
};
use vmcast_api::Role;

/// Configuration files, read as those of every role.
pub fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let taken = [check::<RouterConfig>(&text), check::<AdminConfig>(&text), check::<AgentConfig>(&text)];
    // What only one role takes is not guessed to be another's.
    if let (Some(role), [only]) = (guess_role(&text), taken.iter().flatten().collect::<Vec<_>>().as_slice()) {
        assert_eq!(role, **only);
    }
}

/// What is refused is refused for a reason with a place in the file, what is taken has no error.
fn check<C: RoleConfig>(text: &str) -> Option<Role> {
    let file = Path::new("vmcast.toml");
    match parse::<C>(file, text) {
        Ok((config, warnings)) => {
            assert_eq!(warnings.count(Severity::Error), 0);
            explained(text, &warnings);
            assert!(config.socket().has_root());
            let one = Present { interfaces: vec!["lo".to_owned(), "eth0".to_owned()], ..Present::default() };
            for present in [&one, &Present::default()] {
                explained(text, &Report::of_problems(file, text, config.host_problems(present)));
            }
            Some(C::ROLE)
        }
        Err(report) => {
            assert!(report.count(Severity::Error) > 0);
            explained(text, &report);
            None
        }
    }
}

/// Every complaint can be shown, at a line that the file has.
fn explained(text: &str, report: &Report) {
    assert_eq!(report.to_string().is_empty(), report.diagnostics.is_empty());
    for place in report.diagnostics.iter().filter_map(|diagnostic| diagnostic.place.as_ref()) {
        let line = text.split('\n').nth(place.line - 1).expect("a line of the file");
        assert!((1..=line.chars().count() + 1).contains(&place.column), "{place:?}");
        assert!(place.length >= 1);
    }
}

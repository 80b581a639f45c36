//! The command line as an operator types it.

use clap::{CommandFactory, Parser, error::ErrorKind};
use vmcast_api::{ClientError, ErrorReply};

use super::{
    Exit, Failure,
    args::{CheckArgs, Cli, Command, MemberCommand, Question, RoleArg},
    check,
};

fn parse(line: &str) -> Result<Command, clap::Error> {
    Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_noun_then_verb_and_takes_json_and_socket() {
    for noun in [
        "group list",
        "group show 232.1.1.1",
        "group show 232.1.1.1 192.0.2.9",
        "member list",
        "tunnel list",
        "interface list",
        "node list",
        "node revoke client-7",
        "node token list",
        "node token create --role agent --ttl 90m --uses 3 --name client-7 --url https://192.0.2.1:8443",
        "node token revoke 0123456789abcdef",
        "node sign --csr node.csr --role agent --name client-7 --ttl 90d",
        "cache list",
        "status",
        "stats",
    ] {
        let command = parse(&format!("vmcast {noun} --json --socket /tmp/x.sock")).unwrap();
        assert!(matches!(command, Command::Ask(_)), "{noun}");
    }
    for role in ["router", "admin", "agent"] {
        parse(&format!("vmcast {role} --config f.toml --log-format json --log-level debug")).unwrap();
        parse(&format!("vmcast {role} --config f.toml --insecure")).unwrap();
    }
    // An agent that has joined needs no file, so it is the daemon that says what is missing.
    parse("vmcast agent").unwrap();
    for bad in ["--ttl 0s", "--ttl 5", "--ttl 366d", "--uses 0", "--url http", "--name ,"] {
        assert!(parse(&format!("vmcast node token create --role agent {bad}")).is_err(), "{bad}");
    }
    assert!(parse("vmcast agent --token nonsense").is_err());
    parse("vmcast agent --certificate c.pem --key k.pem --admin https://192.0.2.1:8443").unwrap();
    for bad in ["--certificate c.pem", "--key k.pem", "--admin 192.0.2.1"] {
        assert!(parse(&format!("vmcast agent {bad}")).is_err(), "{bad}");
    }
}

#[test]
fn every_command_that_tells_something_does_so_in_json() {
    fn without_json(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let mut below = command.get_subcommands().peekable();
        let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
        if below.peek().is_none() && !has_json {
            found.push(path.trim_start().to_owned());
        }
        below.for_each(|below| without_json(below, &format!("{path} {}", below.get_name()), found));
    }
    let mut command = Cli::command();
    command.build();
    let mut found = Vec::new();
    without_json(&command, "", &mut found);
    // Daemons log in JSON if they are told to; a check says what is wrong as a compiler does.
    assert_eq!(found, ["router", "admin", "agent", "config check"]);
}

#[test]
fn a_group_that_is_none_is_a_usage_error() {
    let command = parse("vmcast member list --group 232.1.1.1").unwrap();
    let Command::Ask(Question::Member { command: MemberCommand::List { group, .. } }) = command else {
        panic!("another command")
    };
    assert_eq!(group, Some([232, 1, 1, 1].into()));
    for bad in ["10.0.0.1", "x"] {
        let error = parse(&format!("vmcast member list --group {bad}")).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::ValueValidation, 2), "{bad}");
    }
}

#[test]
fn every_option_and_command_has_a_help_text() {
    fn visit(command: &clap::Command) {
        let name = command.get_name();
        assert!(command.get_about().is_some(), "{name} has no text");
        for argument in command.get_arguments() {
            assert!(argument.get_help().is_some(), "{} of {name} has no text", argument.get_id());
        }
        command.get_subcommands().for_each(visit);
    }
    let command = Cli::command();
    visit(&command);
    let help = command.clone().render_long_help().to_string();
    assert!(
        help.contains("Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 no daemon answers.")
    );
}

#[test]
fn failures_end_with_their_documented_status_and_a_hint() {
    let unreachable = |kind: std::io::ErrorKind| {
        Failure::from(ClientError::Unreachable { path: "/run/x.sock".into(), source: kind.into() })
    };
    let refused = unreachable(std::io::ErrorKind::ConnectionRefused);
    assert_eq!(refused.exit as u8, 3);
    assert!(refused.to_string().contains("no daemon answers at /run/x.sock"), "{refused}");
    let denied = unreachable(std::io::ErrorKind::PermissionDenied);
    assert!(denied.to_string().contains("sudo"), "{denied}");
    let reply = ErrorReply { error: "no".into(), hint: Some("do this".into()) };
    let answered = Failure::from(ClientError::Refused(reply));
    assert_eq!((answered.exit as u8, answered.to_string().as_str()), (1, "error: no\n  hint: do this\n"));
    assert_eq!([Exit::Ok as u8, Exit::Error as u8, Exit::Usage as u8], [0, 1, 2]);
}

fn checked(text: &str, role: Option<RoleArg>) -> Result<String, String> {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    let args = CheckArgs { file: file.path().to_owned(), role, other_host: false };
    let name = file.path().display().to_string();
    check::run(&args)
        .map(|said| said.replace(&name, "FILE"))
        .map_err(|failure| failure.to_string().replace(&name, "FILE"))
}

#[test]
fn config_check_names_the_role_and_finds_what_this_host_lacks() {
    let right = "rank = 0\n[[interface]]\nname = \"lo\"\n";
    assert_eq!(checked(right, None).unwrap(), "FILE: right for a router\n");
    let warned = checked(&right.replace('0', "1"), None).unwrap();
    assert!(
        warned.starts_with("warning: ") && warned.ends_with("FILE: right for a router, with a warning\n"),
        "{warned}"
    );
    let missing = checked(&right.replace("lo", "nonesuch9"), None).unwrap_err();
    assert!(
        missing.contains("no interface `nonesuch9` on this host") && missing.contains("FILE:3:8"),
        "{missing}"
    );
    assert_eq!(checked("listen = \"0.0.0.0:8443\"\n", None).unwrap(), "FILE: right for an admin\n");
}

#[test]
fn config_check_asks_for_the_role_only_if_it_cannot_tell() {
    let neither = checked("name = \"a\"\n", None).unwrap_err();
    assert!(neither.contains("cannot tell which role") && neither.contains("--role"), "{neither}");
    let agent = checked("name = \"a\"\n", Some(RoleArg::Agent)).unwrap_err();
    assert!(agent.contains("needs an admin"), "{agent}");
    let broken = checked("name = \n", None).unwrap_err();
    assert!(broken.contains("FILE:1:"), "{broken}");
}

#[test]
fn config_check_of_a_file_for_another_host_does_not_look_at_this_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "rank = 0\n[[interface]]\nname = \"nonesuch9\"\n").unwrap();
    let args = CheckArgs { file: file.path().to_owned(), role: None, other_host: true };
    assert!(check::run(&args).unwrap().ends_with("right for a router\n"));
}

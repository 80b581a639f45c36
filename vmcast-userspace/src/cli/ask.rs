//! Asks a daemon, and shows the answer.

use std::{env, path::PathBuf};

use serde::Serialize;
use vmcast_api::{Client, Envelope, PolicyQuestion, PolicyRule, Request, Role, TokenOrder, VERSION};

use super::{
    Exit, Failure,
    args::{
        AskArgs, CacheCommand, DrainArgs, GroupCommand, InterfaceCommand, MemberCommand, NamedNode,
        NodeCommand, PolicyCommand, Question, SourceCommand, TokenCommand, TunnelCommand,
    },
    discover, find, show,
};

/// The variable that names a control socket for all questions of a shell.
const SOCKET: &str = "VMCAST_SOCKET";

/// Roles that forward streams.
const FORWARDING: &[Role] = &[Role::Router, Role::Agent];

/// Asks, and returns what to print.
pub(super) fn run(question: &Question) -> Result<String, Failure> {
    match question {
        Question::Status(ask) => {
            let status = client(ask, &Role::ALL)?.status()?;
            Ok(text(ask, &status, show::status))
        }
        Question::Stats(ask) => {
            let stats = client(ask, &Role::ALL)?.stats()?;
            Ok(text(ask, &stats, show::stats))
        }
        Question::Group { command: GroupCommand::List(ask) } => {
            let groups = client(ask, FORWARDING)?.groups()?;
            Ok(text(ask, &groups, show::groups))
        }
        Question::Member { command: MemberCommand::List { group, ask } } => {
            let members = client(ask, FORWARDING)?.members(*group)?;
            Ok(text(ask, &members, |members| show::members(members, *group)))
        }
        Question::Tunnel { command: TunnelCommand::List(ask) } => {
            let tunnels = client(ask, FORWARDING)?.tunnels()?;
            Ok(text(ask, &tunnels, show::tunnels))
        }
        Question::Source { command: SourceCommand::List(ask) } => {
            let sources = client(ask, FORWARDING)?.sources()?;
            Ok(text(ask, &sources, show::sources))
        }
        Question::Source { command: SourceCommand::Discover(args) } => discover::run(args),
        Question::Interface { command: InterfaceCommand::List(ask) } => {
            let interfaces = client(ask, FORWARDING)?.interfaces()?;
            Ok(text(ask, &interfaces, show::interfaces))
        }
        Question::Node { command: NodeCommand::List(ask) } => {
            let nodes = client(ask, &[Role::Admin])?.nodes()?;
            Ok(text(ask, &nodes, show::nodes))
        }
        Question::Node { command: NodeCommand::Show(NamedNode { node, ask }) } => {
            let nodes = client(ask, &[Role::Admin])?.nodes()?;
            match nodes.nodes.iter().find(|known| known.id == *node) {
                Some(found) => Ok(text(ask, found, show::node)),
                None => Err(Failure::new(Exit::Error, format!("no node {node} is registered"))
                    .hint("`vmcast node list` shows who is")),
            }
        }
        Question::Node { command: NodeCommand::Drain(DrainArgs { of: NamedNode { node, ask }, undo }) } => {
            let drained = client(ask, &[Role::Admin])?.drain(node, !undo)?;
            Ok(text(ask, &drained, show::drained))
        }
        Question::Node { command: NodeCommand::Token { command } } => token(command),
        Question::Node { command: NodeCommand::Revoke(NamedNode { node, ask }) } => {
            let revoked = client(ask, &[Role::Admin])?.revoke(&Request::NodeRevoke { node: node.clone() })?;
            Ok(text(ask, &revoked, show::revoked))
        }
        Question::Policy { command } => policy(command),
        Question::Cache { command: CacheCommand::List(ask) } => {
            let cache = client(ask, &[Role::Admin])?.cache()?;
            Ok(text(ask, &cache, show::cache))
        }
    }
}

fn policy(command: &PolicyCommand) -> Result<String, Failure> {
    let asked = |ask: &AskArgs, request: &Request| {
        let policy = client(ask, &[Role::Admin])?.policy(request)?;
        Ok(text(ask, &policy, show::policy))
    };
    match command {
        PolicyCommand::List(ask) => asked(ask, &Request::PolicyList),
        PolicyCommand::Add(args) => {
            let rule = PolicyRule {
                id: 0,
                effect: args.effect.into(),
                action: args.action.into(),
                node: args.node.as_ref().map(ToString::to_string),
                shared_with: Vec::new(),
                who: args.from.map(|prefix| prefix.to_string()),
                groups: args.groups.map(|prefix| prefix.to_string()),
                source: args.source.map(|prefix| prefix.to_string()),
                max_groups: args.max_groups,
                max_bits_per_second: args.max_rate,
                stream_bits_per_second: args.stream_rate,
            };
            asked(&args.ask, &Request::PolicyAdd { rule, before: args.before })
        }
        PolicyCommand::Remove { rule, ask } => asked(ask, &Request::PolicyRemove { id: *rule }),
        PolicyCommand::Default { effect, ask } => {
            asked(ask, &Request::PolicyDefault { effect: (*effect).into() })
        }
        PolicyCommand::Test(args) => {
            let (who, group) = (args.from, args.group);
            let question = PolicyQuestion { action: args.action.into(), who, group, source: args.source };
            let verdict = client(&args.ask, &[Role::Admin])?.policy_test(question)?;
            Ok(text(&args.ask, &verdict, show::verdict))
        }
    }
}

fn token(command: &TokenCommand) -> Result<String, Failure> {
    match command {
        TokenCommand::Create(args) => {
            let order = TokenOrder {
                role: args.role.into(),
                ttl_seconds: args.ttl.as_secs(),
                uses: args.uses,
                name: args.name.as_ref().map(ToString::to_string),
                urls: args.url.iter().map(ToString::to_string).collect(),
            };
            let token = client(&args.ask, &[Role::Admin])?.create_token(order)?;
            Ok(text(&args.ask, &token, show::new_token))
        }
        TokenCommand::List(ask) => {
            let tokens = client(ask, &[Role::Admin])?.tokens()?;
            Ok(text(ask, &tokens, show::tokens))
        }
        TokenCommand::Revoke { id, ask } => {
            let revoked = client(ask, &[Role::Admin])?.revoke(&Request::TokenRevoke { id: id.clone() })?;
            Ok(text(ask, &revoked, show::revoked))
        }
    }
}

fn client(ask: &AskArgs, roles: &[Role]) -> Result<Client, Failure> {
    let of_environment = || env::var_os(SOCKET).filter(|path| !path.is_empty()).map(PathBuf::from);
    let path = match ask.socket.clone().or_else(of_environment) {
        Some(path) => path,
        None => find::socket(roles)?,
    };
    Ok(Client::connect(&path)?)
}

fn text<T: Serialize>(ask: &AskArgs, body: &T, table: impl FnOnce(&T) -> String) -> String {
    if ask.json { json(body) } else { table(body) }
}

/// The answer as the API has it, on several lines.
fn json<T: Serialize>(body: &T) -> String {
    let envelope = Envelope { version: VERSION, body };
    let mut text = serde_json::to_string_pretty(&envelope).expect("plain data serializes");
    text.push('\n');
    text
}

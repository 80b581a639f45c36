//! Asks a daemon, and shows the answer.

use std::{env, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use rustls::pki_types::{CertificateSigningRequestDer, pem::PemObject as _};
use serde::Serialize;
use vmcast_api::{
    Client, Envelope, PolicyQuestion, PolicyRule, Request, Role, SigningOrder, TokenOrder, VERSION,
};

use super::{
    Exit, Failure,
    args::{
        AskArgs, CacheCommand, DrainArgs, GroupCommand, InterfaceCommand, MemberCommand, NamedNode,
        NodeCommand, PolicyCommand, Question, SignArgs, SourceCommand, TokenCommand, TunnelCommand,
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
            let groups = client(ask, FORWARDING)?.groups(None, None)?;
            Ok(text(ask, &groups, show::groups))
        }
        Question::Group { command: GroupCommand::Show { group, source, ask } } => {
            let mut groups = client(ask, FORWARDING)?.groups(Some(*group), *source)?;
            // A daemon of an earlier release tells all that it has.
            groups
                .groups
                .retain(|found| found.group == *group && (source.is_none() || *source == found.source));
            if groups.groups.is_empty() {
                let of = source.map_or_else(String::new, |source| format!(" of {source}"));
                return Err(Failure::new(Exit::Error, format!("no stream{of} to {group} is known"))
                    .hint("`vmcast group list` shows those that are"));
            }
            Ok(text(ask, &groups, show::group))
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
        Question::Node { command: NodeCommand::Sign(args) } => sign(args),
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

fn sign(args: &SignArgs) -> Result<String, Failure> {
    let failure = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Error, format!("cannot use {}: {error}", args.csr.display()))
    };
    let content = std::fs::read(&args.csr).map_err(|error| failure(&error))?;
    let request = if content.windows(5).any(|bytes| bytes == b"-----") {
        CertificateSigningRequestDer::from_pem_slice(&content)
            .map_err(|_| {
                failure(&"it holds no request for a certificate in PEM (-----BEGIN CERTIFICATE REQUEST-----)").hint(
                    "make one by: openssl req -new -newkey ed25519 -nodes -keyout node.key -subj /CN=NODE -out node.csr",
                )
            })?
            .to_vec()
    } else {
        content
    };
    let order = SigningOrder {
        node: args.name.to_string(),
        role: args.role.into(),
        certificate_request: STANDARD.encode(request),
        ttl_seconds: args.ttl.map(|ttl| ttl.as_secs()),
    };
    let certificate = client(&args.ask, &[Role::Admin])?.sign(order)?;
    Ok(text(&args.ask, &certificate, show::new_certificate))
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

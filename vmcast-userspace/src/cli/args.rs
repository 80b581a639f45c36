//! What may stand on the command line.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use vmcast_api::{PolicyAction, PolicyEffect, Role};
use vmcast_proto::registry::{NodeId, Prefix};

use crate::{
    config::{AdminUrl, LogFormat, LogLevel, NameServer},
    identity::JoinToken,
};

const AFTER_HELP: &str = "\
Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 no daemon answers.

First steps:
  vmcast doctor                        what does this host have, and what is in the way?
  vmcast config check router.toml      is the configuration right for this host?
  vmcast router --config router.toml   run a router in the foreground
  vmcast status                        ask it how it is doing";

/// IP multicast over networks that carry only unicast.
///
/// Routers replicate streams in the kernel and pass them on through tunnels, agents give
/// the applications of a host ordinary multicast, the admin tells each node which router
/// is nearest. One program runs all three, and asks them how they are doing.
#[derive(Debug, Parser)]
#[command(name = "vmcast", version, after_help = AFTER_HELP, verbatim_doc_comment)]
#[command(disable_help_subcommand = true)]
pub(super) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a virtual multicast router (VMR)
    Router(NodeArgs),
    /// Run the administration server
    Admin(DaemonArgs),
    /// Run the agent that gives this host's applications multicast
    Agent(NodeArgs),
    /// Questions to a running daemon.
    #[command(flatten)]
    Ask(Question),
    /// Find out what this host has for each engine, and what stands in the way
    Doctor(DoctorArgs),

    /// Copy the registry of an admin's database file into the etcd of its configuration
    Migrate(MigrateArgs),
    /// Check a configuration file
    Config {
        /// What to do with it.
        #[command(subcommand)]
        command: ConfigCommand,
    },
}

/// How to run a daemon.
#[derive(Debug, Args)]
#[command(after_help = "Runs in the foreground, logs to standard error and ends in order on SIGTERM and \
    SIGINT.\n\nExit status: 0 ended in order, 1 failed, 2 the command line is wrong.")]
pub(super) struct DaemonArgs {
    /// Configuration file, TOML
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// No TLS: nothing is encrypted and nobody is who he says; only for labs
    #[arg(long)]
    pub insecure: bool,
    /// How a line of the log looks (default: format of [log], else text)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Least important level that is logged (default: level of [log], else RUST_LOG, else info)
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
}

/// How to run a node that joins an admin.
#[derive(Debug, Args)]
pub(super) struct NodeArgs {
    /// How to run it.
    #[command(flatten)]
    pub daemon: DaemonArgs,
    /// Join by this token, from `vmcast node token create` at the admin; needed once. An agent needs no
    /// configuration file with it, or once it has joined
    #[arg(long, value_name = "TOKEN", env = "VMCAST_TOKEN", hide_env_values = true)]
    pub token: Option<JoinToken>,
    /// Begin with this certificate, in PEM, as `vmcast node sign` at the admin prints it; needed once, as --key
    #[arg(long, value_name = "FILE", requires = "key", conflicts_with = "token")]
    pub certificate: Option<PathBuf>,
    /// The key of that certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "certificate")]
    pub key: Option<PathBuf>,
    /// Where an admin is, as https://HOST:PORT, if no configuration file says so; may be given several times
    #[arg(long, value_name = "URL", conflicts_with = "token")]
    pub admin: Vec<AdminUrl>,
}

/// What moves where.
#[derive(Debug, Args)]
#[command(
    after_help = "The admin of the file has to be stopped; the file is only read. Start the admins with the \
    same [etcd] afterwards. Tokens are copied only into an etcd without nodes and certificates: where there are some, those \
    that it has not are taken to be over."
)]
pub(super) struct MigrateArgs {
    /// The admin's configuration: `database` is the file, [etcd] is where its registry goes
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Go on although the etcd holds a registry: what both have stays as the etcd has it
    #[arg(long)]
    pub merge: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A question to a running daemon.
#[derive(Debug, Subcommand)]
pub(super) enum Question {
    /// Show who a daemon is and how it is doing
    Status(AskArgs),
    /// Policy: who may send to and receive which groups
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Groups: the streams that a router or agent knows
    Group {
        /// What to do.
        #[command(subcommand)]
        command: GroupCommand,
    },
    /// Members: who gets a copy of each packet
    Member {
        /// What to do.
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Tunnels to the upstream and to members
    Tunnel {
        /// What to do.
        #[command(subcommand)]
        command: TunnelCommand,
    },
    /// Sources and the relays that their AMTRELAY records name (RFC 8777)
    Source {
        /// What to do.
        #[command(subcommand)]
        command: SourceCommand,
    },
    /// Interfaces that a daemon works on
    Interface {
        /// What to do.
        #[command(subcommand)]
        command: InterfaceCommand,
    },
    /// Show counters: packets, drops by reason, control messages, memory
    Stats(AskArgs),
    /// Nodes that are registered at the admin
    Node {
        /// What to do.
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// The admin's cache: which router is nearest to whom
    Cache {
        /// What to do.
        #[command(subcommand)]
        command: CacheCommand,
    },
}

/// `vmcast group`.
#[derive(Debug, Subcommand)]
pub(super) enum GroupCommand {
    /// List every (S,G) and (*,G): where it comes from, its members, its rate
    List(AskArgs),
    /// Show all that is known of the streams of a group: packets, drops by reason, the last packet
    Show {
        /// The group
        #[arg(value_name = "GROUP", value_parser = group)]
        group: IpAddr,
        /// Only its stream of this source
        #[arg(value_name = "SOURCE")]
        source: Option<IpAddr>,
        /// How to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `vmcast member`.
#[derive(Debug, Subcommand)]
pub(super) enum MemberCommand {
    /// List the members of every group, or of one
    List {
        /// Only members of this group
        #[arg(long, value_name = "ADDRESS", value_parser = group)]
        group: Option<IpAddr>,
        /// How to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// `vmcast tunnel`.
#[derive(Debug, Subcommand)]
pub(super) enum TunnelCommand {
    /// List every tunnel with its far end and next hop
    List(AskArgs),
}

/// `vmcast source`.
#[derive(Debug, Subcommand)]
pub(super) enum SourceCommand {
    /// List the sources that are looked up: where each is joined and why, and its relays
    List(AskArgs),
    /// Ask the DNS for the relays of a source, in the order in which they would be tried
    Discover(DiscoverArgs),
}

/// What to ask the DNS.
#[derive(Debug, Args)]
#[command(after_help = "Asks from here, without a daemon, and connects to nobody.\n\n\
    Exit status: 0 answered, perhaps that there is no relay, 1 failed, 2 the command line is wrong.")]
pub(super) struct DiscoverArgs {
    /// Address of the source
    #[arg(value_name = "ADDRESS")]
    pub source: IpAddr,
    /// Name server to ask, perhaps with a port (default: those of this host); may be given several times
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<NameServer>,
    /// Print JSON, exact and complete, for programs
    #[arg(long)]
    pub json: bool,
}

/// `vmcast interface`.
#[derive(Debug, Subcommand)]
pub(super) enum InterfaceCommand {
    /// List the interfaces: where packets are taken, what makes copies, who is IGMP querier
    List(AskArgs),
}

/// `vmcast node`.
#[derive(Debug, Subcommand)]
pub(super) enum NodeCommand {
    /// List the registered nodes and how long their leases last
    List(AskArgs),
    /// Show all that is known of one node: its load, abilities, networks of sources, round-trip time
    Show(NamedNode),
    /// Take a router out of service: its members move to others without losing a packet, and nobody new is given it
    Drain(DrainArgs),
    /// Join tokens: what a new node gets its certificate by
    Token {
        /// What to do.
        #[command(subcommand)]
        command: TokenCommand,
    },
    /// Sign the certificate of a node that makes its key itself, or by another tool, from its request for one (CSR)
    Sign(SignArgs),
    /// Shut a node out: its certificates count no more, on connections that stand and on new ones
    Revoke(NamedNode),
}

/// Which node.
#[derive(Clone, Debug, Args)]
pub(super) struct NamedNode {
    /// The node's identity, as `vmcast node list` shows it
    pub(super) node: String,
    #[command(flatten)]
    pub(super) ask: AskArgs,
}

/// What becomes of which router.
#[derive(Clone, Debug, Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    pub(super) of: NamedNode,
    /// Take it back into service
    #[arg(long)]
    pub(super) undo: bool,
}

/// `vmcast policy`.
#[derive(Debug, Subcommand)]
pub(super) enum PolicyCommand {
    /// List the rules in their order: the first that fits decides
    List(AskArgs),
    /// Add a rule; routers carry it out within a second
    Add(PolicyAddArgs),
    /// Remove a rule
    Remove {
        /// Number of the rule, as `vmcast policy list` shows it
        #[arg(value_name = "RULE")]
        rule: u32,
        /// How to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Say what happens where no rule fits
    Default {
        /// What
        effect: EffectArg,
        /// How to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
    /// Ask what the policy says of a member or a sender
    Test(PolicyTestArgs),
}

/// A rule; what it does not say fits everything.
#[derive(Debug, Args)]
#[command(
    after_help = "Rules by --node fit the tunnels at which the node has proved to be, and those from the address at which \
    the admin sees it that nobody has: of these, what allows fits only until the node has proved one. Hosts on a router's \
    own links are known by the router's address there.\n\nAn any-source join is allowed by a rule without \
    --source, and refused by any rule before that which forbids one of its sources; a limit before that holds, \
    too.\n\n--max-rate is judged at the join, by what streams were measured to take. Streams that flow are not cut."
)]
pub(super) struct PolicyAddArgs {
    /// What it does
    pub effect: EffectArg,
    /// What it is about
    pub action: ActionArg,
    /// Only this node
    #[arg(long, value_name = "NODE")]
    pub node: Option<NodeId>,
    /// Only members, or senders, of this network, as 192.0.2.0/24
    #[arg(long, value_name = "PREFIX")]
    pub from: Option<Prefix>,
    /// Only these groups, as 239.192.0.0/16 or 232.1.1.1/32
    #[arg(long, value_name = "PREFIX")]
    pub groups: Option<Prefix>,
    /// Only these sources of what is received
    #[arg(long, value_name = "PREFIX")]
    pub source: Option<Prefix>,
    /// So many groups of one member at most, of a rule that allows
    #[arg(long, value_name = "N")]
    pub max_groups: Option<u32>,
    /// So many bits per second of one member at most, of a rule that allows: 500k, 8M, 1G
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub max_rate: Option<u64>,
    /// What a stream takes of that until the router has measured it (default: nothing)
    #[arg(long, value_name = "RATE", value_parser = rate, requires = "max_rate")]
    pub stream_rate: Option<u64>,
    /// Before this rule (default: behind all)
    #[arg(long, value_name = "RULE")]
    pub before: Option<u32>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What is to be judged.
#[derive(Debug, Args)]
pub(super) struct PolicyTestArgs {
    /// What somebody wants to do
    pub action: ActionArg,
    /// From which address
    #[arg(long, value_name = "ADDRESS")]
    pub from: IpAddr,
    /// With which group
    #[arg(long, value_name = "GROUP")]
    pub group: IpAddr,
    /// Of which source (default: of all)
    #[arg(long, value_name = "ADDRESS")]
    pub source: Option<IpAddr>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum EffectArg {
    /// It lets pass.
    Allow,
    /// It refuses.
    Deny,
}

impl From<EffectArg> for PolicyEffect {
    fn from(effect: EffectArg) -> Self {
        match effect {
            EffectArg::Allow => Self::Allow,
            EffectArg::Deny => Self::Deny,
        }
    }
}

/// What a rule is about.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum ActionArg {
    /// Being a member of a group.
    Receive,
    /// Sending to a group.
    Send,
}

impl From<ActionArg> for PolicyAction {
    fn from(action: ActionArg) -> Self {
        match action {
            ActionArg::Receive => Self::Receive,
            ActionArg::Send => Self::Send,
        }
    }
}

/// `vmcast node token`.
#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token; it is shown once. On the new node: `vmcast agent --token TOKEN`, or
    /// `vmcast router --config FILE --token TOKEN`
    Create(TokenArgs),
    /// List the tokens: what for, how long, how often used
    List(AskArgs),
    /// Take a token back; nodes that joined by it stay
    Revoke {
        /// Id of the token, as `vmcast node token list` shows it
        #[arg(value_name = "ID")]
        id: String,
        /// How to ask.
        #[command(flatten)]
        ask: AskArgs,
    },
}

/// What a token is for.
#[derive(Debug, Args)]
pub(super) struct TokenArgs {
    /// What its bearer may be
    #[arg(long, value_enum)]
    pub role: NodeRoleArg,
    /// How long it is good: a number and s, m, h or d; 365d at most
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = ttl)]
    pub ttl: Duration,
    /// How many nodes may join by it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub uses: u32,
    /// The only node that may join by it (default: any whose name is free)
    #[arg(long, value_name = "NODE")]
    pub name: Option<NodeId>,
    /// Where the node reaches the admin, as https://HOST:PORT; may be given several times
    /// (default: by the admin's names, else its addresses)
    #[arg(long, value_name = "URL")]
    pub url: Vec<AdminUrl>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// Whose certificate is to be signed.
#[derive(Debug, Args)]
#[command(
    after_help = "Prints the certificate and behind it the admin's own in PEM, to be kept in a file. Of the request only \
    the key is taken; the key itself stays where it is:\n\n  \
    node$  openssl req -new -newkey ed25519 -nodes -keyout node.key -subj /CN=client7 -out node.csr\n  \
    admin$ vmcast node sign --csr node.csr --role agent --name client7 > node.pem\n  \
    node$  vmcast agent --certificate node.pem --key node.key --admin https://ADMIN:8443\n\n\
    Exit status: 0 signed, 1 refused, 2 the command line is wrong, 3 no daemon answers."
)]
pub(super) struct SignArgs {
    /// The node's request for a certificate (PKCS #10), in PEM or DER
    #[arg(long, value_name = "FILE")]
    pub csr: PathBuf,
    /// What the node may be
    #[arg(long, value_enum)]
    pub role: NodeRoleArg,
    /// What the node is called, as in its configuration
    #[arg(long, value_name = "NODE")]
    pub name: NodeId,
    /// How long the certificate lasts: a number and s, m, h or d; 365d at most (default: certificate_seconds of the
    /// admin). The node has it renewed in time
    #[arg(long, value_name = "TIME", value_parser = ttl)]
    pub ttl: Option<Duration>,
    /// How to ask.
    #[command(flatten)]
    pub ask: AskArgs,
}

/// A role that joins.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum NodeRoleArg {
    /// A virtual multicast router.
    Router,
    /// The agent on a client.
    Agent,
}

impl From<NodeRoleArg> for Role {
    fn from(role: NodeRoleArg) -> Self {
        match role {
            NodeRoleArg::Router => Self::Router,
            NodeRoleArg::Agent => Self::Agent,
        }
    }
}

fn ttl(text: &str) -> Result<Duration, String> {
    let bad = || "write a number and s, m, h or d, as 90m, up to 365d".to_owned();
    let unit = text.chars().last().ok_or_else(bad)?;
    let seconds: u64 = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return Err(bad()),
    };
    let number: u64 = text[..text.len() - 1].parse().map_err(|_| bad())?;
    let seconds = number.checked_mul(seconds).filter(|seconds| (1..=365 * 86_400).contains(seconds));
    seconds.map(Duration::from_secs).ok_or_else(bad)
}

/// `vmcast cache`.
#[derive(Debug, Subcommand)]
pub(super) enum CacheCommand {
    /// List the cached answers to "which router is nearest?"
    List(AskArgs),
}

/// How to ask a daemon.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Exit status: 0 answered, 1 refused, 2 the command line is wrong, 3 no daemon answers."
)]
pub(super) struct AskArgs {
    /// Print JSON, exact and complete, for programs
    #[arg(long)]
    pub json: bool,
    /// Control socket of the daemon (default: VMCAST_SOCKET, else the only one here)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// What to examine.
#[derive(Debug, Args)]
#[command(
    after_help = "Examines the interfaces of the router that runs here, or of FILE, or all of them.\n\n\
    Exit status: 0 no errors, perhaps warnings, 1 errors, 2 the command line is wrong."
)]
pub(super) struct DoctorArgs {
    /// Print JSON, for programs
    #[arg(long)]
    pub json: bool,

    /// Configuration file of a router that shall run here
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Control socket of the router (default: that of the only one on this host)
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

/// `vmcast config`.
#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Check a configuration file, and whether this host has what it names
    Check(CheckArgs),
}

/// What to check.
#[derive(Debug, Args)]
#[command(after_help = "Exit status: 0 right, perhaps with warnings, 1 wrong, 2 the command line is wrong.")]
pub(super) struct CheckArgs {
    /// The file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Role that the file is for (default: told from its content)
    #[arg(long, value_enum)]
    pub role: Option<RoleArg>,
    /// The file is for another host: do not look for its interfaces here
    #[arg(long)]
    pub other_host: bool,
}

/// A role on the command line.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum RoleArg {
    /// A virtual multicast router.
    Router,
    /// The administration server.
    Admin,
    /// The agent on a client.
    Agent,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Router => Self::Router,
            RoleArg::Admin => Self::Admin,
            RoleArg::Agent => Self::Agent,
        }
    }
}

fn group(text: &str) -> Result<IpAddr, String> {
    match text.parse::<IpAddr>() {
        Ok(group) if group.is_multicast() => Ok(group),
        Ok(_) => Err("not a multicast group: 224.0.0.0 to 239.255.255.255, or ff00::/8".to_owned()),
        Err(_) => Err("not an IP address".to_owned()),
    }
}

/// Bits per second, with k, M or G for a thousand, a million or a billion.
fn rate(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.as_bytes().last() {
        Some(b'k') => (&text[..text.len() - 1], 1_000),
        Some(b'M') => (&text[..text.len() - 1], 1_000_000),
        Some(b'G') => (&text[..text.len() - 1], 1_000_000_000),
        _ => (text, 1),
    };
    let number: u64 = digits.parse().map_err(|_| "expected bits per second, as 500k, 8M or 1G".to_owned())?;
    number.checked_mul(unit).ok_or_else(|| "more than there can be".to_owned())
}

#[cfg(test)]
mod tests {
    use super::rate;

    #[test]
    fn a_rate_is_read_with_its_unit() {
        for (text, bits) in
            [("0", 0), ("64", 64), ("500k", 500_000), ("8M", 8_000_000), ("1G", 1_000_000_000)]
        {
            assert_eq!(rate(text), Ok(bits));
        }
        for text in ["", "M", "8m", "-1", "1.5M", "99999999999999G"] {
            rate(text).unwrap_err();
        }
    }
}

//! `vmcast source discover`: asks the DNS by hand.

use std::net::IpAddr;

use vmcast_api::{Envelope, Source, VERSION};
use vmcast_proto::{
    Filter, Machine as _,
    amt::{
        Discovery,
        discovery::{Config, Input, Output},
    },
};
use vmcast_wire::amtrelay::Name;

use super::{Exit, Failure, args::DiscoverArgs, show};
use crate::{
    clock,
    relays::{Dns, HostRoutes, Resolved, source},
};

/// Asks, and returns what to print.
pub(super) fn run(args: &DiscoverArgs) -> Result<String, Failure> {
    let failure = |error: std::io::Error| Failure::new(Exit::Error, error);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failure)?;
    let found = runtime.block_on(discover(args))?;
    if args.json {
        let envelope = Envelope { version: VERSION, body: &found };
        let text = serde_json::to_string_pretty(&envelope).expect("plain data serializes");
        return Ok(text + "\n");
    }
    Ok(show::discovered(&found, &Name::reverse(args.source).to_string()))
}

/// Takes the machine through its questions; it connects to nobody.
async fn discover(args: &DiscoverArgs) -> Result<Source, Failure> {
    let dns = Dns::new(args.dns.iter().map(|server| server.0).collect());
    // Its choices among equals are nobody's secret here.
    let mut machine = Discovery::new(Config::new([0; 16]));
    let filter = Filter::Include([args.source].into());
    machine.handle_input(clock::now(), Input::SetMembership { group: a_group(args.source), filter: &filter });
    let mut asked = std::collections::VecDeque::new();
    loop {
        while let Some(output) = machine.poll_output() {
            if let Output::Query { query, question } = output {
                asked.push_back((query, question));
            }
        }
        let Some((query, question)) = asked.pop_front() else { break };
        let resolved = dns.ask(&question).await;
        if let Resolved::Failed(error) = &resolved {
            return Err(Failure::new(Exit::Error, format!("the DNS does not answer {question:?}: {error}"))
                .hint("`--dns ADDRESS` asks another name server"));
        }
        let input = Input::Answer { query, answer: resolved.answer(), routes: &HostRoutes };
        machine.handle_input(clock::now(), input);
    }
    let found = machine.sources(clock::now()).next().map(|info| source(&info, |number| number));
    found.ok_or_else(|| {
        Failure::new(Exit::Error, format!("{} is the address of no source that others know", args.source))
            .hint("loopback, link-local and group addresses have no relays")
    })
}

/// A group that the source could send to.
fn a_group(source: IpAddr) -> IpAddr {
    match source {
        IpAddr::V4(_) => IpAddr::from([232, 0, 0, 1]),
        IpAddr::V6(_) => IpAddr::from([0xff3e, 0, 0, 0, 0, 0, 0x8000, 1]),
    }
}

//! Drives the next-hop table over netlink.

use std::{net::IpAddr, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream::FuturesUnordered};
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage},
    route::{RouteAttribute, RouteMessage},
};
use tokio::sync::mpsc;
use vmcast_common::hdr::eth::Mac;
use vmcast_proto::Machine;

use super::{
    Error, connect, error_number, message,
    notify::{Notification, Notifications},
    route_copy::RouteCopy,
    route_dump::{DumpError, RouteDump},
    route_lookups::RouteLookups,
    table::{Neighbour, NextHopEvent, Route, SessionWays, Table, TableInput, TableOutput, Unresolvable},
};
use crate::clock;

/// Pause before links are read again after the kernel refused to list them.
const DUMP_RETRY: Duration = Duration::from_secs(1);
/// Commands that are taken in together.
const COMMANDS_AT_ONCE: usize = 64;

/// Keeps the link-layer way to every watched destination.
#[derive(Clone, Debug)]
pub(crate) struct NextHops {
    commands: mpsc::UnboundedSender<TableInput>,
}

impl NextHops {
    /// Starts the service in the present network namespace; it ends when every handle is dropped.
    ///
    /// # Errors
    /// If a netlink socket cannot be opened.
    pub(crate) fn spawn() -> Result<(Self, mpsc::UnboundedReceiver<NextHopEvent>), Error> {
        let handle = connect()?;
        let notifications = Notifications::open_all()?;
        let routes = RouteLookups::open()?;
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, outbox) = mpsc::unbounded_channel();
        let table = Table::new(clock::now());
        let (copy, dump) = (RouteCopy::default(), None);
        tokio::spawn(Driver { handle, notifications, routes, copy, dump, inbox, events, table }.run());
        Ok((Self { commands }, outbox))
    }

    /// Starts to watch a destination; each call wants one [`NextHops::unwatch`].
    pub(crate) fn watch(&self, destination: IpAddr) {
        self.send(TableInput::Watch(destination));
    }

    /// Ends one watch. No event about the destination follows the last one, save those that are
    /// under way.
    pub(crate) fn unwatch(&self, destination: IpAddr) {
        self.send(TableInput::Unwatch(destination));
    }

    /// States the ways of all links of PPP sessions.
    pub(crate) fn sessions(&self, ways: SessionWays) {
        self.send(TableInput::Sessions(ways));
    }

    fn send(&self, input: TableInput) {
        if self.commands.send(input).is_err() {
            tracing::error!("the next-hop service has ended; tunnel ends are no longer followed");
        }
    }
}

struct Driver {
    handle: rtnetlink::Handle,
    notifications: Notifications,
    routes: RouteLookups,
    copy: RouteCopy,
    /// The reading of a new copy, while it goes on.
    dump: Option<RouteDump>,
    inbox: mpsc::UnboundedReceiver<TableInput>,
    events: mpsc::UnboundedSender<NextHopEvent>,
    table: Table,
}

impl Driver {
    async fn run(mut self) {
        let mut requests = FuturesUnordered::new();
        let mut destinations = Vec::new();
        loop {
            while let Some(output) = self.table.poll_output() {
                match output {
                    TableOutput::Event(event) => {
                        if self.events.send(event).is_err() {
                            return;
                        }
                    }
                    TableOutput::LookupRoute(destination) => match self.copy.find(destination) {
                        Some(route) => {
                            let answer = TableInput::RouteAnswer(destination, Ok(route));
                            self.table.handle_input(clock::now(), answer);
                        }
                        None => destinations.push(destination),
                    },
                    request => requests.push(perform(self.handle.clone(), request)),
                }
            }
            if !destinations.is_empty() {
                self.copy.note_asked(destinations.len());
                let (now, table) = (clock::now(), &mut self.table);
                self.routes.look_up(&mut destinations, |destination, route| {
                    table.handle_input(now, TableInput::RouteAnswer(destination, route));
                });
                let unanswered = destinations.drain(..).map(TableOutput::LookupRoute);
                requests.extend(unanswered.map(|request| perform(self.handle.clone(), request)));
                // A route change has very many of them looked up again, and others want their turn.
                tokio::task::yield_now().await;
                continue;
            }
            self.read_routes();
            let reads = self.dump.is_some();
            let input = tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => Some(command),
                    None => return,
                },
                Some(answer) = requests.next() => answer,
                notification = self.notifications.next() => match notification {
                    Ok(notification) => {
                        if !matches!(notification, Notification::Neighbour(..)) {
                            self.copy.forget();
                            self.dump = None;
                        }
                        input(notification)
                    }
                    Err(error) => {
                        tracing::error!(%error, "next hops are no longer followed");
                        return;
                    }
                },
                () = clock::sleep_until(self.table.poll_timeout()) => None,
                // The others get their turns.
                () = tokio::task::yield_now(), if reads => None,
            };
            let now = clock::now();
            match input {
                Some(input) => self.table.handle_input(now, input),
                None => self.table.handle_timeout(now),
            }
            for _ in 0..COMMANDS_AT_ONCE {
                let Ok(command) = self.inbox.try_recv() else { break };
                self.table.handle_input(now, command);
            }
        }
    }

    /// Goes on with reading all routes, or begins to if that is worth while.
    fn read_routes(&mut self) {
        if self.dump.is_none() && !self.copy.take_due(clock::now()) {
            return;
        }
        let read = match &mut self.dump {
            Some(dump) => dump.read(),
            None => RouteDump::begin().map(|dump| {
                self.dump = Some(dump);
                None
            }),
        };
        match read {
            Ok(None) => return,
            Ok(Some(routes)) => self.copy.set(routes),
            Err(error) => {
                tracing::debug!(%error, "the kernel is asked for each route");
                if matches!(error, DumpError::TooMany) {
                    self.copy.note_too_many(clock::now());
                }
            }
        }
        self.dump = None;
    }
}

fn input(notification: Notification) -> Option<TableInput> {
    Some(match notification {
        Notification::Link(ifindex, link) => TableInput::LinkChanged(ifindex, link),
        Notification::LinkRemoved(ifindex) => TableInput::LinkRemoved(ifindex),
        Notification::Neighbour(neighbour, mac) => TableInput::NeighbourChanged(neighbour, mac),
        Notification::Address(_) | Notification::Routes => TableInput::RoutesChanged,
        Notification::GroupJoined(..) | Notification::GroupLeft(..) => return None,
        Notification::Lost => {
            tracing::debug!("netlink notifications were lost; everything is read anew");
            TableInput::Lost
        }
    })
}

/// Asks the kernel.
async fn perform(handle: rtnetlink::Handle, request: TableOutput) -> Option<TableInput> {
    match request {
        TableOutput::LookupRoute(destination) => {
            Some(TableInput::RouteAnswer(destination, lookup_route(&handle, destination).await))
        }
        TableOutput::LookupNeighbour(neighbour) => {
            let mac = lookup_neighbour(handle, neighbour).await;
            Some(TableInput::NeighbourAnswer(neighbour, mac))
        }
        TableOutput::Use(neighbour) => {
            use_neighbour(handle, neighbour).await;
            None
        }
        TableOutput::DumpLinks => Some(TableInput::Links(dump_links(&handle).await)),
        TableOutput::Event(_) => None,
    }
}

async fn lookup_route(handle: &rtnetlink::Handle, destination: IpAddr) -> Result<Route, Unresolvable> {
    let mut request = RouteMessage::default();
    request.header.address_family = family(destination);
    request.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    request.attributes.push(RouteAttribute::Destination(destination.into()));
    let mut answers = std::pin::pin!(handle.route().get(request).execute());
    match answers.try_next().await {
        Ok(Some(answer)) => message::route(&answer, destination),
        Ok(None) => Err(Unresolvable::NoRoute),
        Err(error) => {
            tracing::debug!(%destination, %error, "no route");
            Err(Unresolvable::NoRoute)
        }
    }
}

async fn lookup_neighbour(handle: rtnetlink::Handle, neighbour: Neighbour) -> Option<Mac> {
    let entry = read_neighbour(&handle, neighbour).await?;
    message::neighbour(&entry).and_then(|(_, mac)| mac)
}

/// Reads one neighbour entry, without a dump of them all.
async fn read_neighbour(handle: &rtnetlink::Handle, neighbour: Neighbour) -> Option<NeighbourMessage> {
    let message = RouteNetlinkMessage::GetNeighbour(neighbour_message(neighbour));
    let mut request = NetlinkMessage::from(message);
    request.header.flags = NLM_F_REQUEST;
    let mut answers = handle.clone().request(request).ok()?;
    match answers.next().await?.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(entry)) => Some(entry),
        _ => None,
    }
}

/// Makes the kernel resolve a neighbour, or verify it if its entry is stale (`NTF_USE`). One that the operator has
/// stated is left alone: to the kernel this flag says that it is permanent no more (since 5.15).
pub(super) async fn use_neighbour(mut handle: rtnetlink::Handle, neighbour: Neighbour) {
    if read_neighbour(&handle, neighbour).await.is_some_and(|entry| message::is_stated(&entry)) {
        return;
    }
    let mut message = neighbour_message(neighbour);
    message.header.flags = NeighbourFlags::Use;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
    let Ok(mut answers) = handle.request(request) else {
        return;
    };
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            let (ifindex, address) = (neighbour.ifindex.0, neighbour.address);
            tracing::debug!(ifindex, %address, %error, "the kernel does not resolve a neighbour");
        }
    }
}

async fn dump_links(
    handle: &rtnetlink::Handle,
) -> Vec<(vmcast_common::fib::IfIndex, super::table::TableLink)> {
    loop {
        let answers: Result<Vec<_>, _> = handle.link().get().execute().try_collect().await;
        match answers {
            Ok(answers) => return answers.iter().filter_map(message::table_link).collect(),
            Err(error) => {
                let number = error_number(&error);
                tracing::warn!(%error, number, "the interfaces cannot be listed");
                tokio::time::sleep(DUMP_RETRY).await;
            }
        }
    }
}

fn neighbour_message(neighbour: Neighbour) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(neighbour.address);
    message.header.ifindex = neighbour.ifindex.0;
    message.attributes.push(NeighbourAttribute::Destination(match neighbour.address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }));
    message
}

pub(super) const fn family(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

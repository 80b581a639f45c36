//! Several groups, several sources, and clients that want different ones.

use std::{net::Ipv4Addr, time::Duration};

use libtest_mimic::Trial;
use vmcast_lab::traffic::{Carriage, GroupPort, Witness};

use super::{
    bed::{Bed, Outcome, ensure, trials_by_engine},
    small::{Router, SOURCE, SOURCE2, STREAM, Small},
    stream::{Listener, Sender},
};

pub(super) fn trials() -> Vec<Trial> {
    trials_by_engine("of several groups and sources each client gets exactly those that it joined", choices)
        .into()
}

/// A source-specific group (RFC 4607).
const SSM: GroupPort = GroupPort { group: Ipv4Addr::new(232, 7, 0, 1), port: 5006 };
const OTHER: GroupPort = GroupPort { group: Ipv4Addr::new(239, 192, 7, 2), port: 5008 };

const SOME: u64 = 100;
/// Four senders share one cable.
const PACE: Duration = Duration::from_millis(15);

fn choices(bed: &mut Bed, engine: vmcast_lab::roles::Engine) -> Outcome {
    let small = Small::build(bed, 3)?;
    let _router = small.router(bed, Router { engine, ..Router::default() })?;
    let _agents = small.agents(bed, [1, 2, 3])?;
    let wires = [1, 2, 3]
        .into_iter()
        .flat_map(|client| [SSM, STREAM, OTHER].map(|stream| (client, stream)))
        .map(|(client, stream)| Witness::start(small.client(client), "eth0", stream, bed.clock))
        .collect::<Result<Vec<_>, _>>()?;

    let first = Listener::join(small.client(1), SSM, Some(SOURCE))?;
    let first_other = Listener::join(small.client(1), OTHER, None)?;
    let second = Listener::join(small.client(2), SSM, Some(SOURCE2))?;
    let second_any = Listener::join(small.client(2), STREAM, None)?;
    let listeners = [&first, &first_other, &second, &second_any];
    let senders = [(SOURCE, SSM), (SOURCE2, SSM), (SOURCE, STREAM), (SOURCE2, OTHER)]
        .map(|(source, stream)| Sender::with_pace(&small.source, source, stream, PACE));
    for listener in listeners {
        listener.more(bed, SOME)?;
    }
    let mut last = Vec::new();
    for sender in senders {
        last.push(sender?.stop()? - 1);
    }
    for (listener, last) in
        [(&first, last[0]), (&second, last[1]), (&second_any, last[2]), (&first_other, last[3])]
    {
        listener.until_last(bed, last)?;
        listener.heard().is_whole()?;
    }
    for (listener, source) in
        [(&first, SOURCE), (&second, SOURCE2), (&second_any, SOURCE), (&first_other, SOURCE2)]
    {
        let heard = listener.heard();
        ensure!(heard.packets.iter().all(|(from, _)| *from == source), "not {source} alone was heard");
    }
    // Of each client: the source-specific group, the two others.
    let crossed: Vec<u64> = wires.iter().map(|wire| wire.incoming(Carriage::Amt).packets).collect();
    let joined =
        [[first.count(), 0, first_other.count()], [second.count(), second_any.count(), 0], [0, 0, 0]];
    ensure!(crossed == joined.concat(), "the wires carried {crossed:?}, the clients had joined {joined:?}");
    Ok(())
}

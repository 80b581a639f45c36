//! What changes around the discovery while sources are placed already.

use std::net::SocketAddr;

use super::{
    super::{Input, Output, Place, Why},
    world::{GROUP, OTHER, World, ms, record, relay, source},
};
use crate::{Filter, Machine as _};

/// One relay for two sources, one of which it does not have.
fn placed() -> World {
    let mut world = World::new(|_| {});
    world.peer(1, &[1]);
    for of in [1, 2] {
        world.records(of, vec![record(10, relay(1))]);
    }
    world.join(GROUP, &[1, 2]);
    world.join(OTHER, &[1]);
    world.run(ms(1_000));
    assert_eq!([1, 2].map(|of| world.relay_of(GROUP, of)), [Some(relay(1)); 2]);
    world
}

// proves RFC 8777 §3.1.1: what has a relay of its own is not asked of the default meanwhile, however many come at once
#[test]
fn many_sources_in_one_report_are_asked_of_nobody_while_their_relays_are_looked_for() {
    let mut world = World::new(|_| {});
    let filter = Filter::Include((1..=20).map(source).collect());
    world.machine.handle_input(world.now, Input::SetMembership { group: GROUP, filter: &filter });
    while let Some(output) = world.machine.poll_output() {
        assert!(!matches!(output, Output::Default { .. }), "{output:?}");
    }
    assert_eq!(world.machine.sources.len(), 20);
}

#[test]
fn a_network_that_becomes_native_needs_no_relay_and_one_that_was_does() {
    let mut world = placed();
    world.input(Input::SetNative(&[(source(1), 32)]));
    assert_eq!([1, 2].map(|of| world.relay_of(GROUP, of)), [None, Some(relay(1))]);
    assert_eq!(world.relay_of(OTHER, 1), None);
    assert!(world.at_default(GROUP, source(1)) && world.at_default(OTHER, source(1)));
    world.run(ms(1_000));
    assert_eq!(world.wanted_at(1), 1, "only the other source is asked of the relay");
    world.input(Input::SetNative(&[]));
    assert!(!world.at_default(GROUP, source(1)) && !world.at_default(OTHER, source(1)));
    world.run(ms(1_000));
    assert_eq!([GROUP, OTHER].map(|group| world.relay_of(group, 1)), [Some(relay(1)); 2]);
}

#[test]
fn a_relay_whose_address_becomes_ours_is_given_up_at_once() {
    let mut world = placed();
    world.input(Input::SetOwn(&[relay(1)]));
    assert!(world.routes.is_empty(), "{:?}", world.routes);
    world.run(ms(1_000));
    assert_eq!([1, 2].map(|of| world.info(of).place), [Place::Default(Why::NoAnswer); 2]);
    assert!(world.at_default(GROUP, source(1)));
}

#[test]
fn a_relay_that_becomes_the_default_keeps_what_flows_and_loses_the_rest() {
    let mut world = placed();
    world.input(Input::SetDefault(Some(SocketAddr::new(relay(1), 2268))));
    assert!(matches!(world.info(1).place, Place::Tunnel(_)), "it flows: {:?}", world.info(1).place);
    assert_eq!(world.info(2).place, Place::Default(Why::SameRelay));
    assert!(world.at_default(GROUP, source(2)) && !world.at_default(GROUP, source(1)));
    // Another one takes its place.
    world.input(Input::SetDefault(Some(SocketAddr::new(relay(9), 2268))));
    world.run(ms(500));
    assert_eq!(world.relay_of(GROUP, 2), Some(relay(1)));
}

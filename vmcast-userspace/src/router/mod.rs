//! The virtual multicast router (VMR).
//!
//! [`core::Core`] joins the protocol machines without I/O: relay, gateway, queriers and the routing
//! base. [`run()`] drives it with sockets, netlink, the admin link and a data plane.

mod about;
mod answer;
mod changeover;
mod core;
mod endpoints;
mod fitness;
mod interfaces;
mod kept;
mod kept_policy;
mod kernel_log;
mod listening;
mod not_taken;
mod overlap;
mod pace;
mod place;
mod plane;
mod policed;
mod priorities;
mod pursuit;
mod reconcile;
mod recordings;
mod refused;
mod relays;
mod run;
mod seed;
mod shown;
mod socket_shares;
mod stated;
mod tally;
mod tunnels;
mod unasked;
mod unicast;
mod upstream;

#[cfg(test)]
mod tests;

pub(crate) use run::run;

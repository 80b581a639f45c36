//! Relay and gateway against each other, over virtual time and bad networks.

mod chain;
mod ecn;
mod hostile;
mod limits;
mod lossy;
mod mld;
mod plain;
mod property;
mod relay_moves;
mod rounds;
mod streams;
mod support;

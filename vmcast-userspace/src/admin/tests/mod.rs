//! The database on its own, then the server on loopback with a clock that the test moves.

pub(crate) mod bed;
mod clock;
mod database;
mod full;
mod identity;
mod killed;
mod limits;
mod lines;
mod proofs;
mod prove;
mod refusals;
mod resumed;
mod service;
mod signed;
mod tickets;
mod versions;

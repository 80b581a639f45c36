//! The discovery on virtual time, with name servers and relays that answer, are slow, are dead or lie.

mod chance;
mod changes;
mod choice;
mod limits;
mod trouble;
mod world;

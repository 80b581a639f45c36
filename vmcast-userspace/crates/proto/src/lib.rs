//! Sans-IO protocol machines: bytes and time go in, packets, changes and events come out.
//!
//! Every machine has the same grammar: `config.rs`, `input.rs`, `output.rs`, `timer.rs`,
//! `machine.rs`, and the tests beside them.

pub mod amt;
mod few;
mod filter;
pub mod host_state;
mod machine;
pub mod membership;
pub mod mrib;
pub mod nearest;
pub mod policy;
pub mod record;
pub mod registry;
mod share;

pub use few::Few;
pub use filter::Filter;
pub use machine::Machine;

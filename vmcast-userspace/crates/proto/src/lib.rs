//! Sans-IO protocol machines: bytes and time go in, packets, changes and events come out.
//!
//! Every machine has the same grammar: `config.rs`, `input.rs`, `output.rs`, `timer.rs`,
//! `machine.rs`, and the tests beside them.

mod filter;
mod machine;

pub use filter::Filter;
pub use machine::Machine;

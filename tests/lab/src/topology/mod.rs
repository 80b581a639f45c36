//! Networks to run vmcast in.

mod main;

pub use main::{Client, MainTopology, address};

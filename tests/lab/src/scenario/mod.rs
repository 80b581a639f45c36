//! The main job: a real stream over a unicast-only network, shown live and judged.

mod flow;
mod hops;
mod player;
mod report;
mod run;
mod script;
mod show;
mod stage;

pub use report::{ClientReport, HopReport, Report, RouterReport, SessionReport, WireReport};
pub use run::{RunOptions, run, run_disturbed};
pub use stage::{BIT_RATE, STREAM, Stage};

//! Labs of network namespaces, their traffic and the judgement on it.
//!
//! [`Lab`] makes namespaces, cables and processes that vanish with it; [`topology`] builds networks from
//! them, [`roles`] configures and starts vmcast in them, [`traffic`] sends, receives and watches the wires,
//! [`judge`] says what was lost. [`scenario`] puts all of it together: the main job of vmcast, shown live.
//!
//! All of it needs root. Nothing of the host is changed: no address, route, rule or device of the
//! namespace that the lab is started from.

pub mod clock;
pub mod error;
pub mod judge;
pub mod mroute;
pub mod netns;
pub mod on_end;
pub mod roles;
pub mod scenario;
pub mod signals;
pub mod topology;
pub mod traffic;

pub use error::LabError;
pub use netns::{Lab, Namespace, Process};
pub use on_end::OnEnd;

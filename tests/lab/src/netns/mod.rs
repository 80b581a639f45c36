//! Namespaces, cables between them and processes in them, all of which vanish with the [`Lab`].

mod active;
mod bare;
mod instance;
mod instead;
mod ip;
mod namespace;
mod offload;
mod process;
mod sweep;

pub use bare::BareLink;
pub use instance::{Lab, Plug};
pub(crate) use instead::{Instead, see_instead};
pub use namespace::Namespace;
pub use offload::Offload;
pub use process::{Process, stop_all};
pub use sweep::{LiveLab, end, live_labs, sweep};

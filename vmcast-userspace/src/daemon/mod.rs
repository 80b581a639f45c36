//! What the roles have in common as processes, and the entry point of the admin.

mod access;
mod admin;
pub(crate) mod joining;
mod memory;
mod open_files;
mod policy;
mod process;
mod turns;

pub use admin::run as run_admin;
pub(crate) use admin::settings as admin_settings;
pub(crate) use memory::give_back;
pub(crate) use open_files::raise_open_files;
pub use process::{Process, resident_bytes};
pub(crate) use turns::take_short_turns;

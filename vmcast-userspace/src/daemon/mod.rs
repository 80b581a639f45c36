//! What the roles have in common as processes, and the entry point of the admin.

mod admin;
mod process;

pub use admin::run as run_admin;
pub use process::{Process, resident_bytes};

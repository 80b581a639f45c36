//! Answers as tables for people, made for a terminal of 100 columns.

mod admin;
mod data;
mod policy;
mod source;
mod status;
mod table;
#[cfg(test)]
mod tests;
mod token;
mod unit;

pub(crate) use admin::{cache, drained, node, nodes};
pub(crate) use data::{group, groups, interfaces, members, tunnels};
pub(crate) use policy::{policy, verdict};
pub(crate) use source::{discovered, sources};
pub(crate) use status::{clock_step, stats, status};
pub(crate) use token::{new_certificate, new_token, revoked, tokens};

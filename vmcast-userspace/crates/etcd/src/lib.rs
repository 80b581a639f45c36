//! What the registry needs of [etcd](https://etcd.io)'s v3 API: transactions, watches and leases, over whichever
//! of several endpoints answers.
//!
//! The widely used client builds only where `protoc` is installed. This one compiles the few messages it
//! speaks (`proto/etcd/rpc.proto`) without it, and is small for the same reason.
#![forbid(unsafe_code)]

mod client;
mod error;
mod watch;

/// The messages.
pub mod rpc {
    #![allow(missing_docs, clippy::all, reason = "generated from the schema")]

    tonic::include_proto!("etcdserverpb");
}

pub use client::{Client, Committed, Condition, Dial, Operation, Settings, Snapshot, range_end};
pub use error::Error;
pub use watch::{Change, Heard, Watch};

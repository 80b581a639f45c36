//! The signalling schema with its client and server halves.
//!
//! The messages are those of `proto/vmcast/v1/*.proto`, where each is documented. A field is never
//! given another meaning and a number never used twice: old nodes and new ones meet on one wire.
#![forbid(unsafe_code)]

/// Version 1 of the schema.
pub mod v1 {
    #![allow(missing_docs, clippy::all, reason = "generated from the schema")]

    tonic::include_proto!("vmcast.v1");
}

pub use prost;
pub use tonic;

/// The schema as gRPC reflection tells it: an encoded `google.protobuf.FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vmcast.bin"));

//! Operator API types and client.

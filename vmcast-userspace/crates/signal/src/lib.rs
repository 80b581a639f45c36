//! The signalling schema with its client and server halves.

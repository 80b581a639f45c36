//! host state

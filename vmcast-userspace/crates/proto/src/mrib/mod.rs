//! mrib

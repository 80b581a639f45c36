//! Tests that need root and network namespaces.

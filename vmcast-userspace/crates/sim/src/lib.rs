//! Virtual time, lossy links, many nodes: a test bed for the machines.

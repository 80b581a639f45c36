//! The tables.

/// Marks the file as ours (`PRAGMA application_id`): "vmca" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x766d_6361;
/// Version of the tables below (`PRAGMA user_version`).
pub(super) const VERSION: i32 = 1;

/// Makes the tables in an empty file.
///
/// Addresses are 4 or 16 bytes in network order, times milliseconds since the UNIX epoch. A node's
/// `rank` is NULL for an agent; a cache row's `scope` is 0 for agents and the rank plus 1 for VMRs.
pub(super) const CREATE: &str = "
CREATE TABLE node (
    id TEXT NOT NULL PRIMARY KEY,
    rank INTEGER,
    name TEXT NOT NULL,
    software TEXT NOT NULL,
    seen BLOB NOT NULL,
    registered INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX node_expires ON node (expires);
CREATE INDEX node_vmr ON node (id) WHERE rank IS NOT NULL;

CREATE TABLE endpoint (
    node TEXT NOT NULL REFERENCES node (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    address BLOB NOT NULL,
    port INTEGER NOT NULL,
    PRIMARY KEY (node, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoint_address ON endpoint (address, port);

CREATE TABLE cache (
    scope INTEGER NOT NULL,
    address BLOB NOT NULL,
    length INTEGER NOT NULL,
    vmr TEXT NOT NULL,
    endpoint_address BLOB NOT NULL,
    endpoint_port INTEGER NOT NULL,
    hops INTEGER NOT NULL,
    rtt_micros INTEGER NOT NULL,
    reporter TEXT NOT NULL,
    learned INTEGER NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (scope, address, length)
) STRICT, WITHOUT ROWID;
CREATE INDEX cache_vmr ON cache (vmr);
CREATE INDEX cache_expires ON cache (expires);
";

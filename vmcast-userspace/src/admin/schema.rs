//! The tables.

/// Marks the file as ours (`PRAGMA application_id`): "vmca" in ASCII.
pub(super) const APPLICATION_ID: i32 = 0x766d_6361;
/// Version of the tables (`PRAGMA user_version`): those of [`CREATE`] and every step of [`STEPS`].
pub(super) const VERSION: i32 = 1 + STEPS.len() as i32;

/// What leads from version 1 to 2, and so on. A step that has been released stays as it is.
///
/// 2: what a node says of itself beside its name and endpoints, as a `Node` of the signalling
/// schema, and whether it drains.
///
/// 3: records, see [`vmcast_proto::registry::RecordKind`].
///
/// 4: what return probes found, as a `NodeEntry` of the signalling schema.
///
/// 5: the VMRs that an entry of the cache ranks behind the nearest, as a `CacheEntry` of the signalling schema.
pub(super) const STEPS: [&str; 4] = [
    "
ALTER TABLE node ADD COLUMN about BLOB NOT NULL DEFAULT x'';
ALTER TABLE node ADD COLUMN draining INTEGER NOT NULL DEFAULT 0;
",
    "
CREATE TABLE record (
    kind TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) STRICT, WITHOUT ROWID;
",
    "
ALTER TABLE node ADD COLUMN proofs BLOB NOT NULL DEFAULT x'';
",
    "
ALTER TABLE cache ADD COLUMN others BLOB NOT NULL DEFAULT x'';
",
];

/// Takes the indices away of what is looked up in memory alone, so that a lease that begins anew changes one page and not
/// three. Earlier programs of the same version go on without them.
pub(super) const DROP_UNUSED: &str = "
DROP INDEX IF EXISTS node_expires;
DROP INDEX IF EXISTS node_vmr;
DROP INDEX IF EXISTS endpoint_address;
";

/// Makes the tables of version 1 in an empty file.
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

//! Members of a stream that are served at TC: one list, which a kernel program walks with every packet, with a
//! clone for each member. Changes of a list are single writes of one member or of what is the first, so a walk
//! meets each member that stays once.

pub(crate) mod list;
